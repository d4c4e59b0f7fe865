//! Held-out text, scored: what a gang does between its steps, and `rebloom eval` in one process.
//!
//! Both take the same samples through the same layers; a gang cuts the model and the samples over its ranks.

use crate::checkpoint::Want;
use crate::checkpoint::slice::Slice;
use crate::comm::Watch;
use crate::model::shape::Stage;
use crate::model::{Place, StageModel, Way, kind};
use crate::optim::{Flat, Limits, Plan};
use crate::shim::{ShimError, cuda};
use crate::trainer::StepError;
use crate::weights::Weights;
use rebloom_core::eval::Score;
use rebloom_core::id::Generation;
use rebloom_core::spec::{Model, Precision};
use rebloom_data::held_out::HeldOut;
use rebloom_runtime::flight::Recorder;
use tch::{Device, Kind, Tensor, no_grad};

/// Tokens that one process takes through the model at once, where a sample is not longer.
const AT_ONCE: u32 = 2048;

/// Some samples at once: what is read, what is to be predicted, and which of that counts.
#[derive(Debug)]
pub struct Batch {
    /// `[samples * sequence]`
    pub words: Tensor,
    /// As many.
    pub targets: Tensor,
    /// 1 for what counts; a sample that is not whole is filled up with what does not.
    counts: Tensor,
}

impl Batch {
    /// Up to `room` samples of `sequence` tokens and one more, on `device`.
    pub fn of(
        samples: &[&[i32]],
        (sequence, room): (u32, u32),
        device: Device,
    ) -> Result<Self, ShimError> {
        let sequence = sequence as usize;
        let tokens = sequence * room as usize;
        let (mut words, mut targets) = (vec![0_i64; tokens], vec![0_i64; tokens]);
        let mut counts = vec![0.0_f32; tokens];
        for (nth, sample) in samples.iter().enumerate() {
            for (at, pair) in (nth * sequence..).zip(sample.windows(2)) {
                (words[at], targets[at]) = (pair[0].into(), pair[1].into());
                counts[at] = 1.0;
            }
        }
        Ok(Self {
            words: cuda::bring(Tensor::from_slice(&words), device)?,
            targets: cuda::bring(Tensor::from_slice(&targets), device)?,
            counts: cuda::bring(Tensor::from_slice(&counts), device)?,
        })
    }

    /// The cross-entropy of what counts by the last stage's output, summed, in nats.
    pub fn nats(&self, model: &StageModel, output: &Tensor) -> Result<Tensor, StepError> {
        let surprise = model.surprise(output, &self.targets)?;
        Ok((surprise * &self.counts).sum(Kind::Double))
    }
}

/// The score of a set whose cross-entropy is known.
pub fn score(set: &HeldOut, nats: f64) -> Score {
    Score {
        set: set.name.clone(),
        documents: set.documents,
        bytes: set.bytes,
        tokens: set.predicted(),
        nats,
    }
}

/// A whole model in one process, with the layers that gangs train.
#[derive(Debug)]
pub struct Scorer {
    model: StageModel,
    shape: Model,
    device: Device,
}

impl Scorer {
    /// Reads all weights of a model of this shape, to compute with them on `device`.
    ///
    /// # Errors
    /// Where they cannot be read or have another shape, or one parameter is too large for a buffer.
    pub fn load(
        weights: &Weights,
        shape: &Model,
        precision: Precision,
        device: Device,
    ) -> anyhow::Result<Self> {
        weights.suits(shape).map_err(anyhow::Error::msg)?;
        let stage = Stage::of(shape, 1, 0);
        let plan = Plan::new(stage.parameters(shape), (0, 1), 1, Limits::default())?;
        let flat = Flat::frozen(plan, kind(precision), device);
        fill(&flat, weights)?;
        let place = Place {
            group: None,
            index: 0,
            size: 1,
            watch: Watch {
                recorder: Box::leak(Box::new(Recorder::unread()?)),
                generation: Generation(0),
            },
        };
        let model = StageModel::new(shape, None, &stage, &flat, (place, Way::of(device)));
        Ok(Self {
            model,
            shape: *shape,
            device,
        })
    }

    /// Scores a set; `say` hears now and then how many of its samples are done, and how many there are.
    ///
    /// # Errors
    /// Where it holds a token that the model does not know.
    pub fn score(&self, set: &HeldOut, say: impl FnMut(usize, usize)) -> anyhow::Result<Score> {
        let most = self.shape.vocab;
        if let Some(odd) = set.outside(most) {
            anyhow::bail!(
                "{} holds token {odd}, the model has {most}: they do not belong together",
                set.name
            );
        }
        let samples: Vec<_> = set.samples(self.shape.sequence).collect();
        Ok(score(set, self.nats(&samples, say)?))
    }

    /// The cross-entropy of all but the first token of each sample, summed, in nats.
    pub fn nats(
        &self,
        samples: &[&[i32]],
        mut say: impl FnMut(usize, usize),
    ) -> Result<f64, StepError> {
        let sequence = self.shape.sequence;
        let room = (AT_ONCE / sequence).max(1);
        let (mut nats, mut done) = (0.0, 0);
        for some in samples.chunks(room as usize) {
            say(done, samples.len());
            done += some.len();
            let room = u32::try_from(some.len()).unwrap_or(room);
            let batch = Batch::of(some, (sequence, room), self.device)?;
            let output = self.model.predict(&self.model.embed(&batch.words)?)?;
            nats += batch.nats(&self.model, &output)?.double_value(&[]);
        }
        Ok(nats)
    }
}

/// Reads every parameter to its place; straight to it where it is in fp32 in the host's memory.
fn fill(flat: &Flat, weights: &Weights) -> anyhow::Result<()> {
    let slots = &flat.plan.slots;
    if (flat.kind, flat.device) == (Kind::Float, Device::Cpu) {
        let wants = slots.iter().map(|slot| {
            let (place, _) = flat.views(&slot.parameter.name);
            let slice = Slice::whole(&slot.parameter);
            Want::new(&slot.parameter.name, slice, vec![place.view(-1)])
        });
        return Ok(weights.fill(wants.collect())?);
    }
    let read = weights.whole(slots.iter().map(|slot| &slot.parameter))?;
    no_grad(|| {
        for (slot, read) in slots.iter().zip(read) {
            flat.views(&slot.parameter.name).0.copy_(&read);
        }
    });
    Ok(())
}
