//! What an agent writes down so that its next life adopts its ranks and goes on where it was.

use crate::cause::Cause;
use crate::id::{Generation, Rank, RunId, Slot};
use crate::order::{Start, Stop};
use crate::report::Milestone;
use crate::time::Instant;
use serde::{Deserialize, Serialize};

/// What an agent writes down.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    /// When a controller was last known to be there, on the node's monotonic clock.
    pub heard: Instant,
    /// The runs it was sent.
    pub runs: Vec<RunMemory>,
}

/// What an agent writes down of one run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunMemory {
    /// Which run.
    pub run: RunId,
    /// The highest generation it was ever sent (S5).
    pub generation: Generation,
    /// Where its checkpoints lie; empty where no start ever came.
    pub checkpoint_directory: String,
    /// The start in force; none once nothing of it is left to do.
    pub start: Option<Start>,
    /// The stop in force.
    pub stop: Option<StopMemory>,
    /// Its ranks on this node.
    pub ranks: Vec<RankMemory>,
}

/// An order to stop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StopMemory {
    /// The newest generation it is about.
    pub generation: Generation,
    /// How.
    pub how: Stop,
    /// Why.
    pub cause: Cause,
}

/// What an agent writes down of one rank.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RankMemory {
    /// Which rank.
    pub rank: Rank,
    /// Its device.
    pub slot: Slot,
    /// The newest generation it was told, or started, to run: never tried a second time.
    pub generation: Generation,
    /// The lowest generation that is not fenced in its flight page.
    pub fence_below: Generation,
    /// How far it had come when this was written.
    pub milestone: Milestone,
    /// Its process, while it lives.
    pub process: Option<Process>,
}

/// A process: pid and start time name it for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Process {
    /// Process id.
    pub pid: u32,
    /// Kernel start time.
    pub started: u64,
    /// The generation it was started for.
    pub spawned_for: Generation,
}
