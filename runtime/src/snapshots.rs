//! The memory of a node in which its agent keeps snapshots: a directory on a file system that lies in memory.
//!
//! `<root>/<run>/step-XXXXXXXX.g<generation>/` holds shards, each with a file beside it that says what it is
//! and is written last: what has one is whole. Ranks write their own, agents those of others. Nothing in here
//! outlives the node, and nothing is said to be more than it is: whoever reads a shard checks its hash.

use crate::files;
use rebloom_core::checkpoint::CheckpointId;
use rebloom_core::id::{RunId, Step};
use rebloom_core::snapshot::{Piece, outdated};
use rebloom_core::time::Instant;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

/// How the file beside a shard ends.
const LABEL: &str = "piece.json";

/// Why a shard is not kept.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file.
    #[error(transparent)]
    File(#[from] files::Error),
    /// The operating system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// It would leave less than half of the file system free.
    #[error(
        "a snapshot of {bytes} bytes would leave less than half of {} free", root.display()
    )]
    NoRoom {
        /// Of how many bytes.
        bytes: u64,
        /// Where.
        root: PathBuf,
    },
    /// A shard's description cannot be written.
    #[error("what a shard is cannot be written down: {0}")]
    Label(#[from] serde_json::Error),
}

/// The directory of one agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Memory {
    root: PathBuf,
}

