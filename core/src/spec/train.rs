//! How a run trains: its steps and batches, the optimizer and its schedule, and how it computes.
//!
//! Samples consumed are a function of the step alone (and the step of the samples), so a restart
//! needs neither history nor counters, and every layout takes the same samples in the same step.

use super::Flaws;
use serde::{Deserialize, Serialize};

/// How long and how to train.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Train {
    /// Optimizer steps of the whole run.
    pub steps: u64,
    /// Samples of one optimizer step, over the whole gang.
    pub global_batch: u32,
    /// Samples of one forward pass of one rank.
    pub micro_batch: u32,
    /// Seed of the initial weights, of the order of samples and of dropout.
    #[serde(default = "default_seed")]
    pub seed: u64,
    /// AdamW and its schedule.
    #[serde(default)]
    pub optimizer: Optimizer,
    /// How the batch grows to `global_batch`; without it, it has that size from the first step on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ramp_up: Option<RampUp>,
    /// In which numbers, and what is kept or computed again.
    #[serde(default)]
    pub numerics: Numerics,
}

const fn default_seed() -> u64 {
    42
}

/// AdamW with linear warm-up and cosine decay; the defaults are BLOOM's where they do not depend on size.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Optimizer {
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Learning rate after the decay.
    pub min_learning_rate: f64,
    /// Samples of linear warm-up.
    pub warmup_samples: u64,
    /// Samples at which the decay ends; 0 means the end of the run.
    pub decay_samples: u64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled weight decay of matrices (not of biases and layer norms).
    pub weight_decay: f64,
    /// Largest global gradient norm; larger ones are scaled down to it.
    pub clip: f64,
}

impl Default for Optimizer {
    fn default() -> Self {
        Self {
            learning_rate: 1e-3,
            min_learning_rate: 1e-4,
            warmup_samples: 0,
            decay_samples: 0,
            beta1: 0.9,
            beta2: 0.95,
            epsilon: 1e-8,
            weight_decay: 0.1,
            clip: 1.0,
        }
    }
}

/// How the batch grows, by the rule of Megatron's `--rampup-batch-size`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RampUp {
    /// Samples of the first step.
    pub start: u32,
    /// Samples by which a step grows at a time.
    pub increment: u32,
    /// Samples consumed by when the batch has its full size.
    pub samples: u64,
}

/// The numbers of weights and activations. Gradients are summed, reduced and applied in fp32 always.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// Everything in fp32: the reference.
    #[default]
    Fp32,
    /// Weights and activations in bf16, with master weights in fp32 (BLOOM's own).
    Bf16,
}

/// In which numbers a step computes, what it keeps, and what it leaves to chance.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Numerics {
    /// Numbers of weights and activations.
    pub precision: Precision,
    /// Whether each layer keeps its input only and computes the rest again for its backward pass.
    pub recompute: bool,
    /// Part of the embedding's, attention's and MLP's outputs that is dropped.
    pub hidden_dropout: f64,
    /// Part of the attention probabilities that is dropped.
    pub attention_dropout: f64,
    /// Most elements of one flat buffer of weights; bounds what is reduced, updated and saved at a time.
    pub group_elements: u64,
}

impl Default for Numerics {
    fn default() -> Self {
        Self {
            precision: Precision::Fp32,
            recompute: false,
            hidden_dropout: 0.0,
            attention_dropout: 0.0,
            group_elements: MOST_ELEMENTS,
        }
    }
}

/// Elements above which 32-bit indices overflow.
const MOST_ELEMENTS: u64 = (1 << 31) - 1;

impl Train {
    /// Samples of the step that begins with `consumed` samples consumed
    /// (`megatron/microbatches.py`, including its floating-point division).
    pub fn batch(&self, consumed: u64) -> u32 {
        let Some(ramp) = self.ramp_up else {
            return self.global_batch;
        };
        let increments = self.global_batch.saturating_sub(ramp.start) / ramp.increment.max(1);
        if consumed > ramp.samples || increments == 0 {
            return self.global_batch;
        }
        let each = ramp.samples as f64 / f64::from(increments);
        let done = (consumed as f64 / each) as u32;
        (ramp.start + done * ramp.increment).min(self.global_batch)
    }

    /// Samples consumed once `step` steps are done.
    pub fn samples_after(&self, step: u64) -> u64 {
        let mut consumed = 0;
        for done in 0..step {
            let batch = u64::from(self.batch(consumed));
            if batch == u64::from(self.global_batch) {
                return consumed + (step - done) * batch;
            }
            consumed += batch;
        }
        consumed
    }

    /// Samples of the whole run.
    pub fn samples(&self) -> u64 {
        self.samples_after(self.steps)
    }

