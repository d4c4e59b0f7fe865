//! Causes: why something is done.

use crate::check::{
    Malformed, code, list_by, maybe_code, nanos, node_id, part, run_id, same_names, text,
};
use crate::wire;
use crate::wire::cause as w;
use crate::wire::{exit, unsound};
use rebloom_core::cause::{Blamed, Cause, Exit, Unsound};
use rebloom_core::guard::{Samples, Spike};
use rebloom_core::id::{Rank, Step};
use rebloom_core::ladder::evict::Group;
use rebloom_core::replicas::Differs;
use rebloom_core::time::Duration;

same_names!(Blamed <=> Blamed { Run, Infrastructure });
same_names!(Group <=> Group { Tensor, Pipeline, Data });

impl From<Samples> for wire::Samples {
    fn from(Samples { from, until }: Samples) -> Self {
        Self { from, until }
    }
}

impl TryFrom<wire::Samples> for Samples {
    type Error = Malformed;
    fn try_from(wire::Samples { from, until }: wire::Samples) -> Result<Self, Malformed> {
        if from >= until {
            return Err(Malformed::new("until", "is not above from"));
        }
        Ok(Self { from, until })
    }
}

impl From<Spike> for wire::Spike {
    fn from(
        Spike {
            step,
            consumed,
            samples,
            reading,
        }: Spike,
    ) -> Self {
        Self {
            step: step.0,
            consumed,
            samples: Some(samples.into()),
            reading,
        }
    }
}

impl TryFrom<wire::Spike> for Spike {
    type Error = Malformed;
    fn try_from(spike: wire::Spike) -> Result<Self, Malformed> {
        Ok(Self {
            step: Step(spike.step),
            consumed: spike.consumed,
            samples: part(spike.samples, "samples")?,
            reading: text(spike.reading, "reading")?,
        })
    }
}

impl From<Differs> for wire::Differs {
    fn from(Differs { tensor, ranks }: Differs) -> Self {
        Self {
            tensor,
            ranks: ranks.into_iter().map(|rank| rank.0).collect(),
        }
    }
}

impl TryFrom<wire::Differs> for Differs {
    type Error = Malformed;
    fn try_from(differs: wire::Differs) -> Result<Self, Malformed> {
        Ok(Self {
            tensor: text(differs.tensor, "tensor")?,
            ranks: list_by(differs.ranks, "ranks", |it| Ok(Rank(it)))?,
        })
    }
}

impl From<Exit> for wire::Exit {
    fn from(exit: Exit) -> Self {
        let how = match exit {
            Exit::Code(code) => exit::How::Code(code),
            Exit::Signal(signal) => exit::How::Signal(signal),
            Exit::Unknown => exit::How::Unknown(wire::Nothing {}),
        };
        Self { how: Some(how) }
    }
}

impl TryFrom<wire::Exit> for Exit {
    type Error = Malformed;
    fn try_from(exit: wire::Exit) -> Result<Self, Malformed> {
        match exit.how.ok_or_else(|| Malformed::missing("how"))? {
            exit::How::Code(code) => Ok(Self::Code(code)),
            exit::How::Signal(signal) => Ok(Self::Signal(signal)),
            exit::How::Unknown(wire::Nothing {}) => Ok(Self::Unknown),
        }
    }
}

impl From<Unsound> for wire::Unsound {
    fn from(unsound: Unsound) -> Self {
        let what = match unsound {
            Unsound::Missing { file } => unsound::What::Missing(file),
            Unsound::Length {
                file,
                expected,
                found,
            } => unsound::What::Length(unsound::Length {
                file,
                expected,
                found,
            }),
            Unsound::Hash { file } => unsound::What::Hash(file),
            Unsound::Unreadable { file, error } => {
                unsound::What::Unreadable(unsound::Unreadable { file, error })
            }
        };
        Self { what: Some(what) }
    }
}

impl TryFrom<wire::Unsound> for Unsound {
    type Error = Malformed;
    fn try_from(unsound: wire::Unsound) -> Result<Self, Malformed> {
        Ok(
            match unsound.what.ok_or_else(|| Malformed::missing("what"))? {
                unsound::What::Missing(file) => Self::Missing {
                    file: text(file, "missing")?,
                },
                unsound::What::Length(unsound::Length {
                    file,
                    expected,
                    found,
                }) => Self::Length {
                    file: text(file, "length.file")?,
                    expected,
                    found,
                },
                unsound::What::Hash(file) => Self::Hash {
                    file: text(file, "hash")?,
                },
                unsound::What::Unreadable(unsound::Unreadable { file, error }) => {
                    Self::Unreadable {
                        file: text(file, "unreadable.file")?,
                        error: text(error, "unreadable.error")?,
                    }
                }
            },
        )
    }
}

