//! What the member wants done.

use crate::checkpoint::CheckpointId;
use crate::flight::Phase;
use crate::time::Instant;
use crate::word::{FromWorker, Go};
use serde::{Deserialize, Serialize};

/// What the member wants done, in order. `Form`, `Load`, `Step`, `Evaluate`, `Save`,
/// `Snapshot` and `Hash` are answered with an event; `Say` and `Leave` are carried out at once, also while one of those is under way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// Write phase and deadline into the flight page.
    Enter {
        /// Which phase.
        phase: Phase,
        /// When it must be over.
        deadline: Option<Instant>,
    },
    /// Drop old groups and form new ones under this generation; answer `Formed`.
    Form(Box<Go>),
    /// Load the go's checkpoint, or make the initial state from the seed; answer `Loaded`.
    Load(Box<Go>),
    /// Do one optimizer step; answer `Stepped`.
    Step,
    /// Score the held-out samples with the weights as they are; answer `Evaluated`.
    Evaluate,
    /// Write this rank's shard; answer `Saved`, at once or later.
    Save {
        /// Which checkpoint.
        checkpoint: CheckpointId,
        /// Whether the answer is waited for before anything else (the last save of a run).
        wait: bool,
    },
    /// Leave this rank's shard in the node's memory; answer `Snapped`, at once or later. Training does not
    /// wait for more than the copy.
    Snapshot {
        /// Which snapshot.
        checkpoint: CheckpointId,
    },
    /// Hash the whole state; answer `Hashed`.
    Hash,
    /// Drop the groups and wait for a word; a fence has ended this generation.
    Abandon,
    /// Say something to the agent; said again after a reconnect until acknowledged.
    Say(FromWorker),
    /// End the process with this code.
    Leave {
        /// Exit code.
        code: i32,
    },
}
