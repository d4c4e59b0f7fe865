//! Megatron's blend of weighted datasets: for each sample in turn the dataset that lags most
//! behind its weight, the first of them where several do.
//!
//! Whatever depends on the order of additions (sums of weights) is added in the order in which
//! Megatron and numpy add, so that the last bit decides alike.

use crate::error::{Error, Result};

/// Most datasets of a blend: Megatron keeps their numbers in a byte, and needs one value for none.
pub const MOST_DATASETS: usize = 254;

/// Samples between two counts that are kept, so that a sample is found without going through all.
const BLOCK: usize = 1024;

/// Megatron asks each dataset for this much more than its share.
const HEADROOM: f64 = 1.005;

/// Which dataset each sample comes from: one byte a sample.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blend {
    choices: Vec<u8>,
    /// For each block, how many samples each dataset gave before it.
    before: Vec<u64>,
    datasets: usize,
}

impl Blend {
    /// The first `samples` samples of a blend. Weights need not add up to 1.
    pub fn new(weights: &[f64], samples: u64) -> Result<Self> {
        let weights = normal(&shares(weights)?);
        let samples = usize::try_from(samples)
            .ok()
            .filter(|n| *n <= super::MOST as usize);
        let Some(samples) = samples else {
            return Err(Error::Order(
                "a blend of more samples than fit its map".to_owned(),
            ));
        };
        let mut blend = Self {
            choices: Vec::with_capacity(samples),
            before: Vec::new(),
            datasets: weights.len(),
        };
        let mut taken = vec![0_u64; weights.len()];
        for sample in 0..samples {
            if sample % BLOCK == 0 {
                blend.before.extend(&taken);
            }
            let at = (sample as f64).max(1.0);
            let lag = |dataset: usize| weights[dataset] * at - taken[dataset] as f64;
            let mut most = (0, lag(0));
            for dataset in 1..weights.len() {
                let lag = lag(dataset);
                if lag > most.1 {
                    most = (dataset, lag);
                }
            }
            taken[most.0] += 1;
            blend
                .choices
                .push(u8::try_from(most.0).expect("bounded by MOST_DATASETS"));
        }
        Ok(blend)
    }

    /// How many samples there are.
    pub fn samples(&self) -> u64 {
        self.choices.len() as u64
    }

    /// The dataset of sample `k`, and the number of the sample in it.
    pub fn get(&self, k: u64) -> Option<(usize, u64)> {
        let k = usize::try_from(k).ok()?;
        let choice = *self.choices.get(k)?;
        let block = k / BLOCK;
        let dataset = usize::from(choice);
        let since = self.choices[block * BLOCK..k]
            .iter()
            .filter(|other| **other == choice)
            .count();
        Some((
            dataset,
            self.before[block * self.datasets + dataset] + since as u64,
        ))
    }
}

/// How many samples each dataset is asked for in a blend of `samples`.
pub fn asked(weights: &[f64], samples: u64) -> Result<Vec<u64>> {
    let shares = shares(weights)?;
    Ok(shares
        .iter()
        .map(|share| (samples as f64 * share * HEADROOM).ceil() as u64)
        .collect())
}

/// The documents between two shares of a dataset of so many, rounded as Python rounds.
pub fn documents_between(shares: (f64, f64), documents: usize) -> (usize, usize) {
    let place = |share: f64| (share * documents as f64).round_ties_even() as usize;
    let (from, to) = (
        place(shares.0).min(documents),
        place(shares.1).min(documents),
    );
    (from, to.max(from))
}

/// Weights that were divided by their sum, added one after the other.
fn shares(weights: &[f64]) -> Result<Vec<f64>> {
    if weights.is_empty() || weights.len() > MOST_DATASETS {
        return Err(Error::Order(format!(
            "a blend of {} datasets; 1 to {MOST_DATASETS} can be blended",
            weights.len()
        )));
    }
    if let Some(odd) = weights
        .iter()
        .find(|weight| !(weight.is_finite() && **weight > 0.0))
    {
        return Err(Error::Order(format!(
            "the weight {odd}; a weight is above 0"
        )));
    }
    let sum = weights.iter().fold(0.0, |sum, weight| sum + weight);
    Ok(weights.iter().map(|weight| weight / sum).collect())
}

