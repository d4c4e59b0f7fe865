//! Saving a shard: copies in memory while training stands still, the file on a thread of its own.
//!
//! One sub-group, a buffer of the optimizer, is copied at a time, into memory that the one before no longer
//! needs: a save never takes more than that. Training goes on once the last one is copied, so where there is
//! but one, it never waits for the disk.

mod file;

use super::directory;
use super::slice::Slice;
use crate::optim::OwnSlice;
use crate::shim::ShimError;
use crate::shim::cuda::Crossing;
use crate::trainer::Trainer;
use file::Outline;
use rebloom_core::checkpoint::{CheckpointId, Shard};
use rebloom_core::id::Rank;
use rebloom_core::layout::Layout;
use rebloom_format::facts::{Facts, KINDS, VERSION};
use rebloom_rank::{Saved, Snapped, Snapshots};
use safetensors::tensor::{Dtype, TensorInfo};
use std::collections::BTreeMap;
use std::io;
use std::mem::take;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;
use tch::Tensor;

/// How often a rank that waits for the disk looks at its fence.
const LOOK: Duration = Duration::from_millis(10);

/// Copies of one sub-group at a step boundary. Their memory goes back when they are dropped, whatever
/// became of them.
#[derive(Debug)]
struct Copied {
    tensors: Vec<Tensor>,
    /// Where they come from a GPU, they are not there before it says so.
    crossing: Option<Crossing>,
    home: Sender<Vec<Tensor>>,
}

