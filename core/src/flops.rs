//! Floating-point operations of a step: those that the model needs, and those that the hardware does.
//!
//! They differ by what is computed again for the backward pass. MFU counts the first, HFU the second;
//! BLOOM's published TFLOPs are the second, so the two are never shown under one name.

use crate::spec::{Model, Precision, RunSpec};

/// Floating-point operations.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Flops {
    /// What forward and backward pass need: `72 B s l h^2 (1 + s / 6h + V / 12lh)` (Korthikanti et al.,
    /// "Reducing activation recomputation in large transformer models", appendix A).
    pub model: f64,
    /// What is done, with a second forward pass of the blocks where they are computed again:
    /// `96 B s l h^2 (1 + s / 6h + V / 16lh)` (Narayanan et al., "Efficient large-scale language model
    /// training on GPU clusters", section 5.1), the formula of BLOOM's log.
    pub hardware: f64,
}

impl Flops {
    /// Those of `samples` samples.
    pub fn of(model: &Model, samples: u64, recomputes: bool) -> Self {
        let [s, h, l, v] = [model.sequence, model.hidden, model.layers, model.vocab].map(f64::from);
        let tokens = samples as f64 * s;
        // One forward pass of all blocks, and of the output projection.
        let blocks = 24.0 * tokens * l * h * h * (1.0 + s / (6.0 * h));
        let words = 2.0 * tokens * h * v;
        // A backward pass takes twice as many.
        let passes = if recomputes { 4.0 } else { 3.0 };
        Self {
            model: 3.0 * (blocks + words),
            hardware: passes * blocks + 3.0 * words,
        }
    }

    /// Those of the step that begins with `consumed` samples consumed.
    pub fn of_step(spec: &RunSpec, consumed: u64) -> Self {
        let batch = u64::from(spec.train.batch(consumed));
        Self::of(&spec.model, batch, spec.train.numerics.recompute)
    }

    /// TFLOP/s of each of `ranks` ranks that do them in `seconds`.
    pub fn rate(self, seconds: f64, ranks: u32) -> Self {
        let rate = |flops: f64| flops / seconds / f64::from(ranks) / 1e12;
        Self {
            model: rate(self.model),
            hardware: rate(self.hardware),
        }
    }

    /// Both as a part of a device's peak: MFU and HFU.
    pub fn part_of(self, peak: f64) -> Self {
        Self {
            model: self.model / peak,
            hardware: self.hardware / peak,
        }
    }
}

/// Peaks of dense matrix products in TFLOP/s, by a part of the device's name: bf16, and fp32 as the
/// vendor's data sheets give it without reduced precision.
const PEAKS: [(&str, f64, f64); 8] = [
    ("H200", 989.4, 67.0),
    ("H100 PCIe", 756.0, 51.0),
    ("H100 NVL", 835.0, 60.0),
    ("H100", 989.4, 67.0),
    ("A100", 312.0, 19.5),
    ("B200", 2250.0, 75.0),
    ("L40S", 362.0, 91.6),
    ("V100", 125.0, 15.7),
];

/// The peak of a device in TFLOP/s, where it is known.
pub fn peak(device: &str, precision: Precision) -> Option<f64> {
    let (_, bf16, fp32) = PEAKS.iter().find(|(name, ..)| device.contains(name))?;
    Some(match precision {
        Precision::Bf16 => *bf16,
        Precision::Fp32 => *fp32,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOOM: Model = Model {
        layers: 70,
        hidden: 14336,
        heads: 112,
        vocab: 250_880,
        sequence: 2048,
        residual_after_layernorm: false,
    };

    #[test]
    fn blooms_log_is_reproduced() {
        let rate = Flops::of(&BLOOM, 2048, true).rate(105.22, 384);
        assert_eq!(format!("{:.2}", rate.hardware), "149.02");
        // More of its rows. Seconds are printed to the hundredth, so that the last digit of TFLOPs is one of two.
        for (samples, seconds, printed) in [
            (16, 15.23, 8.04),
            (2048, 104.70, 149.77),
            (2048, 105.16, 149.10),
            (2048, 105.17, 149.09),
            (2048, 106.25, 147.58),
            (2048, 110.17, 142.32),
            (2048, 111.14, 141.09),
        ] {
            let at = |seconds| Flops::of(&BLOOM, samples, true).rate(seconds, 384).hardware;
            let between = at(seconds + 0.005) - 0.005..=at(seconds - 0.005) + 0.005;
            assert!(
                between.contains(&printed),
                "{printed} is not in {between:?}"
            );
        }
        let part = rate.part_of(peak("NVIDIA A100-SXM4-80GB", Precision::Bf16).unwrap());
        assert_eq!(
            format!("{:.3} {:.3}", part.hardware, part.model),
            "0.478 0.360"
        );
    }

    #[test]
    fn the_formula_is_the_published_one() {
        let (b, s, l, h, v) = (2048.0, 2048.0, 70.0, 14336.0, 250_880.0);
        let published = 96.0 * b * s * l * h * h * (1.0 + s / (6.0 * h) + v / (16.0 * l * h));
        let flops = Flops::of(&BLOOM, 2048, true);
        assert!((flops.hardware / published - 1.0).abs() < 1e-12);
        let published = 72.0 * b * s * l * h * h * (1.0 + s / (6.0 * h) + v / (12.0 * l * h));
        assert!((flops.model / published - 1.0).abs() < 1e-12);
        let kept = Flops::of(&BLOOM, 2048, false);
        assert_eq!(kept.hardware, kept.model);
        assert_eq!(kept.model, flops.model);
    }

    #[test]
    fn a_device_that_nobody_knows_has_no_peak() {
        assert_eq!(peak("Some CPU", Precision::Fp32), None);
        assert_eq!(peak("NVIDIA H200", Precision::Bf16), Some(989.4));
        assert_eq!(peak("NVIDIA H100 PCIe", Precision::Bf16), Some(756.0));
    }
}
