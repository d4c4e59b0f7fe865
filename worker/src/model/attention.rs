//! Self-attention with ALiBi: heads are cut over the tensor group, each with its own slope.

use super::chance::ScoreChance;
use super::{Place, linear::Linear};
use crate::shim;
use crate::trainer::StepError;
use tch::{Device, Kind, Tensor};

/// The slopes of ALiBi. Where the number of heads is not a power of two, the heads beyond the next lower one
/// take every second slope of the next higher one.
pub fn slopes(heads: u32) -> Vec<f64> {
    let whole = 1_u32 << heads.max(1).ilog2();
    let base = |heads: u32| 2_f64.powf(-(2_f64.powf(3.0 - f64::from(heads).log2())));
    let power = |base: f64, exponent: u32| base.powi(i32::try_from(exponent).unwrap_or(i32::MAX));
    let first = (1..=whole).map(|exponent| power(base(whole), exponent));
    let rest = (0..heads - whole).map(|extra| power(base(2 * whole), 2 * extra + 1));
    first.chain(rest).collect()
}

/// The slopes of the heads of member `index` of a tensor group of `size`.
fn slopes_of(heads: u32, index: u32, size: u32) -> Vec<f64> {
    let each = usize::try_from(heads / size).unwrap_or_default();
    slopes(heads)
        .into_iter()
        .skip(each * usize::try_from(index).unwrap_or_default())
        .take(each)
        .collect()
}

/// What is added to the attention scores: each head's slope times the distance, and minus infinity
/// for what lies ahead. `[1, heads, sequence, sequence]`. (Hugging Face adds slope x key position;
/// a row of scores that is shifted by a constant has the same softmax, and distances are smaller.)
pub fn bias(heads: u32, index: u32, size: u32, sequence: u32) -> Tensor {
    let mine = slopes_of(heads, index, size);
    let n = i64::from(sequence);
    let place = Tensor::arange(n, (Kind::Float, Device::Cpu));
    let distance = place.view([1, 1, 1, n]) - place.view([1, 1, n, 1]);
    let slopes = Tensor::from_slice(&mine)
        .to_kind(Kind::Float)
        .view([1, -1, 1, 1]);
    let ahead = distance.gt(0.0);
    (distance * slopes).masked_fill(&ahead, f64::NEG_INFINITY)
}

/// Head dimensions that carry ALiBi: three parts of the slope times two of the position, and two that
/// are zero, so that a head stays a multiple of eight wide.
const EXTRA: i64 = 8;

/// Which way the scores come to know positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// [`Positions::Added`].
    Added,
    /// [`Positions::InHeads`].
    InHeads,
}

impl Way {
    /// The one that suits `device`.
    pub const fn of(device: Device) -> Self {
        match device {
            Device::Cpu => Self::Added,
            Device::Cuda(_) | Device::Mps | Device::Vulkan => Self::InHeads,
        }
    }
}

/// How the scores come to know positions.
#[derive(Debug)]
pub enum Positions {
    /// [`bias`], added to the scores: the reference, and what the CPU runs.
    Added(Tensor),
    /// Slope times key position as part of the product of query and key, so that the causal kernel
    /// without a mask (flash attention) can be used. Softmax ignores what is constant in a row, so key
    /// positions alone do. Slopes and positions are split into parts that bf16 holds exactly (two of 256 values
    /// each, so a run in bf16 has at most 65 536 positions); their products are exact and are summed in fp32.
    InHeads {
        /// Parts of the slopes, `[1, 1, heads, EXTRA]`.
        query: Tensor,
        /// Parts of the positions, `[1, sequence, 1, EXTRA]`.
        key: Tensor,
    },
}

impl Positions {
    /// Positions in this way on `device`, for heads `width` wide in numbers of `kind`.
    pub fn new(
        way: Way,
        (heads, index, size): (u32, u32, u32),
        sequence: u32,
        width: i64,
        (kind, device): (Kind, Device),
    ) -> Self {
        match way {
            Way::Added => Self::Added(bias(heads, index, size, sequence).to_device(device)),
            Way::InHeads => Self::in_heads((heads, index, size), sequence, width, kind, device),
        }
    }

