//! `rebloom data`: datasets from text, and whether one fits a run.

use crate::args::DataCommand;
use crate::failure::Failure;
use crate::format::{self, Output, bytes, count, grouped, line};
use rebloom_core::spec::{Flaw, RunSpec};
use rebloom_data::build::{Built, Meta, Progress, build};
use rebloom_data::corpus::Corpus;
use rebloom_data::indexed::{Indexed, bin_path, idx_path};
use rebloom_data::verify::{Wanted, verify};
use std::path::Path;

/// Files that were left out are named up to this many.
const MOST_SKIPPED: usize = 5;

pub(crate) fn run(command: DataCommand, output: Output) -> Result<(), Failure> {
    let meta = match command {
        DataCommand::Build {
            text,
            prefix,
            vocab,
        } => {
            let corpus = Corpus::text(&text).map_err(|error| bad(&error))?;
            let quiet = output == Output::Json;
            make(&corpus, &prefix, vocab, |text| {
                if !quiet {
                    line(text)
                }
            })?
        }
        DataCommand::Verify { prefix } => check(&prefix)?,
    };
    match (output, meta) {
        (Output::Json, meta) => format::json(&meta),
        (Output::Table | Output::Wide, Some(meta)) => {
            said(&meta).iter().for_each(|text| line(text));
            Ok(())
        }
        (Output::Table | Output::Wide, None) => {
            line("whole; it has no page beside it, so that nothing more is known");
            Ok(())
        }
    }
}

/// What the data crate refuses is what the user gave it.
fn bad(error: &rebloom_data::Error) -> Failure {
    Failure::BadInput(rebloom_runtime::telemetry::chain(error))
}

/// Builds a dataset unless it is there, and says how far it is.
pub(crate) fn make(
    corpus: &Corpus,
    prefix: &Path,
    vocab: u32,
    say: impl Fn(&str),
) -> Result<Option<Meta>, Failure> {
    if let Some(folder) = prefix.parent() {
        rebloom_runtime::files::create_directory(folder)?;
    }
    let built = build(corpus, prefix, vocab, |progress| match progress {
        Progress::Training { bytes: size } => {
            say(&format!("training a tokenizer on {} of text", bytes(size)));
        }
        Progress::Encoding { done: 1, all } => say(&format!("encoding {}", count(all, "document"))),
        Progress::Encoding { .. } | Progress::Writing => {}
    });
    let Built { meta, .. } = built.map_err(|error| bad(&error))?;
    Ok(Some(meta))
}

/// What is in a dataset.
pub(crate) fn said(meta: &Meta) -> Vec<String> {
    let mut lines = vec![format!(
        "{} tokens in {} of {}, vocabulary {}",
        grouped(meta.tokens),
        count(meta.documents, "document"),
        count(meta.sources.len() as u64, "source"),
        grouped(meta.vocabulary.into()),
    )];
    if !meta.lacking.is_empty() {
        let names: Vec<&str> = meta.lacking.iter().map(|(_, name)| name.as_str()).collect();
        lines.push(format!(
            "languages of ROOTS without text: {}",
            names.join(", ")
        ));
    }
    for skipped in meta.skipped.iter().take(MOST_SKIPPED) {
        lines.push(format!(
            "left out: {} {}",
            skipped.path.display(),
            skipped.reason
        ));
    }
    if let Some(more) = meta.skipped.len().checked_sub(MOST_SKIPPED + 1) {
        lines.push(format!("left out: {}", count(more as u64 + 1, "more file")));
    }
    lines
}

