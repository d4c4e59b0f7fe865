//! Why something is done: one typed value, rendered once each as sentence, label and remedy.
//!
//! Every acting command carries a cause (S9). Log lines, condition reasons, metric labels and
//! `rebloom run explain` all render this enum, so they cannot disagree.

mod exit;
mod sentence;

pub use exit::Exit;

use crate::flight::{Channel, Phase};
use crate::guard::Samples;
use crate::hang::rules::Breach;
use crate::health::Action;
use crate::id::{NodeId, Rank, RunId, Step};
use crate::ladder::evict::Group;
use crate::replicas::Differs;
use crate::time::Duration;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Why a checkpoint was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unsound {
    /// A file is not there.
    Missing {
        /// Which.
        file: String,
    },
    /// A file is shorter or longer than its manifest says.
    Length {
        /// Which.
        file: String,
        /// Bytes by the manifest.
        expected: u64,
        /// Bytes found.
        found: u64,
    },
    /// A file's bytes do not have the hash that its manifest gives.
    Hash {
        /// Which.
        file: String,
    },
    /// A file cannot be read or understood.
    Unreadable {
        /// Which.
        file: String,
        /// What went wrong.
        error: String,
    },
}

impl fmt::Display for Unsound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { file } => write!(f, "{file} is missing"),
            Self::Length {
                file,
                expected,
                found,
            } => {
                write!(f, "{file} has {found} bytes, its manifest says {expected}")
            }
            Self::Hash { file } => write!(f, "{file} does not match the hash in its manifest"),
            Self::Unreadable { file, error } => write!(f, "{file} cannot be read: {error}"),
        }
    }
}

/// Whose fault a failure is; only the run's own failures spend its budget (S7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Blamed {
    /// The spec, the data or the code of the run.
    Run,
    /// Hardware, operating system, network, storage.
    Infrastructure,
}

