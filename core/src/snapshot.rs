//! Snapshots: checkpoints in the memory of nodes, and their replicas on peers. Pure.
//!
//! Every few steps each rank leaves its shard in the memory of its node, which belongs to the agent, so
//! that it outlives the rank; the agent sends a copy, the replica, to a peer outside the failure domain.
//! A snapshot is sealed once every rank's shard is known to lie somewhere whole. It never takes the place
//! of a checkpoint on durable storage: it is what lies between two of them, for the same layout only.

mod replica;
mod shelf;

pub use replica::{Apart, Home, Replica, explain, replicas};
pub use shelf::{Put, Restore, Shelf};

use crate::checkpoint::{CheckpointId, Shard};
use crate::id::{Generation, NodeId, Step};
use crate::layout::Layout;
use serde::{Deserialize, Serialize};

/// Snapshots of a run that a node holds at most, and that are looked at: one that is whole, one that is
/// being sealed, and one that is being written.
pub const KEPT: usize = 3;

/// Recoveries in a row without progress after which what lies in memory is left alone: then the
/// checkpoint on durable storage is tried.
pub const TRUSTED: u32 = 2;

/// One rank's shard of a snapshot, as it lies in the memory of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Piece {
    /// Of which snapshot: its step, and the generation that wrote it.
    pub checkpoint: CheckpointId,
    /// The layout of the gang that wrote it.
    pub layout: Layout,
    /// Samples consumed by then.
    pub samples: u64,
    /// The shard; the same file as in a checkpoint.
    pub shard: Shard,
}

/// A node, and where its agent is reached by others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// Which node.
    pub node: NodeId,
    /// `host:port` of its agent.
    pub address: String,
}

/// What a rank resumes from, and who has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recall {
    /// What.
    pub piece: Piece,
    /// Whose agent has it; none where it lies on the rank's own node.
    pub from: Option<Peer>,
}

/// Where the state lay that a run resumed from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// On durable storage.
    #[default]
    Storage,
    /// In the memory of each rank's own node.
    Memory,
    /// In the memory of nodes, for some ranks of another one.
    Replica,
}

impl Tier {
    /// What state that lay there is called: it comes from "the ... at step 15".
    pub const fn name(self) -> &'static str {
        match self {
            Self::Storage => "checkpoint",
            Self::Memory => "snapshot in memory",
            Self::Replica => "snapshot in memory (replicas for some ranks)",
        }
    }
}

/// The age of a snapshot: what a newer generation wrote is newer, whatever its step.
pub(crate) const fn age(id: CheckpointId) -> (Generation, Step) {
    (id.generation, id.step)
}

/// Of the snapshots of one run on a node, those that have to go: all but the newest [`KEPT`].
pub fn outdated(ids: impl IntoIterator<Item = CheckpointId>) -> Vec<CheckpointId> {
    let mut ids: Vec<_> = ids.into_iter().collect();
    ids.sort_unstable_by_key(|id| age(*id));
    ids.dedup();
    ids.truncate(ids.len().saturating_sub(KEPT));
    ids
}
