//! Writing a shard: a copy in memory while training stands still, the file on a thread of its own.

use super::facts::{FACTS, Facts, KINDS, VERSION};
use super::slice::Slice;
use super::{directory, file_name};
use crate::shim::cuda::Crossing;
use crate::shim::{ShimError, bytes};
use crate::trainer::Trainer;
use rebloom_core::checkpoint::{CheckpointId, MANIFEST_VERSION, Shard};
use rebloom_core::id::{Digest, Rank};
use rebloom_rank::Saved;
use rebloom_runtime::shard_hash::ShardHash;
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::thread;
use tch::Tensor;

const BUFFER: usize = 1 << 20;

/// A copy of one rank's state at a step boundary.
#[derive(Debug)]
pub struct Snapshot {
    tensors: Vec<Tensor>,
    /// Where they come from a GPU, they are not there before it says so.
    crossing: Crossing,
    header: Vec<u8>,
    directory: PathBuf,
    rank: Rank,
    samples: u64,
}

impl Snapshot {
    /// Copies what `trainer` owns, into the memory of an older copy where there is one. A GPU makes the copy while
    /// it computes; training only waits for it before it writes to what is copied.
    pub fn take(
        trainer: &Trainer,
        rank: Rank,
        id: CheckpointId,
        old: Option<Self>,
    ) -> Result<Self, ShimError> {
        let spec = trainer.spec();
        let crossing = Crossing::begin(trainer.flat().device)?;
        let place = (spec.layout.coordinates(rank).tensor, spec.layout.tensor);
        let mut room = old.map(|old| old.tensors).unwrap_or_default().into_iter();
        let mut tensors = Vec::new();
        let mut names = Vec::new();
        let mut slices = BTreeMap::new();
        let mut end = 0;
        for slice in trainer.optimizer().own(&trainer.flat().plan) {
            let name = &slice.slot.parameter.name;
            for (kind, tensor) in KINDS.iter().zip(&slice.tensors) {
                let mut copy = match room.next() {
                    Some(copy) if copy.size() == tensor.size() => copy,
                    Some(_) | None => crossing.room(tensor)?,
                };
                crossing.copy(&mut copy, tensor)?;
                let begin = end;
                end += bytes(&copy).len();
                names.push((
                    format!("{kind}/{name}"),
                    TensorInfo {
                        dtype: Dtype::F32,
                        shape: vec![copy.numel()],
                        data_offsets: (begin, end),
                    },
                ));
                tensors.push(copy);
            }
            let slice = Slice::of(&slice.slot.parameter, place, slice.range);
            slices.insert(name.clone(), slice);
        }
        let facts = Facts {
            version: VERSION,
            run: spec.name.clone(),
            id,
            rank,
            layout: spec.layout,
            model: spec.model,
            seed: spec.train.seed,
            samples: trainer.samples(),
            recent: trainer.guard().recent().collect(),
            slices,
        };
        Ok(Self {
            tensors,
            crossing: crossing.sealed()?,
            header: header(&facts, names),
            directory: directory(spec, id),
            rank,
            samples: trainer.samples(),
        })
    }

    /// Samples consumed when it was taken.
    pub const fn samples(&self) -> u64 {
        self.samples
    }
}

/// The head of a safetensors file: its length, and JSON padded to a multiple of eight bytes.
fn header(facts: &Facts, names: Vec<(String, TensorInfo)>) -> Vec<u8> {
    let facts = serde_json::to_string(facts).expect("facts are plain data");
    let metadata = Metadata::new(Some(HashMap::from([(FACTS.to_owned(), facts)])), names)
        .expect("the offsets follow each other");
    let mut json = serde_json::to_vec(&metadata).expect("metadata are plain data");
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.append(&mut json);
    header
}

struct Hashing<W> {
    inner: W,
    hash: ShardHash,
    bytes: u64,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(buffer)?;
        self.hash.update(&buffer[..written]);
        self.bytes += written as u64;
        Ok(written)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Writes a snapshot as this rank's shard: aside, to the disk, then under its name. Where that fails
/// nothing is left behind.
pub fn write(snapshot: &Snapshot) -> Result<Shard, String> {
    let crossed = snapshot.crossing.wait();
    crossed.map_err(|error| format!("the copy from the GPU: {error}"))?;
    let name = file_name(snapshot.rank);
    let path = snapshot.directory.join(&name);
    let aside = snapshot.directory.join(format!("{name}.tmp"));
    let written = fs::create_dir_all(&snapshot.directory)
        .and_then(|()| write_aside(snapshot, &aside))
        .and_then(|written| {
            fs::rename(&aside, &path)?;
            sync_directory(&snapshot.directory)?;
            snapshot.directory.parent().map_or(Ok(()), sync_directory)?;
            Ok(written)
        });
    match written {
        Ok((bytes, hash)) => Ok(Shard {
            rank: snapshot.rank,
            file: name,
            bytes,
            hash,
        }),
        Err(error) => {
            // It may not even be there; what counts is the first error.
            drop(fs::remove_file(&aside));
            Err(format!("{}: {error}", path.display()))
        }
    }
}

fn write_aside(snapshot: &Snapshot, aside: &Path) -> io::Result<(u64, Digest)> {
    let file = File::create(aside)?;
    // The hash runs over pieces that are still in the cache.
    let hashing = Hashing {
        inner: file,
        hash: ShardHash::of_version(MANIFEST_VERSION),
        bytes: 0,
    };
    let mut out = BufWriter::with_capacity(BUFFER, hashing);
    out.write_all(&snapshot.header)?;
    for tensor in &snapshot.tensors {
        for piece in bytes(tensor).chunks(BUFFER) {
            out.write_all(piece)?;
        }
    }
    let hashing = out.into_inner().map_err(io::IntoInnerError::into_error)?;
    hashing.inner.sync_all()?;
    Ok((hashing.bytes, hashing.hash.finish()))
}

fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// The thread that writes shards.
#[derive(Debug)]
pub struct Saver {
    jobs: Sender<(CheckpointId, Snapshot)>,
    spare: std::sync::mpsc::Receiver<Snapshot>,
}

impl Saver {
    /// Starts the thread; `tell` hears of every save when it is done.
    pub fn start(tell: impl Fn(Saved) + Send + 'static) -> io::Result<Self> {
        let (jobs, incoming) = channel::<(CheckpointId, Snapshot)>();
        let (done, spare) = channel();
        thread::Builder::new()
            .name("saver".to_owned())
            .spawn(move || {
                for (checkpoint, snapshot) in incoming {
                    let outcome = write(&snapshot);
                    tell(Saved {
                        checkpoint,
                        samples: snapshot.samples(),
                        outcome,
                    });
                    // Nobody takes it back where the process ends.
                    drop(done.send(snapshot));
                }
            })?;
        Ok(Self { jobs, spare })
    }

    /// Copies the state of `trainer` and lets the thread write it.
    pub fn save(&self, trainer: &Trainer, rank: Rank, id: CheckpointId) -> Result<(), String> {
        let spare = self.spare.try_recv().ok();
        let snapshot = Snapshot::take(trainer, rank, id, spare);
        let snapshot = snapshot.map_err(|error| format!("the copy: {error}"))?;
        self.jobs
            .send((id, snapshot))
            .map_err(|_| "the thread that writes shards ended".to_owned())
    }
}
