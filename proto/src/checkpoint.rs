//! Layouts, checkpoints and manifests.

use crate::check::{Malformed, digest, file_name, list, part, run_id};
use crate::wire;
use rebloom_core::checkpoint::{CheckpointId, Manifest, Shard};
use rebloom_core::id::{Generation, Rank, Step};
use rebloom_core::layout::Layout;

impl From<Layout> for wire::Layout {
    fn from(
        Layout {
            tensor,
            pipeline,
            data,
        }: Layout,
    ) -> Self {
        Self {
            tensor,
            pipeline,
            data,
        }
    }
}

/// Refuses what core's arithmetic could not bear: a zero, or more ranks than a list may hold.
impl TryFrom<wire::Layout> for Layout {
    type Error = Malformed;
    fn try_from(layout: wire::Layout) -> Result<Self, Malformed> {
        let wire::Layout {
            tensor,
            pipeline,
            data,
        } = layout;
        for (field, size) in [("tensor", tensor), ("pipeline", pipeline), ("data", data)] {
            if size == 0 {
                return Err(Malformed::new(field, "is 0 or missing"));
            }
        }
        let world = tensor
            .checked_mul(pipeline)
            .and_then(|ranks| ranks.checked_mul(data));
        match world.and_then(|world| usize::try_from(world).ok()) {
            Some(world) if world <= crate::MAX_LIST => Ok(Self {
                tensor,
                pipeline,
                data,
            }),
            Some(_) | None => Err(Malformed::new(
                "",
                format!("has more than {} ranks", crate::MAX_LIST),
            )),
        }
    }
}

impl From<CheckpointId> for wire::CheckpointId {
    fn from(id: CheckpointId) -> Self {
        Self {
            step: id.step.0,
            generation: id.generation.0,
        }
    }
}

impl TryFrom<wire::CheckpointId> for CheckpointId {
    type Error = Malformed;
    fn try_from(id: wire::CheckpointId) -> Result<Self, Malformed> {
        Ok(Self {
            step: Step(id.step),
            generation: Generation(id.generation),
        })
    }
}

impl From<Shard> for wire::Shard {
    fn from(
        Shard {
            rank,
            file,
            bytes,
            hash,
        }: Shard,
    ) -> Self {
        Self {
            rank: rank.0,
            file,
            bytes,
            hash: hash.0.to_vec(),
        }
    }
}

impl TryFrom<wire::Shard> for Shard {
    type Error = Malformed;
    fn try_from(shard: wire::Shard) -> Result<Self, Malformed> {
        Ok(Self {
            rank: Rank(shard.rank),
            file: file_name(shard.file, "file")?,
            bytes: shard.bytes,
            hash: digest(&shard.hash, "hash")?,
        })
    }
}

impl From<Manifest> for wire::Manifest {
    fn from(manifest: Manifest) -> Self {
        let Manifest {
            version,
            run,
            id,
            layout,
            samples,
            shards,
        } = manifest;
        Self {
            version,
            run: run.into(),
            id: Some(id.into()),
            layout: Some(layout.into()),
            samples,
            shards: shards.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<wire::Manifest> for Manifest {
    type Error = Malformed;
    fn try_from(manifest: wire::Manifest) -> Result<Self, Malformed> {
        Ok(Self {
            version: manifest.version,
            run: run_id(manifest.run, "run")?,
            id: part(manifest.id, "id")?,
            layout: part(manifest.layout, "layout")?,
            samples: manifest.samples,
            shards: list(manifest.shards, "shards")?,
        })
    }
}
