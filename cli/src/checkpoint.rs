//! `rebloom checkpoint`: show checkpoints and check them.

use crate::args::{CheckpointCommand, Global};
use crate::client::Client;
use crate::failure::Failure;
use crate::format::{self, Output, bytes, count};
use rebloom_core::checkpoint::CheckpointId;
use rebloom_core::engine::{CheckpointState, RunView};
use serde::Serialize;

pub(crate) async fn run(command: CheckpointCommand, global: &Global) -> Result<(), Failure> {
    let client = global.target().reach().await?;
    match command {
        CheckpointCommand::List(one) => list(&client.meant(one.run.as_ref()).await?, global.output),
        CheckpointCommand::Verify { run, step } => {
            let run = client.meant(run.run.as_ref()).await?;
            verify(&client, &run, step, global.output).await
        }
    }
}

/// Where a checkpoint lies.
pub(crate) fn path(run: &RunView, id: CheckpointId) -> String {
    let directory = run.spec.checkpoint.directory.trim_end_matches('/');
    format!("{directory}/{}/{}", run.spec.name, id.directory())
}

fn list(run: &RunView, output: Output) -> Result<(), Failure> {
    if output == Output::Json {
        return format::json(&run.checkpoints);
    }
    let row = |(id, state): &(CheckpointId, CheckpointState)| {
        let state = match state {
            CheckpointState::Sealed => "Sealed",
            CheckpointState::Rejected => "Rejected",
        };
        vec![
            id.step.to_string(),
            id.generation.to_string(),
            state.to_owned(),
            path(run, *id),
        ]
    };
    let rows = run.checkpoints.iter().map(row).collect();
    format::table(&["STEP", "GENERATION", "STATE", "WHERE"], rows);
    Ok(())
}

/// What `-o json` prints of one checkpoint.
#[derive(Serialize)]
struct Checked {
    checkpoint: CheckpointId,
    node: String,
    shards: u32,
    bytes: u64,
    problems: Vec<rebloom_core::cause::Unsound>,
}

async fn verify(
    client: &Client,
    run: &RunView,
    step: Option<u64>,
    output: Output,
) -> Result<(), Failure> {
    let wanted: Vec<CheckpointId> = run
        .checkpoints
        .iter()
        .filter(|(id, state)| match step {
            Some(step) => id.step.0 == step,
            None => *state == CheckpointState::Sealed,
        })
        .map(|(id, _)| *id)
        .collect();
    if wanted.is_empty() {
        let what = step.map_or("no sealed checkpoint".to_owned(), |step| {
            format!("no checkpoint at step {step}")
        });
        return Err(Failure::NotFound(format!(
            "run {} has {what}",
            run.spec.name
        )));
    }
    let mut checked = Vec::new();
    for id in wanted {
        let found = client.verify(&run.spec.name, id).await?;
        let verified = found.verified;
        if output != Output::Json {
            let sound = if verified.problems.is_empty() {
                "sound"
            } else {
                "UNSOUND"
            };
            format::line(&format!(
                "step {} (generation {}): {sound}; {}, {} read on {}",
                id.step,
                id.generation,
                count(verified.shards.into(), "shard"),
                bytes(verified.bytes),
                found.node
            ));
            for problem in &verified.problems {
                format::line(&format!("  {problem}"));
            }
        }
        checked.push(Checked {
            checkpoint: id,
            node: found.node.to_string(),
            shards: verified.shards,
            bytes: verified.bytes,
            problems: verified.problems,
        });
    }
    if output == Output::Json {
        format::json(&checked)?;
    }
    let unsound = checked
        .iter()
        .filter(|one| !one.problems.is_empty())
        .count();
    if unsound == 0 {
        return Ok(());
    }
    Err(Failure::Failed(format!(
        "{unsound} of {} checkpoints unsound",
        checked.len()
    )))
}
