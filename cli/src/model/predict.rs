//! `rebloom generate` and `rebloom eval`: what a model has learned.

use super::{Subject, lines};
use crate::args::{Eval, Generate, Global};
use crate::failure::Failure;
use crate::format::{self, Output, count, line, print_bytes};
use crate::scores;
use rebloom_core::eval::{EvalSet, Score};
use rebloom_core::spec::Precision;
use serde::Deserialize;
use std::path::Path;
use tokio::process::Command;

/// Lets a model write; the text comes as it is written.
pub(crate) async fn generate(how: Generate, global: &Global) -> Result<(), Failure> {
    let subject = Subject::find(&how.which, global).await?;
    let mut command = subject.worker("generate")?;
    command.arg(format!("--device={}", how.device));
    // In one word each: a prompt may begin with a dash.
    command.arg(format!("--prompt={}", how.prompt));
    command.arg(format!("--tokens={}", how.tokens));
    command.arg(format!("--temperature={}", how.temperature));
    command.arg(format!("--top-k={}", how.top_k));
    command.arg(format!("--top-p={}", how.top_p));
    command.arg(format!("--seed={}", how.seed));
    command.arg("--json");
    let streams = global.output != Output::Json;
    // Not before the worker can write at all.
    let mut prompt = Some(how.prompt.as_str()).filter(|_| streams);
    let mut written = None;
    lines(command, |text| match serde_json::from_str(text) {
        Ok(Wrote::Piece { piece }) if streams => {
            print_bytes(prompt.take().unwrap_or_default().as_bytes());
            print_bytes(piece.as_bytes());
        }
        Ok(Wrote::Piece { .. }) | Err(_) => {}
        Ok(Wrote::All(all)) => written = Some(all),
    })
    .await?;
    let written = written.ok_or_else(|| Failure::Failed("the worker wrote nothing".to_owned()))?;
    if streams {
        line(prompt.unwrap_or_default());
        return Ok(());
    }
    format::json(&written)
}

/// One line of the worker's while it writes, and its last.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Wrote {
    Piece { piece: String },
    All(serde_json::Value),
}

/// One line of the worker's.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Said {
    LeftOut { left_out: String, reason: String },
    Progress { set: String, done: u64, of: u64 },
    Scored(Score),
}

/// Measures perplexity on what the model was not trained on.
pub(crate) async fn evaluate(how: Eval, global: &Global) -> Result<(), Failure> {
    let subject = Subject::find(&how.which, global).await?;
    let mut command = subject.worker("evaluate")?;
    command.arg(format!("--device={}", how.device));
    let run = subject.run.as_ref();
    let own = run.map(|run| run.spec.train.numerics.precision);
    if how.precision.or(own) == Some(Precision::Bf16) {
        command.arg("--bf16");
    }
    let asks = how.text.is_some() || !how.data.is_empty();
    let own = run.and_then(|run| run.spec.eval.as_ref());
    match own.filter(|_| !asks) {
        Some(own) => {
            for EvalSet {
                name,
                prefix,
                documents,
            } in &own.sets
            {
                add(&mut command, prefix.as_ref(), *documents);
                command.arg("--name").arg(name);
            }
            command.arg(format!("--samples={}", how.samples.unwrap_or(own.samples)));
        }
        None if !asks => return Err(Failure::BadInput(NOTHING.to_owned())),
        None => {
            if let Some(path) = &how.text {
                command.arg("--text").arg(path);
            }
            let shares = how.documents.as_deref();
            let shares = shares.map_or([0.0, 1.0], |shares| [shares[0], shares[1]]);
            for prefix in &how.data {
                add(&mut command, prefix, shares);
            }
            if let Some(samples) = how.samples {
                command.arg(format!("--samples={samples}"));
            }
        }
    }
    let mut scores: Vec<Score> = Vec::new();
    let mut left_out = Vec::new();
    lines(command, |text| match serde_json::from_str(text) {
        Ok(Said::Scored(scored)) => scores.push(scored),
        Ok(Said::LeftOut {
            left_out: path,
            reason,
        }) => left_out.push(format!("{path} {reason}")),
        Ok(Said::Progress { set, done, of }) if global.output != Output::Json => {
            eprintln!("{set}: {done} of {}", count(of, "sample"));
        }
        Ok(Said::Progress { .. }) | Err(_) => {}
    })
    .await?;
    if global.output == Output::Json {
        let scores = scores::to_json(&scores);
        return format::json(&serde_json::json!({"left_out": left_out, "scores": scores}));
    }
    for text in &left_out {
        line(&format!("left out: {text}"));
    }
    if scores.is_empty() {
        return Err(Failure::BadInput("there is no text to score".to_owned()));
    }
    scores::table(&scores);
    Ok(())
}

const NOTHING: &str =
    "the model has no evaluation of its own; name text with --text or a dataset with --data";

fn add(command: &mut Command, prefix: &Path, [from, to]: [f64; 2]) {
    command.arg("--data").arg(prefix).arg("--documents");
    command.args([from.to_string(), to.to_string()]);
}
