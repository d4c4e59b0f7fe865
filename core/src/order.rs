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
use std::fmt;
use std::ops::{Deref, Range};
use std::sync::Arc;

/// A rank and the slot it has on its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Seat {
    /// Which rank.
    pub rank: Rank,
    /// Its device on the node.
    pub slot: Slot,
}

/// Seats of one node. They are a part of its whole gang's, which all its orders share.
#[derive(Clone, Serialize, Deserialize)]
#[serde(from = "Vec<Seat>", into = "Vec<Seat>")]
pub struct Seats {
    gang: Arc<[Seat]>,
    here: Range<u32>,
}

impl Seats {
    /// Those of a gang's that are in this range.
    pub(crate) fn of(gang: &Arc<[Seat]>, here: Range<u32>) -> Self {
        let gang = Arc::clone(gang);
        Self { gang, here }
    }
}

impl From<Vec<Seat>> for Seats {
    fn from(seats: Vec<Seat>) -> Self {
        let here = 0..u32::try_from(seats.len()).unwrap_or(u32::MAX);
        let gang = seats.into();
        Self { gang, here }
    }
}

impl From<Seats> for Vec<Seat> {
    fn from(seats: Seats) -> Self {
        seats.to_vec()
    }
}

impl FromIterator<Seat> for Seats {
    fn from_iter<T: IntoIterator<Item = Seat>>(seats: T) -> Self {
        Vec::from_iter(seats).into()
    }
}

impl Deref for Seats {
    type Target = [Seat];
    fn deref(&self) -> &[Seat] {
        let Range { start, end } = self.here;
        self.gang
            .get(start as usize..end as usize)
            .unwrap_or_default()
    }
}

impl<'a> IntoIterator for &'a Seats {
    type Item = &'a Seat;
    type IntoIter = std::slice::Iter<'a, Seat>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl PartialEq for Seats {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl fmt::Debug for Seats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

/// One generation of a run, as every node of its gang is told alike.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GangStart {
    /// What to run.
    pub spec: Arc<RunSpec>,
    /// Which generation; it fences every older one.
    pub generation: Generation,
    /// The node whose agent hosts this generation's rendezvous store.
    pub store_node: NodeId,
    /// Where that agent's store is reached: `host:port`.
    pub store_address: String,
    /// The state to begin with; none means step 0 from the seed.
    pub resume: Option<CheckpointId>,
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

/// The same as one node sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Start {
    /// What its whole gang is told; shared, since a large one has many nodes.
    #[serde(flatten)]
    pub gang: Arc<GangStart>,
    /// The ranks of this node.
    pub seats: Seats,
    /// Where the gang resumes from a snapshot, what the ranks of this node read and where it lies, by rank;
    /// empty where that is a checkpoint.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub snapshot: Vec<Recall>,
    /// Whose agent keeps the replicas of this node's snapshots; none where there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replica: Option<Peer>,
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
    Start(Start),
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
