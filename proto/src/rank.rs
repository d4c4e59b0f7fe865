//! The link between an agent and one of its workers.

use crate::check::{Malformed, code, digest, maybe, maybe_code, part, run_id, text, within};
use crate::wire;
use crate::wire::{to_rank, worker_word};
use rebloom_core::id::{Generation, Rank, Slot, Step};
use rebloom_core::time::Instant;
use rebloom_core::word::{FromWorker, Go, Hello, ToWorker};

/// A word of a worker and its number, which only grows within one life of the worker.
#[derive(Debug, Clone, PartialEq)]
pub struct FromRank {
    /// Its number.
    pub sequence: u64,
    /// What.
    pub word: FromWorker,
}

/// What an agent says to a worker.
#[derive(Debug, Clone, PartialEq)]
pub enum ToRank {
    /// The word of this sequence was taken over.
    Ack(u64),
    /// A word.
    Word(ToWorker),
}

impl From<Go> for wire::Go {
    fn from(
        Go {
            spec,
            generation,
            rank,
            slot,
            resume,
            snapshot,
            evaluated,
        }: Go,
    ) -> Self {
        Self {
            spec: Some(spec.into()),
            generation: generation.0,
            rank: rank.0,
            slot: slot.0,
            resume: resume.map(Into::into),
            snapshot: snapshot.map(|recall| (*recall).into()),
            evaluated: evaluated.map(|step| step.0),
        }
    }
}

impl TryFrom<wire::Go> for Go {
    type Error = Malformed;
    fn try_from(go: wire::Go) -> Result<Self, Malformed> {
        Ok(Self {
            spec: part(go.spec, "spec")?,
            generation: Generation(go.generation),
            rank: Rank(go.rank),
            slot: Slot(go.slot),
            resume: maybe(go.resume, "resume")?,
            snapshot: maybe(go.snapshot, "snapshot")?.map(Box::new),
            evaluated: go.evaluated.map(Step),
        })
    }
}

impl From<ToRank> for wire::ToRank {
    fn from(message: ToRank) -> Self {
        let what = match message {
            ToRank::Ack(sequence) => to_rank::What::Ack(sequence),
            ToRank::Word(ToWorker::Go(go)) => to_rank::What::Go((*go).into()),
            ToRank::Word(ToWorker::Exit) => to_rank::What::Exit(wire::Nothing {}),
            ToRank::Word(ToWorker::Heard(at)) => to_rank::What::HeardNanos(at.as_nanos()),
        };
        Self { what: Some(what) }
    }
}

impl TryFrom<wire::ToRank> for ToRank {
    type Error = Malformed;
    fn try_from(message: wire::ToRank) -> Result<Self, Malformed> {
        Ok(
            match message.what.ok_or_else(|| Malformed::missing("what"))? {
                to_rank::What::Ack(sequence) => Self::Ack(sequence),
                to_rank::What::Go(go) => Self::Word(ToWorker::Go(Box::new(within(go, "go")?))),
                to_rank::What::Exit(wire::Nothing {}) => Self::Word(ToWorker::Exit),
                to_rank::What::HeardNanos(nanos) => {
                    Self::Word(ToWorker::Heard(Instant::from_nanos(nanos)))
                }
            },
        )
    }
}

impl From<FromRank> for wire::FromRank {
    fn from(FromRank { sequence, word }: FromRank) -> Self {
        Self {
            sequence,
            word: Some(word.into()),
        }
    }
}

impl TryFrom<wire::FromRank> for FromRank {
    type Error = Malformed;
    fn try_from(message: wire::FromRank) -> Result<Self, Malformed> {
        Ok(Self {
            sequence: message.sequence,
            word: part(message.word, "word")?,
        })
    }
}

