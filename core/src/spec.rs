//! The run spec: what a user submits, and what is wrong with it if it does not fit.

mod data;
mod flaws;
mod train;

pub use data::{Data, DataPart};
pub(crate) use flaws::Flaws;
pub use flaws::{Flaw, largest};
pub use train::{Numerics, Optimizer, Precision, RampUp, Train};

use crate::eval::Eval;
use crate::flight::Phase;
use crate::guard::LossGuard;
use crate::hang::deadline::Learn;
use crate::hang::rules::LogRule;
use crate::id::{RunId, Step};
use crate::layout::Layout;
use crate::time::Duration;
use serde::{Deserialize, Serialize};

/// A training job as a user describes it. Unknown fields are refused.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunSpec {
    /// Name of the run.
    pub name: RunId,
    /// Runs of a higher priority are placed first, and may take the place of lower ones, which
    /// stop at a step boundary and wait; 0 unless given.
    #[serde(default)]
    pub priority: i32,
    /// Shape of the model.
    pub model: Model,
    /// A folder with weights to begin with, as every node sees it: a Hugging Face model, or a checkpoint
    /// of another run. None means random ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<String>,
    /// Shape of the gang.
    pub layout: Layout,
    /// How long and how to train.
    pub train: Train,
    /// What to train on.
    pub data: Data,
    /// Where and how often to save.
    pub checkpoint: Checkpoint,
    /// How long each phase may take before it counts as a hang.
    #[serde(default)]
    pub deadlines: Deadlines,
    /// How often to try again.
    #[serde(default)]
    pub recovery: Recovery,
    /// Whether and how far it may shrink; none means never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub elastic: Option<Elastic>,
    /// What happens when the loss or the gradient norm runs away.
    #[serde(default)]
    pub guard: LossGuard,
    /// When it is evaluated, and on what; none means never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eval: Option<Eval>,
    /// What its output should say, and when.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log_rules: Vec<LogRule>,
}

/// Shape of a BLOOM model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// Transformer blocks.
    pub layers: u32,
    /// Width of the residual stream.
    pub hidden: u32,
    /// Attention heads; they divide `hidden`.
    pub heads: u32,
    /// Rows of the embedding; at least the tokenizer's size, and a multiple of `layout.tensor`.
    pub vocab: u32,
    /// Tokens of one sample.
    pub sequence: u32,
    /// Whether the residual stream goes on behind each layer norm instead of before it
    /// (`apply_residual_connection_post_layernorm` of Hugging Face). No published BLOOM does.
    #[serde(default)]
    pub residual_after_layernorm: bool,
}

/// Where and how often to save.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// A directory that every node of the run sees.
    pub directory: String,
    /// Optimizer steps between two checkpoints.
    pub every_steps: u64,
    /// Lets the engine choose the interval within these bounds; `every_steps` then only holds until a
    /// step was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto: Option<Auto>,
    /// Sealed checkpoints to keep; older ones are removed.
    #[serde(default = "default_keep")]
    pub keep: u32,
    /// Snapshots in memory between two checkpoints; none means never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<Snapshots>,
}

/// How often each rank leaves its shard in the memory of its node, and a replica on a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshots {
    /// Optimizer steps between two snapshots.
    pub every_steps: u64,
}

impl Checkpoint {
    /// Whether a snapshot is due after this step: where no checkpoint is.
    pub fn is_snapshot(&self, step: Step) -> bool {
        let every = self.snapshot.map_or(0, |snapshot| snapshot.every_steps);
        step > Step(0)
            && every > 0
            && step.0.is_multiple_of(every)
            && !step.0.is_multiple_of(self.every_steps)
    }
}

/// Bounds of an interval that is chosen from the failures and saves that were measured; both the same
/// means that interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Auto {
    /// Seconds, at least.
    pub min: f64,
    /// Seconds, at most.
    pub max: f64,
}

impl Auto {
    /// Both bounds.
    pub fn bounds(self) -> (Duration, Duration) {
        (seconds(self.min), seconds(self.max))
    }
}

const fn default_keep() -> u32 {
    3
}

/// Seconds after which a phase counts as a hang.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Deadlines {
    /// Start of the process and forming of its groups.
    pub init: f64,
    /// Loading state.
    pub load: f64,
    /// One optimizer step.
    pub step: f64,
    /// One evaluation.
    pub eval: f64,
    /// Writing one shard.
    pub save: f64,
    /// Leaving.
    pub exit: f64,
    /// Learns shorter ones from what the run shows; none means that these stand.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learn: Option<Learn>,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            init: 60.0,
            load: 120.0,
            step: 60.0,
            eval: 600.0,
            save: 120.0,
            exit: 30.0,
            learn: None,
        }
    }
}

impl Deadlines {
    /// Seconds that a phase may take; forever where it has no deadline.
    pub const fn of(&self, phase: Phase) -> f64 {
        match phase {
            Phase::Idle => f64::INFINITY,
            Phase::Init => self.init,
            Phase::Load => self.load,
            Phase::Step => self.step,
            Phase::Eval => self.eval,
            Phase::Save => self.save,
            Phase::Exit => self.exit,
        }
    }
}

/// How far a run may shrink when there is no room for all of it. Only whole copies of the model leave;
/// the global batch, the order of samples and the samples consumed stay the same.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Elastic {
    /// Fewest copies of the model (DP) to go on with.
    pub min_data: u32,
    /// Seconds to wait for room before it shrinks, and to train before it grows back.
    #[serde(default = "default_wait")]
    pub wait: f64,
}

const fn default_wait() -> f64 {
    120.0
}

/// How often to try again, and when to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Recovery {
    /// Restarts after failures that are the run's own (bad data, an error in the step); faults of
    /// the infrastructure never count here (S7).
    pub restarts: u32,
    /// Times in a row without progress that survivors re-form in place, before the next rung.
    pub reform: u32,
    /// Times in a row without progress that all ranks are restarted, before the next rung.
    pub restart: u32,
    /// Times in a row without progress that a node is replaced, before the next rung.
    pub replace: u32,
    /// Times in a row without progress that ranks are relaunched with asynchronous launches off after
    /// a hang, before the next rung.
    pub async_off: u32,
    /// Times in a row without progress that a copy of the model is left out, where `elastic` allows
    /// it, before the run is parked (L4).
    pub shrink: u32,
    /// Recoveries, with or without progress, after which a run that sealed no checkpoint in between
    /// is parked (L4).
    pub unsealed: u32,
    /// Hangs within a clean spell that are recovered from as such; the next one turns asynchronous
    /// launches off.
    pub hangs: u32,
    /// Seconds without a hang after which asynchronous launches are turned on again.
    pub clean_spell: u64,
}

impl Default for Recovery {
    fn default() -> Self {
        Self {
            restarts: 3,
            reform: 4,
            restart: 3,
            replace: 3,
            async_off: 1,
            shrink: 2,
            unsealed: 24,
            hangs: 2,
            clean_spell: 21_600,
        }
    }
}

/// Seconds as a span of time; what is not a sensible number became a [`Flaw`] before.
pub fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

impl RunSpec {
    /// Micro-batches that one rank runs in an optimizer step of `batch` samples.
    pub const fn micro_batches(&self, batch: u32) -> u32 {
        batch / (self.train.micro_batch * self.layout.data)
    }
}
