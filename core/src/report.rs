//! Reports: what an agent tells the controller.
//!
//! Each report is sent until it is acknowledged, so it may come twice or late; the engine knows
//! by generation and rank what it has already heard, and drops what is stale (S10).

use crate::cause::{Blamed, Exit, Unsound};
use crate::checkpoint::{CheckpointId, Manifest, Shard};
use crate::eval::Evaluation;
use crate::flight::{Phase, Sighting};
use crate::guard::Spike;
use crate::hang::rules::Match;
use crate::health::signal::Signal;
use crate::id::{Digest, Generation, NodeId, Rank, RunId, Step};
use crate::labels::Labels;
use crate::ladder::gate::Nccl;
use crate::replicas::Differs;
use crate::snapshot::Piece;
use serde::{Deserialize, Serialize};

/// What an agent knows of its node when it joins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFacts {
    /// Which node.
    pub node: NodeId,
    /// Ranks it can hold: its GPUs, or the CPU slots it was configured with.
    pub slots: u32,
    /// Names of its GPUs, by slot; empty where there are none.
    pub gpus: Vec<String>,
    /// Where its rendezvous store is reached: `host:port`.
    pub store_address: String,
    /// Host name.
    pub host: String,
    /// CPU cores.
    pub cores: u32,
    /// Bytes of memory.
    pub memory: u64,
    /// The version of NCCL that its workers use, where it is known.
    pub nccl: Option<Nccl>,
    /// What else its admin says of it; [`RACK`] and [`FABRIC`] tell placement what is near.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
}

/// Label of the rack a node is in: nodes that share a switch and a power feed.
pub const RACK: &str = "rack";
/// Label of the fabric a node is on: racks that reach each other over one high-speed network.
pub const FABRIC: &str = "fabric";

/// One rank's process on a node, as its agent sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RankStatus {
    /// Which rank.
    pub rank: Rank,
    /// Its process; 0 while it is being started.
    pub pid: u32,
    /// The generation it was last told to run.
    pub generation: Generation,
    /// The last milestone it reached in that generation.
    pub milestone: Milestone,
}

/// What an agent remembers of a run, also across its own restarts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    /// Which run.
    pub run: RunId,
    /// The highest generation it was ever sent (S5).
    pub generation: Generation,
    /// Its living ranks.
    pub ranks: Vec<RankStatus>,
    /// Manifests that lie in the run's checkpoint directory, newest first, at most 16.
    pub sealed: Vec<Manifest>,
    /// What lies whole in the node's memory: shards of its own ranks, and replicas.
    #[serde(default)]
    pub snapshots: Vec<Piece>,
}

/// The first message of an agent's connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Join {
    /// What the node is.
    pub facts: NodeFacts,
    /// What it runs and remembers.
    pub runs: Vec<Remembered>,
}

/// How far a rank has come in its generation, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Milestone {
    /// Its process runs and was told to go.
    Going,
    /// Its groups are formed.
    Formed,
    /// Its state is loaded.
    Loaded,
    /// It has done a first step.
    Stepped,
    /// It has done what it was told: the last step, or a safe stop.
    Finished,
}

/// Why a rank finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// The last step is done and saved.
    Completed,
    /// It stopped safely, at a step boundary and after a checkpoint.
    Stopped,
}

/// What happened to one rank.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RankEvent {
    /// It reached a milestone short of `Finished`.
    Reached {
        /// Which.
        milestone: Milestone,
        /// Steps done by then.
        step: Step,
        /// Its process.
        pid: u32,
    },
    /// It did what it was told.
    Finished {
        /// Why.
        why: Finish,
        /// Steps done.
        step: Step,
        /// SHA-256 over its state: master weights and optimizer moments, in name order.
        state: Digest,
    },
    /// Its process ended.
    Exited {
        /// How.
        exit: Exit,
        /// Nanoseconds from the end of the process to its agent noticing, where that is known.
        noticed_after_nanos: Option<u64>,
    },
    /// Its process could not be started.
    NotStarted {
        /// What went wrong.
        error: String,
    },
    /// It cannot go on; its process lives and waits for the next generation.
    Failed {
        /// In which phase.
        phase: Phase,
        /// What went wrong.
        error: String,
        /// Whose fault it is.
        blamed: Blamed,
    },
    /// Its loss or gradient norm ran away.
    Spiked {
        /// What was seen.
        spike: Spike,
        /// Whether it trains on.
        goes_on: bool,
    },
    /// What it must hold as others do is not alike.
    ReplicasDiffer(Differs),
    /// Its gang was evaluated.
    Evaluated(Evaluation),
    /// A collective broke because a peer went away: a symptom, never a cause of its own.
    PeerLost {
        /// In which phase.
        phase: Phase,
        /// What the collective said.
        error: String,
    },
    /// The checkpoint it was told to load is unsound.
    LoadRefused {
        /// Which checkpoint.
        checkpoint: CheckpointId,
        /// What is wrong with it.
        unsound: Unsound,
    },
    /// It wrote a line that is a fault by a log rule.
    RuleBroken {
        /// The rule's name.
        rule: String,
        /// The line, cut where it is long.
        line: String,
    },
    /// Its phase deadline passed. Its node's pages come with the next beat, sent at once.
    Overdue {
        /// Which phase.
        phase: Phase,
        /// The step that its page named then: in another one it has moved on since. None where it was not its
        /// page that told.
        #[serde(default)]
        step: Option<Step>,
    },
}

/// What an agent tells the controller.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    /// Something happened to a rank.
    Rank {
        /// Of which run.
        run: RunId,
        /// In which generation.
        generation: Generation,
        /// Which rank.
        rank: Rank,
        /// What.
        event: RankEvent,
    },
    /// A rank wrote its shard of a checkpoint.
    ShardSaved {
        /// Of which run.
        run: RunId,
        /// Which checkpoint.
        checkpoint: CheckpointId,
        /// Samples consumed by then.
        samples: u64,
        /// The shard.
        shard: Shard,
    },
    /// A rank could not write its shard; it trains on.
    ShardFailed {
        /// Of which run.
        run: RunId,
        /// Which checkpoint.
        checkpoint: CheckpointId,
        /// Which rank.
        rank: Rank,
        /// What went wrong.
        error: String,
    },
    /// A shard of a snapshot lies in the memory of a node.
    SnapshotHeld {
        /// Of which run.
        run: RunId,
        /// What.
        piece: Piece,
        /// On which node: this one, or the one that keeps its replicas.
        at: NodeId,
    },
    /// A manifest was written, or not.
    Sealed {
        /// Of which run.
        run: RunId,
        /// Which checkpoint.
        checkpoint: CheckpointId,
        /// What went wrong, if it did.
        error: Option<String>,
    },
    /// No process of the run up to this generation runs unfenced on this node any more.
    Stopped {
        /// Which run.
        run: RunId,
        /// Up to which generation.
        generation: Generation,
    },
    /// A probe saw something.
    Signal {
        /// What.
        signal: Signal,
    },
}

/// Flight pages of one run's ranks on a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pages {
    /// Which run.
    pub run: RunId,
    /// What the pages say now.
    pub sightings: Vec<Sighting>,
    /// What the output of its ranks said since the last beat, by the log rules of the run.
    pub matches: Vec<Match>,
}

/// The regular sign of life of an agent; never journaled, the newest counts.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Beat {
    /// Pages of every rank on the node.
    pub pages: Vec<Pages>,
}
