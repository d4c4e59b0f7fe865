//! Evaluations: when a run is evaluated, and what that gave.

use crate::check::{Malformed, list, part, text};
use crate::wire;
use crate::wire::eval_spec;
use rebloom_core::eval::{Eval, EvalSet, Evaluation, Score};
use rebloom_core::id::Step;
use rebloom_core::time::Instant;

impl From<Eval> for wire::EvalSpec {
    fn from(
        Eval {
            every_steps,
            samples,
            sets,
        }: Eval,
    ) -> Self {
        Self {
            every_steps,
            samples,
            sets: sets.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<wire::EvalSpec> for Eval {
    type Error = Malformed;
    fn try_from(eval: wire::EvalSpec) -> Result<Self, Malformed> {
        Ok(Self {
            every_steps: eval.every_steps,
            samples: eval.samples,
            sets: list(eval.sets, "sets")?,
        })
    }
}

impl From<EvalSet> for eval_spec::Set {
    fn from(
        EvalSet {
            name,
            prefix,
            documents: [documents_from, documents_to],
        }: EvalSet,
    ) -> Self {
        Self {
            name,
            prefix,
            documents_from,
            documents_to,
        }
    }
}

impl TryFrom<eval_spec::Set> for EvalSet {
    type Error = Malformed;
    fn try_from(set: eval_spec::Set) -> Result<Self, Malformed> {
        Ok(Self {
            name: text(set.name, "name")?,
            prefix: text(set.prefix, "prefix")?,
            documents: [set.documents_from, set.documents_to],
        })
    }
}

impl From<Score> for wire::Score {
    fn from(
        Score {
            set,
            documents,
            bytes,
            tokens,
            nats,
        }: Score,
    ) -> Self {
        Self {
            set,
            documents,
            bytes,
            tokens,
            nats,
        }
    }
}

impl TryFrom<wire::Score> for Score {
    type Error = Malformed;
    fn try_from(score: wire::Score) -> Result<Self, Malformed> {
        // The journal's format knows no other numbers.
        if !score.nats.is_finite() {
            return Err(Malformed::new("nats", "is no finite number"));
        }
        Ok(Self {
            set: text(score.set, "set")?,
            documents: score.documents,
            bytes: score.bytes,
            tokens: score.tokens,
            nats: score.nats,
        })
    }
}

impl From<Evaluation> for wire::Evaluation {
    fn from(
        Evaluation {
            step,
            samples,
            scores,
        }: Evaluation,
    ) -> Self {
        Self {
            step: step.0,
            samples,
            scores: scores.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<wire::Evaluation> for Evaluation {
    type Error = Malformed;
    fn try_from(evaluation: wire::Evaluation) -> Result<Self, Malformed> {
        Ok(Self {
            step: Step(evaluation.step),
            samples: evaluation.samples,
            scores: list(evaluation.scores, "scores")?,
        })
    }
}

impl From<(Instant, Evaluation)> for wire::Evaluated {
    fn from((at, evaluation): (Instant, Evaluation)) -> Self {
        Self {
            at: at.as_nanos(),
            evaluation: Some(evaluation.into()),
        }
    }
}

pub(crate) fn evaluated(it: wire::Evaluated) -> Result<(Instant, Evaluation), Malformed> {
    let evaluation = part(it.evaluation, "evaluation")?;
    Ok((Instant::from_nanos(it.at), evaluation))
}
