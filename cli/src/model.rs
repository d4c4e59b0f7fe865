//! `rebloom model`: models in and out of Hugging Face's form. The worker's binary, which has the tensors, does
//! the work; here it is told what to do, and what came of it is shown and written down.

mod card;
pub(crate) mod predict;

use crate::args::{Dtype, Global, ModelCommand, Which};
use crate::failure::Failure;
use crate::format::{self, Output, bytes, count, grouped, line};
use crate::up::binary;
use crate::{checkpoint, view};
use clap::ValueEnum;
use rebloom_core::checkpoint::CheckpointId;
use rebloom_core::engine::{CheckpointState, RunView};
use rebloom_core::id::RunId;
use rebloom_core::layout::Layout;
use rebloom_core::spec::Model;
use rebloom_data::build::tokenizer_path;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

pub(crate) async fn run(command: ModelCommand, global: &Global) -> Result<(), Failure> {
    match command {
        ModelCommand::Import {
            source,
            to,
            dtype,
            file_bytes,
        } => {
            let subject = Subject {
                from: source,
                tokenizer: None,
                run: None,
            };
            let to = absolute(&to)?;
            let made = convert(&subject, &to, dtype, file_bytes).await?;
            imported(&made, global.output)
        }
        ModelCommand::Export {
            which,
            to,
            license,
            dtype,
            file_bytes,
        } => {
            let subject = Subject::find(&which, global).await?;
            let to = absolute(&to)?;
            let made = convert(&subject, &to, dtype, file_bytes).await?;
            let text = card::text(&made, subject.run.as_deref(), &license);
            rebloom_runtime::files::write(&to.join("README.md"), text.as_bytes())?;
            if global.output == Output::Json {
                return format::json(&made);
            }
            line(&made.said());
            if !made.tokenizer {
                line("it has no tokenizer; name one with --tokenizer");
            }
            line("README.md is its model card: read it before you publish it");
            Ok(())
        }
    }
}

/// Weights, and what is known of where they come from.
#[derive(Debug)]
pub(crate) struct Subject {
    from: PathBuf,
    tokenizer: Option<PathBuf>,
    run: Option<Box<RunView>>,
}

impl Subject {
    /// What was meant on the command line.
    async fn find(which: &Which, global: &Global) -> Result<Self, Failure> {
        let tokenizer = which.tokenizer.clone();
        if let Some(from) = &which.from {
            return Ok(Self {
                from: from.clone(),
                tokenizer,
                run: None,
            });
        }
        let client = global.target().reach().await?;
        let run = client.meant(which.run.as_ref()).await?;
        let id = match which.step {
            None => view::newest_sealed(&run),
            Some(step) => run
                .checkpoints
                .iter()
                .find(|(id, state)| id.step.0 == step && *state == CheckpointState::Sealed)
                .map(|(id, _)| *id),
        };
        let name = &run.spec.name;
        let id = id.ok_or_else(|| {
            let what = which
                .step
                .map_or("no sealed checkpoint".to_owned(), |step| {
                    format!("no sealed checkpoint at step {step}")
                });
            Failure::NotFound(format!("run {name} has {what}"))
        })?;
        let from = PathBuf::from(checkpoint::path(&run, id));
        if !from.exists() {
            let from = from.display();
            return Err(Failure::NotFound(format!(
                "{from} cannot be seen from here; run this where the checkpoints are"
            )));
        }
        // All parts of a blend were built with the same one.
        let beside = || {
            let prefixes = run.spec.data.prefixes();
            let mut paths = prefixes.map(|prefix| tokenizer_path(Path::new(prefix)));
            paths.find(|path| path.exists())
        };
        Ok(Self {
            from,
            tokenizer: tokenizer.or_else(beside),
            run: Some(Box::new(run)),
        })
    }

    /// The worker's binary, told which weights.
    fn worker(&self, what: &str) -> Result<Command, Failure> {
        let mut command = Command::new(binary("rebloom-worker")?);
        command.arg(what).arg("--from").arg(&self.from);
        if let Some(tokenizer) = &self.tokenizer {
            command.arg("--tokenizer").arg(tokenizer);
        }
        // Its own log says what went wrong; nothing else of it is of interest here.
        command.env("RUST_LOG", "error").kill_on_drop(true);
        Ok(command)
    }
}

/// The checkpoint that a model was.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Of {
    run: RunId,
    checkpoint: CheckpointId,
    layout: Layout,
    samples: u64,
}

/// What a folder holds.
#[derive(Debug, Serialize, Deserialize)]
struct Written {
    files: u64,
    parameters: u64,
    bytes: u64,
    kind: String,
}

