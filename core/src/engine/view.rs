//! What the engine shows of its state: the source of the admin API, the live view and the metrics.

use super::Seating;
use crate::cause::Cause;
use crate::checkpoint::CheckpointId;
use crate::eval::Evaluation;
use crate::flight::Phase;
use crate::flops::{self, Flops};
use crate::footprint::Tariff;
use crate::health::fleet::Tally;
use crate::health::{Finding, Mode, Verdict};
use crate::id::{Digest, Generation, IncidentId, NodeId, Rank, RunId, Step};
use crate::ladder::Rung;
use crate::report::Milestone;
use crate::snapshot::Tier;
use crate::spec::RunSpec;
use crate::time::{Duration, Instant};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Where a run stands.
///
/// | from | to | when |
/// |---|---|---|
/// | Pending | Starting | its gang is placed |
/// | Starting | Running | every rank has stepped |
/// | Running | Recovering | a fault, a drain |
/// | Recovering | Running | every rank has stepped again |
/// | Starting, Recovering | Pending | no room for the gang |
/// | any of these | Stopping | an admin asked |
/// | Stopping | Stopped | every rank is gone |
/// | Starting, Running, Recovering | Completed | every rank finished the last step |
/// | Starting, Running, Recovering | Failed | its own restart budget is spent (S7) |
/// | Starting, Running, Recovering | Parked | no rung led to progress (L4) |
/// | Stopped, Failed, Parked | Pending | an admin resumed it |
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// Waits for room.
    Pending,
    /// Placed; its first generation, or the first after a resume, comes up.
    Starting,
    /// Trains.
    Running,
    /// A fault is being recovered from.
    Recovering,
    /// Comes to a stop.
    Stopping,
    /// Stopped by an admin; can be resumed.
    Stopped,
    /// Done.
    Completed,
    /// Failed by its own fault; can be resumed by an admin.
    Failed,
    /// Parked with its evidence: recoveries led nowhere; can be resumed by an admin.
    Parked,
}

impl RunState {
    /// The CamelCase name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Starting => "Starting",
            Self::Running => "Running",
            Self::Recovering => "Recovering",
            Self::Stopping => "Stopping",
            Self::Stopped => "Stopped",
            Self::Completed => "Completed",
            Self::Failed => "Failed",
            Self::Parked => "Parked",
        }
    }
}

impl fmt::Display for RunState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What the cluster makes of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// Joined and usable.
    Ready,
    /// Its link broke or it is silent; not lost yet.
    Unreachable,
    /// Lost: its ranks were given up.
    Lost,
}

/// What a second of a run was spent on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Spend {
    /// Waiting for its turn, or stopped by an admin.
    Waiting,
    /// Waiting for room to go on with after a fault, or given up until an admin resumes it.
    Stalled,
    /// Placing and starting the first generation, or the first after a resume.
    Starting,
    /// Steps that were kept.
    Productive,
    /// From the fault to the engine hearing of it.
    Detect,
    /// From there to the orders being out.
    Decide,
    /// From there to every group being formed.
    Reform,
    /// From there to every state being loaded.
    Restore,
    /// From there to the step at which the fault came.
    CatchUp,
}

impl Spend {
    /// Its name in tables and charts.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Stalled => "stalled",
            Self::Starting => "starting",
            Self::Productive => "productive",
            Self::Detect => "detect",
            Self::Decide => "decide",
            Self::Reform => "re-form",
            Self::Restore => "restore",
            Self::CatchUp => "catch up",
        }
    }

    /// Whether the run holds devices meanwhile.
    pub const fn holds_devices(self) -> bool {
        !matches!(self, Self::Waiting | Self::Stalled)
    }
}

/// The account of a run's wall clock: every nanosecond is in exactly one entry.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Ledger {
    /// Time by what it was spent on.
    pub spent: std::collections::BTreeMap<Spend, Duration>,
    /// Time of all devices of the gang together, by what it was spent on; a run that waits holds none.
    #[serde(default)]
    pub devices: std::collections::BTreeMap<Spend, Duration>,
    /// Steps that were done before a fault and done again, of all incidents that there ever were.
    #[serde(default)]
    pub lost_steps: u64,
}

