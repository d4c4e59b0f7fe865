//! Self-attention with ALiBi: heads are cut over the tensor group, each with its own slope.

use super::{Place, linear::Linear};
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

/// What is added to the attention scores: each head's slope times the distance, and minus infinity
/// for what lies ahead. `[1, heads, sequence, sequence]`. (Hugging Face adds slope x key position;
/// a row of scores that is shifted by a constant has the same softmax, and distances are smaller.)
pub fn bias(heads: u32, index: u32, size: u32, sequence: u32) -> Tensor {
    let each = heads / size;
    let from = usize::try_from(index * each).unwrap_or_default();
    let mine = &slopes(heads)[from..from + usize::try_from(each).unwrap_or_default()];
    let n = i64::from(sequence);
    let place = Tensor::arange(n, (Kind::Float, Device::Cpu));
    let distance = place.view([1, 1, 1, n]) - place.view([1, 1, n, 1]);
    let slopes = Tensor::from_slice(mine)
        .to_kind(Kind::Float)
        .view([1, i64::from(each), 1, 1]);
    let ahead = distance.gt(0.0);
    (distance * slopes).masked_fill(&ahead, f64::NEG_INFINITY)
}

#[derive(Debug)]
pub(super) struct Attention {
    pub(super) qkv: Linear,
    pub(super) dense: Linear,
    pub(super) heads: i64,
}

impl Attention {
    /// `x` is `[batch * sequence, hidden]`.
    pub(super) fn forward(
        &self,
        x: &Tensor,
        sequence: i64,
        bias: &Tensor,
        place: &Place,
    ) -> Result<Tensor, StepError> {
        let qkv = self.qkv.forward(x, place)?;
        let tokens = x.size()[0];
        let width = qkv.size()[1] / 3;
        let qkv = qkv.view([
            tokens / sequence,
            sequence,
            self.heads,
            3,
            width / self.heads,
        ]);
        // [batch, heads, sequence, width of a head] each
        let parts = qkv.unbind(3);
        let [q, k, v] = [0, 1, 2].map(|part| parts[part].transpose(1, 2));
        let y =
            Tensor::scaled_dot_product_attention(&q, &k, &v, Some(bias), 0.0, false, None, false);
        self.dense
            .forward(&y.transpose(1, 2).reshape([tokens, width]), place)
    }
}

#[cfg(test)]
mod tests {
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
        near(bloom[64], 2_f64.powf(-(2_f64.powi(-4))));
        near(bloom[65], 2_f64.powf(-3.0 * 2_f64.powi(-4)));
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
}
