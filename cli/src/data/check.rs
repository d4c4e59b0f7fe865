//! Whether a dataset is whole, and whether it fits a run.

use crate::failure::Failure;
use crate::format::{self, Output, bytes, line};
use rebloom_core::spec::{Flaw, RunSpec};
use rebloom_data::indexed::{bin_path, idx_path};
use rebloom_data::order::blend::asked;
use rebloom_data::verify::{Examined, Wanted, examine, verify};
use serde::Serialize;
use std::path::Path;

/// Bytes after which progress is told once more.
const STEP: u64 = 4 << 30;

#[derive(Serialize)]
struct Shown<'a> {
    prefix: &'a Path,
    whole: bool,
    #[serde(flatten)]
    found: &'a Examined,
}

/// Reads a dataset whole, says what is in it, and names every damage.
pub(super) fn run(prefix: &Path, output: Output) -> Result<(), Failure> {
    for path in [idx_path(prefix), bin_path(prefix)] {
        if !path.exists() {
            return Err(Failure::NotFound(format!(
                "{} is missing; give the path of a dataset without its .bin and .idx",
                path.display()
            )));
        }
    }
    let mut next = STEP;
    let found = examine(prefix, |done, all| {
        if done >= next && output != Output::Json {
            line(&format!("read {} of {}", bytes(done), bytes(all)));
            next = done + STEP;
        }
    });
    let whole = found.damage.is_empty();
    if output == Output::Json {
        format::json(&Shown {
            prefix,
            whole,
            found: &found,
        })?;
    } else if let Some(meta) = &found.page {
        super::said(meta).iter().for_each(|text| line(text));
    }
    if !whole {
        let all: Vec<String> = found.damage.iter().map(ToString::to_string).collect();
        return Err(Failure::Failed(format!(
            "the dataset is damaged; build it again, or copy it again from where it is whole:\n  {}",
            all.join("\n  ")
        )));
    }
    if output != Output::Json {
        line(if found.page.is_some() {
            "whole"
        } else {
            "whole; it has no page beside it, so that nothing more is known"
        });
    }
    Ok(())
}

/// What is wrong with the datasets of a spec. Where the nodes are other machines, one that cannot be
/// seen from here is theirs to judge.
pub(crate) fn flaws(spec: &RunSpec, nodes_are_here: bool) -> Vec<Flaw> {
    let samples = spec.train.samples();
    if spec.data.blend.is_empty() {
        let flaw = flaw(spec, &spec.data.prefix, "data", samples, nodes_are_here);
        return flaw.into_iter().collect();
    }
    let weights: Vec<f64> = spec.data.blend.iter().map(|part| part.weight).collect();
    // Weights that cannot be blended are flaws of the spec by itself, which are found before.
    let asked = asked(&weights, samples).unwrap_or_default();
    let parts = spec.data.blend.iter().zip(asked).enumerate();
    parts
        .filter_map(|(at, (part, samples))| {
            let field = format!("data.blend[{at}]");
            flaw(spec, &part.prefix, &field, samples, nodes_are_here)
        })
        .collect()
}

/// What is wrong with one of its datasets, whose fields stand below `field`.
fn flaw(
    spec: &RunSpec,
    prefix: &str,
    field: &str,
    samples: u64,
    nodes_are_here: bool,
) -> Option<Flaw> {
    let prefix = Path::new(prefix);
    if !nodes_are_here && !idx_path(prefix).exists() && !bin_path(prefix).exists() {
        return None;
    }
    let wanted = Wanted {
        vocabulary: spec.model.vocab,
        sequence: spec.model.sequence,
        samples,
    };
    let unfit = verify(prefix, wanted).err()?;
    Some(Flaw {
        field: unfit.field.replacen("data", field, 1),
        value: unfit.value,
        problem: unfit.problem,
        remedy: unfit.remedy,
    })
}

#[cfg(test)]
mod tests;