/// Why a command was given, an incident opened or a run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// A user submitted the run.
    Submitted,
    /// An admin asked to stop.
    StopRequested,
    /// An admin asked to go on.
    ResumeRequested,
    /// An admin drained a node.
    NodeDrained {
        /// Which.
        node: NodeId,
    },
    /// A node is broken, by its health.
    NodeFaulty {
        /// Which.
        node: NodeId,
        /// The rule that found it.
        rule: String,
        /// What was seen.
        what: String,
        /// What is to be done.
        action: Action,
    },
    /// A node is not to be trusted for a while, by its health.
    NodeQuarantined {
        /// Which.
        node: NodeId,
        /// The rule that found it.
        rule: String,
        /// What was seen.
        what: String,
    },
    /// A rank's process ended.
    RankExited {
        /// Which rank.
        rank: Rank,
        /// Where.
        node: NodeId,
        /// How.
        exit: Exit,
    },
    /// A rank's process could not be started.
    RankNotStarted {
        /// Which rank.
        rank: Rank,
        /// Where.
        node: NodeId,
        /// What went wrong.
        error: String,
    },
    /// A rank reported that it cannot go on.
    RankFailed {
        /// Which rank.
        rank: Rank,
        /// Where.
        node: NodeId,
        /// In which phase.
        phase: Phase,
        /// What went wrong.
        error: String,
        /// Whose fault it is.
        blamed: Blamed,
    },
    /// A phase deadline passed, and blame names one rank.
    RankHung {
        /// Which rank did not arrive.
        rank: Rank,
        /// Where.
        node: NodeId,
        /// In which phase the gang hung.
        phase: Phase,
        /// In which channel the others wait for it, where they do.
        channel: Option<Channel>,
    },
    /// A phase deadline passed, and the pages do not single out a rank.
    GangHung {
        /// In which phase.
        phase: Phase,
        /// The ranks that it may be, where those are few.
        suspects: Vec<Rank>,
        /// The parallel group that all suspects share, where they do.
        group: Option<Group>,
    },
    /// The output of the run broke one of its log rules.
    LogRule {
        /// The rule's name.
        rule: String,
        /// How.
        breach: Breach,
        /// Which rank it speaks against, where it does.
        rank: Option<Rank>,
        /// Where that is.
        node: Option<NodeId>,
    },
    /// A rank is slower than its like, or than it was; training goes on.
    Straggler {
        /// Which rank.
        rank: Rank,
        /// Where.
        node: NodeId,
        /// Its busy time, in percent of the median of its stage.
        relative_percent: u32,
        /// Its busy time, in percent of its own best.
        own_percent: u32,
    },
    /// A step of the whole gang takes longer than it did, and no rank shows why; training goes on.
    Slower {
        /// What a step took.
        before: Duration,
        /// What it takes.
        now: Duration,
    },
    /// The search for what makes the gang slow came down to one node.
    NodeSlow {
        /// Which.
        node: NodeId,
    },
    /// An agent has been silent for too long.
    NodeLost {
        /// Which node.
        node: NodeId,
        /// For how long.
        silent_for: Duration,
    },
    /// An agent came back without ranks that it should have.
    RanksMissing {
        /// Which node.
        node: NodeId,
        /// The lowest of the missing ranks.
        rank: Rank,
    },
    /// A checkpoint failed its verification.
    CheckpointUnsound {
        /// Which step.
        step: Step,
        /// Which rank found it.
        rank: Rank,
        /// What is wrong.
        unsound: Unsound,
    },
    /// A rank's shard of a snapshot was not where it was known to be, or not what it was.
    SnapshotUnsound {
        /// Which step.
        step: Step,
        /// Which rank found it.
        rank: Rank,
        /// What is wrong.
        unsound: Unsound,
    },
    /// A node found one checkpoint after the other unsound, so it is its storage that is not sound.
    StorageMisread {
        /// Which node.
        node: NodeId,
        /// Which of its ranks.
        rank: Rank,
        /// What it found last.
        unsound: Unsound,
    },
    /// A shard or a manifest could not be written; training goes on.
    SaveFailed {
        /// Which step.
        step: Step,
        /// Which rank; none where the manifest failed.
        rank: Option<Rank>,
        /// What went wrong.
        error: String,
    },
    /// The loss or the gradient norm ran away.
    LossSpiked {
        /// In which step.
        step: Step,
        /// The samples in question.
        samples: Samples,
        /// What was seen.
        reading: String,
        /// Whether the run goes back and skips the samples, or trains on.
        rolls_back: bool,
    },
    /// Ranks that must hold the same do not; nothing was saved since they did.
    ReplicasDiffer {
        /// Which tensor, and the odd ranks.
        differs: Differs,
        /// The node of the odd ranks, where it is one.
        node: Option<NodeId>,
    },
    /// No hang came for a while with asynchronous launches off, so they are turned on again.
    CleanSpell {
        /// For how long.
        lasted: Duration,
    },
    /// Hangs keep coming, and asynchronous launches cannot be turned off; beside the hang that it speaks of.
    LaunchesStayAsync {
        /// Why not.
        why: String,
    },
    /// A run that shrank has room for more copies of its model again.
    RoomToGrow {
        /// How many it will have.
        data: u32,
    },
    /// By what was measured, checkpoints at another interval cost so much less that a restart for it pays.
    IntervalOff {
        /// Steps between two checkpoints until now.
        from: u64,
        /// Steps between two from now on.
        to: u64,
    },
    /// A run of a higher priority needs the place.
    Preempted {
        /// Which.
        by: RunId,
    },
    /// An older generation still ran somewhere.
    Superseded,
    /// The run reached its last step.
    Completed,
    /// The run's own restart budget is spent (S7).
    BudgetSpent {
        /// How many restarts it had.
        restarts: u32,
    },
    /// No rung of the ladder led to progress (L4).
    NoProgress {
        /// How many recoveries in a row.
        recoveries: u32,
    },
    /// Spikes came again from the checkpoints that the run went back to, with other samples.
    SpikesRepeat {
        /// Step of the one that it began with last.
        step: Step,
    },
    /// None of the checkpoints of the run can be loaded any more; it is not begun anew by itself.
    NoSoundCheckpoint {
        /// Step of the newest that was ever sealed.
        step: Step,
    },
}