/// The same again, added as numpy adds.
fn normal(weights: &[f64]) -> Vec<f64> {
    let sum = pairwise(weights);
    weights.iter().map(|weight| weight / sum).collect()
}

/// numpy's sum: one by one below 8, in eight running sums up to 128, halved beyond.
fn pairwise(values: &[f64]) -> f64 {
    if values.len() < 8 {
        return values.iter().fold(0.0, |sum, value| sum + value);
    }
    if values.len() > 128 {
        let half = values.len() / 2;
        let (first, second) = values.split_at(half - half % 8);
        return pairwise(first) + pairwise(second);
    }
    let mut sums = [0.0; 8];
    sums.copy_from_slice(&values[..8]);
    let chunks = values[8..].chunks_exact(8);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (sum, value) in sums.iter_mut().zip(chunk) {
            *sum += value;
        }
    }
    let [a, b, c, d, e, f, g, h] = sums;
    let sum = ((a + b) + (c + d)) + ((e + f) + (g + h));
    rest.iter().fold(sum, |sum, value| sum + value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blend_is_megatrons() {
        let blend = Blend::new(&[0.5, 0.3, 0.2], 20).unwrap();
        let found: Vec<(usize, u64)> = (0..20).map(|k| blend.get(k).unwrap()).collect();
        let expected = [
            (0, 0),
            (1, 0),
            (2, 0),
            (0, 1),
            (1, 1),
            (0, 2),
            (2, 1),
            (0, 3),
            (1, 2),
            (0, 4),
            (0, 5),
            (1, 3),
            (2, 2),
            (0, 6),
            (1, 4),
            (0, 7),
            (2, 3),
            (0, 8),
            (1, 5),
            (0, 9),
        ];
        assert_eq!(found, expected);
        assert_eq!((blend.samples(), blend.get(20)), (20, None));
    }

    #[test]
    fn every_dataset_gives_its_samples_in_order_and_as_many_as_its_weight() {
        let weights = [5.0, 1.0, 2.5, 0.01];
        let blend = Blend::new(&weights, 10_000).unwrap();
        let mut next = [0; 4];
        for k in 0..10_000 {
            let (dataset, sample) = blend.get(k).unwrap();
            assert_eq!(sample, next[dataset], "{k}");
            next[dataset] += 1;
        }
        let asked = asked(&weights, 10_000).unwrap();
        for ((given, asked), weight) in next.iter().zip(&asked).zip(weights) {
            assert!(
                (*given as f64 - 10_000.0 * weight / 8.51).abs() <= 1.5,
                "{next:?}"
            );
            assert!(given <= asked, "{next:?} {asked:?}");
        }
        assert_eq!(
            asked[0],
            (10_000.0_f64 * (5.0 / 8.51) * 1.005).ceil() as u64
        );
    }

    #[test]
    fn sums_are_numpys() {
        let values: Vec<f64> = (1..=300).map(|n| 1.0 / f64::from(n)).collect();
        let one_by_one = |values: &[f64]| values.iter().fold(0.0, |sum, value| sum + value);
        assert_eq!(pairwise(&values[..7]), one_by_one(&values[..7]));
        let nine = values[..9].to_vec();
        let [a, b, c, d, e, f, g, h, i] = nine[..] else {
            panic!()
        };
        assert_eq!(
            pairwise(&nine),
            (((a + b) + (c + d)) + ((e + f) + (g + h))) + i
        );
        assert_eq!(
            pairwise(&values),
            pairwise(&values[..144]) + pairwise(&values[144..])
        );
        assert!((pairwise(&values) - one_by_one(&values)).abs() < 1e-13);
    }

    #[test]
    fn a_range_of_documents_is_rounded_as_python_rounds() {
        assert_eq!(documents_between((0.0, 0.95), 10), (0, 10));
        assert_eq!(documents_between((0.25, 0.75), 10), (2, 8));
        assert_eq!(documents_between((0.35, 1.0), 10), (4, 10));
        assert_eq!(documents_between((0.9, 0.1), 10), (9, 9));
    }

    #[test]
    fn what_cannot_be_blended_is_refused() {
        for weights in [
            vec![],
            vec![1.0; 255],
            vec![1.0, 0.0],
            vec![f64::NAN],
            vec![-1.0],
        ] {
            assert!(Blend::new(&weights, 5).is_err(), "{weights:?}");
        }
        assert!(Blend::new(&[1.0], u64::MAX).is_err());
    }
}
