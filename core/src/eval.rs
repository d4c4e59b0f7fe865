//! Evaluation while a run trains: on what, how often, and what came of it.
//!
//! A run's own evaluations and `rebloom eval` cut held-out documents into the same samples and add up the
//! same sums, so their figures can be set side by side. Nothing is read or computed here.

use crate::id::Step;
use crate::spec::Flaws;
use serde::{Deserialize, Serialize};

/// When a run is evaluated, and on what it was not trained on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Eval {
    /// Optimizer steps between two evaluations; the last step is followed by one as well.
    pub every_steps: u64,
    /// Most samples of each set in one evaluation, the first ones of its documents.
    #[serde(default = "default_samples")]
    pub samples: u32,
    /// Each is scored by itself.
    pub sets: Vec<EvalSet>,
}

/// Documents that are scored together: a language, or a source.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvalSet {
    /// What its figures are called.
    pub name: String,
    /// Path of a Megatron indexed dataset without its `.bin` / `.idx`, as the nodes see it.
    pub prefix: String,
    /// The shares of its documents between which it is used; all where it is left out.
    #[serde(default = "all_documents")]
    pub documents: [f64; 2],
}

const fn default_samples() -> u32 {
    256
}

const fn all_documents() -> [f64; 2] {
    [0.0, 1.0]
}

/// Most sets of a run.
const MOST_SETS: usize = 256;

impl Eval {
    /// Whether a run of `steps` steps is evaluated after this one.
    pub const fn is_due(&self, step: Step, steps: u64) -> bool {
        step.0 > 0 && (step.0 >= steps || step.0.is_multiple_of(self.every_steps))
    }

    pub(crate) fn check(&self, flaws: &mut Flaws) {
        flaws.whole("eval.every_steps", self.every_steps, 1_000_000_000);
        flaws.whole("eval.samples", self.samples.into(), 1_000_000);
        if self.sets.is_empty() || self.sets.len() > MOST_SETS {
            let remedy = format!("name 1 to {MOST_SETS}");
            flaws.add(
                "eval.sets",
                self.sets.len(),
                "sets are too few or too many",
                &remedy,
            );
        }
        for (at, set) in self.sets.iter().enumerate().take(MOST_SETS) {
            let field = |name: &str| format!("eval.sets[{at}].{name}");
            if set.name.is_empty() || set.name.len() > 63 {
                let value = format!("`{}`", set.name);
                flaws.add(
                    &field("name"),
                    value,
                    "is empty or too long",
                    "use 1 to 63 bytes",
                );
            } else if self.sets[..at].iter().any(|other| other.name == set.name) {
                let value = format!("`{}`", set.name);
                flaws.add(
                    &field("name"),
                    value,
                    "is there twice",
                    "give each set its own name",
                );
            }
            flaws.path(&field("prefix"), &set.prefix);
            flaws.shares(&field("documents"), set.documents);
        }
    }
}

/// How well the text of one set is predicted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// Which set.
    pub set: String,
    /// Documents it is of, the last one perhaps in part.
    pub documents: u64,
    /// Bytes of their text, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Tokens that were predicted.
    pub tokens: u64,
    /// Cross-entropy of all of them together, in nats.
    pub nats: f64,
}

impl Score {
    /// Mean cross-entropy, in nats per token: the loss of training.
    pub fn loss(&self) -> f64 {
        self.nats / self.tokens as f64
    }

    /// Perplexity per token.
    pub fn perplexity(&self) -> f64 {
        self.loss().exp()
    }

    /// Bits per byte of text: comparable between tokenizers.
    pub fn bits_per_byte(&self) -> Option<f64> {
        let bits = self.nats / std::f64::consts::LN_2;
        self.bytes.map(|bytes| bits / bytes as f64)
    }

    /// All of them as if they were one set; none where there are none.
    pub fn of_all<'a>(scores: impl IntoIterator<Item = &'a Self>) -> Option<Self> {
        let add = |all: Self, one: Self| Self {
            set: all.set,
            documents: all.documents + one.documents,
            bytes: all.bytes.zip(one.bytes).map(|(a, b)| a + b),
            tokens: all.tokens + one.tokens,
            nats: all.nats + one.nats,
        };
        let all = scores.into_iter().cloned().reduce(add)?;
        let set = "all".to_owned();
        Some(Self { set, ..all })
    }
}

/// What one evaluation of a run gave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Steps done by then.
    pub step: Step,
    /// Samples consumed by then.
    pub samples: u64,
    /// One of each set, in the order of the spec.
    pub scores: Vec<Score>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_evaluation_follows_every_so_many_steps_and_the_last() {
        let eval = Eval {
            every_steps: 4,
            samples: 1,
            sets: Vec::new(),
        };
        let due: Vec<_> = (0..=10)
            .filter(|&step| eval.is_due(Step(step), 10))
            .collect();
        assert_eq!(due, [4, 8, 10]);
    }

    #[test]
    fn scores_add_up_and_know_what_they_do_not_know() {
        let score = |set: &str, bytes, tokens, nats| Score {
            set: set.to_owned(),
            documents: 1,
            bytes,
            tokens,
            nats,
        };
        let (fr, sw) = (score("fr", Some(8), 4, 2.0), score("sw", Some(2), 1, 3.0));
        assert!((fr.perplexity() - 0.5_f64.exp()).abs() < 1e-12);
        assert!((fr.bits_per_byte().unwrap() - 0.25 / std::f64::consts::LN_2).abs() < 1e-12);
        let both = Score::of_all([&fr, &sw]).unwrap();
        assert_eq!(
            (both.set.as_str(), both.bytes, both.tokens),
            ("all", Some(10), 5)
        );
        assert!((both.loss() - 1.0).abs() < 1e-12);
        let unknown = Score::of_all([&fr, &score("xx", None, 1, 1.0)]).unwrap();
        assert_eq!(unknown.bits_per_byte(), None);
        assert_eq!(Score::of_all([]), None);
    }
}
