//! Shards: this rank's part of a checkpoint, written whole or not at all, and verified before use.
//!
//! A shard is a safetensors file with `weight/`, `exp_avg/` and `exp_avg_sq/` of each slice that its rank
//! owns, by name and place in the parameter, so that any layout can load it. It is hashed while it is
//! written and while it is read. Whether a checkpoint is sealed, and which one to load, is decided elsewhere.

mod load;
mod read;
mod save;

pub use load::{LoadError, begin_with, load, recall};
pub use read::{Common, Stored, Want};
pub use rebloom_format::slice;
pub use save::{Saver, Wrote, save};

use crate::shim::{bytes, cuda};
use crate::trainer::Trainer;
use rebloom_core::checkpoint::CheckpointId;
use rebloom_core::id::{Digest, Rank};
use rebloom_core::spec::RunSpec;
use sha2::Digest as _;
use std::path::{Path, PathBuf};

/// The directory of a checkpoint.
pub fn directory(spec: &RunSpec, id: CheckpointId) -> PathBuf {
    Path::new(&spec.checkpoint.directory)
        .join(spec.name.as_str())
        .join(id.directory())
}

/// Makes the folder of a run's checkpoints and tries to write there, so that a run that could never save
/// does not begin. A full disk may empty; it is found out when something is saved.
pub fn prepare(spec: &RunSpec) -> std::io::Result<()> {
    let folder = Path::new(&spec.checkpoint.directory).join(spec.name.as_str());
    std::fs::create_dir_all(&folder)?;
    let probe = folder.join(format!(".probe-{}", std::process::id()));
    match std::fs::File::create(&probe) {
        Ok(_) => std::fs::remove_file(&probe),
        Err(error) if error.kind() == std::io::ErrorKind::StorageFull => Ok(()),
        Err(error) => Err(error),
    }
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
            hash.update(bytes(&cuda::home(tensor)));
        }
    }
    Digest(hash.finalize().into())
}