impl From<Cause> for wire::Cause {
    fn from(cause: Cause) -> Self {
        use wire::Nothing;
        let kind = match cause {
            Cause::Submitted => w::Kind::Submitted(Nothing {}),
            Cause::StopRequested => w::Kind::StopRequested(Nothing {}),
            Cause::ResumeRequested => w::Kind::ResumeRequested(Nothing {}),
            Cause::Superseded => w::Kind::Superseded(Nothing {}),
            Cause::Preempted { by } => w::Kind::Preempted(w::Preempted { by: by.into() }),
            Cause::Completed => w::Kind::Completed(Nothing {}),
            Cause::NodeDrained { node } => {
                w::Kind::NodeDrained(w::NodeDrained { node: node.into() })
            }
            Cause::NodeFaulty {
                node,
                rule,
                what,
                action,
            } => w::Kind::NodeFaulty(w::NodeFaulty {
                node: node.into(),
                rule,
                what,
                action: wire::Action::from(action).into(),
            }),
            Cause::NodeQuarantined { node, rule, what } => {
                w::Kind::NodeQuarantined(w::NodeQuarantined {
                    node: node.into(),
                    rule,
                    what,
                })
            }
            Cause::RankExited { rank, node, exit } => w::Kind::RankExited(w::RankExited {
                rank: rank.0,
                node: node.into(),
                exit: Some(exit.into()),
            }),
            Cause::RankNotStarted { rank, node, error } => {
                w::Kind::RankNotStarted(w::RankNotStarted {
                    rank: rank.0,
                    node: node.into(),
                    error,
                })
            }
            Cause::RankFailed {
                rank,
                node,
                phase,
                error,
                blamed,
            } => w::Kind::RankFailed(w::RankFailed {
                rank: rank.0,
                node: node.into(),
                phase: wire::Phase::from(phase).into(),
                error,
                blamed: wire::Blamed::from(blamed).into(),
            }),
            Cause::RankHung {
                rank,
                node,
                phase,
                channel,
            } => w::Kind::RankHung(w::RankHung {
                rank: rank.0,
                node: node.into(),
                phase: wire::Phase::from(phase).into(),
                channel: channel.map(|channel| wire::Channel::from(channel).into()),
            }),
            Cause::GangHung {
                phase,
                suspects,
                group,
            } => w::Kind::GangHung(w::GangHung {
                phase: wire::Phase::from(phase).into(),
                suspects: suspects.into_iter().map(|rank| rank.0).collect(),
                group: group.map(|group| wire::Group::from(group).into()),
            }),
            Cause::LogRule {
                rule,
                breach,
                rank,
                node,
            } => w::Kind::LogRule(w::LogRule {
                rule,
                breach: Some(breach.into()),
                rank: rank.map(|rank| rank.0),
                node: node.map(Into::into),
            }),
            Cause::Straggler {
                rank,
                node,
                relative_percent,
                own_percent,
            } => w::Kind::Straggler(w::Straggler {
                rank: rank.0,
                node: node.into(),
                relative_percent,
                own_percent,
            }),
            Cause::Slower { before, now } => w::Kind::Slower(w::Slower {
                before_nanos: nanos(before),
                now_nanos: nanos(now),
            }),
            Cause::NodeSlow { node } => w::Kind::NodeSlow(w::NodeSlow { node: node.into() }),
            Cause::StorageMisread {
                node,
                rank,
                unsound,
            } => w::Kind::StorageMisread(w::StorageMisread {
                node: node.into(),
                rank: rank.0,
                unsound: Some(unsound.into()),
            }),
            Cause::CleanSpell { lasted } => w::Kind::CleanSpell(w::CleanSpell {
                lasted_nanos: nanos(lasted),
            }),
            Cause::RoomToGrow { data } => w::Kind::RoomToGrow(w::RoomToGrow { data }),
            Cause::IntervalOff { from, to } => w::Kind::IntervalOff(w::IntervalOff { from, to }),
            Cause::NodeLost { node, silent_for } => w::Kind::NodeLost(w::NodeLost {
                node: node.into(),
                silent_nanos: nanos(silent_for),
            }),
            Cause::RanksMissing { node, rank } => w::Kind::RanksMissing(w::RanksMissing {
                node: node.into(),
                rank: rank.0,
            }),
            Cause::CheckpointUnsound {
                step,
                rank,
                unsound,
            } => w::Kind::CheckpointUnsound(w::CheckpointUnsound {
                step: step.0,
                rank: rank.0,
                unsound: Some(unsound.into()),
            }),
            Cause::SnapshotUnsound {
                step,
                rank,
                unsound,
            } => w::Kind::SnapshotUnsound(w::SnapshotUnsound {
                step: step.0,
                rank: rank.0,
                unsound: Some(unsound.into()),
            }),
            Cause::SaveFailed { step, rank, error } => w::Kind::SaveFailed(w::SaveFailed {
                step: step.0,
                rank: rank.map(|rank| rank.0),
                error,
            }),
            Cause::LossSpiked {
                step,
                samples,
                reading,
                rolls_back,
            } => w::Kind::LossSpiked(w::LossSpiked {
                step: step.0,
                samples: Some(samples.into()),
                reading,
                rolls_back,
            }),
            Cause::ReplicasDiffer { differs, node } => w::Kind::ReplicasDiffer(w::ReplicasDiffer {
                differs: Some(differs.into()),
                node: node.map(Into::into),
            }),
            Cause::SpikesRepeat { step } => w::Kind::SpikesRepeat(w::SpikesRepeat { step: step.0 }),
            Cause::BudgetSpent { restarts } => w::Kind::BudgetSpent(w::BudgetSpent { restarts }),
            Cause::NoProgress { recoveries } => w::Kind::NoProgress(w::NoProgress { recoveries }),
            Cause::LaunchesStayAsync { why } => {
                w::Kind::LaunchesStayAsync(w::LaunchesStayAsync { why })
            }
            Cause::NoSoundCheckpoint { step } => {
                w::Kind::NoSoundCheckpoint(w::NoSoundCheckpoint { step: step.0 })
            }
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<wire::Cause> for Cause {
    type Error = Malformed;
    fn try_from(cause: wire::Cause) -> Result<Self, Malformed> {
        Ok(
            match cause.kind.ok_or_else(|| Malformed::missing("kind"))? {
                w::Kind::Submitted(wire::Nothing {}) => Self::Submitted,
                w::Kind::StopRequested(wire::Nothing {}) => Self::StopRequested,
                w::Kind::ResumeRequested(wire::Nothing {}) => Self::ResumeRequested,
                w::Kind::Superseded(wire::Nothing {}) => Self::Superseded,
                w::Kind::Preempted(it) => Self::Preempted {
                    by: run_id(it.by, "preempted.by")?,
                },
                w::Kind::Completed(wire::Nothing {}) => Self::Completed,
                w::Kind::NodeDrained(it) => Self::NodeDrained {
                    node: node_id(it.node, "node_drained.node")?,
                },
                w::Kind::NodeFaulty(it) => Self::NodeFaulty {
                    node: node_id(it.node, "node_faulty.node")?,
                    rule: text(it.rule, "node_faulty.rule")?,
                    what: text(it.what, "node_faulty.what")?,
                    action: code::<wire::Action, _>(it.action, "node_faulty.action")?,
                },
                w::Kind::NodeQuarantined(it) => Self::NodeQuarantined {
                    node: node_id(it.node, "node_quarantined.node")?,
                    rule: text(it.rule, "node_quarantined.rule")?,
                    what: text(it.what, "node_quarantined.what")?,
                },
                w::Kind::RankExited(it) => Self::RankExited {
                    rank: Rank(it.rank),
                    node: node_id(it.node, "rank_exited.node")?,
                    exit: part(it.exit, "rank_exited.exit")?,
                },
                w::Kind::RankNotStarted(it) => Self::RankNotStarted {
                    rank: Rank(it.rank),
                    node: node_id(it.node, "rank_not_started.node")?,
                    error: text(it.error, "rank_not_started.error")?,
                },
                w::Kind::RankFailed(it) => Self::RankFailed {
                    rank: Rank(it.rank),
                    node: node_id(it.node, "rank_failed.node")?,
                    phase: code::<wire::Phase, _>(it.phase, "rank_failed.phase")?,
                    error: text(it.error, "rank_failed.error")?,
                    blamed: code::<wire::Blamed, _>(it.blamed, "rank_failed.blamed")?,
                },
                w::Kind::RankHung(it) => Self::RankHung {
                    rank: Rank(it.rank),
                    node: node_id(it.node, "rank_hung.node")?,
                    phase: code::<wire::Phase, _>(it.phase, "rank_hung.phase")?,
                    channel: maybe_code::<wire::Channel, _>(it.channel, "rank_hung.channel")?,
                },
                w::Kind::GangHung(it) => Self::GangHung {
                    phase: code::<wire::Phase, _>(it.phase, "gang_hung.phase")?,
                    suspects: list_by(it.suspects, "gang_hung.suspects", |it| Ok(Rank(it)))?,
                    group: maybe_code::<wire::Group, _>(it.group, "gang_hung.group")?,
                },
                w::Kind::LogRule(it) => {
                    let node = it.node.map(|node| node_id(node, "log_rule.node"));
                    Self::LogRule {
                        rule: text(it.rule, "log_rule.rule")?,
                        breach: part(it.breach, "log_rule.breach")?,
                        rank: it.rank.map(Rank),
                        node: node.transpose()?,
                    }
                }
                w::Kind::Straggler(it) => Self::Straggler {
                    rank: Rank(it.rank),
                    node: node_id(it.node, "straggler.node")?,
                    relative_percent: it.relative_percent,
                    own_percent: it.own_percent,
                },
                w::Kind::Slower(it) => Self::Slower {
                    before: Duration::from_nanos(it.before_nanos),
                    now: Duration::from_nanos(it.now_nanos),
                },
                w::Kind::NodeSlow(it) => Self::NodeSlow {
                    node: node_id(it.node, "node_slow.node")?,
                },
                w::Kind::StorageMisread(it) => Self::StorageMisread {
                    node: node_id(it.node, "storage_misread.node")?,
                    rank: Rank(it.rank),
                    unsound: part(it.unsound, "storage_misread.unsound")?,
                },
                w::Kind::CleanSpell(it) => Self::CleanSpell {
                    lasted: Duration::from_nanos(it.lasted_nanos),
                },
                w::Kind::RoomToGrow(it) => Self::RoomToGrow { data: it.data },
                w::Kind::IntervalOff(it) => Self::IntervalOff {
                    from: it.from,
                    to: it.to,
                },
                w::Kind::NodeLost(it) => Self::NodeLost {
                    node: node_id(it.node, "node_lost.node")?,
                    silent_for: Duration::from_nanos(it.silent_nanos),
                },
                w::Kind::RanksMissing(it) => Self::RanksMissing {
                    node: node_id(it.node, "ranks_missing.node")?,
                    rank: Rank(it.rank),
                },
                w::Kind::CheckpointUnsound(it) => Self::CheckpointUnsound {
                    step: Step(it.step),
                    rank: Rank(it.rank),
                    unsound: part(it.unsound, "checkpoint_unsound.unsound")?,
                },
                w::Kind::SnapshotUnsound(it) => Self::SnapshotUnsound {
                    step: Step(it.step),
                    rank: Rank(it.rank),
                    unsound: part(it.unsound, "snapshot_unsound.unsound")?,
                },
                w::Kind::SaveFailed(it) => Self::SaveFailed {
                    step: Step(it.step),
                    rank: it.rank.map(Rank),
                    error: text(it.error, "save_failed.error")?,
                },
                w::Kind::LossSpiked(it) => Self::LossSpiked {
                    step: Step(it.step),
                    samples: part(it.samples, "loss_spiked.samples")?,
                    reading: text(it.reading, "loss_spiked.reading")?,
                    rolls_back: it.rolls_back,
                },
                w::Kind::ReplicasDiffer(it) => {
                    let node = it.node.map(|node| node_id(node, "replicas_differ.node"));
                    Self::ReplicasDiffer {
                        differs: part(it.differs, "replicas_differ.differs")?,
                        node: node.transpose()?,
                    }
                }
                w::Kind::SpikesRepeat(it) => Self::SpikesRepeat {
                    step: Step(it.step),
                },
                w::Kind::BudgetSpent(it) => Self::BudgetSpent {
                    restarts: it.restarts,
                },
                w::Kind::NoProgress(it) => Self::NoProgress {
                    recoveries: it.recoveries,
                },
                w::Kind::LaunchesStayAsync(it) => Self::LaunchesStayAsync {
                    why: text(it.why, "launches_stay_async.why")?,
                },
                w::Kind::NoSoundCheckpoint(it) => Self::NoSoundCheckpoint {
                    step: Step(it.step),
                },
            },
        )
    }
}
