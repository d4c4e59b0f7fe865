//! What the supervisor is told.

use crate::cause::Exit;
use crate::checkpoint::CheckpointId;
use crate::flight::Sighting;
use crate::hang::rules::Match;
use crate::health::signal::Signal;
use crate::id::{NodeId, Rank, RunId};
use crate::order::Order;
use crate::snapshot::Piece;
use crate::word::FromWorker;
use serde::{Deserialize, Serialize};

/// What the supervisor is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// The link to the controller is up and the join was accepted.
    LinkUp,
    /// The link is down.
    LinkDown,
    /// The controller orders.
    Order(Order),
    /// The controller has this report in its journal.
    Acked {
        /// The number of the report.
        sequence: u64,
    },
    /// A rank's process was started.
    Started {
        /// Of which run.
        run: RunId,
        /// Which rank.
        rank: Rank,
        /// Its process.
        pid: u32,
        /// Kernel start time of the process.
        started: u64,
    },
    /// A rank's process could not be started.
    NotStarted {
        /// Of which run.
        run: RunId,
        /// Which rank.
        rank: Rank,
        /// What went wrong.
        error: String,
    },
    /// A rank's process ended.
    Exited {
        /// Of which run.
        run: RunId,
        /// Which rank.
        rank: Rank,
        /// Which process.
        pid: u32,
        /// How.
        exit: Exit,
        /// Nanoseconds from its end to the driver noticing, where that is known.
        noticed_after_nanos: Option<u64>,
    },
    /// A worker said something.
    Word {
        /// Of which run.
        run: RunId,
        /// Which rank.
        rank: Rank,
        /// Which process.
        pid: u32,
        /// What.
        word: FromWorker,
    },
    /// What the flight pages say now, as asked for by `Command::ReadPages`.
    Pages(Vec<(RunId, Sighting)>),
    /// A probe saw something.
    Signal(Signal),
    /// What a rank wrote since the last look, by the log rules of its run.
    Read {
        /// Of which run.
        run: RunId,
        /// Which rank.
        rank: Rank,
        /// Rules that matched.
        matches: Vec<Match>,
        /// The rule that it broke by a line, and the line.
        broken: Option<(String, String)>,
    },
    /// Another node keeps a shard of this node's memory too.
    Replicated {
        /// Of which run.
        run: RunId,
        /// What.
        piece: Piece,
        /// Which node.
        at: NodeId,
    },
    /// A manifest was written, or not.
    ManifestWritten {
        /// Of which run.
        run: RunId,
        /// Which checkpoint.
        checkpoint: CheckpointId,
        /// What went wrong, if it did.
        error: Option<String>,
    },
}