impl Cause {
    /// The stable CamelCase name: condition reason, metric label, heading in docs/operating.md.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Submitted => "Submitted",
            Self::StopRequested => "StopRequested",
            Self::ResumeRequested => "ResumeRequested",
            Self::NodeDrained { .. } => "NodeDrained",
            Self::NodeFaulty { .. } => "NodeFaulty",
            Self::NodeQuarantined { .. } => "NodeQuarantined",
            Self::RankExited { .. } => "RankExited",
            Self::RankNotStarted { .. } => "RankNotStarted",
            Self::RankFailed { .. } => "RankFailed",
            Self::RankHung { .. } => "RankHung",
            Self::GangHung { .. } => "GangHung",
            Self::LogRule { .. } => "LogRule",
            Self::Straggler { .. } => "Straggler",
            Self::Slower { .. } => "Slower",
            Self::NodeSlow { .. } => "NodeSlow",
            Self::NodeLost { .. } => "NodeLost",
            Self::RanksMissing { .. } => "RanksMissing",
            Self::CheckpointUnsound { .. } => "CheckpointUnsound",
            Self::SnapshotUnsound { .. } => "SnapshotUnsound",
            Self::StorageMisread { .. } => "StorageMisread",
            Self::SaveFailed { .. } => "SaveFailed",
            Self::LossSpiked { .. } => "LossSpiked",
            Self::ReplicasDiffer { .. } => "ReplicasDiffer",
            Self::SpikesRepeat { .. } => "SpikesRepeat",
            Self::CleanSpell { .. } => "CleanSpell",
            Self::LaunchesStayAsync { .. } => "LaunchesStayAsync",
            Self::RoomToGrow { .. } => "RoomToGrow",
            Self::IntervalOff { .. } => "IntervalOff",
            Self::Preempted { .. } => "Preempted",
            Self::Superseded => "Superseded",
            Self::Completed => "Completed",
            Self::BudgetSpent { .. } => "BudgetSpent",
            Self::NoProgress { .. } => "NoProgress",
            Self::NoSoundCheckpoint { .. } => "NoSoundCheckpoint",
        }
    }

    /// The node that is at fault, where the cause names one.
    pub const fn node(&self) -> Option<&NodeId> {
        match self {
            Self::NodeDrained { node }
            | Self::NodeFaulty { node, .. }
            | Self::NodeQuarantined { node, .. }
            | Self::RankExited { node, .. }
            | Self::RankNotStarted { node, .. }
            | Self::RankFailed { node, .. }
            | Self::RankHung { node, .. }
            | Self::NodeLost { node, .. }
            | Self::Straggler { node, .. }
            | Self::NodeSlow { node }
            | Self::StorageMisread { node, .. }
            | Self::RanksMissing { node, .. } => Some(node),
            Self::LogRule { node, .. } | Self::ReplicasDiffer { node, .. } => node.as_ref(),
            Self::Submitted
            | Self::StopRequested
            | Self::ResumeRequested
            | Self::GangHung { .. }
            | Self::Slower { .. }
            | Self::CheckpointUnsound { .. }
            | Self::SnapshotUnsound { .. }
            | Self::SaveFailed { .. }
            | Self::LossSpiked { .. }
            | Self::SpikesRepeat { .. }
            | Self::CleanSpell { .. }
            | Self::LaunchesStayAsync { .. }
            | Self::RoomToGrow { .. }
            | Self::IntervalOff { .. }
            | Self::Preempted { .. }
            | Self::Superseded
            | Self::Completed
            | Self::BudgetSpent { .. }
            | Self::NoProgress { .. }
            | Self::NoSoundCheckpoint { .. } => None,
        }
    }

    /// Whether a recovery from this cause that leads to no progress is followed by a higher rung of
    /// the ladder (L4). Exempt are an unsound checkpoint, which is followed by the next older one, a
    /// node that is lost, which does not come back by itself, and what was planned.
    pub const fn climbs(&self) -> bool {
        matches!(
            self,
            Self::RankExited { .. }
                | Self::RankNotStarted { .. }
                | Self::RankFailed {
                    blamed: Blamed::Infrastructure,
                    ..
                }
                | Self::RankHung { .. }
                | Self::GangHung { .. }
                | Self::LogRule { .. }
                | Self::RanksMissing { .. }
                | Self::SaveFailed { .. }
                | Self::ReplicasDiffer { .. }
        )
    }

    /// Whether a recovery from this cause was not planned. Of these a run has only so many before it seals
    /// another checkpoint, whether they climb or not (L4).
    pub const fn is_fault(&self) -> bool {
        self.climbs()
            || self.spends_budget()
            || matches!(
                self,
                Self::NodeLost { .. }
                    | Self::NodeFaulty { .. }
                    | Self::CheckpointUnsound { .. }
                    | Self::SnapshotUnsound { .. }
                    | Self::StorageMisread { .. }
            )
    }

    /// Whether something took too long: then it may be the launches themselves that hang.
    pub const fn is_hang(&self) -> bool {
        if let Self::LogRule { breach, .. } = self {
            return !matches!(breach, Breach::Written { .. });
        }
        matches!(self, Self::RankHung { .. } | Self::GangHung { .. })
    }

    /// The rank whose process does not run as it should though it lives, where the cause names one: it is
    /// killed before the next generation.
    pub const fn stuck(&self) -> Option<Rank> {
        if let Self::RankHung { rank, .. }
        | Self::LogRule {
            rank: Some(rank), ..
        } = self
        {
            Some(*rank)
        } else {
            None
        }
    }

    /// Whether this is what becomes of a rank that is stopped by force; no fault then.
    pub const fn is_an_end(&self) -> bool {
        matches!(
            self,
            Self::RankExited { .. }
                | Self::RankNotStarted { .. }
                | Self::RankFailed { .. }
                | Self::RanksMissing { .. }
        )
    }

    /// Whether this cause spends the run's own restart budget (S7).
    pub const fn spends_budget(&self) -> bool {
        matches!(
            self,
            Self::RankFailed {
                blamed: Blamed::Run,
                ..
            } | Self::LossSpiked {
                rolls_back: true,
                ..
            }
        )
    }
}
