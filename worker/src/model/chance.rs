//! Dropout whose every mask is a function of where it is used: seed of the run, number of the sample,
//! layer, site and head.
//!
//! So there is no state to save: a restarted run, a recomputed layer and every layout draw the same.
//! What all members of a tensor group hold alike is dropped alike, and each head has a mask of its own
//! (Megatron keeps two generators for that). Fused attention on a GPU draws its masks inside of the
//! kernel: there they also depend on the layout.

use crate::shim::{self, ShimError};
use rebloom_core::spec::Train;
use std::ops::Range;
use tch::Tensor;

/// Where in a layer something is dropped.
#[derive(Debug, Clone, Copy)]
pub(super) enum Site {
    /// The embedding, behind its layer norm.
    Embedding = 1,
    /// Attention probabilities.
    Scores = 2,
    /// What attention adds to the residual stream.
    Attention = 3,
    /// What the MLP adds to it.
    Mlp = 4,
}

/// How much is dropped where.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dropout {
    pub(super) seed: u64,
    pub(super) hidden: f64,
    pub(super) attention: f64,
}

impl Dropout {
    /// Nothing is dropped.
    pub(super) const NONE: Self = Self {
        seed: 0,
        hidden: 0.0,
        attention: 0.0,
    };

    pub(super) const fn of(train: &Train) -> Self {
        Self {
            seed: train.seed,
            hidden: train.numerics.hidden_dropout,
            attention: train.numerics.attention_dropout,
        }
    }

    /// What is left to chance for the samples of one micro-batch; nothing where there are none.
    pub(super) const fn for_samples(&self, samples: Option<&Range<u64>>) -> Chance<'_> {
        let Some(samples) = samples else {
            return Chance {
                dropout: &Self::NONE,
                first: 0,
                count: 0,
            };
        };
        Chance {
            dropout: self,
            first: samples.start,
            count: samples.end - samples.start,
        }
    }
}

/// Dropout of one micro-batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chance<'a> {
    dropout: &'a Dropout,
    first: u64,
    count: u64,
}

impl Chance<'_> {
    fn seed(&self, sample: u64, site: Site, layer: u32, head: u32) -> u64 {
        [sample, site as u64, u64::from(layer), u64::from(head)]
            .into_iter()
            .fold(mix(self.dropout.seed), |state, word| mix(state ^ mix(word)))
    }

    /// Drops from `x`, which holds the samples one after the other along its first dimension.
    pub(super) fn drop(&self, x: Tensor, site: Site, layer: u32) -> Result<Tensor, ShimError> {
        let part = self.dropout.hidden;
        if part == 0.0 {
            return Ok(x);
        }
        let mask = Tensor::empty(x.size(), (x.kind(), x.device()));
        let each = x.size()[0] / i64::try_from(self.count).unwrap_or(i64::MAX);
        for (at, sample) in (0_i64..).zip(self.first..self.first + self.count) {
            let of_sample = mask.narrow(0, at * each, each);
            shim::toss(&of_sample, self.seed(sample, site, layer, 0), 1.0 - part)?;
        }
        Ok(x * scaled(mask, part))
    }

    /// Dropout of the attention probabilities of a layer.
    pub(super) const fn attention(&self, layer: u32) -> ScoreChance<'_> {
        ScoreChance {
            chance: self,
            layer,
        }
    }
}

/// Dropout of the attention probabilities of one layer and micro-batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct ScoreChance<'a> {
    chance: &'a Chance<'a>,
    layer: u32,
}

impl ScoreChance<'_> {
    /// The part that is dropped.
    pub(super) const fn part(&self) -> f64 {
        self.chance.dropout.attention
    }

    /// Factors of the probabilities `[samples, heads, sequence, sequence]`, the heads from `head` on.
    pub(super) fn factors(&self, of: &Tensor, head: u32) -> Result<Tensor, ShimError> {
        let mask = of.empty_like();
        let shape = mask.size();
        for (at, sample) in (0_i64..).zip(self.chance.first..self.chance.first + self.chance.count)
        {
            for (nth, head) in (0..shape[1]).zip(head..) {
                let seed = self.chance.seed(sample, Site::Scores, self.layer, head);
                shim::toss(&mask.select(0, at).select(0, nth), seed, 1.0 - self.part())?;
            }
        }
        Ok(scaled(mask, self.part()))
    }

    /// A seed for a kernel that draws by itself, for the heads from `head` on.
    pub(super) fn seed(&self, head: u32) -> u64 {
        self.chance
            .seed(self.chance.first, Site::Scores, self.layer, head)
    }
}

/// What is kept is scaled up, so that its expectation stays.
fn scaled(mut mask: Tensor, part: f64) -> Tensor {
    mask.g_mul_scalar_(1.0 / (1.0 - part))
}

/// SplitMix64.
const fn mix(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    const DROPOUT: Dropout = Dropout {
        seed: 5,
        hidden: 0.25,
        attention: 0.1,
    };

    #[test]
    fn a_micro_batch_is_dropped_as_its_samples_alone_are() {
        let x = Tensor::ones([6, 500], (Kind::Float, Device::Cpu));
        let both = DROPOUT.for_samples(Some(&(7..9)));
        let both = both.drop(x.shallow_clone(), Site::Mlp, 3).unwrap();
        for at in 0..2 {
            let sample = 7 + u64::try_from(at).unwrap();
            let chance = DROPOUT.for_samples(Some(&(sample..sample + 1)));
            let one = chance.drop(x.narrow(0, 0, 3), Site::Mlp, 3).unwrap();
            assert!(both.narrow(0, 3 * at, 3).equal(&one));
        }
        let kept = both.gt(0.0).to_kind(Kind::Double).mean(Kind::Double);
        assert!((kept.double_value(&[]) - 0.75).abs() < 0.05);
        let mean = both.mean(Kind::Double).double_value(&[]);
        assert!((mean - 1.0).abs() < 0.07, "{mean}");
    }

    #[test]
    fn sites_layers_and_heads_are_dropped_differently() {
        let chance = DROPOUT.for_samples(Some(&(7..8)));
        let x = || Tensor::ones([4, 64], (Kind::Float, Device::Cpu));
        let one = chance.drop(x(), Site::Mlp, 3).unwrap();
        assert!(one.equal(&chance.drop(x(), Site::Mlp, 3).unwrap()));
        assert!(!one.equal(&chance.drop(x(), Site::Attention, 3).unwrap()));
        assert!(!one.equal(&chance.drop(x(), Site::Mlp, 4).unwrap()));
        let scores = chance.attention(0);
        let ones = |heads| Tensor::ones([1, heads, 16, 16], (Kind::Float, Device::Cpu));
        let all = scores.factors(&ones(4), 0).unwrap();
        let part = scores.factors(&ones(2), 2).unwrap();
        assert!(all.narrow(1, 2, 2).equal(&part), "heads know their number");
        assert!(!all.select(1, 0).equal(&all.select(1, 1)));
    }
}