    /// Positions as extra dimensions of the heads.
    pub fn in_heads(
        (heads, index, size): (u32, u32, u32),
        sequence: u32,
        width: i64,
        kind: Kind,
        device: Device,
    ) -> Self {
        // The kernel scales every product by 1 / root(width).
        let root = (width as f64).sqrt();
        let parts = |value: f64| {
            let mut left = value;
            [(); 3].map(|()| {
                let part = exact_in_bf16(left);
                left -= part;
                part as f32
            })
        };
        let query: Vec<f32> = slopes_of(heads, index, size)
            .into_iter()
            .flat_map(|slope| {
                let [a, b, c] = parts(slope * root);
                [a, a, b, b, c, c, 0.0, 0.0]
            })
            .collect();
        let key: Vec<f32> = (0..sequence)
            .flat_map(|place| {
                let (low, high) = ((place % 256) as f32, (place - place % 256) as f32);
                [high, low, high, low, high, low, 0.0, 0.0]
            })
            .collect();
        let tensor = |values: &[f32]| Tensor::from_slice(values).to_kind(kind).to_device(device);
        Self::InHeads {
            query: tensor(&query).view([1, 1, -1, EXTRA]),
            key: tensor(&key).view([1, -1, 1, EXTRA]),
        }
    }
}

/// The nearest number with eight significant bits, which is what bf16 holds.
fn exact_in_bf16(value: f64) -> f64 {
    if value == 0.0 {
        return 0.0;
    }
    let unit = 2_f64.powi(value.abs().log2().floor() as i32 - 7);
    (value / unit).round() * unit
}

#[derive(Debug)]
pub(super) struct Attention {
    pub(super) qkv: Linear,
    pub(super) dense: Linear,
    pub(super) heads: i64,
    pub(super) sequence: i64,
    /// The number of its first head in the whole model.
    pub(super) first_head: u32,
}

impl Attention {
    /// `x` is `[batch * sequence, hidden]`.
    pub(super) fn forward(
        &self,
        x: &Tensor,
        positions: &Positions,
        chance: &ScoreChance<'_>,
        place: &Place,
    ) -> Result<Tensor, StepError> {
        let qkv = self.qkv.forward(x, place)?;
        let tokens = x.size()[0];
        let width = qkv.size()[1] / 3;
        let sequence = self.sequence;
        let qkv = qkv.view([
            tokens / sequence,
            sequence,
            self.heads,
            3,
            width / self.heads,
        ]);
        let y = attend(&qkv, positions, chance, self.first_head)?;
        self.dense.forward(&y.reshape([tokens, width]), place)
    }
}

