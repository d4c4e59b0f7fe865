//! Checkpoint storage that every node sees: it fills up, tears and rots.

use crate::random::mix;
use rebloom_core::cause::Unsound;
use rebloom_core::checkpoint::{CheckpointId, Manifest, Shard};
use rebloom_core::id::{Digest, Rank, RunId, Step};
use rebloom_core::layout::{Coordinates, Layout};
use std::collections::BTreeMap;

/// What a shard holds: one rank's part of the training state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Saved {
    pub(crate) step: Step,
    pub(crate) samples: u64,
    pub(crate) state: u64,
}

/// What was done to a file since it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rot {
    Flipped,
    Cut,
    Removed,
}

#[derive(Debug, Clone, Copy)]
struct File {
    saved: Saved,
    rot: Option<Rot>,
}

#[derive(Debug, Default)]
struct Directory {
    files: BTreeMap<Rank, File>,
    manifest: Option<Manifest>,
}

/// All checkpoints of all runs.
#[derive(Debug, Default)]
pub(crate) struct Storage {
    directories: BTreeMap<(RunId, CheckpointId), Directory>,
    pub(crate) is_full: bool,
    /// No node has it mounted.
    pub(crate) is_away: bool,
}

pub(crate) const BYTES: u64 = 4096;

/// A digest that is as good as SHA-256 in a world without malice.
pub(crate) fn digest(of: Saved) -> Digest {
    let mut bytes = [0; 32];
    let mut word = mix(of.state ^ mix(of.step.0 ^ mix(of.samples)));
    for chunk in bytes.chunks_exact_mut(8) {
        chunk.copy_from_slice(&word.to_le_bytes());
        word = mix(word);
    }
    Digest(bytes)
}

pub(crate) fn name(rank: Rank) -> String {
    format!("rank-{:05}.safetensors", rank.0)
}

impl Storage {
    /// Why nothing can be written, where that is so.
    fn refuses(&self) -> Result<(), String> {
        if self.is_away {
            return Err("no such file or directory".to_owned());
        }
        if self.is_full {
            return Err("no space left on device".to_owned());
        }
        Ok(())
    }

    pub(crate) fn write(
        &mut self,
        run: &RunId,
        id: CheckpointId,
        rank: Rank,
        saved: Saved,
    ) -> Result<Shard, String> {
        self.refuses()?;
        let directory = self.directories.entry((run.clone(), id)).or_default();
        directory.files.insert(rank, File { saved, rot: None });
        Ok(Shard {
            rank,
            file: name(rank),
            bytes: BYTES,
            hash: digest(saved),
        })
    }

    /// Writes a manifest, unless a shard it names is not there in its full length.
    pub(crate) fn seal(&mut self, manifest: Manifest) -> Result<(), String> {
        self.refuses()?;
        let key = (manifest.run.clone(), manifest.id);
        let directory = self.directories.get_mut(&key).ok_or("no such directory")?;
        let is_there = |shard: &Shard| {
            let file = directory.files.get(&shard.rank);
            file.is_some_and(|file| !matches!(file.rot, Some(Rot::Removed | Rot::Cut)))
        };
        if let Some(shard) = manifest.shards.iter().find(|shard| !is_there(shard)) {
            return Err(format!("{} is missing or cut", shard.file));
        }
        directory.manifest = Some(manifest);
        Ok(())
    }

    /// Whether the manifest speaks of files as their ranks wrote them.
    pub(crate) fn is_true(&self, manifest: &Manifest) -> bool {
        let directory = self.directories.get(&(manifest.run.clone(), manifest.id));
        let written = |shard: &Shard| {
            let file = directory.and_then(|directory| directory.files.get(&shard.rank));
            file.is_some_and(|file| digest(file.saved) == shard.hash)
        };
        manifest.is_whole() && manifest.shards.iter().all(written)
    }

    /// Reads back what a rank of this layout needs, as the worker does: manifest, length, hash. Where other
    /// copies wrote it, one of these.
    pub(crate) fn read(
        &self,
        run: &RunId,
        id: CheckpointId,
        layout: Layout,
        rank: Rank,
    ) -> Result<Saved, Unsound> {
        let missing = |file: String| Unsound::Missing { file };
        let directory = self.directories.get(&(run.clone(), id));
        let directory = directory.filter(|_| !self.is_away);
        let directory = directory.ok_or_else(|| missing("manifest.json".into()))?;
        let manifest = directory.manifest.as_ref();
        let manifest = manifest.ok_or_else(|| missing("manifest.json".into()))?;
        let at = layout.coordinates(rank);
        let data = at.data % manifest.layout.data;
        let rank = manifest.layout.rank(Coordinates { data, ..at });
        let shard = manifest.shards.iter().find(|shard| shard.rank == rank);
        let shard = shard.ok_or_else(|| missing(name(rank)))?;
        let file = directory
            .files
            .get(&rank)
            .ok_or_else(|| missing(name(rank)))?;
        let file_name = name(rank);
        match file.rot {
            Some(Rot::Removed) => Err(missing(file_name)),
            Some(Rot::Cut) => Err(Unsound::Length {
                file: file_name,
                expected: BYTES,
                found: BYTES / 2,
            }),
            Some(Rot::Flipped) => Err(Unsound::Hash { file: file_name }),
            None if digest(file.saved) != shard.hash => Err(Unsound::Hash { file: file_name }),
            None => Ok(file.saved),
        }
    }

    /// Whether the checkpoint has its seal.
    pub(crate) fn is_sealed(&self, run: &RunId, id: CheckpointId) -> bool {
        let directory = self.directories.get(&(run.clone(), id));
        directory.is_some_and(|directory| directory.manifest.is_some())
    }

    /// Manifests of a run, newest first.
    pub(crate) fn manifests(&self, run: &RunId) -> Vec<Manifest> {
        let of_run = self
            .directories
            .iter()
            .rev()
            .filter(|((of, _), _)| of == run && !self.is_away);
        of_run
            .filter_map(|(_, directory)| directory.manifest.clone())
            .take(16)
            .collect()
    }

    pub(crate) fn remove(&mut self, run: &RunId, id: CheckpointId) {
        if !self.is_away {
            self.directories.remove(&(run.clone(), id));
        }
    }

    /// An admin has a backup of all that is there.
    pub(crate) fn restore(&mut self, run: &RunId) {
        let of_run = self.directories.iter_mut().filter(|((of, _), _)| of == run);
        let files = of_run.flat_map(|(_, directory)| directory.files.values_mut());
        files.for_each(|file| file.rot = None);
    }

    /// Lets one file of the newest checkpoint rot; says which.
    pub(crate) fn rot(&mut self, run: &RunId, rank: Rank, rot: Rot) -> Option<CheckpointId> {
        let mut of_run = self
            .directories
            .iter_mut()
            .rev()
            .filter(|((of, _), _)| of == run);
        let ((_, id), directory) = of_run.next()?;
        directory.files.get_mut(&rank)?.rot = Some(rot);
        Some(*id)
    }
}
