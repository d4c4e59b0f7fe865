//! Saving, measured by hand: how long training stands still, and how fast the file is written, beside
//! the same bytes written by nobody but the operating system.

use super::begin;
use crate::checkpoint::{Snapshot, write};
use anyhow::{Context, Result, ensure};
use rebloom_core::checkpoint::CheckpointId;
use rebloom_core::id::{Generation, Rank, Step};
use rebloom_core::spec::RunSpec;
use rebloom_runtime::clock::monotonic;
use std::fs::File;
use std::io::Write;
use std::path::Path;

/// Saves the spec's state `rounds` times as its only rank, and prints one line of JSON a round: seconds
/// that training stands still, bytes, seconds of the write, and seconds of the plain write of the same
/// bytes in the same folder right after.
pub fn run(spec: &RunSpec, store: &Path, rounds: u64, interface: &str) -> Result<()> {
    ensure!(spec.layout.world() == 1, "saving is measured on one rank");
    let mut trainer = begin(spec, Rank(0), store, interface)?;
    trainer.step(false)?;
    let mut old = None;
    for round in 1..=rounds {
        let id = CheckpointId {
            step: Step(round),
            generation: Generation(1),
        };
        let began = monotonic();
        let snapshot = Snapshot::take(&trainer, Rank(0), id, old.take());
        let stall = monotonic().since(began).as_secs_f64();
        let began = monotonic();
        let shard = write(&snapshot).map_err(anyhow::Error::msg)?;
        let saved = monotonic().since(began).as_secs_f64();
        let folder = Path::new(&spec.checkpoint.directory).join(spec.name.as_str());
        let path = folder.join(id.directory()).join(&shard.file);
        let bytes = std::fs::read(&path).with_context(|| format!("{}", path.display()))?;
        std::fs::remove_file(&path)?;
        let began = monotonic();
        let mut file = File::create(&path)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        let plain = monotonic().since(began).as_secs_f64();
        std::fs::remove_file(&path)?;
        println!(
            "{{\"stall_seconds\":{stall:.6},\"bytes\":{},\"write_seconds\":{saved:.6},\"plain_seconds\":{plain:.6}}}",
            shard.bytes
        );
        old = Some(snapshot);
    }
    Ok(())
}