/// Attention of `[batch, sequence, heads, 3, width]`: query, key and value; answers `[batch, sequence, heads, width]`.
fn attend(
    qkv: &Tensor,
    positions: &Positions,
    chance: &ScoreChance<'_>,
    first_head: u32,
) -> Result<Tensor, StepError> {
    let width = qkv.size()[4];
    let scale = 1.0 / (width as f64).sqrt();
    let parts = || <[Tensor; 3]>::try_from(qkv.unbind(3)).expect("it holds three");
    match positions {
        Positions::Added(bias) if chance.part() == 0.0 => Ok(shim::attention(qkv, bias, scale)?),
        Positions::Added(bias) => {
            let [q, k, v] = parts().map(|x| x.transpose(1, 2));
            let scores = (q * scale).matmul(&k.transpose(2, 3)) + bias;
            let weights = scores.softmax(-1, Kind::Float);
            let factors = chance.factors(&weights, first_head)?;
            let y = (weights * factors).to_kind(v.kind()).matmul(&v);
            Ok(y.transpose(1, 2))
        }
        Positions::InHeads { query, key } => {
            let [q, k, v] = parts();
            let wider = |x: &Tensor, extra: &Tensor| {
                let mut shape = x.size();
                shape[3] = EXTRA;
                Tensor::cat(&[x, &extra.expand(&shape, false)], 3).transpose(1, 2)
            };
            let none = query.zeros_like().narrow(2, 0, 1);
            if let (Device::Cuda(device), true) = (q.device(), chance.part() > 0.0) {
                shim::seed_device(device, chance.seed(first_head))?;
            }
            let parts = [wider(&q, query), wider(&k, key), wider(&v, &none)];
            let y = shim::fused_attention(&parts, chance.part(), scale)?;
            Ok(y.narrow(3, 0, width).transpose(1, 2))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::chance::Dropout;
    use super::*;

    #[test]
    fn slopes_are_hugging_faces() {
        let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-7, "{a} is not {b}");
        let n16 = slopes(16);
        near(n16[0], std::f64::consts::FRAC_1_SQRT_2);
        near(n16[1], 0.5);
        near(n16[15], 0.003_906_25);
        near(slopes(32)[0], 0.840_896_415);
        let bloom = slopes(112);
        assert_eq!(bloom.len(), 112);
        near(bloom[0], 0.917_004_043);
        near(bloom[1], 0.840_896_415);
        near(bloom[63], 0.003_906_25);
        for (at, slope) in bloom.iter().enumerate() {
            let exponent = if at < 64 {
                (at + 1) as f64 / 8.0
            } else {
                (2 * (at - 64) + 1) as f64 / 16.0
            };
            near(*slope, 2_f64.powf(-exponent));
        }
        assert_eq!(slopes(6).len(), 6);
    }

    #[test]
    fn a_group_shares_the_heads_in_order() {
        let whole = bias(6, 0, 1, 5);
        assert_eq!(whole.size(), [1, 6, 5, 5]);
        assert_eq!(whole.double_value(&[0, 0, 0, 1]), f64::NEG_INFINITY);
        assert_eq!(whole.double_value(&[0, 3, 4, 4]), 0.0);
        for index in 0..3 {
            let part = bias(6, index, 3, 5);
            assert!(part.equal(&whole.narrow(1, i64::from(index) * 2, 2)));
        }
    }

    fn difference(a: &Tensor, b: &Tensor) -> f64 {
        let wide = |x: &Tensor| x.to_kind(Kind::Double);
        (wide(a) - wide(b)).abs().max().double_value(&[])
    }

    /// Both ways against scores that are computed in fp64, and their gradients.
    #[test]
    fn positions_in_heads_are_the_added_ones() {
        let width = 16;
        let none = Dropout {
            seed: 0,
            hidden: 0.0,
            attention: 0.0,
        };
        let chance = none.for_samples(None);
        let chance = chance.attention(0);
        tch::manual_seed(3);
        // BLOOM's own length in its own numbers, too, and what no block divides.
        for (kind, samples, heads, sequence, most) in [
            (Kind::Float, 2, 6, 700, 2e-5),
            (Kind::Float, 1, 2, 1100, 2e-5),
            (Kind::BFloat16, 2, 6, 700, 2e-2),
            (Kind::BFloat16, 1, 3, 2048, 2e-2),
        ] {
            let long = i64::from(sequence);
            let random =
                |shape: &[i64]| Tensor::randn(shape, (Kind::Float, Device::Cpu)).to_kind(kind);
            let qkv = random(&[samples, long, i64::from(heads), 3, width]);
            let dy = random(&[samples, long, i64::from(heads), width]);
            // Attention of `qkv` and its gradient.
            let run = |attention: &dyn Fn(&Tensor) -> Tensor, kind: Kind| {
                let x = qkv.to_kind(kind).detach().set_requires_grad(true);
                let y = attention(&x);
                shim::backward(&y, &dy.to_kind(kind)).unwrap();
                [y.detach(), x.grad()]
            };
            let by_hand = |x: &Tensor| {
                let [q, k, v] = [0, 1, 2].map(|nth| x.select(3, nth).transpose(1, 2));
                let scores = q.matmul(&k.transpose(2, 3)) / (width as f64).sqrt();
                let scores = scores + bias(heads, 0, 1, sequence).to_kind(Kind::Double);
                scores.softmax(-1, Kind::Double).matmul(&v).transpose(1, 2)
            };
            let truth = run(&by_hand, Kind::Double);
            for way in [
                Positions::Added(bias(heads, 0, 1, sequence)),
                Positions::in_heads((heads, 0, 1), sequence, width, kind, Device::Cpu),
            ] {
                let ours = run(&|x| attend(x, &way, &chance, 0).unwrap(), kind);
                for (ours, truth) in ours.iter().zip(&truth) {
                    assert_eq!(ours.kind(), kind);
                    let largest = truth.abs().max().double_value(&[]);
                    let off = difference(ours, truth) / largest;
                    assert!(off < most, "{kind:?}, {sequence}: {off:e} in {way:?}");
                }
            }
        }
        // The CPU's fused kernel, which took all of those, drops nothing. (Here, since whether another one may step
        // in holds for the whole process.)
        let half = Dropout {
            attention: 0.5,
            ..none
        };
        let samples = 0..1;
        let chance = half.for_samples(Some(&samples));
        let attended = |kind| {
            let qkv = Tensor::ones([1, 8, 2, 3, width], (kind, Device::Cpu));
            let way = Positions::in_heads((2, 0, 1), 8, width, kind, Device::Cpu);
            attend(&qkv, &way, &chance.attention(0), 0).map(|y| y.size())
        };
        assert_eq!(attended(Kind::Float).unwrap(), [1, 8, 2, width]);
        let refused = attended(Kind::BFloat16).unwrap_err().to_string();
        assert!(
            refused.contains("scaled_dot_product_attention"),
            "{refused}"
        );
    }

    #[test]
    fn parts_of_slopes_and_positions_are_exact_in_bf16() {
        for (heads, width) in [(112, 128), (16, 64), (6, 80)] {
            let way = Positions::in_heads((heads, 0, 1), 2048, width, Kind::Float, Device::Cpu);
            let Positions::InHeads { query, key } = way else {
                panic!("asked for positions in heads");
            };
            for parts in [&query, &key] {
                let rounded = parts.to_kind(Kind::BFloat16).to_kind(Kind::Float);
                assert!(rounded.equal(parts));
            }
            let products = query
                .to_kind(Kind::Double)
                .view([-1, EXTRA])
                .matmul(&key.to_kind(Kind::Double).view([-1, EXTRA]).tr())
                / (width as f64).sqrt();
            let places = Tensor::arange(2048, (Kind::Double, Device::Cpu)).view([1, -1]);
            let truth = Tensor::from_slice(&slopes(heads)).view([-1, 1]) * places;
            assert!(difference(&products, &truth) < 2e-4);
        }
    }

    #[test]
    fn positions_are_exact_in_bf16_to_the_last_that_a_spec_may_have() {
        let way = Positions::in_heads((4, 0, 1), 1 << 16, 8, Kind::BFloat16, Device::Cpu);
        let Positions::InHeads { key, .. } = way else {
            panic!("asked for positions in heads");
        };
        let key = key.to_kind(Kind::Double).view([-1, EXTRA]);
        let place = key
            .narrow(1, 0, 2)
            .sum_dim_intlist(1_i64, false, Kind::Double);
        assert!(place.equal(&Tensor::arange(1 << 16, (Kind::Double, Device::Cpu))));
    }

    #[test]
    fn dropped_attention_is_attention_where_nothing_is_dropped() {
        tch::manual_seed(4);
        let random = || Tensor::randn([2, 12, 4, 8], (Kind::Float, Device::Cpu));
        let qkv = Tensor::stack(&[random(), random(), random()], 3);
        let way = Positions::Added(bias(4, 0, 1, 12));
        let run = |attention: f64| {
            let dropout = Dropout {
                seed: 1,
                hidden: 0.0,
                attention,
            };
            let samples = 0..2;
            let chance = dropout.for_samples(Some(&samples));
            attend(&qkv, &way, &chance.attention(0), 0).unwrap()
        };
        assert!(difference(&run(0.0), &run(1e-12)) < 1e-6);
        assert!(difference(&run(0.0), &run(0.5)) > 0.1);
    }
}
