//! What carries out a member's commands, and what it is given for that.

use crate::driver::Shared;
use crate::fence::Fence;
use crate::snapshots::Snapshots;
use rebloom_core::checkpoint::{CheckpointId, Shard};
use rebloom_core::eval::Evaluation;
use rebloom_core::id::{Digest, Step};
use rebloom_core::member::{Event, LoadTrouble, Stepped, Trouble};
use rebloom_core::snapshot::Piece;
use rebloom_core::word::Go;
use rebloom_runtime::flight::Recorder;
use std::sync::Arc;
use tokio::runtime::Handle;

/// A rank's work. Each method is called on the process's main thread, one after the other, and may block;
/// what waits for other ranks must end when the generation is over.
pub trait Work {
    /// Drops what is left of an older generation and meets the other ranks of this one.
    fn form(&mut self, go: &Go) -> Result<(), Trouble>;
    /// Loads the go's checkpoint, or begins from the seed: steps done and samples consumed.
    fn load(&mut self, go: &Go) -> Result<(Step, u64), LoadTrouble>;
    /// Does one optimizer step.
    fn step(&mut self) -> Result<Done, Trouble>;
    /// Scores the held-out samples of the go with the weights as they are.
    fn evaluate(&mut self) -> Result<Evaluation, Trouble>;
    /// Writes this rank's shard, now or beside the next steps; its [`Teller`] hears what came of it.
    fn save(&mut self, checkpoint: CheckpointId);
    /// Leaves this rank's shard in the node's memory, now or beside the next steps; its [`Teller`] hears what
    /// came of it. Not called where the place has no [`Snapshots`].
    fn snapshot(&mut self, checkpoint: CheckpointId);
    /// Hashes everything that decides how training goes on.
    fn hash(&mut self) -> Digest;
    /// Drops what belongs to the generation; it is over.
    fn abandon(&mut self);
}

/// What a step left.
#[derive(Debug, Clone, PartialEq)]
pub struct Done {
    /// For the member.
    pub stepped: Stepped,
    /// For the flight page.
    pub loss: f32,
    /// For the flight page.
    pub grad_norm: f32,
}

/// What a save came to.
#[derive(Debug)]
pub struct Saved {
    /// Which checkpoint.
    pub checkpoint: CheckpointId,
    /// Samples consumed by then.
    pub samples: u64,
    /// The shard, or what went wrong.
    pub outcome: Result<Shard, String>,
}

/// What a snapshot came to.
#[derive(Debug)]
pub struct Snapped {
    /// Which.
    pub checkpoint: CheckpointId,
    /// The shard, or what went wrong.
    pub outcome: Result<Piece, String>,
}

/// Tells the member of saves, from any thread.
#[derive(Clone)]
pub struct Teller(pub(crate) Arc<Shared>);

impl Teller {
    /// A snapshot is taken, or failed.
    pub fn snapped(&self, snapped: Snapped) {
        let Snapped {
            checkpoint,
            outcome,
        } = snapped;
        if let Err(error) = &outcome {
            let step = checkpoint.step;
            tracing::warn!(%step, error, "cannot leave a snapshot in memory");
        }
        self.0.handle(Event::Snapped {
            checkpoint,
            outcome,
        });
    }

    /// A save is done, or failed.
    pub fn saved(&self, saved: Saved) {
        let Saved {
            checkpoint,
            samples,
            outcome,
        } = saved;
        self.0.handle(Event::Saved {
            checkpoint,
            samples,
            outcome,
        });
    }
}

impl std::fmt::Debug for Teller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Teller")
    }
}

/// What a work is given when the process begins.
#[derive(Debug)]
pub struct Place {
    /// Runs what waits for the agent; a thread of its own drives it.
    pub runtime: Handle,
    /// The process's flight page.
    pub recorder: &'static Recorder,
    /// The fence in it.
    pub fence: Arc<Fence>,
    /// Hears of saves.
    pub teller: Teller,
    /// The node's memory; none where its agent keeps no snapshots.
    pub snapshots: Option<Snapshots>,
}