/// A model folder that was made.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Made {
    path: PathBuf,
    model: Model,
    written: Written,
    of: Option<Of>,
    tokenizer: bool,
}

impl Made {
    fn kind(&self) -> &'static str {
        if self.written.kind == "bfloat16" {
            "bf16"
        } else {
            "fp32"
        }
    }

    fn said(&self) -> String {
        format!(
            "{}: {} parameters in {}, {} in {}",
            self.path.display(),
            grouped(self.written.parameters),
            self.kind(),
            bytes(self.written.bytes),
            count(self.written.files, "file")
        )
    }
}

async fn convert(
    subject: &Subject,
    to: &Path,
    dtype: Dtype,
    file_bytes: u64,
) -> Result<Made, Failure> {
    let mut command = subject.worker("convert")?;
    let dtype = dtype.to_possible_value().expect("no value is hidden");
    command.arg("--to").arg(to);
    command.args(["--dtype", dtype.get_name()]);
    command.arg("--file-bytes").arg(file_bytes.to_string());
    let mut made = None;
    lines(command, |text| {
        made = serde_json::from_str(text).ok();
    })
    .await?;
    made.ok_or_else(|| Failure::Failed("the worker did not say what it wrote".to_owned()))
}

/// Runs the worker and hears every line it prints; what it says when it fails becomes the failure.
async fn lines(mut command: Command, mut hear: impl FnMut(&str)) -> Result<(), Failure> {
    let io = |error: std::io::Error| Failure::Failed(format!("cannot start the worker: {error}"));
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(io)?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let said = async {
        let mut said = Vec::new();
        let mut lines = BufReader::new(err.expect("it is piped")).lines();
        while let Some(text) = lines.next_line().await.map_err(io)? {
            said.push(text);
        }
        Ok::<_, Failure>(said)
    };
    let heard = async {
        let mut lines = BufReader::new(out.expect("it is piped")).lines();
        while let Some(text) = lines.next_line().await.map_err(io)? {
            hear(&text);
        }
        Ok::<_, Failure>(())
    };
    let (said, heard) = tokio::join!(said, heard);
    let status = child.wait().await.map_err(io)?;
    heard?;
    if status.success() {
        return Ok(());
    }
    let reason = reason(&said?);
    Err(match reason {
        Some(reason) if status.code() == Some(REFUSED) => Failure::BadInput(reason),
        Some(reason) => Failure::Failed(format!("the worker ended with {status}: {reason}")),
        None => Failure::Failed(format!(
            "the worker ended with {status} and did not say why"
        )),
    })
}

/// How the worker ends where it could not do what it was told (`EX_SOFTWARE`).
const REFUSED: i32 = 70;

/// The last thing the worker logged, without its time, level and place.
fn reason(said: &[String]) -> Option<String> {
    let last = said.iter().rfind(|text| !text.trim().is_empty())?;
    let text = last
        .split_once("ERROR")
        .map_or(last.as_str(), |(_, text)| text);
    let text = text.trim();
    let text = text.strip_prefix("rebloom_worker: ").unwrap_or(text);
    Some(text.to_owned())
}

fn imported(made: &Made, output: Output) -> Result<(), Failure> {
    if output == Output::Json {
        return format::json(made);
    }
    let Model {
        layers,
        hidden,
        heads,
        vocab,
        sequence,
        residual_after_layernorm,
    } = made.model;
    let path = made.path.display();
    line(&made.said());
    line("A run begins with it where its spec has:");
    let residual = if residual_after_layernorm {
        "  residual_after_layernorm: true\n"
    } else {
        ""
    };
    line(&format!(
        "\ninit: {path}\nmodel:\n  layers: {layers}\n  hidden: {hidden}\n  heads: {heads}\n  vocab: {vocab}\n  sequence: {sequence}\n{residual}"
    ));
    if made.tokenizer {
        line(&format!(
            "Its data must be made with its tokenizer: rebloom data build --tokenizer {path}/tokenizer.json ..."
        ));
    }
    Ok(())
}

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|error| Failure::file("use", path, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_worker_said_last_is_the_reason() {
        let said = [
            "2026-01-01T00:00:00Z  INFO starts".to_owned(),
            "2026-01-01T00:00:01Z ERROR rebloom_worker: /x/config.json: n_head: 5".to_owned(),
            String::new(),
        ];
        assert_eq!(reason(&said).unwrap(), "/x/config.json: n_head: 5");
        assert_eq!(reason(&[" ".to_owned()]), None);
    }
}
