//! The flight page: where a worker is, as it writes it while it trains.
//!
//! `runtime::flight` maps it into 4 KiB of shared memory, so that it can be read while the worker
//! hangs and after it died. Collective counters are what [`crate::blame`] reads.

use crate::id::{Generation, Rank, Step};
use crate::time::Instant;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What a worker is doing; each phase but `Idle` has a deadline.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Waits for a go; no deadline.
    #[default]
    Idle,
    /// Forms its groups.
    Init,
    /// Loads the state it was told.
    Load,
    /// Trains.
    Step,
    /// Evaluates.
    Eval,
    /// Writes its shard of a checkpoint.
    Save,
    /// Leaves.
    Exit,
}

impl Phase {
    /// Every phase, in the order of their codes in the page.
    pub const ALL: [Self; 7] = [
        Self::Idle,
        Self::Init,
        Self::Load,
        Self::Step,
        Self::Eval,
        Self::Save,
        Self::Exit,
    ];

    /// The lower-case name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Init => "init",
            Self::Load => "load",
            Self::Step => "step",
            Self::Eval => "eval",
            Self::Save => "save",
            Self::Exit => "exit",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A way in which ranks wait for each other; one counter each in the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Channel {
    /// Collectives of the tensor group.
    Tensor,
    /// Collectives of the data group.
    Data,
    /// All-reduce of the tied embedding between first and last stage.
    Embedding,
    /// Collectives of the whole gang.
    World,
    /// Activations received from the stage before.
    ForwardIn,
    /// Activations sent to the stage after.
    ForwardOut,
    /// Gradients received from the stage after.
    BackwardIn,
    /// Gradients sent to the stage before.
    BackwardOut,
}

impl Channel {
    /// Every channel, in the order of their counters in the page.
    pub const ALL: [Self; 8] = [
        Self::Tensor,
        Self::Data,
        Self::Embedding,
        Self::World,
        Self::ForwardIn,
        Self::ForwardOut,
        Self::BackwardIn,
        Self::BackwardOut,
    ];

    /// The name people know it by.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tensor => "tensor group",
            Self::Data => "data group",
            Self::Embedding => "embedding group",
            Self::World => "whole gang",
            Self::ForwardIn => "activations in",
            Self::ForwardOut => "activations out",
            Self::BackwardIn => "gradients in",
            Self::BackwardOut => "gradients out",
        }
    }
}

/// How many operations of one channel a rank has begun and finished in this generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counter {
    /// Operations begun.
    pub entered: u64,
    /// Operations finished; one less than `entered` while the rank waits.
    pub done: u64,
}

/// One reading of a flight page.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Page {
    /// The generation the worker works in.
    pub generation: Generation,
    /// What it is doing.
    pub phase: Phase,
    /// When that must be over, on the node's monotonic clock.
    pub deadline: Option<Instant>,
    /// Optimizer steps done.
    pub step: Step,
    /// Samples consumed by the whole gang.
    pub samples: u64,
    /// Mean loss of the last step, in nats per token; NaN before the first and on ranks that do not see it.
    pub loss: f32,
    /// Gradient norm of the last step, before clipping; NaN before the first.
    pub grad_norm: f32,
    /// Nanoseconds the last step took.
    pub step_nanos: u64,
    /// Nanoseconds of it in which the rank waited in no channel; 0 where that is not measured.
    pub busy_nanos: u64,
    /// When the process last ran, whatever it was doing, in nanoseconds on the node's monotonic clock;
    /// it grows every few milliseconds. 0 where nothing makes it grow.
    pub pulse: u64,
    /// One counter a channel, in the order of [`Channel::ALL`].
    pub counters: [Counter; 8],
}

impl Page {
    /// The counter of one channel.
    pub fn counter(&self, channel: Channel) -> Counter {
        let at = Channel::ALL
            .iter()
            .position(|&c| c == channel)
            .unwrap_or_default();
        self.counters[at]
    }

    /// The channel in which this rank waits now, if it does.
    pub fn waits_in(&self) -> Option<Channel> {
        Channel::ALL
            .into_iter()
            .find(|&c| self.counter(c).entered > self.counter(c).done)
    }
}

/// A page and whose it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sighting {
    /// Whose page it is.
    pub rank: Rank,
    /// What it said.
    pub page: Page,
}