impl Copied {
    /// Copies `slices` into `room` where that fits. A GPU makes the copies while it computes; training only
    /// waits for them before it writes to what is copied.
    fn of(
        slices: &[OwnSlice<'_>],
        room: Vec<Tensor>,
        home: Sender<Vec<Tensor>>,
    ) -> Result<Self, ShimError> {
        let mut copied = Self {
            tensors: room,
            crossing: None,
            home,
        };
        let originals = || slices.iter().flat_map(|slice| &slice.tensors);
        let crossing = Crossing::begin(slices[0].tensors[0].device())?;
        let fits = originals().map(Tensor::size);
        if !fits.eq(copied.tensors.iter().map(Tensor::size)) {
            // First the old memory goes, then the new is taken.
            copied.tensors.clear();
            for original in originals() {
                copied.tensors.push(crossing.room(original)?);
            }
        }
        for (copy, original) in copied.tensors.iter_mut().zip(originals()) {
            crossing.copy(copy, original)?;
        }
        copied.crossing = Some(crossing.sealed()?);
        Ok(copied)
    }

    /// Waits until they are there.
    fn arrived(self) -> io::Result<Self> {
        let crossing = self.crossing.as_ref();
        crossing
            .map_or(Ok(()), Crossing::wait)
            .map_err(|error| io::Error::other(format!("the copy from the GPU: {error}")))?;
        Ok(self)
    }
}

impl AsRef<[Tensor]> for Copied {
    fn as_ref(&self) -> &[Tensor] {
        &self.tensors
    }
}

impl Drop for Copied {
    fn drop(&mut self) {
        // What is still being copied to is not to be written to by the next.
        drop(self.crossing.as_ref().map(Crossing::wait));
        // Nobody takes it back where the process ends.
        drop(self.home.send(take(&mut self.tensors)));
    }
}

/// What the shard of `slices` is to hold.
fn outline(
    trainer: &Trainer,
    rank: Rank,
    id: CheckpointId,
    own: &[OwnSlice<'_>],
    memory: Option<&Snapshots>,
) -> Result<Outline, String> {
    let spec = trainer.spec();
    let place = (spec.layout.coordinates(rank).tensor, spec.layout.tensor);
    let mut names = Vec::new();
    let mut slices = BTreeMap::new();
    let mut end = 0;
    for slice in own {
        let name = &slice.slot.parameter.name;
        for (kind, tensor) in KINDS.iter().zip(&slice.tensors) {
            let begin = end;
            end += tensor.numel() * size_of::<f32>();
            let info = TensorInfo {
                dtype: Dtype::F32,
                shape: vec![tensor.numel()],
                data_offsets: (begin, end),
            };
            names.push((format!("{kind}/{name}"), info));
        }
        let range = slice.range.clone();
        slices.insert(name.clone(), Slice::of(&slice.slot.parameter, place, range));
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
        skipped: Some(spec.guard.skips().below(trainer.samples())),
        slices,
    };
    let facts = serde_json::to_string(&facts).expect("facts are plain data");
    let (header, bytes) = (file::header(facts, names), end as u64);
    Ok(Outline {
        directory: match memory {
            Some(memory) => memory.prepare(id, header.len() as u64 + bytes)?,
            None => directory(spec, id),
        },
        rank,
        samples: trainer.samples(),
        header,
        bytes,
    })
}

#[derive(Debug)]
struct Job {
    checkpoint: CheckpointId,
    outline: Outline,
    /// The layout, and the memory that the shard goes to; none where it goes to storage.
    memory: Option<(Layout, Snapshots)>,
    copies: Receiver<Result<Copied, ShimError>>,
}

/// What became of a shard.
#[derive(Debug)]
pub enum Wrote {
    /// It was for storage.
    Saved(Saved),
    /// It was for the node's memory.
    Snapped(Snapped),
}

impl Wrote {
    /// The shard, or what went wrong.
    ///
    /// # Errors
    /// What kept it from being written.
    pub fn outcome(self) -> Result<Shard, String> {
        match self {
            Self::Saved(saved) => saved.outcome,
            Self::Snapped(snapped) => snapped.outcome.map(|piece| piece.shard),
        }
    }
}

/// The thread that writes shards, and the memory for one sub-group.
#[derive(Debug)]
pub struct Saver {
    jobs: Sender<Job>,
    home: Sender<Vec<Tensor>>,
    rooms: Receiver<Vec<Tensor>>,
}

impl Saver {
    /// Starts the thread; `tell` hears of every save when it is done.
    pub fn start(tell: impl Fn(Wrote) + Send + 'static) -> io::Result<Self> {
        let (jobs, incoming) = channel::<Job>();
        let (home, rooms) = channel();
        // There is one; it is empty yet.
        drop(home.send(Vec::new()));
        thread::Builder::new()
            .name("saver".to_owned())
            .spawn(move || {
                for job in incoming {
                    let copies = job.copies.into_iter().map(|copied| match copied {
                        Ok(copied) => copied.arrived(),
                        Err(error) => Err(io::Error::other(format!("the copy: {error}"))),
                    });
                    let (checkpoint, samples) = (job.checkpoint, job.outline.samples);
                    let outcome = file::write(&job.outline, copies);
                    tell(match job.memory {
                        None => Wrote::Saved(Saved {
                            checkpoint,
                            samples,
                            outcome,
                        }),
                        Some((layout, memory)) => Wrote::Snapped(Snapped {
                            checkpoint,
                            outcome: outcome.and_then(|shard| {
                                memory.keep(checkpoint, (layout, samples), shard)
                            }),
                        }),
                    });
                }
            })?;
        Ok(Self { jobs, home, rooms })
    }

    /// Copies the state of `trainer`, one sub-group after the other, and lets the thread write it. Ends early
    /// when the generation is fenced; the thread tells of it either way.
    ///
    /// # Errors
    /// Where there is no such thread any more.
    pub fn save(&self, trainer: &Trainer, rank: Rank, id: CheckpointId) -> Result<(), String> {
        self.copy(trainer, rank, id, None)
    }

    /// The same into the node's memory.
    ///
    /// # Errors
    /// Where there is no room, or no such thread any more.
    pub fn snapshot(
        &self,
        trainer: &Trainer,
        rank: Rank,
        id: CheckpointId,
        memory: Snapshots,
    ) -> Result<(), String> {
        self.copy(trainer, rank, id, Some(memory))
    }

    fn copy(
        &self,
        trainer: &Trainer,
        rank: Rank,
        id: CheckpointId,
        memory: Option<Snapshots>,
    ) -> Result<(), String> {
        let own: Vec<_> = trainer.optimizer().own(&trainer.flat().plan).collect();
        let (copies, incoming) = channel();
        let job = Job {
            checkpoint: id,
            outline: outline(trainer, rank, id, &own, memory.as_ref())?,
            memory: memory.map(|memory| (trainer.spec().layout, memory)),
            copies: incoming,
        };
        self.jobs
            .send(job)
            .map_err(|_| "the thread that writes shards ended".to_owned())?;
        for slices in own.chunk_by(|a, b| a.slot.buffer == b.slot.buffer) {
            let Some(room) = self.room(trainer) else {
                break;
            };
            let copied = Copied::of(slices, room, self.home.clone());
            // Whoever takes no more has failed, and says so.
            if copies.send(copied).is_err() {
                break;
            }
        }
        Ok(())
    }

    /// The memory for a sub-group, once what is in it is written; none where the generation ends before.
    fn room(&self, trainer: &Trainer) -> Option<Vec<Tensor>> {
        loop {
            match self.rooms.recv_timeout(LOOK) {
                Ok(room) => return Some(room),
                Err(RecvTimeoutError::Timeout) if !trainer.watch().fenced() => {}
                Err(_) => return None,
            }
        }
    }
}

/// Saves and waits for the file.
///
/// # Errors
/// What kept it from being written.
pub fn save(trainer: &Trainer, rank: Rank, id: CheckpointId) -> Result<Shard, String> {
    let (tell, told) = channel();
    // Nobody listens any more where this thread is gone.
    let saver = Saver::start(move |saved| drop(tell.send(saved)));
    let saver = saver.map_err(|error| format!("a thread cannot be started: {error}"))?;
    saver.save(trainer, rank, id)?;
    let wrote = told
        .recv()
        .map_err(|_| "the thread that writes shards ended")?;
    wrote.outcome()
}
