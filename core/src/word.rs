//! Words between an agent and one of its workers, over a unix socket.
//!
//! Few and rare: in the training loop itself a worker only writes its flight page.

use crate::cause::{Blamed, Unsound};
use crate::checkpoint::{CheckpointId, Shard};
use crate::eval::Evaluation;
use crate::flight::Phase;
use crate::guard::Spike;
use crate::id::{Digest, Generation, Rank, RunId, Slot, Step};
use crate::replicas::Differs;
use crate::report::{Finish, Milestone};
use crate::snapshot::{Piece, Recall};
use crate::spec::RunSpec;
use crate::time::Instant;
use serde::{Deserialize, Serialize};

/// Everything a worker needs to run one generation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Go {
    /// What to run.
    pub spec: RunSpec,
    /// In which generation.
    pub generation: Generation,
    /// As which rank.
    pub rank: Rank,
    /// On which device of the node.
    pub slot: Slot,
    /// The state to begin with; none means step 0 from the seed.
    pub resume: Option<CheckpointId>,
    /// Where that is a snapshot, this rank's shard of it; none where it is a checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<Box<Recall>>,
    /// The newest step after which the run was evaluated, up to the one that it resumes from.
    pub evaluated: Option<Step>,
}

/// What an agent says to a worker. Fences and safe stops also stand in the flight page, where the
/// training loop and every wait see them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToWorker {
    /// Run this generation; drop whatever older one you are in.
    Go(Box<Go>),
    /// Leave: nothing is left to do.
    Exit,
    /// A controller was there at this moment, on the node's monotonic clock. Said now and then, and
    /// after every hello: a worker whose agent dies, or stops running, counts from it (S1).
    Heard(Instant),
}

/// The first word of a worker, also after its agent came back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Whose process it is.
    pub run: RunId,
    /// Which rank it was started for.
    pub rank: Rank,
    /// Its process id.
    pub pid: u32,
    /// The generation it is in; 0 before its first go.
    pub generation: Generation,
    /// How far it has come in it.
    pub milestone: Milestone,
}

/// What a worker says to its agent. Each is said again after a reconnect until it is acknowledged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FromWorker {
    /// It is there.
    Hello(Hello),
    /// It reached a milestone (`Formed`, `Loaded`, `Stepped`).
    Reached {
        /// In which generation.
        generation: Generation,
        /// Which.
        milestone: Milestone,
        /// Steps done.
        step: Step,
    },
    /// It wrote its shard.
    Saved {
        /// Which checkpoint.
        checkpoint: CheckpointId,
        /// Samples consumed by then.
        samples: u64,
        /// The shard.
        shard: Shard,
    },
    /// It left its shard of a snapshot in the node's memory.
    Snapped(Piece),
    /// It could not write its shard and trains on.
    SaveFailed {
        /// Which checkpoint.
        checkpoint: CheckpointId,
        /// What went wrong.
        error: String,
    },
    /// The checkpoint it was told to load is unsound.
    LoadRefused {
        /// In which generation.
        generation: Generation,
        /// Which checkpoint.
        checkpoint: CheckpointId,
        /// What is wrong with it.
        unsound: Unsound,
    },
    /// It cannot go on in this generation and waits for the next.
    Failed {
        /// In which generation.
        generation: Generation,
        /// In which phase.
        phase: Phase,
        /// What went wrong.
        error: String,
        /// Whose fault it is; none where a peer went away.
        blamed: Option<Blamed>,
    },
    /// Its loss or gradient norm ran away.
    Spiked {
        /// In which generation.
        generation: Generation,
        /// What was seen.
        spike: Spike,
        /// Whether it trains on.
        goes_on: bool,
    },
    /// What several ranks must hold alike is not; each rank of the group in which it is not says so.
    ReplicasDiffer {
        /// In which generation.
        generation: Generation,
        /// What was seen.
        differs: Differs,
    },
    /// The gang was evaluated; each of its ranks says so.
    Evaluated {
        /// In which generation.
        generation: Generation,
        /// What it gave.
        evaluation: Evaluation,
    },
    /// It did what it was told.
    Finished {
        /// In which generation.
        generation: Generation,
        /// Why.
        why: Finish,
        /// Steps done.
        step: Step,
        /// SHA-256 over its state.
        state: Digest,
    },
}
