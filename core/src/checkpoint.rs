//! Checkpoints: shards that ranks wrote, and the manifest that seals them.
//!
//! A checkpoint lies in `<checkpoint.dir>/<run>/step-<step>.g<generation>/`, one safetensors file a
//! rank, and is sealed by `manifest.json` beside them. Only sealed state is ever resumed from (S6).

use crate::id::{Digest, Generation, Rank, RunId, Step};
use crate::layout::Layout;
use serde::{Deserialize, Serialize};

/// One rank's part of a checkpoint, as it lies on storage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shard {
    /// Who wrote it.
    pub rank: Rank,
    /// File name inside the checkpoint's directory.
    pub file: String,
    /// Size in bytes.
    pub bytes: u64,
    /// Hash of the file: BLAKE3, or SHA-256 in a manifest of version 1, which also called it that.
    #[serde(alias = "sha256")]
    pub hash: Digest,
}

/// Which checkpoint: the step it holds and the generation that wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointId {
    /// Optimizer steps done.
    pub step: Step,
    /// The generation that wrote it: two generations never write the same files.
    pub generation: Generation,
}

impl CheckpointId {
    /// Its directory below the run's: `step-00000100.g3`.
    pub fn directory(self) -> String {
        format!("step-{:08}.g{}", self.step.0, self.generation.0)
    }

    /// The reverse of [`Self::directory`].
    pub fn parse(directory: &str) -> Option<Self> {
        let (step, generation) = directory.strip_prefix("step-")?.split_once(".g")?;
        let id = Self {
            step: Step(step.parse().ok()?),
            generation: Generation(generation.parse().ok()?),
        };
        (id.directory() == directory).then_some(id)
    }
}

/// The version of [`Manifest`] that is written. Since 2 a shard says of each slice where in the whole
/// parameter it lies, so that it means the same to every layout, and its hash is BLAKE3.
pub const MANIFEST_VERSION: u32 = 2;

/// The oldest version that is still read.
pub const OLDEST_MANIFEST: u32 = 1;

/// What makes a checkpoint whole: every shard with its hash. Written last, so it is the seal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Format of this file.
    pub version: u32,
    /// Whose state it is.
    pub run: RunId,
    /// Which checkpoint.
    pub id: CheckpointId,
    /// The layout that wrote it.
    pub layout: Layout,
    /// Samples consumed by the whole gang; the data order goes on from here.
    pub samples: u64,
    /// One shard a rank, in rank order.
    pub shards: Vec<Shard>,
}

impl Manifest {
    /// Whether this build reads checkpoints of its version.
    pub const fn is_known(&self) -> bool {
        OLDEST_MANIFEST <= self.version && self.version <= MANIFEST_VERSION
    }

    /// Whether every rank of the layout has its one shard, in order.
    pub fn is_whole(&self) -> bool {
        // A manifest is read from storage: its sizes may be anything, and so may their product.
        let Layout {
            tensor,
            pipeline,
            data,
        } = self.layout;
        let stage = u64::from(tensor) * u64::from(data);
        let world = stage.checked_mul(u64::from(pipeline));
        world == Some(self.shards.len() as u64)
            && self
                .layout
                .ranks()
                .eq(self.shards.iter().map(|shard| shard.rank))
    }
}
