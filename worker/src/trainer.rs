//! One rank's training: a step at a time, the same bits every time.
//!
//! A step runs the pipeline, adds up the tied embedding, the gradients and a few numbers over the
//! gang, and updates this rank's part of the weights. It needs groups, weights and samples, and
//! neither an agent nor a clock; what comes of a failure is not decided here.

mod evaluate;
mod replicas;
mod stage;

use crate::comm::spent::{Part, computing};
use crate::comm::{CommError, Groups, Watch};
use crate::data::{Reader, Samples};
use crate::model::shape::{EMBEDDING, Stage};
use crate::model::{Place, StageModel, Way, initial_values, kind};
use crate::optim::{
    BUCKET, Final, Flat, Limits, Optimizer, Plan, Slot, TooLarge, UpdateError, learning_rate,
};
use crate::shim::{AdamW, ShimError};
use rebloom_core::flight::Channel;
use rebloom_core::guard::{Guard, GuardAction, Spike};
use rebloom_core::id::{Rank, Step};
use rebloom_core::layout::Coordinates;
use rebloom_core::replicas::Differs;
use rebloom_core::spec::RunSpec;
use std::ops::Range;
use tch::{Device, Kind, Tensor, no_grad};

/// Why a step came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// A fence, or a peer that went away.
    #[error(transparent)]
    Comm(#[from] CommError),
    /// libtorch refused.
    #[error("libtorch: {0}")]
    Torch(#[from] ShimError),
    /// The samples cannot be read, or do not fit the model.
    #[error("data: {0}")]
    Data(String),
    /// Checkpoints cannot be written.
    #[error("checkpoint.directory {path} cannot be written on this node: {error}")]
    Storage {
        /// Where they should go.
        path: String,
        /// Why not.
        error: std::io::Error,
    },
    /// The model does not fit the layout.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    /// The numbers ran away.
    #[error("step {step} has a loss of {loss} and a gradient norm of {norm}")]
    NotFinite {
        /// Which step.
        step: u64,
        /// Its loss.
        loss: f64,
        /// Its gradient norm.
        norm: f64,
    },
    /// The loss or the gradient norm ran away, and the run is to go back.
    #[error("step {} had {}", .0.step, .0.reading)]
    Spiked(Spike),
    /// Held-out text has a loss that is no number.
    #[error("after step {step} the loss on the held-out set {set} is not a number")]
    NoScore {
        /// Steps done.
        step: u64,
        /// Of which set.
        set: String,
    },
    /// What must be equal on several ranks is not.
    #[error(transparent)]
    ReplicasDiffer(#[from] Differs),
    /// Something panicked; tch does where libtorch throws.
    #[error("panicked: {0}")]
    Panicked(String),
}

impl From<UpdateError> for StepError {
    fn from(error: UpdateError) -> Self {
        match error {
            UpdateError::Comm(error) => Self::Comm(error),
            UpdateError::Torch(error) => Self::Torch(error),
        }
    }
}

/// What one step gave; the same on every rank.
#[derive(Debug, Clone, PartialEq)]
pub struct Figures {
    /// Mean cross-entropy of its samples, in nats per token.
    pub loss: f64,
    /// Global gradient norm before clipping.
    pub grad_norm: f64,
    /// Whether any rank asked to stop after it.
    pub stop: bool,
    /// What ran away, where the run trains on nevertheless.
    pub spike: Option<Spike>,
}

/// How a rank does what can be done in several ways.
#[derive(Debug, Clone, Copy)]
pub struct How {
    /// The way of positions.
    pub positions: Way,
    /// Elements of gradients that are reduced together, at most, where sub-groups are not smaller still.
    pub bucket: i64,
    /// Whether they are reduced while the rest of the backward pass runs. It changes no bit.
    pub overlaps: bool,
}

impl How {
    /// What suits `device`.
    pub const fn of(device: Device) -> Self {
        Self {
            positions: Way::of(device),
            bucket: BUCKET,
            overlaps: true,
        }
    }
}

/// One rank in training.
#[derive(Debug)]
pub struct Trainer {
    spec: RunSpec,
    at: Coordinates,
    stage: Stage,
    /// Declared before `groups`: its graphs must end before their groups do.
    model: StageModel,
    optimizer: Optimizer,
    flat: Flat,
    reader: Reader,
    guard: Guard,
    /// Where the other end's gradient of the tied embedding arrives.
    tied: Option<Tensor>,
    groups: Groups,
    overlaps: bool,
    step: Step,
    samples: u64,
}

impl Trainer {
    /// A rank of `spec`, before it has weights.
    pub fn new(
        spec: RunSpec,
        rank: Rank,
        groups: Groups,
        samples: Box<dyn Samples>,
    ) -> Result<Self, StepError> {
        let how = How::of(groups.device());
        Self::with(how, spec, rank, groups, samples)
    }

    /// The same in these ways, whatever would suit the device.
    pub fn with(
        how: How,
        spec: RunSpec,
        rank: Rank,
        groups: Groups,
        samples: Box<dyn Samples>,
    ) -> Result<Self, StepError> {
        let at = spec.layout.coordinates(rank);
        let layout = spec.layout;
        let stage = Stage::of(&spec.model, layout.pipeline, at.stage);
        let place = Place {
            group: groups.tensor.clone(),
            index: at.tensor,
            size: layout.tensor,
            watch: groups.watch(),
        };
        let parameters = stage.parameters(&spec.model);
        let numerics = &spec.train.numerics;
        let limits = Limits {
            buffer: i64::try_from(numerics.group_elements).unwrap_or(i64::MAX),
            bucket: how.bucket,
        };
        let plan = Plan::new(parameters, (at.tensor, layout.tensor), layout.data, limits)?;
        let flat = Flat::new(plan, kind(numerics.precision), groups.device());
        let model = StageModel::new(
            &spec.model,
            Some(&spec.train),
            &stage,
            &flat,
            (place, how.positions),
        );
        let is_tied = layout.pipeline > 1 && (stage.is_first || stage.is_last);
        let this = Self {
            optimizer: Optimizer::new(&flat, groups.data.clone()),
            reader: Reader::new(&spec, samples)
                .skipping(spec.guard.skips())
                .onto(groups.device()),
            guard: Guard::default(),
            tied: is_tied.then(|| flat.views(EMBEDDING).1.empty_like()),
            overlaps: how.overlaps,
            step: Step(0),
            samples: 0,
            spec,
            at,
            stage,
            model,
            flat,
            groups,
        };
        Ok(this)
    }

    /// Sets the weights to the initial ones of the run's seed.
    pub fn begin(&mut self) {
        let (model, seed) = (self.spec.model, self.spec.train.seed);
        let (index, size) = (self.at.tensor, self.spec.layout.tensor);
        self.set_weights(|slot| {
            let values = initial_values(&model, seed, &slot.parameter, index, size);
            Tensor::from_slice(&values).view(slot.shape.as_slice())
        });
    }

    /// Sets the weights to slices of whole parameters, by name.
    pub fn take_weights(&mut self, whole: impl Fn(&str) -> Tensor) {
        let (index, size) = (self.at.tensor, self.spec.layout.tensor);
        self.set_weights(|slot| {
            let (rows, columns) = slot.parameter.part(index, size);
            let part = whole(&slot.parameter.name).narrow(0, rows.start, rows.end - rows.start);
            if slot.shape.len() == 2 {
                part.narrow(1, columns.start, columns.end - columns.start)
            } else {
                part
            }
        });
    }

    /// Sets what the model computes with and this rank's part of the master weights.
    fn set_weights(&mut self, part: impl Fn(&Slot) -> Tensor) {
        for slot in &self.flat.plan.slots {
            let part = part(slot);
            no_grad(|| self.flat.views(&slot.parameter.name).0.copy_(&part));
            self.optimizer.set_own(slot, &part);
        }
    }

    /// Steps done.
    pub const fn step_done(&self) -> Step {
        self.step
    }

    /// Samples consumed by the whole gang.
    pub const fn samples(&self) -> u64 {
        self.samples
    }

    /// Its generation and page.
    pub const fn watch(&self) -> Watch {
        self.groups.watch()
    }

    /// Weights and gradients of this rank.
    pub const fn flat(&self) -> &Flat {
        &self.flat
    }

    /// What it trains.
    pub const fn spec(&self) -> &RunSpec {
        &self.spec
    }

    /// The parts of parameters and moments that this rank owns.
    pub const fn optimizer(&self) -> &Optimizer {
        &self.optimizer
    }

    /// Goes on from here: weights and moments were just loaded into the own parts.
    pub fn resume(&mut self, step: Step, samples: u64) -> Result<(), StepError> {
        self.optimizer.gather()?;
        (self.step, self.samples) = (step, samples);
        Ok(())
    }

    /// The loss guard and what it remembers.
    pub const fn guard(&self) -> &Guard {
        &self.guard
    }

    /// Lets the loss guard go on from what a checkpoint carries of it.
    pub fn resume_guard(&mut self, guard: Guard) {
        self.guard = guard;
    }

    /// Samples of the next step.
    pub fn batch(&self) -> u32 {
        self.spec.train.batch(self.samples)
    }

    /// Does one optimizer step.
    pub fn step(&mut self, stop: bool) -> Result<Figures, StepError> {
        let loss = self.compute(self.overlaps)?;
        if self.overlaps {
            self.optimizer.finish(Final::Embedding)?;
        }
        let squares = computing(Part::Optimizer, || {
            self.optimizer.reduce()?;
            Ok::<_, StepError>(self.optimizer.squares()?)
        })?;
        // One vector carries all that the gang has to agree on.
        let shared =
            Tensor::from_slice(&[squares, loss.double_value(&[]), f64::from(u8::from(stop))]);
        self.groups.sum_over_world(&shared)?;
        let [squares, loss, stops] = [0, 1, 2].map(|at| shared.double_value(&[at]));
        let grad_norm = squares.sqrt();
        let step = self.step.0 + 1;
        let spike = self.guard.judge(
            &self.spec.guard,
            &self.spec.train,
            Step(step),
            (loss, grad_norm),
        );
        if let Some(spike) = &spike
            && self.spec.guard.action == GuardAction::RollBack
        {
            return Err(StepError::Spiked(spike.clone()));
        }
        if !(loss.is_finite() && grad_norm.is_finite()) {
            return Err(StepError::NotFinite {
                step,
                loss,
                norm: grad_norm,
            });
        }
        let settings = &self.spec.train.optimizer;
        let all = self.spec.train.samples();
        let how = AdamW {
            step: i64::try_from(step).unwrap_or(i64::MAX),
            scale: (settings.clip / (grad_norm + 1e-6)).min(1.0),
            rate: learning_rate(settings, self.samples, all),
            beta1: settings.beta1,
            beta2: settings.beta2,
            decay: 0.0,
            epsilon: settings.epsilon,
        };
        let decay = settings.weight_decay;
        computing(Part::Optimizer, || self.optimizer.update(decay, how))?;
        self.guard.remember(&self.spec.guard, (loss, grad_norm));
        (self.step, self.samples) = (Step(step), self.samples + u64::from(self.batch()));
        Ok(Figures {
            loss,
            grad_norm,
            stop: stops > 0.0,
            spike,
        })
    }

    /// Computes the gradients of the next step without taking it, summed over everything but the
    /// data group; answers this rank's part of the mean loss, where it computes.
    pub fn gradients(&mut self) -> Result<Tensor, StepError> {
        self.compute(false)
    }

    fn compute(&mut self, overlaps: bool) -> Result<Tensor, StepError> {
        computing(Part::Optimizer, || self.optimizer.zero_grads());
        let loss = self.run_pipeline(overlaps)?;
        self.add_tied_gradients()?;
        Ok(loss)
    }

    /// Logits of this rank's words for the samples of `numbers`, where one stage is the whole model.
    pub fn logits(&mut self, numbers: Range<u64>) -> Result<Tensor, StepError> {
        let (words, _) = self.reader.read(numbers).map_err(StepError::Data)?;
        let pass = self.model.forward(self.model.embed(&words)?, None)?;
        Ok(self.model.logits(&pass))
    }

    /// First and last stage each hold the embedding: both need the sum of both gradients.
    fn add_tied_gradients(&mut self) -> Result<(), StepError> {
        let (Some(arrived), Some(group)) = (&self.tied, &self.groups.pipeline) else {
            return Ok(());
        };
        let other = if self.stage.is_first {
            group.size - 1
        } else {
            0
        };
        let (_, mut grad) = self.flat.views(EMBEDDING);
        let arriving = group.recv(arrived, other, stage::TIED)?;
        let sending = group.send(Channel::Embedding, &grad, other, stage::TIED)?;
        sending.wait()?;
        arriving.wait_in(Channel::Embedding)?;
        drop(no_grad(|| grad.g_add_(arrived)));
        Ok(())
    }

    /// A last meeting of the gang, so that no rank closes its connections while another still needs
    /// an answer from it. Whether it comes about changes nothing.
    pub fn farewell(&self) {
        let nothing = Tensor::zeros([1], (Kind::Float, Device::Cpu));
        drop(self.groups.sum_over_world(&nothing));
    }
}
