//! What an agent says of its node: joins, beats, reports.

use crate::check::{
    Malformed, code, digest, list, node_id, part, run_id, same_names, text, within,
};
use crate::wire;
use crate::wire::{rank_event, report};
use rebloom_core::id::{Generation, Rank, Step};
use rebloom_core::report::{
    Beat, Finish, Join, Milestone, Pages, RankEvent, RankStatus, Remembered, Report,
};

same_names!(Milestone <=> Milestone { Going, Formed, Loaded, Stepped, Finished });
same_names!(Finish <=> Finish { Completed, Stopped });

impl From<RankStatus> for wire::RankStatus {
    fn from(
        RankStatus {
            rank,
            pid,
            generation,
            milestone,
        }: RankStatus,
    ) -> Self {
        Self {
            rank: rank.0,
            pid,
            generation: generation.0,
            milestone: wire::Milestone::from(milestone).into(),
        }
    }
}

impl TryFrom<wire::RankStatus> for RankStatus {
    type Error = Malformed;
    fn try_from(status: wire::RankStatus) -> Result<Self, Malformed> {
        Ok(Self {
            rank: Rank(status.rank),
            pid: status.pid,
            generation: Generation(status.generation),
            milestone: code::<wire::Milestone, _>(status.milestone, "milestone")?,
        })
    }
}