impl Ledger {
    /// Time of all devices together.
    pub fn device_time(&self) -> Duration {
        self.devices.values().sum()
    }

    /// All time in which it held devices.
    pub fn ran(&self) -> Duration {
        self.sum(|spend| spend.holds_devices())
    }

    /// Effective training time ratio: productive time by wall time; none before any. Waiting for its turn,
    /// or stopped by an admin, is no time of the run's; having nowhere to go on after a fault is.
    pub fn ettr(&self) -> Option<f64> {
        let wall = self.sum(|spend| spend != Spend::Waiting);
        let productive = self.sum(|spend| spend == Spend::Productive);
        (!wall.is_zero()).then(|| productive.as_secs_f64() / wall.as_secs_f64())
    }

    fn sum(&self, counts: impl Fn(Spend) -> bool) -> Duration {
        let spent = self.spent.iter().filter(|(spend, _)| counts(**spend));
        spent.map(|(_, time)| *time).sum()
    }
}

/// Our record of one fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incident {
    /// Number within its run.
    pub id: IncidentId,
    /// What broke.
    pub cause: Cause,
    /// What else was seen while it was open: further causes, in order.
    pub evidence: Vec<Cause>,
    /// When the engine heard of it.
    pub opened: Instant,
    /// When the run had caught up; for an incident that did not stop it, when it was recorded.
    pub closed: Option<Instant>,
    /// What was done; none for an incident that did not stop the run.
    pub rung: Option<Rung>,
    /// The generation it broke.
    pub generation: Generation,
    /// The generation that recovered from it.
    pub recovered_by: Option<Generation>,
    /// The checkpoint or snapshot that was resumed from; none means step 0.
    pub resumed_from: Option<CheckpointId>,
    /// Where that lay.
    #[serde(default)]
    pub tier: Tier,
    /// Steps done when it broke and done again.
    pub lost_steps: u64,
    /// Its part of the ledger: detect, decide, re-form, restore, catch up.
    pub spent: Ledger,
}

/// What there is to see of a run's snapshots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotView {
    /// The newest that is sealed.
    pub newest: Option<CheckpointId>,
    /// On how many nodes each of its shards lies, at least.
    pub copies: u32,
    /// Why replicas are not as safe as they could be; empty where they are.
    pub note: String,
}

/// Whether a checkpoint can be resumed from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckpointState {
    /// Complete on all ranks and verified.
    Sealed,
    /// Failed its verification; never resumed from.
    Rejected,
}

/// One rank of a run, now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RankView {
    /// Where it is.
    pub seating: Seating,
    /// Its process, once known.
    pub pid: Option<u32>,
    /// How far it has come in this generation.
    pub milestone: Option<Milestone>,
    /// Its phase by its last page.
    pub phase: Option<Phase>,
    /// Its step by its last page.
    pub step: Option<Step>,
}

/// A change of a run's state that no incident made: its turn came, it was stopped, resumed, preempted, placed anew for
/// a planned restart, or it ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transition {
    /// When.
    pub at: Instant,
    /// To which state.
    pub state: RunState,
    /// Why.
    pub why: Cause,
}

/// How training stood at a checkpoint, or at the end.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Milepost {
    /// When.
    pub at: Instant,
    /// Steps done.
    pub step: Step,
    /// Loss of that step, in nats per token.
    pub loss: f32,
    /// Gradient norm of that step, where one is known.
    pub grad_norm: Option<f32>,
}

