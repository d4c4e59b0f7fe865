//! The run spec: what a user submits, and what is wrong with it if it does not fit.

mod data;
mod train;

pub use data::{Data, DataPart};
pub use train::{Numerics, Optimizer, Precision, RampUp, Train};

use crate::guard::LossGuard;
use crate::id::RunId;
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// A directory that every node of the run sees.
    pub directory: String,
    /// Optimizer steps between two checkpoints.
    pub every_steps: u64,
    /// Sealed checkpoints to keep; older ones are removed.
    #[serde(default = "default_keep")]
    pub keep: u32,
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
    /// Writing one shard.
    pub save: f64,
    /// Leaving.
    pub exit: f64,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            init: 60.0,
            load: 120.0,
            step: 60.0,
            save: 120.0,
            exit: 30.0,
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

/// One thing that is wrong with a spec.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{field}: {value} {problem}; {remedy}")]
pub struct Flaw {
    /// Path of the field, as in the file: `layout.tensor`.
    pub field: String,
    /// What it holds.
    pub value: String,
    /// Why that does not do.
    pub problem: String,
    /// What would.
    pub remedy: String,
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

    /// Everything that is wrong with the spec by itself; empty when it can run.
    pub fn flaws(&self) -> Vec<Flaw> {
        let mut flaws = Flaws::default();
        self.check_numbers(&mut flaws);
        if flaws.0.is_empty() {
            self.check_fit(&mut flaws);
        }
        flaws.0
    }

    fn check_numbers(&self, flaws: &mut Flaws) {
        let Self {
            name: _,
            priority: _,
            model,
            init,
            layout,
            train,
            data,
            checkpoint,
            deadlines,
            recovery,
            elastic,
            guard,
        } = self;
        for (field, value, most) in [
            ("model.layers", model.layers, 1024),
            ("model.hidden", model.hidden, 1 << 17),
            ("model.heads", model.heads, 1024),
            ("model.vocab", model.vocab, 1 << 22),
            ("model.sequence", model.sequence, 1 << 20),
            ("layout.tensor", layout.tensor, 64),
            ("layout.pipeline", layout.pipeline, 1024),
            ("layout.data", layout.data, 4096),
            ("train.global_batch", train.global_batch, 1 << 20),
            ("train.micro_batch", train.micro_batch, 1 << 16),
            ("checkpoint.keep", checkpoint.keep, 10_000),
        ] {
            flaws.within(field, f64::from(value), 1.0, f64::from(most));
        }
        flaws.whole("recovery.clean_spell", recovery.clean_spell, 31_536_000);
        flaws.whole("recovery.unsealed", recovery.unsealed.into(), 1_000_000);
        if let Some(elastic) = elastic {
            let most = f64::from(layout.data.max(1));
            flaws.within("elastic.min_data", elastic.min_data.into(), 1.0, most);
            flaws.within("elastic.wait", elastic.wait, 0.0, 86_400.0);
        }
        flaws.whole(
            "checkpoint.every_steps",
            checkpoint.every_steps,
            1_000_000_000,
        );
        train.check(flaws);
        guard.check(flaws);
        for (field, value, least, most) in [
            ("deadlines.init", deadlines.init, 0.1, 86_400.0),
            ("deadlines.load", deadlines.load, 0.1, 86_400.0),
            ("deadlines.step", deadlines.step, 0.1, 86_400.0),
            ("deadlines.save", deadlines.save, 0.1, 86_400.0),
            ("deadlines.exit", deadlines.exit, 0.1, 86_400.0),
        ] {
            flaws.within(field, value, least, most);
        }
        flaws.path("checkpoint.directory", &checkpoint.directory);
        if let Some(init) = init {
            flaws.path("init", init);
        }
        data.check(flaws);
    }

    fn check_fit(&self, flaws: &mut Flaws) {
        let Self {
            model,
            layout,
            train,
            ..
        } = self;
        flaws.divides("model.heads", model.heads, "model.hidden", model.hidden);
        flaws.divides("layout.tensor", layout.tensor, "model.heads", model.heads);
        flaws.divides("layout.tensor", layout.tensor, "model.hidden", model.hidden);
        flaws.divides("layout.tensor", layout.tensor, "model.vocab", model.vocab);
        if layout.pipeline > model.layers {
            flaws.add(
                "layout.pipeline",
                layout.pipeline,
                &format!("is more than model.layers ({})", model.layers),
                &format!("use at most {} stages", model.layers),
            );
        }
        if u64::from(layout.tensor) * u64::from(layout.pipeline) * u64::from(layout.data) > 100_000
        {
            flaws.add(
                "layout",
                "the product",
                "is above 100000 ranks",
                "use fewer",
            );
        } else if !train
            .global_batch
            .is_multiple_of(train.micro_batch * layout.data)
        {
            let unit = train.micro_batch * layout.data;
            flaws.add(
                "train.global_batch",
                train.global_batch,
                &format!("is not a multiple of train.micro_batch x layout.data ({unit})"),
                &format!("use {}", train.global_batch.next_multiple_of(unit)),
            );
        } else {
            train.check_ramp_up(train.micro_batch * layout.data, flaws);
        }
    }
}

#[derive(Default)]
pub(crate) struct Flaws(Vec<Flaw>);

impl Flaws {
    fn path(&mut self, field: &str, value: &str) {
        if !value.starts_with('/') || value.len() > 4000 || value.contains('\0') {
            self.add(
                field,
                format!("`{value}`"),
                "is not an absolute path",
                "give a path from / on",
            );
        }
    }

    pub(crate) fn add(&mut self, field: &str, value: impl ToString, problem: &str, remedy: &str) {
        self.0.push(Flaw {
            field: field.to_owned(),
            value: value.to_string(),
            problem: problem.to_owned(),
            remedy: remedy.to_owned(),
        });
    }

    pub(crate) fn within(&mut self, field: &str, value: f64, least: f64, most: f64) {
        if !(least..=most).contains(&value) {
            self.add(
                field,
                value,
                "is out of range",
                &format!("use {least} to {most}"),
            );
        }
    }

    pub(crate) fn whole(&mut self, field: &str, value: u64, most: u64) {
        if !(1..=most).contains(&value) {
            self.add(field, value, "is out of range", &format!("use 1 to {most}"));
        }
    }

    pub(crate) fn divides(&mut self, field: &str, value: u32, of: &str, whole: u32) {
        if !whole.is_multiple_of(value) {
            let divisors: Vec<_> = (1..=whole.min(64))
                .filter(|d| whole.is_multiple_of(*d))
                .map(|d| d.to_string())
                .collect();
            self.add(
                field,
                value,
                &format!("does not divide {of} ({whole})"),
                &format!("use one of {}", divisors.join(", ")),
            );
        }
    }
}
