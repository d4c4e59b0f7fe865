//! Saving and loading, measured by hand: how long training stands still, how fast the file is written and
//! read, beside the same bytes written and read by nobody but the operating system.

use super::{begin, peak_bytes};
use crate::checkpoint::{Saver, directory, load};
use crate::shim::cuda::Choice;
use crate::trainer::How;
use anyhow::{Context, Result, ensure};
use rebloom_core::checkpoint::{CheckpointId, MANIFEST_VERSION, Manifest};
use rebloom_core::id::{Generation, Rank, Step};
use rebloom_core::spec::RunSpec;
use rebloom_runtime::clock::monotonic;
use serde::Serialize;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::sync::mpsc::channel;

/// What a round prints, in seconds and bytes.
#[derive(Debug, Serialize)]
struct Round {
    /// Training stands still: until the last sub-group is copied.
    stall_seconds: f64,
    /// Of the shard.
    bytes: u64,
    /// From there to the end of the file.
    write_seconds: f64,
    /// The plain write of the same bytes in the same folder right after.
    plain_seconds: f64,
    load_seconds: f64,
    /// The plain read of the same bytes.
    plain_load_seconds: f64,
    /// Most memory that the process ever had before the first save.
    training_bytes: u64,
    /// The same by now.
    saving_bytes: u64,
}

fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<(f64, T)> {
    let began = monotonic();
    let outcome = work()?;
    Ok((monotonic().since(began).as_secs_f64(), outcome))
}

/// Saves and loads the spec's state `rounds` times as its only rank, and prints a line of JSON a round.
pub fn run(
    spec: &RunSpec,
    store: &Path,
    rounds: u64,
    (interface, device): (&str, Choice),
) -> Result<()> {
    ensure!(spec.layout.world() == 1, "saving is measured on one rank");
    let mut trainer = begin(spec, Rank(0), store, (interface, device), How::of)?;
    trainer.step(false)?;
    let training_bytes = peak_bytes()?;
    let mut saving_bytes = training_bytes;
    let (tell, told) = channel();
    let saver = Saver::start(move |saved| drop(tell.send(saved)))?;
    for round in 1..=rounds {
        let id = CheckpointId {
            step: Step(round),
            generation: Generation(1),
        };
        let save = || saver.save(&trainer, Rank(0), id);
        let (stall_seconds, ()) = timed(|| save().map_err(anyhow::Error::msg))?;
        let (write_seconds, shard) = timed(|| told.recv()?.outcome().map_err(anyhow::Error::msg))?;
        // What follows has the whole file in memory, which saving never has.
        if round == 1 {
            saving_bytes = peak_bytes()?;
        }
        let folder = directory(spec, id);
        let path = folder.join(&shard.file);
        let bytes = shard.bytes;
        let manifest = Manifest {
            version: MANIFEST_VERSION,
            run: spec.name.clone(),
            id,
            layout: spec.layout,
            samples: trainer.samples(),
            shards: vec![shard],
        };
        fs::write(folder.join("manifest.json"), serde_json::to_vec(&manifest)?)?;
        let (load_seconds, ()) = timed(|| Ok(load(&mut trainer, Rank(0), id)?))?;
        let (plain_load_seconds, held) = timed(|| {
            fs::read(&path).with_context(|| format!("failed to read {}", path.display()))
        })?;
        fs::remove_file(&path)?;
        let (plain_seconds, ()) = timed(|| {
            let mut file = File::create(&path)?;
            file.write_all(&held)?;
            Ok(file.sync_all()?)
        })?;
        fs::remove_file(&path)?;
        let round = Round {
            stall_seconds,
            bytes,
            write_seconds,
            plain_seconds,
            load_seconds,
            plain_load_seconds,
            training_bytes,
            saving_bytes,
        };
        println!("{}", serde_json::to_string(&round)?);
    }
    Ok(())
}