/// One run, now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunView {
    /// What was submitted.
    pub spec: RunSpec,
    /// Where it stands.
    pub state: RunState,
    /// Why it is in that state.
    pub why: Cause,
    /// Why it waits, in a sentence; empty unless pending.
    pub waits_for: String,
    /// The generation in force; 0 before the first.
    pub generation: Generation,
    /// Its ranks; empty unless placed.
    pub ranks: Vec<RankView>,
    /// Steps done, by the pages.
    pub step: Step,
    /// Samples consumed, by the pages.
    pub samples: u64,
    /// Loss of the last step, where one is known.
    pub loss: Option<f32>,
    /// Gradient norm of the last step, where one is known.
    pub grad_norm: Option<f32>,
    /// Time of the last step, where one is known.
    pub step_time: Option<Duration>,
    /// Its checkpoints, newest first.
    pub checkpoints: Vec<(CheckpointId, CheckpointState)>,
    /// Its snapshots in memory; none where it takes none.
    #[serde(default)]
    pub snapshot: Option<SnapshotView>,
    /// Its incidents, oldest first.
    pub incidents: Vec<Incident>,
    /// Where its time went, up to now.
    pub ledger: Ledger,
    /// ETTR of the last hour; none where it did nothing but wait in it.
    pub ettr_hour: Option<f64>,
    /// What an hour of one of its devices costs.
    pub tariff: Tariff,
    /// The name of the first of its devices, the others being alike; none where they have none.
    #[serde(default)]
    pub device: Option<String>,
    /// How its state changed beside its incidents, oldest first; of many the newest.
    #[serde(default)]
    pub transitions: Vec<Transition>,
    /// How training stood at its checkpoints, oldest first, thinned out where there are many.
    pub mileposts: Vec<Milepost>,
    /// What its evaluations gave, oldest first, thinned out where there are many.
    #[serde(default)]
    pub evaluations: Vec<(Instant, Evaluation)>,
    /// When it was submitted.
    pub submitted: Instant,
    /// SHA-256 over the final state of each rank, once completed, in rank order.
    pub final_states: Vec<Digest>,
}

impl RunView {
    /// Steps that faults cost. Of what was written down before there was a total, the incidents that are kept tell.
    pub fn lost_steps(&self) -> u64 {
        let kept = self.incidents.iter().map(|incident| incident.lost_steps);
        self.ledger.lost_steps.max(kept.sum())
    }

    /// What its ranks do as a part of what their devices could: MFU and HFU, where the device is known.
    pub fn utilization(&self, rate: Flops) -> Option<Flops> {
        let precision = self.spec.train.numerics.precision;
        let peak = flops::peak(self.device.as_deref()?, precision)?;
        Some(rate.part_of(peak))
    }
}

/// One node, now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeView {
    /// What it said of itself.
    pub facts: crate::report::NodeFacts,
    /// What the cluster makes of it.
    pub state: NodeState,
    /// Whether an admin cordoned it (S11).
    pub cordoned: bool,
    /// What is made of its health.
    pub health: NodeHealth,
    /// Ranks on it, by run.
    pub ranks: Vec<(RunId, Rank)>,
    /// When it was last heard.
    pub last_heard: Option<Instant>,
}

/// What is made of a node's health, now.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NodeHealth {
    /// The verdict.
    pub verdict: Verdict,
    /// Since when; none where nothing was ever seen.
    pub since: Option<Instant>,
    /// The finding that led to it.
    pub why: Option<Finding>,
    /// It was withdrawn too often: only an admin brings it back.
    pub is_lemon: bool,
    /// What it would have been withdrawn for, had the breaker allowed it (S8).
    pub held: Option<Finding>,
    /// What was found of late, what is raised first, then newest first; shadow mode too.
    pub findings: Vec<(Instant, Finding)>,
}

/// A rule of health, now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthRuleView {
    /// Its name.
    pub name: String,
    /// Whether it is built in.
    pub is_builtin: bool,
    /// When it fires: in words, or the expression of an admin.
    pub fires: String,
    /// What it makes of a node.
    pub verdict: Verdict,
    /// Whether it acts.
    pub mode: Mode,
    /// How often it found something.
    pub tally: Tally,
    /// Where it comes from.
    pub source: String,
}

/// What a rule makes of a signal that was heard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleHit {
    /// When it was heard.
    pub at: Instant,
    /// Of which node.
    pub node: NodeId,
    /// What was seen.
    pub signal: String,
    /// Whether the rule fires on it, or why that cannot be said.
    pub fires: Result<bool, String>,
}
