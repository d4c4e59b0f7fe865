//! What the member is told.

use crate::cause::{Blamed, Unsound};
use crate::checkpoint::{CheckpointId, Shard};
use crate::eval::Evaluation;
use crate::flight::Phase;
use crate::guard::Spike;
use crate::id::{Digest, Generation, Step};
use crate::replicas::Differs;
use crate::snapshot::Piece;
use crate::word::{FromWorker, ToWorker};
use serde::{Deserialize, Serialize};

/// Why an action of the driver came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trouble {
    /// The fence in the flight page went up while it was under way.
    Fenced,
    /// A peer went away.
    PeerLost {
        /// What the collective said.
        error: String,
    },
    /// The figures of the step ran away, and the run is to go back.
    Spiked(Spike),
    /// What several ranks must hold alike is not.
    ReplicasDiffer(Differs),
    /// Anything else.
    Error {
        /// What went wrong.
        error: String,
        /// Whose fault it is.
        blamed: Blamed,
    },
}

impl Trouble {
    /// What the agent is told of it; nothing of what it ordered itself.
    pub(super) fn word(self, generation: Generation, phase: Phase) -> Option<FromWorker> {
        match self {
            Self::Fenced => None,
            Self::PeerLost { error } => Some(FromWorker::Failed {
                generation,
                phase,
                error,
                blamed: None,
            }),
            Self::Spiked(spike) => Some(FromWorker::Spiked {
                generation,
                spike,
                goes_on: false,
            }),
            Self::ReplicasDiffer(differs) => Some(FromWorker::ReplicasDiffer {
                generation,
                differs,
            }),
            Self::Error { error, blamed } => Some(FromWorker::Failed {
                generation,
                phase,
                error,
                blamed: Some(blamed),
            }),
        }
    }
}

/// What the member is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// Its agent says something.
    Word(ToWorker),
    /// The fence in its flight page went up: generations below this one are over.
    Fenced {
        /// The lowest generation that is not fenced.
        below: Generation,
    },
    /// The link to its agent is gone.
    AgentLost,
    /// Its agent is there: connected for the first time, or again.
    AgentBack,
    /// The groups are formed.
    Formed {
        /// Or why not.
        outcome: Result<(), Trouble>,
    },
    /// The state is loaded.
    Loaded {
        /// Steps done in it and samples consumed, or what is wrong with the checkpoint.
        outcome: Result<(Step, u64), LoadTrouble>,
    },
    /// A step is done.
    Stepped {
        /// What it left, or why it did not come about.
        outcome: Result<Stepped, Trouble>,
    },
    /// The held-out samples are scored.
    Evaluated {
        /// What it gave, or why it did not come about.
        outcome: Result<Evaluation, Trouble>,
    },
    /// A save is done, or failed; it does not end the generation.
    Saved {
        /// Which checkpoint.
        checkpoint: CheckpointId,
        /// Samples consumed by then.
        samples: u64,
        /// The shard, or what went wrong.
        outcome: Result<Shard, String>,
    },
    /// A snapshot is in the node's memory, or failed; nothing comes of that but another rollback.
    Snapped {
        /// Which snapshot.
        checkpoint: CheckpointId,
        /// The shard, or what went wrong.
        outcome: Result<Piece, String>,
    },
    /// The hash of the whole state, as asked for by `Command::Hash`.
    Hashed {
        /// SHA-256 over master weights and optimizer moments, in name order.
        state: Digest,
    },
}

/// Why a state could not be loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LoadTrouble {
    /// The checkpoint is unsound.
    Unsound(Unsound),
    /// Anything else.
    Other(Trouble),
}

/// What a step left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stepped {
    /// Steps done.
    pub step: Step,
    /// Samples consumed.
    pub samples: u64,
    /// Whether the gang agreed, in this step, to stop safely after it.
    pub stop: bool,
    /// Figures that ran away, where the run trains on.
    pub spike: Option<Spike>,
}
