//! Saving one rank's shard: how long training stands still, and how fast the file is written against the
//! plain write of the same bytes to the same disk.

use super::{largest, median, millis};
use crate::cluster::PATIENCE;
use crate::process::{Process, binary};
use crate::training;
use anyhow::{Result, ensure};
use rebloom_core::layout::Layout;
use serde::Deserialize;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

pub(super) const ROUNDS: u32 = 7;

/// What a round of `rebloom-worker save` prints.
#[derive(Deserialize)]
pub(super) struct Round {
    pub(super) stall_seconds: f64,
    pub(super) bytes: u64,
    pub(super) write_seconds: f64,
    pub(super) plain_seconds: f64,
    pub(super) load_seconds: f64,
    pub(super) plain_load_seconds: f64,
    pub(super) training_bytes: u64,
    pub(super) saving_bytes: u64,
}

/// Runs the bench and prints its table. The files lie below `target/`, on the disk of the checkout.
#[expect(clippy::print_stdout, reason = "a bench prints its figures")]
pub fn run() -> Result<()> {
    let disk = crate::process::binaries()?;
    let folder = tempfile::TempDir::with_prefix_in("rebloom-bench-", disk)?;
    let rounds = measure(folder.path(), None)?;
    let times = |of: fn(&Round) -> f64| times(&rounds, of);
    let (stall, write) = (times(|r| r.stall_seconds), times(|r| r.write_seconds));
    let plain = times(|r| r.plain_seconds);
    let bytes = rounds[0].bytes as f64 / 1e6;
    let rate = |span: Duration| format!("{:.0} MB/s", bytes / span.as_secs_f64());
    println!("| one shard of {bytes:.0} MB, {ROUNDS} times | p50 | max |\n|---|---|---|");
    println!(
        "| training stands still, ms | {} | {} |",
        millis(median(&stall)),
        millis(largest(&stall))
    );
    println!(
        "| written, hashed, synced, ms | {} | {} |",
        millis(median(&write)),
        millis(largest(&write))
    );
    println!(
        "| the same bytes, plain write and sync, ms | {} | {} |",
        millis(median(&plain)),
        millis(largest(&plain))
    );
    println!(
        "\n{} against the disk's {}: {:.2} of its limit.",
        rate(median(&write)),
        rate(median(&plain)),
        median(&plain).as_secs_f64() / median(&write).as_secs_f64()
    );
    Ok(())
}

/// One figure of all rounds.
pub(super) fn times(rounds: &[Round], of: fn(&Round) -> f64) -> Vec<Duration> {
    let seconds = rounds.iter().map(of);
    seconds.map(Duration::from_secs_f64).collect()
}

/// Lets one worker save and load a shard of eight blocks, 512 wide, in `folder`, of whose weights at most
/// `group` are updated and saved at a time.
pub(super) fn measure(folder: &Path, group: Option<u64>) -> Result<Vec<Round>> {
    let mut spec = training::spec("save", training::dataset()?, &folder.join("checkpoints"))?;
    spec.layout = Layout {
        tensor: 1,
        pipeline: 1,
        data: 1,
    };
    spec.model.hidden = 512;
    spec.model.heads = 8;
    spec.model.layers = 8;
    if let Some(most) = group {
        spec.train.numerics.group_elements = most;
    }
    let file = folder.join("spec.json");
    fs::write(&file, serde_json::to_vec(&spec)?)?;
    let log = folder.join("save.log");
    let mut command = Command::new(binary("rebloom-worker")?);
    command
        .args(["save", "--rounds", &ROUNDS.to_string(), "--spec"])
        .arg(&file)
        .arg("--store")
        .arg(folder.join("store"));
    let mut worker = Process::start(command, &log)?;
    let code = worker.wait(PATIENCE)?;
    let text = fs::read_to_string(&log)?;
    ensure!(code == Some(0), "{text}");
    let lines = text.lines().filter(|line| line.starts_with('{'));
    let rounds: Vec<Round> = lines
        .map(|line| Ok(serde_json::from_str(line)?))
        .collect::<Result<_>>()?;
    ensure!(rounds.len() == ROUNDS as usize, "{text}");
    Ok(rounds)
}
