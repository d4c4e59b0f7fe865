//! `rebloom generate` and `rebloom eval`: what a model has learned.

use super::{Subject, lines};
use crate::args::{Eval, Generate, Global};
use crate::failure::Failure;
use crate::format::{self, Output, grouped, line};
use serde::{Deserialize, Serialize};

/// Lets a model write; the text comes as it is written.
pub(crate) async fn generate(how: Generate, global: &Global) -> Result<(), Failure> {
    let subject = Subject::find(&how.which, global).await?;
    let mut command = subject.worker("generate")?;
    command.arg(format!("--device={}", how.device));
    // In one word each: a prompt may begin with a dash.
    command.arg(format!("--prompt={}", how.prompt));
    command.arg(format!("--words={}", how.tokens));
    command.arg(format!("--temperature={}", how.temperature));
    command.arg(format!("--top-k={}", how.top_k));
    command.arg(format!("--top-p={}", how.top_p));
    command.arg(format!("--seed={}", how.seed));
    command.arg("--json");
    let mut written = None;
    lines(command, |text| {
        written = serde_json::from_str::<serde_json::Value>(text).ok();
    })
    .await?;
    let written = written.ok_or_else(|| Failure::Failed("the worker wrote nothing".to_owned()))?;
    if global.output == Output::Json {
        return format::json(&written);
    }
    let text = written["text"].as_str().unwrap_or_default();
    line(&format!("{}{text}", how.prompt));
    Ok(())
}

/// One line of the worker's.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Said {
    LeftOut { left_out: String, reason: String },
    Scored(Scored),
}

/// How well one language is predicted; all of them together where none is named.
#[derive(Debug, Serialize, Deserialize)]
struct Scored {
    language: Option<String>,
    documents: u64,
    bytes: u64,
    words: u64,
    loss: f64,
    perplexity: f64,
    bits_per_byte: f64,
}

/// Measures perplexity by language.
pub(crate) async fn evaluate(how: Eval, global: &Global) -> Result<(), Failure> {
    let subject = Subject::find(&how.which, global).await?;
    let mut command = subject.worker("evaluate")?;
    command.arg(format!("--device={}", how.device));
    command.arg("--text").arg(&how.text);
    let mut scores = Vec::new();
    let mut left_out = Vec::new();
    lines(command, |text| match serde_json::from_str(text) {
        Ok(Said::Scored(scored)) => scores.push(scored),
        Ok(Said::LeftOut {
            left_out: path,
            reason,
        }) => left_out.push(format!("{path} {reason}")),
        Err(_) => {}
    })
    .await?;
    if global.output == Output::Json {
        return format::json(&serde_json::json!({"left_out": left_out, "scores": scores}));
    }
    for text in &left_out {
        line(&format!("left out: {text}"));
    }
    let row = |scored: &Scored| {
        vec![
            scored.language.clone().unwrap_or_else(|| "all".to_owned()),
            grouped(scored.documents),
            grouped(scored.words),
            format!("{:.4}", scored.loss),
            format!("{:.2}", scored.perplexity),
            format!("{:.3}", scored.bits_per_byte),
        ]
    };
    let header = [
        "LANGUAGE",
        "DOCUMENTS",
        "TOKENS",
        "LOSS",
        "PERPLEXITY",
        "BITS/BYTE",
    ];
    format::table(&header, scores.iter().map(row).collect());
    Ok(())
}
