//! The loss guard: whether a step's loss or gradient norm has run away, and which samples are to blame.
//!
//! It looks at the last steps only, and at nothing but their figures, which every rank has alike to
//! the bit: so all ranks of a gang come to the same verdict, and so does the same run when it is
//! repeated. What comes of a verdict is the engine's business.

mod again;

pub use again::{Again, TRIES, again};

use crate::id::Step;
use crate::skips::Skips;
use crate::spec::{Flaws, Train};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::fmt;

/// What is done about a spike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GuardAction {
    /// Nothing; a loss that is not a number fails the run.
    Off,
    /// An incident records it and training goes on; a loss that is not a number fails the run.
    #[default]
    Warn,
    /// The run goes back to the newest checkpoint before the samples in question and skips them.
    RollBack,
}

/// When a loss or a gradient norm counts as a spike, and what is done then.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LossGuard {
    /// What is done.
    pub action: GuardAction,
    /// How many of the last steps are looked at.
    pub window: u32,
    /// How many steps must have been seen before one is judged.
    pub least: u32,
    /// Deviations above the median of the window from which on a loss is a spike.
    pub loss_deviations: f64,
    /// The same for the gradient norm.
    pub norm_deviations: f64,
    /// Steps whose samples are skipped: the one with the spike and those right before it.
    pub skip_steps: u32,
    /// Samples that are never trained on, by their number in the run's order: the user's, and in a
    /// worker's spec also those that a spike cost.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub skip: Vec<Samples>,
}

impl Default for LossGuard {
    fn default() -> Self {
        Self {
            action: GuardAction::Warn,
            window: 128,
            least: 32,
            loss_deviations: 12.0,
            norm_deviations: 30.0,
            skip_steps: 1,
            skip: Vec::new(),
        }
    }
}

/// Largest window: what a checkpoint carries of it stays small.
const LARGEST_WINDOW: u32 = 1024;
/// Most ranges of samples that a spec may name.
const MOST_SKIPS: usize = 10_000;

impl LossGuard {
    pub(crate) fn check(&self, flaws: &mut Flaws) {
        for (field, value, least, most) in [
            (
                "guard.window",
                f64::from(self.window),
                8.0,
                f64::from(LARGEST_WINDOW),
            ),
            (
                "guard.least",
                f64::from(self.least),
                4.0,
                f64::from(self.window),
            ),
            ("guard.loss_deviations", self.loss_deviations, 1.0, 1e6),
            ("guard.norm_deviations", self.norm_deviations, 1.0, 1e6),
            ("guard.skip_steps", f64::from(self.skip_steps), 1.0, 1e6),
        ] {
            flaws.within(field, value, least, most);
        }
        if let Some(empty) = self.skip.iter().find(|skip| skip.from >= skip.until) {
            flaws.add(
                "guard.skip",
                empty.from,
                "is not below its `until`",
                "use from < until",
            );
        }
        if self.skip.len() > MOST_SKIPS {
            let many = self.skip.len();
            flaws.add(
                "guard.skip",
                many,
                "are too many ranges",
                &format!("use at most {MOST_SKIPS}"),
            );
        }
    }

    /// What is passed over.
    pub fn skips(&self) -> Skips {
        let ranges: Vec<_> = self.skip.iter().map(|skip| skip.from..skip.until).collect();
        Skips::from(ranges)
    }
}

/// Samples by their number in the run's order: from the first on, up to and without `until`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Samples {
    /// The first.
    pub from: u64,
    /// The one after the last.
    pub until: u64,
}

impl fmt::Display for Samples {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.from, self.until.saturating_sub(1))
    }
}

/// A figure that ran away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spike {
    /// In which step.
    pub step: Step,
    /// Samples consumed before the first of those in question.
    pub consumed: u64,
    /// What would be skipped for it.
    pub samples: Samples,
    /// What was seen: figure, value, and what was expected.
    pub reading: String,
}

/// Loss and gradient norm of one step.
pub type Figures = (f64, f64);

/// The figures of the last steps.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Guard {
    recent: VecDeque<Figures>,
}

/// A spread below this share of the median is taken for noise.
const FLOOR: f64 = 0.01;
/// From the median absolute deviation to the standard deviation of a normal distribution.
const NORMAL: f64 = 1.4826;

impl Guard {
    /// Goes on from what [`Self::recent`] said.
    pub fn resume(recent: impl IntoIterator<Item = Figures>) -> Self {
        Self {
            recent: recent.into_iter().collect(),
        }
    }

    /// The figures it remembers, oldest first; a checkpoint carries them, so that a resumed run judges
    /// as an undisturbed one would.
    pub fn recent(&self) -> impl Iterator<Item = Figures> + '_ {
        self.recent.iter().copied()
    }

    /// What is wrong with the figures of `step`, if anything is. The samples of a step are those of
    /// `train`, without what `settings` pass over already.
    pub fn judge(
        &self,
        settings: &LossGuard,
        train: &Train,
        step: Step,
        (loss, norm): Figures,
    ) -> Option<Spike> {
        if settings.action == GuardAction::Off {
            return None;
        }
        let reading = self.reading(settings, loss, norm)?;
        let first = step.0.saturating_sub(u64::from(settings.skip_steps));
        let consumed = train.samples_after(first);
        let numbers = settings
            .skips()
            .numbers(consumed..train.samples_after(step.0));
        Some(Spike {
            step,
            consumed,
            samples: Samples {
                from: numbers.start,
                until: numbers.end,
            },
            reading,
        })
    }

    fn reading(&self, settings: &LossGuard, loss: f64, norm: f64) -> Option<String> {
        if !(loss.is_finite() && norm.is_finite()) {
            return Some(format!("a loss of {loss} and a gradient norm of {norm}"));
        }
        if self.recent.len() < settings.least as usize {
            return None;
        }
        for (name, value, most, of) in [
            ("loss", loss, settings.loss_deviations, 0),
            ("gradient norm", norm, settings.norm_deviations, 1),
        ] {
            let values = self
                .recent
                .iter()
                .map(|figures| if of == 0 { figures.0 } else { figures.1 });
            let (median, spread) = robust(values);
            let deviations = (value - median) / spread;
            if deviations > most {
                return Some(format!(
                    "a {name} of {value:.4}, {deviations:.1} deviations above the {median:.4} of the \
                     last {} steps",
                    self.recent.len()
                ));
            }
        }
        None
    }

    /// Remembers the figures of a step that was taken.
    pub fn remember(&mut self, settings: &LossGuard, figures: Figures) {
        if settings.action == GuardAction::Off {
            return;
        }
        self.recent.push_back(figures);
        while self.recent.len() > settings.window as usize {
            self.recent.pop_front();
        }
    }
}

