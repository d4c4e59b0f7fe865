//! Shards: this rank's part of a checkpoint, written whole or not at all, and verified before use.
//!
//! A shard is a safetensors file with `weight/`, `exp_avg/` and `exp_avg_sq/` of each slice this rank
//! owns, by name, and what is needed to go on exactly. It is hashed while it is written and while it
//! is read. Whether a checkpoint is sealed, and which one to load, is decided elsewhere.

mod load;
mod save;

pub use load::{LoadError, load};
pub use save::{Saved, Saver, Snapshot, write};

use crate::shim::bytes;
use crate::trainer::Trainer;
use rebloom_core::checkpoint::CheckpointId;
use rebloom_core::guard;
use rebloom_core::id::{Digest, Rank, RunId};
use rebloom_core::layout::Layout;
use rebloom_core::spec::{Model, RunSpec};
use serde::{Deserialize, Serialize};
use sha2::Digest as _;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// What stands in front of the names of weights and moments.
const KINDS: [&str; 3] = ["weight", "exp_avg", "exp_avg_sq"];

/// The key under which [`Facts`] lie in a shard's metadata.
const FACTS: &str = "rebloom";

/// The version of [`Facts`] that is written.
const VERSION: u32 = 1;

/// What a shard says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Facts {
    version: u32,
    run: RunId,
    id: CheckpointId,
    rank: Rank,
    layout: Layout,
    model: Model,
    seed: u64,
    samples: u64,
    /// Figures of the last steps, which the loss guard goes on from.
    #[serde(default)]
    recent: Vec<guard::Figures>,
    /// For each name, which elements of the part that a tensor rank holds.
    slices: BTreeMap<String, Range<i64>>,
}

/// The directory of a checkpoint.
pub fn directory(spec: &RunSpec, id: CheckpointId) -> PathBuf {
    Path::new(&spec.checkpoint.directory)
        .join(spec.name.as_str())
        .join(id.directory())
}

/// The name of a rank's shard.
pub fn file_name(rank: Rank) -> String {
    format!("rank-{:05}.safetensors", rank.0)
}

/// SHA-256 over everything that decides how training goes on: names, slices, weights and moments of
/// this rank, in name order, and the samples consumed.
pub fn state_hash(trainer: &Trainer) -> Digest {
    let mut slices: Vec<_> = trainer.optimizer().own(&trainer.flat().plan).collect();
    slices.sort_by(|a, b| a.slot.parameter.name.cmp(&b.slot.parameter.name));
    let mut hash = sha2::Sha256::new();
    hash.update(trainer.step_done().0.to_le_bytes());
    hash.update(trainer.samples().to_le_bytes());
    for slice in slices {
        hash.update(slice.slot.parameter.name.as_bytes());
        hash.update([0]);
        hash.update(slice.range.start.to_le_bytes());
        hash.update(slice.range.end.to_le_bytes());
        for tensor in &slice.tensors {
            hash.update(bytes(tensor));
        }
    }
    Digest(hash.finalize().into())
}
