//! Choosing the next token: a pure function of logits, settings and one seed.

/// How to choose.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Logits are divided by it; 0 takes the likeliest token always.
    pub temperature: f64,
    /// Only so many of the likeliest tokens are in the draw; 0 means all.
    pub top_k: usize,
    /// Only the likeliest tokens that together have this probability are in the draw.
    pub top_p: f64,
    /// What the draws are made from.
    pub seed: u64,
}

/// Draws tokens, one after the other.
#[derive(Debug)]
pub struct Chooser {
    how: Sampling,
    state: u64,
}

impl Chooser {
    /// A chooser before its first draw.
    pub const fn new(how: Sampling) -> Self {
        Self {
            how,
            state: how.seed,
        }
    }

    /// The next token. Where two are equally likely, the lower one comes first.
    pub fn choose(&mut self, logits: &[f32]) -> usize {
        let mut order: Vec<usize> = (0..logits.len()).collect();
        let likelier = |a: &usize, b: &usize| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b));
        if self.how.temperature <= 0.0 || self.how.top_k == 1 {
            return order.into_iter().min_by(likelier).unwrap_or_default();
        }
        let kept = match self.how.top_k {
            0 => order.len(),
            most => most.min(order.len()),
        };
        if kept < order.len() {
            order.select_nth_unstable_by(kept, likelier);
            order.truncate(kept);
        }
        order.sort_unstable_by(likelier);
        let Some(&best) = order.first() else { return 0 };
        let weight =
            |at: usize| (f64::from(logits[at] - logits[best]) / self.how.temperature).exp();
        let mut weights: Vec<f64> = order.iter().map(|&at| weight(at)).collect();
        let all: f64 = weights.iter().sum();
        let mut sum = 0.0;
        let nucleus = weights.iter().position(|weight| {
            sum += weight / all;
            sum >= self.how.top_p
        });
        weights.truncate(nucleus.map_or(weights.len(), |last| last + 1));
        let mut left = self.uniform() * weights.iter().sum::<f64>();
        let drawn = weights.iter().position(|weight| {
            left -= weight;
            left < 0.0
        });
        order[drawn.unwrap_or(weights.len() - 1)]
    }

    /// In [0, 1), by SplitMix64.
    fn uniform(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 5] = [1.0, 3.0, 2.0, 3.0, -1.0];

    fn draws(how: Sampling, count: usize) -> Vec<usize> {
        let mut chooser = Chooser::new(how);
        (0..count).map(|_| chooser.choose(&LOGITS)).collect()
    }

    const PLAIN: Sampling = Sampling {
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
        seed: 7,
    };

    #[test]
    fn greedy_takes_the_first_of_the_likeliest() {
        for how in [
            Sampling {
                temperature: 0.0,
                ..PLAIN
            },
            Sampling { top_k: 1, ..PLAIN },
        ] {
            assert_eq!(draws(how, 10), [1; 10]);
        }
    }

    #[test]
    fn draws_follow_the_probabilities_and_the_seed() {
        let all: f64 = LOGITS.iter().map(|l| f64::from(*l).exp()).sum();
        let drawn = draws(PLAIN, 20_000);
        for (token, logit) in LOGITS.iter().enumerate() {
            let wanted = f64::from(*logit).exp() / all;
            let got = drawn.iter().filter(|d| **d == token).count() as f64 / 20_000.0;
            assert!(
                (got - wanted).abs() < 0.015,
                "{token}: {got} and not {wanted}"
            );
        }
        assert_eq!(draws(PLAIN, 50), drawn[..50]);
        assert_ne!(draws(Sampling { seed: 8, ..PLAIN }, 50), drawn[..50]);
    }

    #[test]
    fn what_is_cut_off_is_never_drawn() {
        let seen = |how| {
            draws(how, 3000)
                .into_iter()
                .collect::<std::collections::BTreeSet<_>>()
        };
        assert_eq!(seen(Sampling { top_k: 3, ..PLAIN }), [1, 2, 3].into());
        assert_eq!(seen(Sampling { top_k: 99, ..PLAIN }).len(), 5);
        // Tokens 1 and 3 have 0.40 each, token 2 has 0.15.
        assert_eq!(
            seen(Sampling {
                top_p: 0.3,
                ..PLAIN
            }),
            [1].into()
        );
        assert_eq!(
            seen(Sampling {
                top_p: 0.7,
                ..PLAIN
            }),
            [1, 3].into()
        );
        assert_eq!(
            seen(Sampling {
                top_p: 0.9,
                ..PLAIN
            }),
            [1, 2, 3].into()
        );
        // A low temperature is nearly greedy, a high one nearly even.
        let cold = Sampling {
            temperature: 0.01,
            ..PLAIN
        };
        assert_eq!(seen(cold), [1, 3].into());
        assert_eq!(
            seen(Sampling {
                temperature: 50.0,
                ..PLAIN
            })
            .len(),
            5
        );
    }
}
