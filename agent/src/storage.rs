//! Checkpoint storage as the agent touches it: seals, removes, lists and verifies checkpoints.
//!
//! A manifest is the seal, so it is written last, and only beside shards that are all there with the
//! right length; it is removed first. Every path is built from a typed run and checkpoint name below
//! the directory of the run's spec, and a symbolic link in place of a checkpoint is refused, so
//! nothing outside that directory is ever removed.

use rebloom_core::cause::Unsound;
use rebloom_core::checkpoint::{CheckpointId, Manifest, Shard};
use rebloom_core::id::{Digest, RunId};
pub use rebloom_format::manifest::MANIFEST;
use rebloom_format::{Error, manifest};
use rebloom_runtime::files;
use rebloom_runtime::shard_hash::ShardHash;
use std::fs::{self, File};
use std::io;
use std::path::{Component, Path, PathBuf};

/// Manifests that a join carries for each run.
const MOST_LISTED: usize = 16;

/// Why a checkpoint could not be sealed, removed or looked at.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// A file.
    #[error(transparent)]
    File(#[from] files::Error),
    /// The operating system refused.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A path that is not what it has to be.
    #[error("{} {problem}", path.display())]
    Odd {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A manifest that is none, or of a version that is not known.
    #[error(transparent)]
    Manifest(Error),
    /// The manifest does not describe a whole checkpoint, or a shard is not what it says.
    #[error("checkpoint {checkpoint} cannot be sealed: {problem}")]
    Unsealable {
        /// Which, by the name of its directory.
        checkpoint: String,
        /// Why.
        problem: String,
    },
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StorageError {
    let path = path.to_owned();
    move |source| StorageError::Io {
        doing,
        path,
        source,
    }
}

/// Where a checkpoint lies: `<directory>/<run>/step-XXXXXXXX.g<generation>`.
fn place(directory: &str, run: &RunId, checkpoint: CheckpointId) -> Result<PathBuf, StorageError> {
    let directory = Path::new(directory);
    let plain = directory
        .components()
        .all(|part| part != Component::ParentDir);
    if !directory.is_absolute() || !plain {
        let problem = "is not an absolute path without `..`";
        return Err(StorageError::Odd {
            path: directory.to_owned(),
            problem,
        });
    }
    Ok(directory.join(run.as_str()).join(checkpoint.directory()))
}

/// Writes a manifest beside its shards: aside, fsync, rename, fsync of the directory.
pub fn seal(directory: &str, manifest: &Manifest) -> Result<(), StorageError> {
    let place = place(directory, &manifest.run, manifest.id)?;
    let unsealable = |problem| StorageError::Unsealable {
        checkpoint: manifest.id.directory(),
        problem,
    };
    if !manifest.is_whole() {
        return Err(unsealable(
            "its manifest does not name one shard of each rank".to_owned(),
        ));
    }
    for shard in &manifest.shards {
        if let Some(unsound) = measure(&place, shard) {
            return Err(unsealable(unsound.to_string()));
        }
    }
    let text = serde_json::to_vec_pretty(manifest).map_err(|e| unsealable(e.to_string()))?;
    files::write(&place.join(MANIFEST), &text)?;
    // The checkpoint's own directory may be new, too.
    if let Some(run) = place.parent() {
        files::sync_directory(run)?;
    }
    Ok(())
}

/// Removes a checkpoint: its manifest first, then the rest. A missing one is removed already.
pub fn remove(directory: &str, run: &RunId, checkpoint: CheckpointId) -> Result<(), StorageError> {
    let place = place(directory, run, checkpoint)?;
    match fs::symlink_metadata(&place) {
        Ok(facts) if facts.is_dir() => {}
        Ok(_) => {
            return Err(StorageError::Odd {
                path: place,
                problem: "is not a directory",
            });
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io_error("look at", &place)(error)),
    }
    let manifest = place.join(MANIFEST);
    match fs::remove_file(&manifest) {
        Ok(()) => files::sync_directory(&place)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(io_error("remove", &manifest)(error)),
    }
    fs::remove_dir_all(&place).map_err(io_error("remove", &place))
}

/// The newest sealed checkpoints of a run, newest first. What is not a manifest of the checkpoint
/// that it lies in is passed over with a warning.
pub fn sealed(directory: &str, run: &RunId) -> Vec<Manifest> {
    let folder = Path::new(directory).join(run.as_str());
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!(%run, folder = %folder.display(), %error, "cannot list checkpoints");
            }
            return Vec::new();
        }
    };
    let mut ids: Vec<CheckpointId> = entries
        .filter_map(|entry| CheckpointId::parse(entry.ok()?.file_name().to_str()?))
        .collect();
    ids.sort_unstable_by(|a, b| b.cmp(a));
    let manifests =
        ids.into_iter()
            .filter_map(|id| match load(&folder.join(id.directory()), run, id) {
                Ok(manifest) => Some(manifest),
                Err(StorageError::Io { source, .. })
                    if source.kind() == io::ErrorKind::NotFound =>
                {
                    None
                }
                Err(error) => {
                    tracing::warn!(%run, %error, "passed over a manifest");
                    None
                }
            });
    manifests.take(MOST_LISTED).collect()
}