/// Whether a dataset is whole by itself.
fn check(prefix: &Path) -> Result<Option<Meta>, Failure> {
    for path in [idx_path(prefix), bin_path(prefix)] {
        if !path.exists() {
            return Err(Failure::NotFound(format!("{} is missing", path.display())));
        }
    }
    let damaged = |error| {
        Failure::Failed(format!(
            "the dataset is damaged: {}",
            rebloom_runtime::telemetry::chain(&error)
        ))
    };
    Indexed::open(prefix).map_err(damaged)?;
    let vocabulary = Meta::read(prefix)
        .map_err(damaged)?
        .map_or(u32::MAX, |meta| meta.vocabulary);
    let wanted = Wanted {
        vocabulary,
        sequence: 1,
        samples: 1,
    };
    verify(prefix, wanted).map_err(|unfit| Failure::Failed(unfit.to_string()))
}

/// What is wrong with the dataset of a spec. Where the nodes are other machines, one that cannot be
/// seen from here is theirs to judge.
pub(crate) fn flaws(spec: &RunSpec, nodes_are_here: bool) -> Vec<Flaw> {
    let prefix = Path::new(&spec.data.prefix);
    if !nodes_are_here && !idx_path(prefix).exists() && !bin_path(prefix).exists() {
        return Vec::new();
    }
    let wanted = Wanted {
        vocabulary: spec.model.vocab,
        sequence: spec.model.sequence,
        samples: spec
            .train
            .steps
            .saturating_mul(spec.train.global_batch.into()),
    };
    let flaw = verify(prefix, wanted).err().map(|unfit| Flaw {
        field: unfit.field.to_owned(),
        value: unfit.value,
        problem: unfit.problem,
        remedy: unfit.remedy,
    });
    flaw.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// A spec whose dataset is made of this text.
    fn spec(folder: &Path, vocab: u32) -> RunSpec {
        let prefix = folder.join("data");
        let text = format!(
            "name: r\nmodel: {{layers: 1, hidden: 8, heads: 2, vocab: {vocab}, sequence: 8}}\n\
             layout: {{tensor: 1, pipeline: 1, data: 1}}\n\
             train: {{steps: 2, global_batch: 2, micro_batch: 1}}\n\
             data: {{prefix: {}}}\ncheckpoint: {{directory: /c, every_steps: 1}}\n",
            prefix.display()
        );
        serde_norway::from_str(&text).unwrap()
    }

    fn built(folder: &Path) {
        fs::create_dir(folder.join("text")).unwrap();
        fs::write(
            folder.join("text/a.txt"),
            "all human beings are born free ".repeat(20),
        )
        .unwrap();
        let corpus = Corpus::text(&folder.join("text")).unwrap();
        make(&corpus, &folder.join("data"), 300, |_| ()).unwrap();
    }

    #[test]
    fn a_dataset_that_fits_has_no_flaws() {
        let folder = tempfile::tempdir().unwrap();
        built(folder.path());
        assert_eq!(flaws(&spec(folder.path(), 300), true), []);
        assert!(check(&folder.path().join("data")).unwrap().is_some());
    }

    #[test]
    fn a_vocabulary_that_is_too_small_is_the_models_fault() {
        let folder = tempfile::tempdir().unwrap();
        built(folder.path());
        let flaws = flaws(&spec(folder.path(), 100), true);
        assert_eq!(flaws[0].field, "model.vocab");
    }

    #[test]
    fn a_dataset_that_is_cut_off_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        built(folder.path());
        let bin = folder.path().join("data.bin");
        let file = fs::OpenOptions::new().write(true).open(&bin).unwrap();
        file.set_len(file.metadata().unwrap().len() / 2).unwrap();
        assert_eq!(
            flaws(&spec(folder.path(), 300), false)[0].field,
            "data.prefix"
        );
        assert_eq!(check(&folder.path().join("data")).unwrap_err().code(), 1);
    }

    #[test]
    fn a_missing_dataset_is_refused_where_the_nodes_are_here() {
        let folder = tempfile::tempdir().unwrap();
        let spec = spec(folder.path(), 300);
        assert_eq!(flaws(&spec, true)[0].field, "data.prefix");
        assert_eq!(flaws(&spec, false), []);
        assert_eq!(check(&folder.path().join("data")).unwrap_err().code(), 3);
    }
}
