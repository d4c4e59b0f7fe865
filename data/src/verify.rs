//! Whether a dataset fits a model: asked before a run is submitted, so that a run never starts
//! only to fail on its first sample.

mod damage;

pub use damage::{Damage, Examined, examine};

use crate::aside::with_ending;
use crate::build::Meta;
use crate::indexed::{Indexed, bin_path, idx_path};
use crate::order::{LAST_EPOCH, Order};
use std::path::{Path, PathBuf};

/// Path of the page that [`crate::build::build`] writes beside a dataset.
pub fn meta_path(prefix: &Path) -> PathBuf {
    with_ending(prefix, ".json")
}

/// Why a dataset does not fit, in terms of the run spec that names it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {value} {problem}; {remedy}")]
pub struct Unfit {
    /// Field of the spec.
    pub field: &'static str,
    /// What it holds.
    pub value: String,
    /// Why that does not do.
    pub problem: String,
    /// What would.
    pub remedy: String,
}

/// What a run wants of its data.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// Rows of the embedding.
    pub vocabulary: u32,
    /// Tokens of one sample.
    pub sequence: u32,
    /// Samples of the whole run.
    pub samples: u64,
}

/// Checks that a dataset is whole and fits. The page beside it is compared where there is one;
/// datasets that Megatron made have none. Reads every token once.
pub fn verify(prefix: &Path, wanted: Wanted) -> Result<Option<Meta>, Unfit> {
    let data = |problem: String, remedy: &str| Unfit {
        field: "data.prefix",
        value: format!("`{}`", prefix.display()),
        problem,
        remedy: remedy.to_owned(),
    };
    for path in [idx_path(prefix), bin_path(prefix)] {
        if !path.exists() {
            let problem = format!("has no dataset: {} is missing", path.display());
            return Err(data(
                problem,
                "give the path of a dataset without its .bin and .idx",
            ));
        }
    }
    const AGAIN: &str = "build it again, or copy it again from where it is whole";
    let indexed = Indexed::open(prefix)
        .map_err(|error| data(format!("is damaged: {}", chain(&error)), AGAIN))?;
    let meta = Meta::read(prefix)
        .map_err(|error| data(format!("is damaged: {}", chain(&error)), AGAIN))?;
    if let Some(meta) = &meta {
        let (tokens, documents) = (indexed.tokens(), indexed.sequences() as u64);
        if (meta.tokens, meta.documents) != (tokens, documents) {
            let problem = format!(
                "is damaged: it has {tokens} tokens in {documents} documents, its .json says {} in {}",
                meta.tokens, meta.documents
            );
            return Err(data(problem, AGAIN));
        }
        if meta.vocabulary > wanted.vocabulary {
            return Err(vocabulary(
                wanted.vocabulary,
                format!(
                    "is below the {} tokens of the dataset's tokenizer",
                    meta.vocabulary
                ),
                meta.vocabulary,
            ));
        }
    }
    if let Some((sequence, at, token)) = indexed.outside(wanted.vocabulary) {
        if let Ok(token) = u32::try_from(token)
            && meta.is_none()
        {
            let problem = format!("is too small: document {sequence} has token {token} at {at}");
            return Err(vocabulary(wanted.vocabulary, problem, token + 1));
        }
        let problem = format!("is damaged: document {sequence} has token {token} at {at}");
        return Err(data(problem, AGAIN));
    }
    let sizes: Vec<u32> = indexed.sizes().collect();
    Order::new(&sizes, wanted.sequence, 0, wanted.samples, LAST_EPOCH).map_err(|error| {
        data(
            format!("cannot serve the run: {error}"),
            "use a larger dataset",
        )
    })?;
    Ok(meta)
}

fn vocabulary(value: u32, problem: String, needed: u32) -> Unfit {
    let remedy = format!("use at least {needed}");
    Unfit {
        field: "model.vocab",
        value: value.to_string(),
        problem,
        remedy,
    }
}

/// An error and what caused it, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |line, cause| format!("{line}: {cause}"))
}
