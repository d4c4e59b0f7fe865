//! Reading a shard: nothing in it is used before its length and its hash are those of the manifest.

use super::{FACTS, Facts, KINDS, VERSION, directory};
use crate::shim::bytes_mut;
use crate::trainer::{StepError, Trainer};
use rebloom_core::cause::Unsound;
use rebloom_core::checkpoint::{CheckpointId, MANIFEST_VERSION, Manifest, Shard};
use rebloom_core::guard::Guard;
use rebloom_core::id::{Digest, Rank};
use rebloom_core::spec::RunSpec;
use safetensors::tensor::Metadata;
use sha2::Digest as _;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

const PIECE: usize = 1 << 20;
/// As safetensors bounds it.
const LARGEST_HEADER: u64 = 100_000_000;

/// Why a checkpoint was not loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It is unsound.
    #[error("the checkpoint is unsound: {0}")]
    Unsound(Unsound),
    /// The rest of the gang, or libtorch.
    #[error(transparent)]
    Step(#[from] StepError),
}

impl From<Unsound> for LoadError {
    fn from(unsound: Unsound) -> Self {
        Self::Unsound(unsound)
    }
}

/// Loads this rank's shard of a sealed checkpoint and gathers the weights of its data group.
pub fn load(trainer: &mut Trainer, rank: Rank, id: CheckpointId) -> Result<(), LoadError> {
    let directory = directory(trainer.spec(), id);
    let manifest = manifest(&directory, trainer.spec(), id)?;
    let shard = manifest.shards.iter().find(|shard| shard.rank == rank);
    let shard =
        shard.ok_or_else(|| unreadable("manifest.json", format!("has no shard of rank {rank}")))?;
    let facts = read_shard(trainer, rank, &directory.join(&shard.file), shard)?;
    let spec = trainer.spec();
    let wanted = Facts {
        version: VERSION,
        run: spec.name.clone(),
        id,
        rank,
        layout: spec.layout,
        model: spec.model,
        seed: spec.train.seed,
        samples: manifest.samples,
        recent: facts.recent.clone(),
        slices: facts.slices.clone(),
    };
    if facts != wanted {
        let text = "belongs to another run, rank, model or step than its manifest says".to_owned();
        return Err(unreadable(&shard.file, text).into());
    }
    trainer.resume_guard(Guard::resume(facts.recent));
    trainer.resume(id.step, manifest.samples)?;
    Ok(())
}

fn unreadable(file: &str, error: impl ToString) -> Unsound {
    Unsound::Unreadable {
        file: file.to_owned(),
        error: error.to_string(),
    }
}

fn trouble(file: &str, error: &io::Error) -> Unsound {
    if error.kind() == io::ErrorKind::NotFound {
        Unsound::Missing {
            file: file.to_owned(),
        }
    } else {
        unreadable(file, error)
    }
}

fn manifest(directory: &Path, spec: &RunSpec, id: CheckpointId) -> Result<Manifest, Unsound> {
    const FILE: &str = "manifest.json";
    let text = std::fs::read(directory.join(FILE)).map_err(|error| trouble(FILE, &error))?;
    let manifest: Manifest =
        serde_json::from_slice(&text).map_err(|error| unreadable(FILE, error))?;
    let problem = if manifest.version != MANIFEST_VERSION {
        format!(
            "is of version {}, this worker reads {MANIFEST_VERSION}",
            manifest.version
        )
    } else if manifest.run != spec.name || manifest.id != id {
        format!("is of run {} and {}", manifest.run, manifest.id.directory())
    } else if manifest.layout != spec.layout {
        format!("is of another layout: {:?}", manifest.layout)
    } else if !manifest.is_whole() {
        "does not have one shard a rank".to_owned()
    } else {
        return Ok(manifest);
    };
    Err(unreadable(FILE, problem))
}

/// Reads a shard into the trainer's own slices, hashing on the way.
fn read_shard(
    trainer: &mut Trainer,
    rank: Rank,
    path: &Path,
    shard: &Shard,
) -> Result<Facts, Unsound> {
    let name = shard.file.as_str();
    let io = |error: io::Error| trouble(name, &error);
    let file = File::open(path).map_err(io)?;
    let found = file.metadata().map_err(io)?.len();
    if found != shard.bytes {
        return Err(Unsound::Length {
            file: name.to_owned(),
            expected: shard.bytes,
            found,
        });
    }
    let mut input = Hashing {
        inner: file,
        hash: sha2::Sha256::new(),
    };
    let outcome = read_tensors(trainer, rank, &mut input);
    // What is wrong inside is the fault of whoever wrote it only where the bytes are the right ones.
    io::copy(&mut input, &mut io::sink()).map_err(io)?;
    if Digest(input.hash.finalize().into()) != shard.sha256 {
        return Err(Unsound::Hash {
            file: name.to_owned(),
        });
    }
    outcome.map_err(|error| unreadable(name, error))
}

struct Hashing<R> {
    inner: R,
    hash: sha2::Sha256,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hash.update(&buffer[..read]);
        Ok(read)
    }
}

fn read_tensors(trainer: &mut Trainer, rank: Rank, input: &mut impl Read) -> Result<Facts, String> {
    let text = |error: io::Error| error.to_string();
    let mut length = [0; 8];
    input.read_exact(&mut length).map_err(text)?;
    let length = u64::from_le_bytes(length);
    if length > LARGEST_HEADER {
        return Err(format!("its header has {length} bytes"));
    }
    let mut header = Vec::new();
    input.take(length).read_to_end(&mut header).map_err(text)?;
    let metadata: Metadata = serde_json::from_slice(&header).map_err(|error| error.to_string())?;
    let facts = metadata
        .metadata()
        .as_ref()
        .and_then(|facts| facts.get(FACTS));
    let facts = facts.ok_or_else(|| format!("its header has no {FACTS:?}"))?;
    let facts: Facts = serde_json::from_str(facts).map_err(|error| error.to_string())?;

    let mut held: Vec<(String, usize, usize)> = metadata
        .tensors()
        .into_iter()
        .map(|(name, info)| (name, info.data_offsets.0, info.data_offsets.1))
        .collect();
    held.sort_by_key(|(_, begin, _)| *begin);
    let mut held = held.into_iter();
    let mut at = 0;
    for slice in trainer.optimizer().own(&trainer.flat().plan) {
        let name = &slice.slot.parameter.name;
        if facts.slices.get(name) != Some(&slice.range) {
            return Err(format!(
                "it has another slice of {name} than rank {rank} owns"
            ));
        }
        for (kind, mut tensor) in KINDS.iter().zip(slice.tensors) {
            let into = bytes_mut(&mut tensor);
            let wanted = (format!("{kind}/{name}"), at, at + into.len());
            if held.next().as_ref() != Some(&wanted) {
                return Err(format!("it lacks {} where it belongs", wanted.0));
            }
            at += into.len();
            for piece in into.chunks_mut(PIECE) {
                input.read_exact(piece).map_err(text)?;
            }
        }
    }
    match held.next() {
        Some((name, ..)) => Err(format!("it has {name}, which rank {rank} does not own")),
        None => Ok(facts),
    }
}