impl From<Remembered> for wire::Remembered {
    fn from(
        Remembered {
            run,
            generation,
            ranks,
            sealed,
            snapshots,
        }: Remembered,
    ) -> Self {
        Self {
            run: run.into(),
            generation: generation.0,
            ranks: ranks.into_iter().map(Into::into).collect(),
            sealed: sealed.into_iter().map(Into::into).collect(),
            snapshots: snapshots.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<wire::Remembered> for Remembered {
    type Error = Malformed;
    fn try_from(remembered: wire::Remembered) -> Result<Self, Malformed> {
        if remembered.sealed.len() > 16 {
            return Err(Malformed::new("sealed", "has more than 16 entries"));
        }
        Ok(Self {
            run: run_id(remembered.run, "run")?,
            generation: Generation(remembered.generation),
            ranks: list(remembered.ranks, "ranks")?,
            sealed: list(remembered.sealed, "sealed")?,
            snapshots: list(remembered.snapshots, "snapshots")?,
        })
    }
}

impl From<Join> for wire::Join {
    fn from(Join { facts, runs }: Join) -> Self {
        Self {
            facts: Some(facts.into()),
            runs: runs.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<wire::Join> for Join {
    type Error = Malformed;
    fn try_from(join: wire::Join) -> Result<Self, Malformed> {
        Ok(Self {
            facts: part(join.facts, "facts")?,
            runs: list(join.runs, "runs")?,
        })
    }
}

impl From<Pages> for wire::Pages {
    fn from(
        Pages {
            run,
            sightings,
            matches,
        }: Pages,
    ) -> Self {
        Self {
            run: run.into(),
            sightings: sightings.into_iter().map(Into::into).collect(),
            matches: matches.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<wire::Pages> for Pages {
    type Error = Malformed;
    fn try_from(pages: wire::Pages) -> Result<Self, Malformed> {
        Ok(Self {
            run: run_id(pages.run, "run")?,
            sightings: list(pages.sightings, "sightings")?,
            matches: list(pages.matches, "matches")?,
        })
    }
}

impl From<Beat> for wire::Beat {
    fn from(Beat { pages }: Beat) -> Self {
        Self {
            pages: pages.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<wire::Beat> for Beat {
    type Error = Malformed;
    fn try_from(beat: wire::Beat) -> Result<Self, Malformed> {
        Ok(Self {
            pages: list(beat.pages, "pages")?,
        })
    }
}

impl From<RankEvent> for wire::RankEvent {
    fn from(event: RankEvent) -> Self {
        use rank_event as w;
        let overdue_step = if let RankEvent::Overdue { step, .. } = &event {
            step.map(|step| step.0)
        } else {
            None
        };
        let what = match event {
            RankEvent::Reached {
                milestone,
                step,
                pid,
            } => w::What::Reached(w::Reached {
                milestone: wire::Milestone::from(milestone).into(),
                step: step.0,
                pid,
            }),
            RankEvent::Finished { why, step, state } => w::What::Finished(w::Finished {
                why: wire::Finish::from(why).into(),
                step: step.0,
                state: state.0.to_vec(),
            }),
            RankEvent::Exited {
                exit,
                noticed_after_nanos,
            } => w::What::Exited(w::Exited {
                exit: Some(exit.into()),
                noticed_after_nanos,
            }),
            RankEvent::NotStarted { error } => w::What::NotStarted(error),
            RankEvent::Failed {
                phase,
                error,
                blamed,
            } => w::What::Failed(w::Failed {
                phase: wire::Phase::from(phase).into(),
                error,
                blamed: wire::Blamed::from(blamed).into(),
            }),
            RankEvent::PeerLost { phase, error } => w::What::PeerLost(w::PeerLost {
                phase: wire::Phase::from(phase).into(),
                error,
            }),
            RankEvent::LoadRefused {
                checkpoint,
                unsound,
            } => w::What::LoadRefused(w::LoadRefused {
                checkpoint: Some(checkpoint.into()),
                unsound: Some(unsound.into()),
            }),
            RankEvent::Evaluated(evaluation) => w::What::Evaluated(evaluation.into()),
            RankEvent::ReplicasDiffer(differs) => w::What::ReplicasDiffer(differs.into()),
            RankEvent::Spiked { spike, goes_on } => w::What::Spiked(w::Spiked {
                spike: Some(spike.into()),
                goes_on,
            }),
            RankEvent::RuleBroken { rule, line } => {
                w::What::RuleBroken(w::RuleBroken { rule, line })
            }
            RankEvent::Overdue { phase, step: _ } => {
                w::What::Overdue(wire::Phase::from(phase).into())
            }
        };
        Self {
            what: Some(what),
            overdue_step,
        }
    }
}

impl TryFrom<wire::RankEvent> for RankEvent {
    type Error = Malformed;
    fn try_from(event: wire::RankEvent) -> Result<Self, Malformed> {
        use rank_event::What;
        Ok(
            match event.what.ok_or_else(|| Malformed::missing("what"))? {
                What::Reached(it) => Self::Reached {
                    milestone: code::<wire::Milestone, _>(it.milestone, "reached.milestone")?,
                    step: Step(it.step),
                    pid: it.pid,
                },
                What::Finished(it) => Self::Finished {
                    why: code::<wire::Finish, _>(it.why, "finished.why")?,
                    step: Step(it.step),
                    state: digest(&it.state, "finished.state")?,
                },
                What::Exited(it) => Self::Exited {
                    exit: part(it.exit, "exited.exit")?,
                    noticed_after_nanos: it.noticed_after_nanos,
                },
                What::NotStarted(error) => Self::NotStarted {
                    error: text(error, "not_started")?,
                },
                What::Failed(it) => Self::Failed {
                    phase: code::<wire::Phase, _>(it.phase, "failed.phase")?,
                    error: text(it.error, "failed.error")?,
                    blamed: code::<wire::Blamed, _>(it.blamed, "failed.blamed")?,
                },
                What::PeerLost(it) => Self::PeerLost {
                    phase: code::<wire::Phase, _>(it.phase, "peer_lost.phase")?,
                    error: text(it.error, "peer_lost.error")?,
                },
                What::LoadRefused(it) => Self::LoadRefused {
                    checkpoint: part(it.checkpoint, "load_refused.checkpoint")?,
                    unsound: part(it.unsound, "load_refused.unsound")?,
                },
                What::Evaluated(it) => Self::Evaluated(within(it, "evaluated")?),
                What::ReplicasDiffer(it) => Self::ReplicasDiffer(within(it, "replicas_differ")?),
                What::Spiked(it) => Self::Spiked {
                    spike: part(it.spike, "spiked.spike")?,
                    goes_on: it.goes_on,
                },
                What::RuleBroken(it) => Self::RuleBroken {
                    rule: text(it.rule, "rule_broken.rule")?,
                    line: text(it.line, "rule_broken.line")?,
                },
                What::Overdue(phase) => Self::Overdue {
                    phase: code::<wire::Phase, _>(phase, "overdue")?,
                    step: event.overdue_step.map(Step),
                },
            },
        )
    }
}

impl From<Report> for wire::Report {
    fn from(value: Report) -> Self {
        use report as w;
        let what = match value {
            Report::Rank {
                run,
                generation,
                rank,
                event,
            } => w::What::Rank(w::OfRank {
                run: run.into(),
                generation: generation.0,
                rank: rank.0,
                event: Some(event.into()),
            }),
            Report::ShardSaved {
                run,
                checkpoint,
                samples,
                shard,
            } => w::What::ShardSaved(w::ShardSaved {
                run: run.into(),
                checkpoint: Some(checkpoint.into()),
                samples,
                shard: Some(shard.into()),
            }),
            Report::ShardFailed {
                run,
                checkpoint,
                rank,
                error,
            } => w::What::ShardFailed(w::ShardFailed {
                run: run.into(),
                checkpoint: Some(checkpoint.into()),
                rank: rank.0,
                error,
            }),
            Report::SnapshotHeld { run, piece, at } => w::What::SnapshotHeld(w::SnapshotHeld {
                run: run.into(),
                piece: Some(piece.into()),
                at: at.into(),
            }),
            Report::Sealed {
                run,
                checkpoint,
                error,
            } => w::What::Sealed(w::Sealed {
                run: run.into(),
                checkpoint: Some(checkpoint.into()),
                error,
            }),
            Report::Stopped { run, generation } => w::What::Stopped(w::Stopped {
                run: run.into(),
                generation: generation.0,
            }),
            Report::Signal { signal } => w::What::Signal(signal.into()),
        };
        Self { what: Some(what) }
    }
}

impl TryFrom<wire::Report> for Report {
    type Error = Malformed;
    fn try_from(value: wire::Report) -> Result<Self, Malformed> {
        use report::What;
        Ok(
            match value.what.ok_or_else(|| Malformed::missing("what"))? {
                What::Rank(it) => Self::Rank {
                    run: run_id(it.run, "rank.run")?,
                    generation: Generation(it.generation),
                    rank: Rank(it.rank),
                    event: part(it.event, "rank.event")?,
                },
                What::ShardSaved(it) => Self::ShardSaved {
                    run: run_id(it.run, "shard_saved.run")?,
                    checkpoint: part(it.checkpoint, "shard_saved.checkpoint")?,
                    samples: it.samples,
                    shard: part(it.shard, "shard_saved.shard")?,
                },
                What::ShardFailed(it) => Self::ShardFailed {
                    run: run_id(it.run, "shard_failed.run")?,
                    checkpoint: part(it.checkpoint, "shard_failed.checkpoint")?,
                    rank: Rank(it.rank),
                    error: text(it.error, "shard_failed.error")?,
                },
                What::SnapshotHeld(it) => Self::SnapshotHeld {
                    run: run_id(it.run, "snapshot_held.run")?,
                    piece: part(it.piece, "snapshot_held.piece")?,
                    at: node_id(it.at, "snapshot_held.at")?,
                },
                What::Sealed(it) => Self::Sealed {
                    run: run_id(it.run, "sealed.run")?,
                    checkpoint: part(it.checkpoint, "sealed.checkpoint")?,
                    error: it
                        .error
                        .map(|error| text(error, "sealed.error"))
                        .transpose()?,
                },
                What::Stopped(it) => Self::Stopped {
                    run: run_id(it.run, "stopped.run")?,
                    generation: Generation(it.generation),
                },
                What::Signal(signal) => Self::Signal {
                    signal: within(signal, "signal")?,
                },
            },
        )
    }
}