/// The manifest in a checkpoint's directory.
fn load(place: &Path, run: &RunId, id: CheckpointId) -> Result<Manifest, StorageError> {
    let path = || place.join(MANIFEST);
    let manifest = manifest::read(place).map_err(|error| match error {
        Error::Io { error, .. } => io_error("read", &path())(error),
        odd @ Error::Odd { .. } => StorageError::Manifest(odd),
    })?;
    if manifest.run == *run && manifest.id == id {
        Ok(manifest)
    } else {
        let problem = "is not the manifest of the checkpoint it lies in";
        Err(StorageError::Odd {
            path: path(),
            problem,
        })
    }
}

/// What a verification found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verification {
    /// Shards looked at.
    pub shards: u32,
    /// Bytes read.
    pub bytes: u64,
    /// Everything that is wrong; empty means sound.
    pub problems: Vec<Unsound>,
}

/// Reads and hashes every shard of a checkpoint. Blocks for as long as reading it takes.
pub fn verify(
    directory: &str,
    run: &RunId,
    checkpoint: CheckpointId,
) -> Result<Verification, StorageError> {
    let place = place(directory, run, checkpoint)?;
    let mut found = Verification::default();
    let manifest = match load(&place, run, checkpoint) {
        Ok(manifest) => manifest,
        Err(StorageError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            found.problems.push(Unsound::Missing {
                file: MANIFEST.to_owned(),
            });
            return Ok(found);
        }
        Err(error) => {
            let error = error.to_string();
            found.problems.push(Unsound::Unreadable {
                file: MANIFEST.to_owned(),
                error,
            });
            return Ok(found);
        }
    };
    for shard in &manifest.shards {
        found.shards += 1;
        let problem = measure(&place, shard).or_else(|| {
            let file = shard.file.clone();
            match hash(&place.join(&shard.file), manifest.version) {
                Ok((digest, bytes)) => {
                    found.bytes += bytes;
                    (digest != shard.hash).then_some(Unsound::Hash { file })
                }
                Err(error) => Some(Unsound::Unreadable {
                    file,
                    error: error.to_string(),
                }),
            }
        });
        found.problems.extend(problem);
    }
    Ok(found)
}

/// Whether a shard is a plain file in its checkpoint's directory with the length its manifest gives.
fn measure(place: &Path, shard: &Shard) -> Option<Unsound> {
    let file = shard.file.clone();
    let mut parts = Path::new(&shard.file).components();
    if !matches!(
        (parts.next(), parts.next()),
        (Some(Component::Normal(_)), None)
    ) {
        return Some(Unsound::Unreadable {
            file,
            error: "not a plain file name".to_owned(),
        });
    }
    match fs::symlink_metadata(place.join(&shard.file)) {
        Ok(facts) if !facts.is_file() => Some(Unsound::Unreadable {
            file,
            error: "not a plain file".to_owned(),
        }),
        Ok(facts) => (facts.len() != shard.bytes).then_some(Unsound::Length {
            file,
            expected: shard.bytes,
            found: facts.len(),
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Some(Unsound::Missing { file }),
        Err(error) => Some(Unsound::Unreadable {
            file,
            error: error.to_string(),
        }),
    }
}

fn hash(path: &Path, version: u32) -> io::Result<(Digest, u64)> {
    let mut hash = ShardHash::of_version(version);
    let bytes = io::copy(&mut File::open(path)?, &mut hash)?;
    Ok((hash.finish(), bytes))
}

#[cfg(test)]
mod tests;
