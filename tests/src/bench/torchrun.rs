//! The same fault under torchrun: what its restart of a two-rank Gloo toy takes.

use crate::process::{Process, processes_of, signal};
use crate::wait;
use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// How long one fault may cost it. Now and then its restarted ranks meet the leavings of the restart
/// before in its store, and fail again; that is its own affair, and counts.
const PATIENCE: Duration = Duration::from_secs(120);

/// Time from `kill -9` of one rank to the first step of both after it, `times` times in a row. Ends early
/// with what was measured where a fault costs more than two minutes, which then stand for it.
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
    let outcome = measure(&log, times);
    // Ranks of torchrun have sessions of their own and outlive it when it is killed.
    for pid in processes_of(folder.path()) {
        drop(signal(pid, Signal::KILL));
    }
    outcome
}

fn measure(log: &Path, times: u32) -> Result<Vec<Duration>> {
    let stepped = |after: Option<u32>| {
        wait::until("both ranks of the peer step", PATIENCE, || {
            Ok(newest(log, after))
        })
    };
    let mut spans = Vec::new();
    let (mut now, mut victim) = stepped(None)?;
    for _ in 0..times {
        let killed = Instant::now();
        signal(victim, Signal::KILL)?;
        let again = stepped(Some(now));
        spans.push(killed.elapsed());
        match again {
            Ok(stood) => (now, victim) = stood,
            Err(_) => break,
        }
    }
    Ok(spans)
}

/// The newest restart above `after` in which both ranks have stepped, and the process of its rank 1.
/// One fault may cost torchrun several restarts, so the numbers need not follow each other.
fn newest(log: &Path, after: Option<u32>) -> Option<(u32, u32)> {
    let text = fs::read_to_string(log).ok()?;
    let mut seen: BTreeMap<u32, BTreeMap<&str, u32>> = BTreeMap::new();
    for line in text.lines() {
        if let [rank, pid, restart, _] = line.split(' ').collect::<Vec<_>>()[..]
            && let (Ok(pid), Ok(restart)) = (pid.parse(), restart.parse())
        {
            seen.entry(restart).or_default().insert(rank, pid);
        }
    }
    let (restart, ranks) = seen.into_iter().rfind(|(_, ranks)| ranks.len() == 2)?;
    (after.is_none_or(|after| restart > after)).then_some((restart, *ranks.get("1")?))
}
