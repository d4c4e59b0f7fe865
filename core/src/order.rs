//! Orders: what the controller tells an agent. Each carries a generation and a cause (S9).
//!
//! Orders say how things shall be, not what to change: an agent that gets one twice does nothing the
//! second time, and refuses one whose generation is older than it has seen (S5).

use crate::cause::Cause;
use crate::checkpoint::{CheckpointId, Manifest};
use crate::id::{Generation, NodeId, Rank, RunId, Slot, Step};
use crate::snapshot::{Peer, Recall};
use crate::spec::RunSpec;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A rank and the slot it has on its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Seat {
    /// Which rank.
    pub rank: Rank,
    /// Its device on the node.
    pub slot: Slot,
}

/// One generation of a run, as one node sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Start {
    /// What to run; shared, since a gang's orders differ in their seats alone.
    pub spec: Arc<RunSpec>,
    /// Which generation; it fences every older one.
    pub generation: Generation,
    /// The ranks of this node.
    pub seats: Vec<Seat>,
    /// The node whose agent hosts this generation's rendezvous store.
    pub store_node: NodeId,
    /// Where that agent's store is reached: `host:port`.
    pub store_address: String,
    /// The state to begin with; none means step 0 from the seed.
    pub resume: Option<CheckpointId>,
    /// Where that is a snapshot, what the ranks of this node read and where it lies, by rank; empty where
    /// it is a checkpoint.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub snapshot: Vec<Recall>,
    /// Whose agent keeps the replicas of this node's snapshots; none where there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replica: Option<Peer>,
    /// The newest step after which the run was evaluated, up to the one that it resumes from.
    pub evaluated: Option<Step>,
    /// Whether processes that already run are ended first (rung 2) or re-form in place (rung 1).
    pub fresh_processes: bool,
    /// Whether processes are started so that nothing is launched asynchronously; read by a process
    /// when it first touches its device, so it only changes with fresh processes.
    pub async_off: bool,
    /// Why.
    pub cause: Cause,
}

/// How a run is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stop {
    /// At the next step boundary, after a checkpoint; the processes then exit.
    Safely,
    /// At once: fenced and killed.
    Now,
}

/// What the controller tells an agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Run this generation, and none older.
    Start(Box<Start>),
    /// Stop every rank of the run up to and including this generation.
    Stop {
        /// Which run.
        run: RunId,
        /// The newest generation this is about.
        generation: Generation,
        /// How.
        how: Stop,
        /// Why.
        cause: Cause,
    },
    /// Kill one rank's process (a hung one that was blamed); its exit is reported as any other.
    Kill {
        /// Which run.
        run: RunId,
        /// In which generation.
        generation: Generation,
        /// Which rank.
        rank: Rank,
        /// Why.
        cause: Cause,
    },
    /// Write this manifest beside its shards: that seals the checkpoint.
    Seal {
        /// The run's checkpoint directory (`checkpoint.directory` of its spec).
        directory: String,
        /// What to write.
        manifest: Box<Manifest>,
    },
    /// Remove these checkpoints; a missing one is removed already.
    Prune {
        /// Which run.
        run: RunId,
        /// The run's checkpoint directory.
        directory: String,
        /// Which.
        checkpoints: Vec<CheckpointId>,
    },
}
