//! Whether a dataset is whole, and whether the files that a run names fit it.

use crate::failure::Failure;
use crate::format::{self, Output, bytes, count, grouped, line};
use rebloom_core::eval::EvalSet;
use rebloom_core::spec::{Flaw, Model, RunSpec};
use rebloom_data::held_out::HeldOut;
use rebloom_data::indexed::{bin_path, idx_path};
use rebloom_data::order::blend::asked;
use rebloom_data::verify::{Examined, Wanted, examine, verify};
use rebloom_format::hf::{CONFIG, Config};
use rebloom_runtime::telemetry::chain;
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

/// Reads a dataset whole, says what is in it, and names every damage; tokens from `vocab` on are one.
pub(super) fn run(prefix: &Path, vocab: Option<u32>, output: Output) -> Result<(), Failure> {
    for path in [idx_path(prefix), bin_path(prefix)] {
        if !path.exists() {
            return Err(Failure::NotFound(format!(
                "{} is missing; give the path of a dataset without its .bin and .idx",
                path.display()
            )));
        }
    }
    let mut next = STEP;
    let found = examine(prefix, vocab, |done, all| {
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
    } else {
        match &found.page {
            Some(meta) => super::said(meta).iter().for_each(|text| line(text)),
            None => bare(&found),
        }
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
            "whole; it has no page beside it, so that neither its sources nor changes of its bytes are known"
        });
    }
    Ok(())
}

/// What is known of a dataset by its two files alone.
fn bare(found: &Examined) {
    let documents = count(found.documents, "document");
    line(&format!("{} tokens in {documents}", grouped(found.tokens)));
    if let Some(largest) = found.largest {
        let least = u64::from(largest) + 1;
        line(&format!(
            "the largest token is {largest}: model.vocab has to be {least} or more"
        ));
    }
}

/// What is wrong with the files that a spec names: datasets, held-out sets, weights to begin with. Where the nodes
/// are other machines, one that cannot be seen from here is theirs to judge.
pub(crate) fn flaws(spec: &RunSpec, nodes_are_here: bool) -> Vec<Flaw> {
    let mut flaws = trained_on(spec, nodes_are_here);
    flaws.extend(held_out(spec, nodes_are_here));
    flaws.extend(weights(spec, nodes_are_here));
    flaws
}

fn trained_on(spec: &RunSpec, nodes_are_here: bool) -> Vec<Flaw> {
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

/// What is wrong with the sets that it is evaluated on.
fn held_out(spec: &RunSpec, nodes_are_here: bool) -> Vec<Flaw> {
    let Some(eval) = &spec.eval else {
        return Vec::new();
    };
    let flaw = |(at, set): (usize, &EvalSet)| {
        let prefix = Path::new(&set.prefix);
        if !nodes_are_here && !idx_path(prefix).exists() && !bin_path(prefix).exists() {
            return None;
        }
        let ([from, to], vocab) = (set.documents, spec.model.vocab);
        let much = (spec.model.sequence, eval.samples);
        let problem = match HeldOut::of_dataset(&set.name, prefix, (from, to), much) {
            Err(error) => format!("cannot be used: {}", chain(&error)),
            Ok(held) => {
                let odd = held.outside(vocab)?;
                format!("holds token {odd}, and model.vocab is {vocab}")
            }
        };
        Some(Flaw {
            field: format!("eval.sets[{at}].prefix"),
            value: set.prefix.clone(),
            problem,
            remedy: "name a dataset that `rebloom data build` made with the model's tokenizer"
                .to_owned(),
        })
    };
    eval.sets.iter().enumerate().filter_map(flaw).collect()
}

/// What is wrong with the folder that it begins with; what a checkpoint holds is the ranks' to judge.
fn weights(spec: &RunSpec, nodes_are_here: bool) -> Option<Flaw> {
    let init = spec.init.as_ref()?;
    let folder = Path::new(init);
    let flaw = |problem: String, remedy: String| Flaw {
        field: "init".to_owned(),
        value: init.clone(),
        problem,
        remedy,
    };
    if !folder.exists() {
        let remedy = "name a Hugging Face folder or a checkpoint's directory".to_owned();
        return nodes_are_here.then(|| flaw("does not exist".to_owned(), remedy));
    }
    if !folder.join(CONFIG).exists() {
        return None;
    }
    let held = match Config::read(folder) {
        Ok(config) => config.model(),
        Err(error) => {
            let remedy = "see what `rebloom model import` says of it".to_owned();
            return Some(flaw(format!("cannot be used: {error}"), remedy));
        }
    };
    let of = |model: &Model| {
        [
            ("layers", model.layers),
            ("hidden", model.hidden),
            ("heads", model.heads),
            ("vocab", model.vocab),
            (
                "residual_after_layernorm",
                model.residual_after_layernorm.into(),
            ),
        ]
    };
    let pairs = of(&held).into_iter().zip(of(&spec.model));
    let other = pairs.filter(|(held, wanted)| held != wanted);
    let other: Vec<_> = other
        .map(|((name, value), _)| format!("{name} {value}"))
        .collect();
    let other = other.join(", ");
    (!other.is_empty()).then(|| {
        flaw(
            format!("is a model with {other}"),
            "make `model` the same, or begin with another".to_owned(),
        )
    })
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