/// Median, and a spread that a few outliers do not change.
fn robust(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let mut values: Vec<_> = values.collect();
    let middle = median(&mut values);
    values
        .iter_mut()
        .for_each(|value| *value = (*value - middle).abs());
    let spread = median(&mut values) * NORMAL;
    (
        middle,
        spread.max(middle.abs() * FLOOR).max(f64::MIN_POSITIVE),
    )
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    match values.len() {
        0 => 0.0,
        even if even.is_multiple_of(2) => f64::midpoint(values[half - 1], values[half]),
        _ => values[half],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Numerics, Optimizer};

    const TRAIN: Train = Train {
        steps: 1000,
        global_batch: 8,
        micro_batch: 1,
        seed: 1,
        optimizer: Optimizer {
            learning_rate: 1.0,
            min_learning_rate: 1.0,
            warmup_samples: 0,
            decay_samples: 0,
            beta1: 0.9,
            beta2: 0.9,
            epsilon: 1e-8,
            weight_decay: 0.0,
            clip: 1.0,
        },
        ramp_up: None,
        numerics: Numerics {
            precision: crate::spec::Precision::Fp32,
            recompute: false,
            hidden_dropout: 0.0,
            attention_dropout: 0.0,
            group_elements: 1,
        },
    };

    fn noise(step: u64) -> f64 {
        (step.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as f64 / (1_u64 << 24) as f64
    }

    /// A loss that falls and flattens, with noise.
    fn figures(step: u64) -> Figures {
        (
            3.0 + 4.0 * (-(step as f64) / 50.0).exp() + 0.1 * noise(step),
            1.0 + 0.3 * noise(step + 7),
        )
    }

    fn after(steps: u64, settings: &LossGuard) -> Guard {
        let mut guard = Guard::default();
        for step in 1..=steps {
            let seen = figures(step);
            assert_eq!(
                guard.judge(settings, &TRAIN, Step(step), seen),
                None,
                "{step}"
            );
            guard.remember(settings, seen);
        }
        guard
    }

    #[test]
    fn a_healthy_run_is_left_alone() {
        after(1000, &LossGuard::default());
    }

    #[test]
    fn a_spike_names_its_samples_and_what_was_seen() {
        let settings = LossGuard {
            skip_steps: 3,
            ..LossGuard::default()
        };
        let guard = after(200, &settings);
        let spike = guard
            .judge(&settings, &TRAIN, Step(201), (6.0, 1.0))
            .unwrap();
        assert_eq!(
            spike.samples,
            Samples {
                from: 198 * 8,
                until: 201 * 8
            }
        );
        assert!(spike.reading.starts_with("a loss of 6.0000"), "{spike:?}");
        let norm = guard
            .judge(&settings, &TRAIN, Step(201), (3.0, 100.0))
            .unwrap();
        assert!(norm.reading.contains("gradient norm of 100"), "{norm:?}");
        assert_eq!(guard.judge(&settings, &TRAIN, Step(201), (0.1, 0.1)), None);
    }

    #[test]
    fn samples_are_named_by_their_numbers_whatever_is_skipped_already() {
        let settings = LossGuard {
            skip: vec![Samples { from: 4, until: 12 }],
            ..LossGuard::default()
        };
        let spike = Guard::default().judge(&settings, &TRAIN, Step(2), (f64::NAN, 1.0));
        let spike = spike.unwrap();
        assert_eq!(spike.consumed, 8);
        assert_eq!(
            spike.samples,
            Samples {
                from: 16,
                until: 24
            }
        );
    }

    #[test]
    fn what_is_not_a_number_is_a_spike_from_the_first_step_on() {
        let settings = LossGuard::default();
        for odd in [(f64::NAN, 1.0), (1.0, f64::INFINITY)] {
            let spike = Guard::default().judge(&settings, &TRAIN, Step(1), odd);
            assert_eq!(spike.unwrap().samples, Samples { from: 0, until: 8 });
        }
        let off = LossGuard {
            action: GuardAction::Off,
            ..settings
        };
        assert_eq!(
            Guard::default().judge(&off, &TRAIN, Step(1), (f64::NAN, 1.0)),
            None
        );
    }

    #[test]
    fn a_resumed_guard_judges_as_one_that_never_stopped() {
        let settings = LossGuard::default();
        let guard = after(150, &settings);
        let resumed = Guard::resume(guard.recent());
        assert_eq!(guard, resumed);
        let few = Guard::resume([(1.0, 1.0)]);
        assert_eq!(few.judge(&settings, &TRAIN, Step(2), (1e9, 1.0)), None);
    }
}
