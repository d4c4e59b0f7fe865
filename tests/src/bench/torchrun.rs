//! The same fault under torchrun: what its restart of a two-rank Gloo toy takes.

use crate::process::{Process, signal};
use crate::wait;
use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Time from `kill -9` of one rank to the first step after it, `times` times in a row.
pub fn restarts(times: u32) -> Result<Vec<Duration>> {
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("a checkout")?;
    let torchrun = checkout.join(".rebloom/peers/bin/torchrun");
    ensure!(
        torchrun.exists(),
        "torchrun is missing: run `cargo xtask peers` first"
    );
    let folder = tempfile::TempDir::with_prefix("rebloom-peer-")?;
    let log = folder.path().join("steps");
    let mut command = Command::new(torchrun);
    command
        .args(["--standalone", "--nproc-per-node=2", "--max-restarts=100"])
        .arg(checkout.join("tests/peers/torchrun_toy.py"))
        .arg(&log);
    let _torchrun = Process::start(command, &folder.path().join("torchrun.log"))?;
    let mut spans = Vec::new();
    for round in 0..times {
        let before = wait::until("both ranks step", Duration::from_secs(120), || {
            Ok(step_of(&log, round))
        })?;
        let killed = Instant::now();
        signal(before, Signal::KILL)?;
        wait::until("torchrun is back", Duration::from_secs(120), || {
            Ok(step_of(&log, round + 1))
        })?;
        spans.push(killed.elapsed());
    }
    Ok(spans)
}

/// Process of rank 1 once both ranks have stepped after so many restarts.
fn step_of(log: &PathBuf, restarts: u32) -> Option<u32> {
    let text = fs::read_to_string(log).ok()?;
    let pid = |rank: &str| {
        text.lines().find_map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            let restart: u32 = words.get(2)?.parse().ok()?;
            (words.len() == 4 && words.first()? == &rank && restart == restarts)
                .then(|| words.get(1)?.parse().ok())
                .flatten()
        })
    };
    pid("0").and(pid("1"))
}