impl Memory {
    /// The memory that lies there; nothing is made before something is kept.
    pub fn at(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    /// Where all of it lies.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The directory of a snapshot.
    pub fn directory(&self, run: &RunId, id: CheckpointId) -> PathBuf {
        self.root.join(run.as_str()).join(id.directory())
    }

    /// Where a shard lies, or would.
    pub fn shard(&self, run: &RunId, piece: &Piece) -> PathBuf {
        self.directory(run, piece.checkpoint)
            .join(&piece.shard.file)
    }

    fn label(&self, run: &RunId, piece: &Piece) -> PathBuf {
        let shard = &piece.shard.file;
        self.directory(run, piece.checkpoint)
            .join(format!("{shard}.{LABEL}"))
    }

    /// Makes the directory of a snapshot, for a shard of so many bytes.
    ///
    /// # Errors
    /// Where there is no room: what lies in memory must never be what a rank lacks.
    pub fn prepare(&self, run: &RunId, id: CheckpointId, bytes: u64) -> Result<PathBuf, Error> {
        let directory = self.directory(run, id);
        files::create_directory(&directory)?;
        let facts = rustix::fs::statvfs(&directory).map_err(|error| Error::Io {
            path: directory.clone(),
            source: error.into(),
        })?;
        let left = facts.f_bavail.saturating_mul(facts.f_frsize);
        let all = facts.f_blocks.saturating_mul(facts.f_frsize);
        if left.saturating_sub(bytes) < all / 2 {
            return Err(Error::NoRoom {
                bytes,
                root: self.root.clone(),
            });
        }
        Ok(directory)
    }

    /// Says that a shard that was written is whole, and removes the snapshots that it makes too many.
    ///
    /// # Errors
    /// Where that cannot be written down.
    pub fn keep(&self, run: &RunId, piece: &Piece) -> Result<(), Error> {
        files::write(&self.label(run, piece), &serde_json::to_vec(piece)?)?;
        for id in outdated(self.snapshots(run)) {
            remove(&self.directory(run, id));
        }
        Ok(())
    }

    /// Whether a shard lies here, in its full length.
    pub fn holds(&self, run: &RunId, piece: &Piece) -> bool {
        let facts = fs::symlink_metadata(self.shard(run, piece));
        let is_whole = facts.is_ok_and(|it| it.is_file() && it.len() == piece.shard.bytes);
        is_whole && self.label(run, piece).is_file()
    }

    /// Everything of a run that lies here whole.
    pub fn pieces(&self, run: &RunId) -> Vec<Piece> {
        let directories = self.snapshots(run).into_iter();
        let files = directories.flat_map(|id| entries(&self.directory(run, id)));
        let labels = files.filter(|file| {
            let name = file.file_name().and_then(|name| name.to_str());
            name.is_some_and(|name| name.ends_with(LABEL))
        });
        let pieces = labels.filter_map(|label| {
            let piece: Piece = serde_json::from_slice(&fs::read(&label).ok()?).ok()?;
            (self.label(run, &piece) == label && self.holds(run, &piece)).then_some(piece)
        });
        pieces.collect()
    }

    /// What came after a step that a run goes on from, to be removed: that may take a while, and what is
    /// written meanwhile stays.
    pub fn after(&self, run: &RunId, after: Step) -> Outdated {
        let later = self.snapshots(run).into_iter();
        let later = later.filter(|id| id.step > after);
        Outdated(later.map(|id| self.directory(run, id)).collect())
    }

    /// Removes what lies here of runs that are not `alive` any more and that nobody wrote to for so long;
    /// `now` counts from the Unix epoch.
    pub fn forget(&self, now: Instant, alive: impl Fn(&RunId) -> bool, linger: Duration) {
        for folder in entries(&self.root) {
            let name = folder.file_name().and_then(|name| name.to_str());
            let run = name.and_then(|name| RunId::new(name).ok());
            let Some(run) = run.filter(|run| !alive(run)) else {
                continue;
            };
            let touched = fs::symlink_metadata(&folder).and_then(|facts| facts.modified());
            let touched = touched
                .ok()
                .and_then(|at| at.duration_since(UNIX_EPOCH).ok());
            let age = touched.map(|at| now.since(Instant::ZERO).saturating_sub(at));
            if age.is_some_and(|age| age >= linger) {
                tracing::info!(%run, "drops the snapshots of a run that is not here any more");
                remove(&folder);
            }
        }
    }

    /// Removes everything.
    pub fn clear(&self) {
        remove(&self.root);
    }

    fn snapshots(&self, run: &RunId) -> Vec<CheckpointId> {
        let folders = entries(&self.root.join(run.as_str())).into_iter();
        folders
            .filter_map(|folder| CheckpointId::parse(folder.file_name()?.to_str()?))
            .collect()
    }
}

/// Snapshots that are of no use any more.
#[derive(Debug)]
#[must_use]
pub struct Outdated(Vec<PathBuf>);

impl Outdated {
    /// Removes them.
    pub fn remove(self) {
        self.0.iter().for_each(|directory| remove(directory));
    }
}

/// What is in a directory; nothing where there is none.
fn entries(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect()
}

fn remove(directory: &Path) {
    match fs::remove_dir_all(directory) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => {
            let path = directory.display();
            tracing::warn!(%path, %error, "cannot remove a snapshot");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::wall;
    use rebloom_core::checkpoint::Shard;
    use rebloom_core::id::{Digest, Generation, Rank};
    use rebloom_core::layout::Layout;

    fn piece(step: u64, rank: u32) -> Piece {
        Piece {
            checkpoint: CheckpointId {
                step: Step(step),
                generation: Generation(1),
            },
            layout: Layout {
                tensor: 1,
                pipeline: 1,
                data: 2,
            },
            samples: step,
            shard: Shard {
                rank: Rank(rank),
                file: format!("rank-{rank}"),
                bytes: 3,
                hash: Digest([0; 32]),
            },
        }
    }

    fn write(memory: &Memory, run: &RunId, piece: &Piece) {
        memory.prepare(run, piece.checkpoint, 3).unwrap();
        fs::write(memory.shard(run, piece), b"abc").unwrap();
        memory.keep(run, piece).unwrap();
    }

    #[test]
    fn what_is_whole_is_listed_the_newest_stay_and_the_rest_goes() {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let memory = Memory::at(&folder.path().join("memory"));
        let run = RunId::new("run").unwrap();
        assert_eq!(memory.pieces(&run), []);
        for step in 1..=4 {
            write(&memory, &run, &piece(step, 0));
        }
        write(&memory, &run, &piece(4, 1));
        let mut held = memory.pieces(&run);
        held.sort_by_key(|piece| (piece.checkpoint, piece.shard.rank));
        let wanted = [piece(2, 0), piece(3, 0), piece(4, 0), piece(4, 1)];
        assert_eq!(held, wanted);
        // Cut, without a label, or with that of another.
        fs::write(memory.shard(&run, &wanted[0]), b"ab").unwrap();
        fs::remove_file(memory.label(&run, &wanted[1])).unwrap();
        fs::copy(
            memory.label(&run, &wanted[2]),
            memory.label(&run, &wanted[3]),
        )
        .unwrap();
        assert_eq!(memory.pieces(&run), [piece(4, 0)]);
        assert!(memory.holds(&run, &piece(4, 0)) && !memory.holds(&run, &piece(3, 0)));
        memory.after(&run, Step(3)).remove();
        assert_eq!(memory.snapshots(&run).len(), 2);

        memory.forget(wall(), |_| true, Duration::ZERO);
        memory.forget(wall(), |_| false, Duration::from_secs(3600));
        assert_eq!(memory.snapshots(&run).len(), 2);
        memory.forget(wall(), |_| false, Duration::ZERO);
        assert_eq!(memory.snapshots(&run).len(), 0);
        memory.clear();
        assert!(!memory.root().exists());
    }

    #[test]
    fn what_would_fill_the_memory_is_refused() {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let memory = Memory::at(folder.path());
        let run = RunId::new("run").unwrap();
        let refused = memory.prepare(&run, piece(1, 0).checkpoint, u64::MAX / 2);
        assert!(matches!(refused, Err(Error::NoRoom { .. })), "{refused:?}");
    }
}