impl From<FromWorker> for wire::WorkerWord {
    fn from(word: FromWorker) -> Self {
        use worker_word as w;
        let what = match word {
            FromWorker::Hello(Hello {
                run,
                rank,
                pid,
                generation,
                milestone,
            }) => w::What::Hello(w::Hello {
                run: run.into(),
                rank: rank.0,
                pid,
                generation: generation.0,
                milestone: wire::Milestone::from(milestone).into(),
            }),
            FromWorker::Reached {
                generation,
                milestone,
                step,
            } => w::What::Reached(w::Reached {
                generation: generation.0,
                milestone: wire::Milestone::from(milestone).into(),
                step: step.0,
            }),
            FromWorker::Saved {
                checkpoint,
                samples,
                shard,
            } => w::What::Saved(w::Saved {
                checkpoint: Some(checkpoint.into()),
                samples,
                shard: Some(shard.into()),
            }),
            FromWorker::Snapped(piece) => w::What::Snapped(piece.into()),
            FromWorker::SaveFailed { checkpoint, error } => w::What::SaveFailed(w::SaveFailed {
                checkpoint: Some(checkpoint.into()),
                error,
            }),
            FromWorker::LoadRefused {
                generation,
                checkpoint,
                unsound,
            } => w::What::LoadRefused(w::LoadRefused {
                generation: generation.0,
                checkpoint: Some(checkpoint.into()),
                unsound: Some(unsound.into()),
            }),
            FromWorker::Failed {
                generation,
                phase,
                error,
                blamed,
            } => w::What::Failed(w::Failed {
                generation: generation.0,
                phase: wire::Phase::from(phase).into(),
                error,
                blamed: blamed.map(|blamed| wire::Blamed::from(blamed).into()),
            }),
            FromWorker::Spiked {
                generation,
                spike,
                goes_on,
            } => w::What::Spiked(w::Spiked {
                generation: generation.0,
                spike: Some(spike.into()),
                goes_on,
            }),
            FromWorker::ReplicasDiffer {
                generation,
                differs,
            } => w::What::ReplicasDiffer(w::ReplicasDiffer {
                generation: generation.0,
                differs: Some(differs.into()),
            }),
            FromWorker::Evaluated {
                generation,
                evaluation,
            } => w::What::Evaluated(w::Evaluated {
                generation: generation.0,
                evaluation: Some(evaluation.into()),
            }),
            FromWorker::Finished {
                generation,
                why,
                step,
                state,
            } => w::What::Finished(w::Finished {
                generation: generation.0,
                why: wire::Finish::from(why).into(),
                step: step.0,
                state: state.0.to_vec(),
            }),
        };
        Self { what: Some(what) }
    }
}

impl TryFrom<wire::WorkerWord> for FromWorker {
    type Error = Malformed;
    fn try_from(word: wire::WorkerWord) -> Result<Self, Malformed> {
        use worker_word::What;
        Ok(match word.what.ok_or_else(|| Malformed::missing("what"))? {
            What::Hello(it) => Self::Hello(Hello {
                run: run_id(it.run, "hello.run")?,
                rank: Rank(it.rank),
                pid: it.pid,
                generation: Generation(it.generation),
                milestone: code::<wire::Milestone, _>(it.milestone, "hello.milestone")?,
            }),
            What::Reached(it) => Self::Reached {
                generation: Generation(it.generation),
                milestone: code::<wire::Milestone, _>(it.milestone, "reached.milestone")?,
                step: Step(it.step),
            },
            What::Saved(it) => Self::Saved {
                checkpoint: part(it.checkpoint, "saved.checkpoint")?,
                samples: it.samples,
                shard: part(it.shard, "saved.shard")?,
            },
            What::Snapped(it) => Self::Snapped(within(it, "snapped")?),
            What::SaveFailed(it) => Self::SaveFailed {
                checkpoint: part(it.checkpoint, "save_failed.checkpoint")?,
                error: text(it.error, "save_failed.error")?,
            },
            What::LoadRefused(it) => Self::LoadRefused {
                generation: Generation(it.generation),
                checkpoint: part(it.checkpoint, "load_refused.checkpoint")?,
                unsound: part(it.unsound, "load_refused.unsound")?,
            },
            What::Failed(it) => Self::Failed {
                generation: Generation(it.generation),
                phase: code::<wire::Phase, _>(it.phase, "failed.phase")?,
                error: text(it.error, "failed.error")?,
                blamed: maybe_code::<wire::Blamed, _>(it.blamed, "failed.blamed")?,
            },
            What::Evaluated(it) => Self::Evaluated {
                generation: Generation(it.generation),
                evaluation: part(it.evaluation, "evaluated.evaluation")?,
            },
            What::ReplicasDiffer(it) => Self::ReplicasDiffer {
                generation: Generation(it.generation),
                differs: part(it.differs, "replicas_differ.differs")?,
            },
            What::Spiked(it) => Self::Spiked {
                generation: Generation(it.generation),
                spike: part(it.spike, "spiked.spike")?,
                goes_on: it.goes_on,
            },
            What::Finished(it) => Self::Finished {
                generation: Generation(it.generation),
                why: code::<wire::Finish, _>(it.why, "finished.why")?,
                step: Step(it.step),
                state: digest(&it.state, "finished.state")?,
            },
        })
    }
}