    pub(super) fn check(&self, flaws: &mut Flaws) {
        let (o, n) = (&self.optimizer, &self.numerics);
        flaws.whole("train.steps", self.steps, 1_000_000_000);
        let group = "train.numerics.group_elements";
        flaws.whole(group, n.group_elements, MOST_ELEMENTS);
        for (field, value, least, most) in [
            ("train.optimizer.learning_rate", o.learning_rate, 0.0, 10.0),
            (
                "train.optimizer.min_learning_rate",
                o.min_learning_rate,
                0.0,
                10.0,
            ),
            ("train.optimizer.beta1", o.beta1, 0.0, 0.999_999),
            ("train.optimizer.beta2", o.beta2, 0.0, 0.999_999),
            ("train.optimizer.epsilon", o.epsilon, 1e-30, 1.0),
            ("train.optimizer.weight_decay", o.weight_decay, 0.0, 10.0),
            ("train.optimizer.clip", o.clip, 1e-9, 1e9),
            (
                "train.numerics.hidden_dropout",
                n.hidden_dropout,
                0.0,
                0.999,
            ),
            (
                "train.numerics.attention_dropout",
                n.attention_dropout,
                0.0,
                0.999,
            ),
        ] {
            flaws.within(field, value, least, most);
        }
        if let Some(ramp) = &self.ramp_up {
            flaws.within(
                "train.ramp_up.start",
                f64::from(ramp.start),
                1.0,
                f64::from(self.global_batch),
            );
            flaws.within(
                "train.ramp_up.increment",
                f64::from(ramp.increment),
                1.0,
                f64::from(self.global_batch),
            );
            flaws.whole("train.ramp_up.samples", ramp.samples, 1_000_000_000_000);
        }
    }

    /// Whether every batch, on the way up too, is made of whole units of so many samples.
    pub fn has_whole(&self, unit: u32) -> bool {
        let on_the_way =
            |ramp: RampUp| ramp.start.is_multiple_of(unit) && ramp.increment.is_multiple_of(unit);
        self.global_batch.is_multiple_of(unit) && self.ramp_up.is_none_or(on_the_way)
    }

    /// Every batch on the way up is made of whole micro-batches on every data rank: `unit` samples.
    pub(super) fn check_ramp_up(&self, unit: u32, flaws: &mut Flaws) {
        let Some(ramp) = &self.ramp_up else { return };
        for (field, value) in [
            ("train.ramp_up.start", ramp.start),
            ("train.ramp_up.increment", ramp.increment),
        ] {
            if !value.is_multiple_of(unit) {
                flaws.add(
                    field,
                    value,
                    &format!("is not a multiple of train.micro_batch x layout.data ({unit})"),
                    &format!("use {}", value.next_multiple_of(unit)),
                );
            }
        }
        let way = self.global_batch - ramp.start;
        if !way.is_multiple_of(ramp.increment) {
            flaws.add(
                "train.ramp_up.increment",
                ramp.increment,
                &format!("does not divide the way from start to train.global_batch ({way})"),
                "use a divisor of it",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `tr11-176B-ml.slurm`: `--rampup-batch-size 192 16 9_765_625`, 2048, 220 million samples.
    const BLOOM: Train = Train {
        steps: 115_311,
        global_batch: 2048,
        micro_batch: 2,
        seed: 42,
        optimizer: Optimizer {
            learning_rate: 6e-5,
            min_learning_rate: 6e-6,
            warmup_samples: 183_105,
            decay_samples: 200_000_000,
            beta1: 0.9,
            beta2: 0.95,
            epsilon: 1e-8,
            weight_decay: 0.1,
            clip: 1.0,
        },
        ramp_up: Some(RampUp {
            start: 192,
            increment: 16,
            samples: 9_765_625,
        }),
        numerics: Numerics {
            precision: Precision::Bf16,
            recompute: true,
            hidden_dropout: 0.1,
            attention_dropout: 0.1,
            group_elements: MOST_ELEMENTS,
        },
    };

    #[test]
    fn blooms_log_is_reproduced() {
        assert_eq!(BLOOM.samples_after(12_695), 9_841_584);
        assert_eq!(BLOOM.samples_after(12_695) * 2048, 20_155_564_032);
        assert_eq!(BLOOM.samples_after(31_214), 47_768_496);
        assert_eq!(BLOOM.samples_after(94_768), 177_927_088);
        // All of the 220 million samples that fill whole steps.
        assert!(BLOOM.samples() <= 220_000_000);
        assert!(BLOOM.samples() + 2048 > 220_000_000);
    }

    #[test]
    fn the_batch_grows_by_its_increment_and_never_shrinks() {
        let (mut consumed, mut last) = (0, 192);
        assert_eq!(BLOOM.batch(0), 192);
        for step in 0..13_000 {
            assert_eq!(BLOOM.samples_after(step), consumed);
            let batch = BLOOM.batch(consumed);
            assert!(batch == last || batch == last + 16, "{consumed}: {batch}");
            last = batch;
            consumed += u64::from(batch);
        }
        assert_eq!(last, 2048);
    }

    #[test]
    fn a_unit_has_to_fit_every_batch_on_the_way_up() {
        assert!(BLOOM.has_whole(16));
        assert!(!BLOOM.has_whole(32));
        let plain = Train {
            ramp_up: None,
            ..BLOOM
        };
        assert!(plain.has_whole(32) && !plain.has_whole(24));
    }

    #[test]
    fn without_ramp_up_every_batch_is_the_whole_one() {
        let plain = Train {
            ramp_up: None,
            ..BLOOM
        };
        assert_eq!(plain.batch(0), 2048);
        assert_eq!(plain.samples_after(3), 3 * 2048);
    }
}
