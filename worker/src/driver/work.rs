//! The main thread's work: form, load, step, save, hash.

use super::{Options, Shared, StartError};
use crate::checkpoint::{self, LoadError, Saved, Saver};
use crate::comm::{CommError, Device, Groups, Watch};
use crate::data::Shelf;
use crate::link::AgentStore;
use crate::trainer::{StepError, Trainer};
use crate::weights::Weights;
use rebloom_core::cause::Blamed;
use rebloom_core::checkpoint::CheckpointId;
use rebloom_core::id::{Digest, Rank, Step};
use rebloom_core::member::{Command, Event, LoadTrouble, Stepped, Trouble};
use rebloom_core::spec::seconds;
use rebloom_core::word::Go;
use rebloom_runtime::clock::monotonic;
use rebloom_runtime::flight::Recorder;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::runtime::Handle;

/// What the process holds over its generations.
pub(super) struct Worker {
    recorder: &'static Recorder,
    runtime: Handle,
    socket: PathBuf,
    device: Arc<Device>,
    saver: Saver,
    rank: Rank,
    shelf: Shelf,
    groups: Option<Groups>,
    trainer: Option<Trainer>,
}

impl Worker {
    pub(super) fn new(
        options: &Options,
        runtime: Handle,
        recorder: &'static Recorder,
        saved: impl Fn(Saved) + Send + 'static,
    ) -> Result<Self, StartError> {
        Ok(Self {
            recorder,
            runtime,
            socket: options.socket.clone(),
            device: Arc::new(Device::open(&options.interface)?),
            saver: Saver::start(saved)?,
            rank: options.member.rank,
            shelf: Shelf::default(),
            groups: None,
            trainer: None,
        })
    }

    /// Carries out one command and tells the member what came of it.
    pub(super) fn carry_out(&mut self, command: Command, shared: &Shared) {
        match command {
            Command::Form(go) => {
                let outcome = guarded(|| self.form(&go)).map_err(trouble);
                shared.handle(Event::Formed { outcome });
            }
            Command::Load(go) => match caught(|| self.load(&go)) {
                Ok((step, samples)) => {
                    let outcome = Ok((step, samples));
                    shared.handle_and_record(Event::Loaded { outcome }, |r| r.stand(step, samples));
                }
                Err(error) => shared.handle(Event::Loaded {
                    outcome: Err(error),
                }),
            },
            Command::Step => {
                let began = monotonic();
                self.recorder.begin_step();
                match guarded(|| self.step()) {
                    Ok((done, loss, norm)) => {
                        let (step, samples) = (done.step, done.samples);
                        let nanos = monotonic().since(began).as_nanos();
                        let nanos = u64::try_from(nanos).unwrap_or(u64::MAX);
                        shared.handle_and_record(
                            Event::Stepped { outcome: Ok(done) },
                            |recorder| {
                                recorder.stand(step, samples);
                                recorder.figures(loss, norm, nanos);
                            },
                        );
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the step came to nothing");
                        shared.handle(Event::Stepped {
                            outcome: Err(trouble(error)),
                        });
                    }
                }
            }
            Command::Save { checkpoint, .. } => self.save(checkpoint, shared),
            Command::Hash => {
                let state = self.trainer.as_ref().map_or(Digest([0; 32]), |trainer| {
                    trainer.farewell();
                    checkpoint::state_hash(trainer)
                });
                shared.handle(Event::Hashed { state });
            }
            Command::Abandon => self.abandon(),
            Command::Enter { .. } | Command::Say(_) | Command::Leave { .. } => {
                unreachable!("carried out where they are drained")
            }
        }
    }

    fn abandon(&mut self) {
        self.trainer = None;
        self.groups = None;
    }

    fn form(&mut self, go: &Go) -> Result<(), StepError> {
        self.abandon();
        self.rank = go.rank;
        let watch = Watch {
            recorder: self.recorder,
            generation: go.generation,
        };
        let store = AgentStore::new(self.runtime.clone(), &self.socket, &go.spec.name, watch);
        let connect = seconds(go.spec.deadlines.init);
        let (layout, store) = (go.spec.layout, Arc::new(store));
        let groups = Groups::form(layout, go.rank, store, &self.device, watch, connect)?;
        self.groups = Some(groups);
        Ok(())
    }

    fn load(&mut self, go: &Go) -> Result<(Step, u64), LoadError> {
        if go.resume.is_none() {
            checkpoint::prepare(&go.spec).map_err(|error| StepError::Storage {
                path: go.spec.checkpoint.directory.clone(),
                error,
            })?;
        }
        let samples = self.shelf.open(&go.spec).map_err(StepError::Data)?;
        let groups = self
            .groups
            .take()
            .expect("groups are formed before state is loaded");
        let mut trainer = Trainer::new(go.spec.clone(), go.rank, groups, samples)?;
        match go.resume {
            Some(id) => checkpoint::load(&mut trainer, go.rank, id)?,
            None => match &go.spec.init {
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

    fn step(&mut self) -> Result<(Stepped, f32, f32), StepError> {
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
            || step.0.is_multiple_of(spec.checkpoint.every_steps);
        if is_saved {
            // Every rank comes to the same answer, so all of them compare, or none does.
            trainer.check_replicas()?;
        }
        let done = Stepped {
            step,
            samples,
            stop: figures.stop,
            spike: figures.spike,
        };
        Ok((done, figures.loss as f32, figures.grad_norm as f32))
    }

    fn save(&mut self, id: CheckpointId, shared: &Shared) {
        let trainer = self
            .trainer
            .as_ref()
            .expect("state is loaded before it is saved");
        if let Err(error) = self.saver.save(trainer, self.rank, id) {
            let samples = trainer.samples();
            shared.handle(Event::Saved {
                checkpoint: id,
                samples,
                outcome: Err(error),
            });
        }
    }
}

/// What went wrong, in the member's words.
fn trouble(error: StepError) -> Trouble {
    let text = error.to_string();
    match error {
        StepError::Comm(CommError::Fenced(_)) => Trouble::Fenced,
        StepError::Comm(CommError::PeerLost(error)) => Trouble::PeerLost { error },
        StepError::Spiked(spike) => Trouble::Spiked(spike),
        StepError::ReplicasDiffer(_) => Trouble::Error {
            error: text,
            blamed: Blamed::Infrastructure,
        },
        StepError::Torch(_)
        | StepError::Data(_)
        | StepError::Storage { .. }
        | StepError::TooLarge(_)
        | StepError::NotFinite { .. }
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
