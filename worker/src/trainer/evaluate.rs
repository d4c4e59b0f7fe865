//! How a gang is scored on held-out text: forward only, every sample once, in the layout it trains in.
//!
//! Each data rank takes its share of the samples through its pipeline; nothing that training goes on from is
//! touched. One sum over the gang then gives every rank the same figures.

use super::stage::{Inbox, Outbox, activation_tag};
use super::{StepError, Trainer};
use crate::score::{Batch, score};
use rebloom_core::eval::Evaluation;
use rebloom_core::flight::Channel;
use rebloom_data::held_out::HeldOut;
use tch::{Kind, Tensor};

impl Trainer {
    /// Scores every set with the weights as they are.
    ///
    /// # Errors
    /// As a step; also where a score is no number.
    pub fn evaluate(&mut self, sets: &[HeldOut]) -> Result<Evaluation, StepError> {
        let mut nats = Vec::with_capacity(sets.len());
        for set in sets {
            nats.push(self.nats(set)?.to_device(tch::Device::Cpu));
        }
        let nats = Tensor::stack(&nats, 0);
        self.groups.sum_over_world(&nats)?;
        let nats: Vec<f64> = Vec::try_from(nats).expect("sums are a vector of numbers");
        let mut scores = Vec::with_capacity(sets.len());
        for (set, nats) in sets.iter().zip(nats) {
            if !nats.is_finite() {
                let (step, set) = (self.step.0, set.name.clone());
                return Err(StepError::NoScore { step, set });
            }
            scores.push(score(set, nats));
        }
        Ok(Evaluation {
            step: self.step,
            samples: self.samples,
            scores,
        })
    }

    /// This rank's part of the cross-entropy of a set, summed over its tokens.
    fn nats(&self, set: &HeldOut) -> Result<Tensor, StepError> {
        let (model, stage) = (&self.model, &self.stage);
        let (here, pipeline) = (self.at.stage, self.spec.layout.pipeline);
        let batches = self.batches(set);
        let micros = u32::try_from(batches.len()).unwrap_or(u32::MAX);
        let group = self.groups.pipeline.as_ref();
        let before = group.zip(here.checked_sub(1));
        let behind = group.filter(|_| here + 1 < pipeline);
        let mut inbox = before.map(|(group, from)| {
            Inbox::new(group, from, Channel::ForwardIn, activation_tag, micros)
        });
        let mut outbox =
            behind.map(|group| Outbox::new(group, here + 1, Channel::ForwardOut, activation_tag));
        let empty = || model.activations(self.spec.train.micro_batch);

        let mut nats = Tensor::zeros([], (Kind::Double, self.groups.device()));
        for (micro, samples) in (0_u32..).zip(batches) {
            let is_read = stage.is_first || stage.is_last;
            let size = (self.spec.model.sequence, self.spec.train.micro_batch);
            let batch = is_read.then(|| Batch::of(&samples, size, self.groups.device()));
            let batch = batch.transpose()?;
            let input = match (&mut inbox, &batch) {
                (Some(inbox), _) => inbox.take(&empty)?,
                (None, Some(batch)) => model.embed(&batch.words)?,
                (None, None) => unreachable!("a stage that is not the first has one before it"),
            };
            let output = model.predict(&input)?;
            match (&mut outbox, &batch) {
                (Some(outbox), _) => outbox.send(&output, micro)?,
                (None, Some(batch)) => {
                    let part = batch.nats(model, &output)?;
                    if self.at.tensor == 0 {
                        nats += part;
                    }
                }
                (None, None) => unreachable!("a stage that is not the last has one behind it"),
            }
        }
        outbox.map_or(Ok(()), |mut outbox| outbox.finish())?;
        Ok(nats)
    }

    /// The samples of a set that this rank's pipeline takes, by micro-batch.
    fn batches<'a>(&self, set: &'a HeldOut) -> Vec<Vec<&'a [i32]>> {
        let (mine, ranks) = (self.at.data as usize, self.spec.layout.data as usize);
        let samples = set.samples(self.spec.model.sequence);
        let samples: Vec<_> = samples.skip(mine).step_by(ranks).collect();
        let batches = samples.chunks(self.spec.train.micro_batch as usize);
        batches.map(<[_]>::to_vec).collect()
    }
}
