//! A bit that flips in the memory of a rank: what a tensor group holds alike differs from then on, is found before the next
//! checkpoint is written, and the run ends with the bits of one that it did not happen to.

use anyhow::{Context, Result, ensure};
use rebloom_core::cause::Cause;
use rebloom_core::checkpoint::CheckpointId;
use rebloom_core::engine::{CheckpointState, RunView};
use rebloom_core::id::{Generation, Rank, RunId};
use rebloom_core::spec::RunSpec;
use rebloom_tests::cluster::{Cluster, pid_of};
use rebloom_tests::training::EVERY;
use rebloom_tests::weights::{self, Weights};
use safetensors::SafeTensors;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// A layer norm, which both members of a tensor group hold whole.
const TENSOR: &str = "h.0.input_layernorm.weight";
const STEPS: u64 = 60;

fn ends(cluster: &Cluster, run: &RunId, steps: u64) -> Result<(RunView, Weights)> {
    let end = cluster.until_completed(run)?;
    let (weights, _) = weights::of(&cluster.checkpoints(), run, steps)?;
    Ok((end, weights))
}

/// The rank that owns a piece of [`TENSOR`], and the bytes of the piece.
fn piece(checkpoint: &Path) -> Result<(Rank, Vec<u8>)> {
    for rank in (0..).map(Rank) {
        let path = checkpoint.join(format!("rank-{:05}.safetensors", rank.0));
        let shard = fs::read(&path).with_context(|| format!("nobody owns {TENSOR}"))?;
        let shard = SafeTensors::deserialize(&shard)?;
        let name = format!("weight/{TENSOR}");
        let held = shard.iter().find(|(held, _)| held.starts_with(&name));
        if let Some((_, held)) = held {
            return Ok((rank, held.data().to_vec()));
        }
    }
    unreachable!("ranks end")
}

/// Flips the lowest bit of the second number wherever a process holds these.
fn flip(pid: u32, numbers: &[u8]) -> Result<usize> {
    ensure!(numbers.len() >= 32, "any memory may hold {numbers:?}");
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let memory = File::options()
        .read(true)
        .write(true)
        .open(format!("/proc/{pid}/mem"))?;
    let mut found = 0;
    for line in maps.lines().filter(|line| line.contains(" rw-p ")) {
        let (from, until) = line
            .split_whitespace()
            .next()
            .and_then(|range| range.split_once('-'))
            .context("a range")?;
        let [from, until] = [from, until].map(|at| u64::from_str_radix(at, 16));
        let (from, until) = (from?, until?);
        let mut bytes = vec![0; usize::try_from(until - from)?];
        if memory.read_exact_at(&mut bytes, from).is_err() {
            continue;
        }
        for at in (0..bytes.len().saturating_sub(numbers.len())).step_by(4) {
            if bytes[at..].starts_with(numbers) {
                memory.write_all_at(&[numbers[4] ^ 1], from + at as u64 + 4)?;
                found += 1;
            }
        }
    }
    Ok(found)
}

/// Goes on from what was trained, with moments and without any change of a weight: what it holds is known.
fn still(cluster: &Cluster, name: &str, trained: &Path) -> Result<RunSpec> {
    let mut spec = cluster.spec(name)?;
    spec.init = Some(trained.display().to_string());
    spec.train.steps = STEPS;
    spec.train.optimizer.learning_rate = 0.0;
    spec.train.optimizer.min_learning_rate = 0.0;
    Ok(spec)
}

fn newest(cluster: &Cluster, run: &RunId, view: &RunView) -> Result<PathBuf> {
    let sealed = view.checkpoints.iter();
    let sealed = sealed.filter(|(_, state)| *state == CheckpointState::Sealed);
    let newest: CheckpointId = *sealed.map(|(id, _)| id).max().context("a checkpoint")?;
    Ok(cluster
        .checkpoints()
        .join(run.as_str())
        .join(newest.directory()))
}

#[test]
fn a_flipped_bit_is_found_by_name_before_it_is_saved_and_leaves_no_trace() -> Result<()> {
    let cluster = Cluster::start(5)?;
    let first = cluster.submit(&cluster.spec("first")?)?;
    let end = cluster.until_completed(&first)?;
    let trained = newest(&cluster, &first, &end)?;

    let quiet = cluster.submit(&still(&cluster, "quiet", &trained)?)?;
    let (end, wanted) = ends(&cluster, &quiet, STEPS)?;
    ensure!(end.incidents.is_empty(), "{:#?}", end.incidents);

    let run = cluster.submit(&still(&cluster, "flipped", &trained)?)?;
    let view = cluster.until_step(&run, EVERY + 2)?;
    let (owner, numbers) = piece(&trained)?;
    ensure!(
        flip(pid_of(&view, owner.0)?, &numbers)? > 0,
        "nothing flipped"
    );

    let (end, recovered) = ends(&cluster, &run, STEPS)?;
    let [incident] = &end.incidents[..] else {
        anyhow::bail!("{:#?}", end.incidents);
    };
    let Cause::ReplicasDiffer { differs, .. } = &incident.cause else {
        anyhow::bail!("{incident:#?}");
    };
    ensure!(differs.tensor.contains(TENSOR), "{differs:?}");
    // What was saved before it is sound, and nothing was saved after it.
    let resumed = incident.resumed_from.context("a checkpoint")?;
    let is_sealed = |step: u64| {
        let mut known = end.checkpoints.iter();
        known.any(|(id, state)| {
            id.step.0 == step && id.generation == Generation(1) && *state == CheckpointState::Sealed
        })
    };
    ensure!(is_sealed(resumed.step.0) && !is_sealed(resumed.step.0 + EVERY));
    ensure!(recovered == wanted, "other bits");
    Ok(())
}
