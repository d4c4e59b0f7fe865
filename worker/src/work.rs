//! A rank that trains: form, load, step, save, hash, on libtorch.

use crate::checkpoint::{self, LoadError, Saver, Wrote};
use crate::comm::{CommError, Device, Groups, Watch};
use crate::data::Shelf;
use crate::shim::cuda::Choice;
use crate::shim::{self, ShimError};
use crate::trainer::{StepError, Trainer};
use crate::weights::Weights;
use rebloom_core::cause::{Blamed, Unsound};
use rebloom_core::checkpoint::CheckpointId;
use rebloom_core::eval::Evaluation;
use rebloom_core::id::{Digest, Rank, Step};
use rebloom_core::member::{LoadTrouble, Stepped, Trouble};
use rebloom_core::snapshot::Recall;
use rebloom_core::spec::seconds;
use rebloom_core::word::Go;
use rebloom_data::held_out::HeldOut;
use rebloom_rank::store::AgentStore;
use rebloom_rank::{Done, Options, Place, Saved, Snapped, Work};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why a worker could not even begin.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The process of a rank could not.
    #[error(transparent)]
    Rank(#[from] rebloom_rank::StartError),
    /// libtorch or the network refused.
    #[error(transparent)]
    Shim(#[from] ShimError),
    /// The operating system refused a thread.
    #[error("a thread cannot be started: {0}")]
    Thread(#[from] std::io::Error),
}

/// Lives until the member leaves; then the process ends with its code.
///
/// # Errors
/// Where the process has not what it needs to begin.
pub fn run(options: &Options) -> Result<(), StartError> {
    let choice: Choice = options.device.parse().map_err(ShimError)?;
    choice.take(options.slot)?;
    rebloom_rank::run(options, shim::exit, |place| Worker::new(options, place))
}

/// What the process holds over its generations.
struct Worker {
    place: Place,
    socket: PathBuf,
    device: Arc<Device>,
    saver: Saver,
    rank: Rank,
    shelf: Shelf,
    groups: Option<Groups>,
    trainer: Option<Trainer>,
    held_out: Arc<[HeldOut]>,
}

impl Work for Worker {
    fn form(&mut self, go: &Go) -> Result<(), Trouble> {
        guarded(|| self.groups(go)).map_err(trouble)
    }

    fn load(&mut self, go: &Go) -> Result<(Step, u64), LoadTrouble> {
        caught(|| self.state(go))
    }

    fn step(&mut self) -> Result<Done, Trouble> {
        guarded(|| self.train()).map_err(trouble)
    }

    fn evaluate(&mut self) -> Result<Evaluation, Trouble> {
        let trainer = self
            .trainer
            .as_mut()
            .expect("state is loaded before it is evaluated");
        guarded(|| trainer.evaluate(&self.held_out)).map_err(trouble)
    }

    fn save(&mut self, checkpoint: CheckpointId) {
        let trainer = self
            .trainer
            .as_ref()
            .expect("state is loaded before it is saved");
        if let Err(error) = self.saver.save(trainer, self.rank, checkpoint) {
            self.place.teller.saved(Saved {
                checkpoint,
                samples: trainer.samples(),
                outcome: Err(error),
            });
        }
    }

    fn snapshot(&mut self, checkpoint: CheckpointId) {
        let trainer = self
            .trainer
            .as_ref()
            .expect("state is loaded before it is saved");
        let memory = self.place.snapshots.clone();
        let begun = memory
            .ok_or_else(|| "this node keeps no snapshots".to_owned())
            .and_then(|memory| self.saver.snapshot(trainer, self.rank, checkpoint, memory));
        if let Err(error) = begun {
            self.place.teller.snapped(Snapped {
                checkpoint,
                outcome: Err(error),
            });
        }
    }

    fn hash(&mut self) -> Digest {
        self.trainer.as_ref().map_or(Digest([0; 32]), |trainer| {
            trainer.farewell();
            checkpoint::state_hash(trainer)
        })
    }

    fn abandon(&mut self) {
        self.trainer = None;
        self.groups = None;
    }
}

impl Worker {
    fn new(options: &Options, place: Place) -> Result<Self, StartError> {
        let teller = place.teller.clone();
        Ok(Self {
            place,
            socket: options.socket.clone(),
            device: Arc::new(Device::open(&options.interface)?),
            saver: Saver::start(move |wrote| match wrote {
                Wrote::Saved(saved) => teller.saved(saved),
                Wrote::Snapped(snapped) => teller.snapped(snapped),
            })?,
            rank: options.member.rank,
            shelf: Shelf::default(),
            groups: None,
            trainer: None,
            held_out: Arc::default(),
        })
    }

    fn groups(&mut self, go: &Go) -> Result<(), StepError> {
        self.abandon();
        self.rank = go.rank;
        let watch = Watch {
            recorder: self.place.recorder,
            generation: go.generation,
        };
        let store = AgentStore::new(
            self.place.runtime.clone(),
            &self.socket,
            &go.spec.name,
            go.generation,
            Arc::clone(&self.place.fence),
        );
        let connect = seconds(go.spec.deadlines.init);
        let (layout, store) = (go.spec.layout, Arc::new(store));
        let groups = Groups::form(layout, go.rank, store, &self.device, watch, connect)?;
        self.groups = Some(groups);
        Ok(())
    }

    fn state(&mut self, go: &Go) -> Result<(Step, u64), LoadError> {
        if go.resume.is_none() {
            checkpoint::prepare(&go.spec).map_err(|error| StepError::Storage {
                path: go.spec.checkpoint.directory.clone(),
                error,
            })?;
        }
        let samples = self.shelf.open(&go.spec).map_err(StepError::Data)?;
        self.held_out = self.shelf.held_out(&go.spec).map_err(StepError::Data)?;
        let groups = self
            .groups
            .take()
            .expect("groups are formed before state is loaded");
        let mut trainer = Trainer::new(go.spec.clone(), go.rank, groups, samples)?;
        match (go.resume, go.snapshot.as_deref()) {
            (_, Some(recall)) => {
                let directory = self.directory(go, recall)?;
                checkpoint::recall(&mut trainer, go.rank, &directory, &recall.piece)?;
            }
            (Some(id), None) => checkpoint::load(&mut trainer, go.rank, id)?,
            (None, None) => match &go.spec.init {
                Some(path) => {
                    let weights = Weights::open(Path::new(path));
                    let weights = weights.map_err(|error| StepError::Data(error.to_string()))?;
                    checkpoint::begin_with(&mut trainer, go.rank, &weights)?;
                }
                None => trainer.begin(),
            },
        }
        let at = (trainer.step_done(), trainer.samples());
        self.trainer = Some(trainer);
        Ok(at)
    }

    /// Where this rank's shard of a snapshot lies, once it does.
    fn directory(&self, go: &Go, recall: &Recall) -> Result<PathBuf, LoadError> {
        let memory = self.place.snapshots.as_ref().ok_or_else(|| {
            let file = recall.piece.shard.file.clone();
            LoadError::Unsound(Unsound::Missing { file })
        })?;
        let fenced = || StepError::Comm(CommError::Fenced(go.generation));
        let directory = memory.recall(go.generation, recall)?;
        directory.ok_or_else(|| fenced().into())
    }

    fn train(&mut self) -> Result<Done, StepError> {
        let trainer = self
            .trainer
            .as_mut()
            .expect("state is loaded before the first step");
        let watch = trainer.watch();
        let figures = trainer.step(watch.recorder.stop_generation() == watch.generation)?;
        let (step, samples) = (trainer.step_done(), trainer.samples());
        let spec = trainer.spec();
        let is_saved = figures.stop
            || step.0 >= spec.train.steps
            || step.0.is_multiple_of(spec.checkpoint.every_steps)
            || spec.checkpoint.is_snapshot(step);
        if is_saved {
            // Every rank comes to the same answer, so all of them compare, or none does.
            trainer.check_replicas()?;
        }
        let stepped = Stepped {
            step,
            samples,
            stop: figures.stop,
            spike: figures.spike,
        };
        Ok(Done {
            stepped,
            loss: figures.loss as f32,
            grad_norm: figures.grad_norm as f32,
        })
    }
}

/// What went wrong, in the member's words.
fn trouble(error: StepError) -> Trouble {
    let text = error.to_string();
    match error {
        StepError::Comm(CommError::Fenced(_)) => Trouble::Fenced,
        StepError::Comm(CommError::PeerLost(error)) => Trouble::PeerLost { error },
        StepError::Spiked(spike) => Trouble::Spiked(spike),
        StepError::ReplicasDiffer(differs) => Trouble::ReplicasDiffer(differs),
        StepError::Torch(_)
        | StepError::Data(_)
        | StepError::Storage { .. }
        | StepError::TooLarge(_)
        | StepError::NotFinite { .. }
        | StepError::NoScore { .. }
        | StepError::Panicked(_) => Trouble::Error {
            error: text,
            blamed: Blamed::Run,
        },
    }
}

/// tch panics where libtorch throws; that ends the generation and not the process.
fn guarded<T>(work: impl FnOnce() -> Result<T, StepError>) -> Result<T, StepError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        Err(StepError::Panicked(
            text.unwrap_or("a panic without words").to_owned(),
        ))
    })
}

fn caught<T>(work: impl FnOnce() -> Result<T, LoadError>) -> Result<T, LoadTrouble> {
    match guarded(|| Ok(work())) {
        Ok(Ok(loaded)) => Ok(loaded),
        Ok(Err(LoadError::Unsound(unsound))) => Err(LoadTrouble::Unsound(unsound)),
        Ok(Err(LoadError::Step(error))) | Err(error) => Err(LoadTrouble::Other(trouble(error))),
    }
}
