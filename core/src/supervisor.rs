//! The agent's machine: starts, watches, stops and fences this node's ranks.

mod command;
mod event;

pub use command::Command;
pub use event::Event;

use crate::report::Remembered;
use crate::time::Duration;
use serde::{Deserialize, Serialize};

/// How this agent is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// How often to read the pages and give a sign of life.
    pub beat_every: Duration,
    /// Hearing from no controller for this long, fence every rank (S1; see `engine::Limits`).
    pub orphan_after: Duration,
    /// How long a rank that was told to leave may take before it is killed.
    pub leave_within: Duration,
}

/// What an agent writes down so that its next life adopts its ranks.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    /// The runs it was sent, with their highest generation and living ranks.
    pub runs: Vec<RunMemory>,
}

/// What an agent writes down of one run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunMemory {
    /// Generation and ranks, as they are told to the controller on joining. `sealed` stays empty
    /// here: the driver lists the manifests when it joins.
    pub remembered: Remembered,
    /// Where its checkpoints lie.
    pub checkpoint_directory: String,
    /// Kernel start time of each rank's process, in the order of `remembered.ranks`: with the pid
    /// it names a process for good.
    pub started: Vec<u64>,
}
