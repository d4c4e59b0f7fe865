//! What the journal holds: facts the engine was told, and facts it decided.
//!
//! A fact says what is so, never what to do; applying it needs nothing but the state and the moment
//! it became so. Facts are written before whatever depends on them is sent, and are never changed.

mod about;

use super::{Placement, RunState, Rung};
use crate::cause::Cause;
use crate::checkpoint::{CheckpointId, Shard};
use crate::eval::Evaluation;
use crate::flight::Phase;
use crate::guard::Samples;
use crate::hang::deadline::Timing;
use crate::health::edited::EditedRule;
use crate::health::signal::Signal;
use crate::health::{Finding, Verdict};
use crate::id::{Digest, Generation, NodeId, Rank, RunId, Step};
use crate::layout::Layout;
use crate::order::Stop;
use crate::report::{Finish, Milestone, NodeFacts};
use crate::snapshot::Restore;
use crate::spec::RunSpec;
use crate::time::{Duration, Instant};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// One entry of the journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// When it became so, on the controller's clock.
    pub at: Instant,
    /// What.
    pub fact: Fact,
}

/// What is so.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fact {
    /// A node joined for the first time, or says something new of itself.
    NodeEnrolled {
        /// What it is.
        facts: NodeFacts,
        /// The key that its name is pinned to.
        identity: Digest,
    },
    /// A node was given up.
    NodeLost {
        /// Which.
        node: NodeId,
        /// For how long it had been silent.
        silent_for: Duration,
    },
    /// A node that was given up is back.
    NodeReturned {
        /// Which.
        node: NodeId,
    },
    /// An admin allows nothing new on a node.
    NodeCordoned {
        /// Which.
        node: NodeId,
    },
    /// An admin allows a node again.
    NodeUncordoned {
        /// Which.
        node: NodeId,
    },
    /// A probe saw something, and this was made of it.
    SignalHeard {
        /// Of which node.
        node: NodeId,
        /// What was seen.
        signal: Signal,
        /// What the rules inferred, those in shadow mode too.
        findings: Vec<Finding>,
        /// Many units have this XID, or many nodes raise this level: what was seen of it since then is held
        /// against none of them.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        acquits: Option<Instant>,
    },
    /// Something else is made of a node from now on.
    VerdictReached {
        /// Of which.
        node: NodeId,
        /// What.
        verdict: Verdict,
        /// Why; none where nothing is held against it any more.
        finding: Option<Finding>,
        /// Whether it was withdrawn too often and stays so until an admin uncordons it.
        lemon: bool,
    },
    /// A node is not withdrawn, since too much of the fleet is already (S8).
    VerdictHeld {
        /// Which.
        node: NodeId,
        /// What it would have been withdrawn for.
        finding: Finding,
    },
    /// An admin set a rule of health.
    HealthRuleSet {
        /// The rule.
        rule: EditedRule,
    },
    /// An admin removed a rule of health, or set one that is built in back.
    HealthRuleUnset {
        /// Its name.
        name: String,
    },
    /// A run was accepted.
    RunSubmitted {
        /// What it is.
        spec: Box<RunSpec>,
    },
    /// A run that was over is forgotten, to keep the state bounded.
    RunForgotten {
        /// Which.
        run: RunId,
    },
    /// A run is to stop.
    StopAsked {
        /// Which.
        run: RunId,
        /// How.
        how: Stop,
        /// Why.
        cause: Cause,
    },
    /// A run that was over is to go on.
    ResumeAsked {
        /// Which.
        run: RunId,
    },
    /// The generations to come of a run have this layout.
    LayoutChosen {
        /// Which run.
        run: RunId,
        /// How its gangs look from now on.
        layout: Layout,
    },
    /// A run is to stop safely and be placed without this node.
    MoveAsked {
        /// Which.
        run: RunId,
        /// The node it leaves.
        node: NodeId,
        /// Why.
        cause: Cause,
    },
    /// A run is to stop safely and be placed anew, for a reason of its own.
    TurnAsked {
        /// Which.
        run: RunId,
        /// Why.
        cause: Cause,
    },
    /// A run is to stop safely and wait, since one of a higher priority needs its place.
    PreemptAsked {
        /// Which.
        run: RunId,
        /// For which.
        by: RunId,
    },
    /// The journal had lost its last moments, and whatever began in them is known by now or has fenced itself:
    /// the next generation of every run, known or not, leaves out the numbers that may be lost (S1).
    NumbersLeftOut {
        /// How many.
        many: u64,
    },
    /// An agent remembers this generation of a run (S5).
    GenerationSeen {
        /// Of which run.
        run: RunId,
        /// Which.
        generation: Generation,
        /// The agent's node.
        node: NodeId,
        /// Whether ranks of it live there.
        alive: bool,
    },
    /// A generation was decided.
    Placed {
        /// Of which run.
        run: RunId,
        /// Its number.
        generation: Generation,
        /// How its gang looks.
        layout: Layout,
        /// Where it runs.
        placement: Arc<Placement>,
        /// Whether nothing is launched asynchronously.
        async_off: bool,
        /// Steps between two checkpoints.
        every_steps: u64,
        /// The rung of the ladder; none for a start.
        rung: Option<Rung>,
        /// What it begins with.
        resume: Option<CheckpointId>,
        /// Where that is a snapshot: every shard of it, and whose memory it is read from.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        snapshot: Option<Box<Restore>>,
        /// Whether every process is started anew.
        fresh: bool,
        /// Ranks whose process of before is killed first.
        kill: Vec<Rank>,
        /// Why.
        cause: Cause,
    },
    /// The placement was given up; the run waits.
    Unplaced {
        /// Which run.
        run: RunId,
    },
    /// A rank came further in the generation in force.
    RankReached {
        /// Of which run.
        run: RunId,
        /// In which generation.
        generation: Generation,
        /// Which rank.
        rank: Rank,
        /// How far.
        milestone: Milestone,
        /// Steps done by then.
        step: Step,
        /// Its process.
        pid: u32,
    },
    /// A rank did what it was told.
    RankFinished {
        /// Of which run.
        run: RunId,
        /// In which generation.
        generation: Generation,
        /// Which rank.
        rank: Rank,
        /// What that was.
        why: Finish,
        /// Steps done by then.
        step: Step,
        /// SHA-256 over its state.
        state: Digest,
    },
    /// A rank's process is gone.
    RankGone {
        /// Of which run.
        run: RunId,
        /// In which generation.
        generation: Generation,
        /// Which rank.
        rank: Rank,
    },
    /// A rank cannot go on in its generation, so neither can its gang (S1).
    RankBroke {
        /// Of which run.
        run: RunId,
        /// In which generation.
        generation: Generation,
        /// In which phase.
        phase: Phase,
    },
    /// A rank's phase deadline passed.
    RankOverdue {
        /// Of which run.
        run: RunId,
        /// In which generation.
        generation: Generation,
        /// Which rank.
        rank: Rank,
        /// In which phase.
        phase: Phase,
        /// The step that its page named, where it was late by what was learned; none where its own
        /// deadline passed.
        #[serde(default)]
        step: Option<Step>,
        /// The step that its page named when its own deadline passed, where its agent said so.
        #[serde(default)]
        seen: Option<Step>,
    },
    /// The rank that was overdue had moved on when its page was read.
    OverdueDropped {
        /// Of which run.
        run: RunId,
    },
    /// Nothing of a run up to this generation runs unfenced on a node.
    NodeFenced {
        /// Of which run.
        run: RunId,
        /// Which generation, and all older ones.
        generation: Generation,
        /// On which node.
        node: NodeId,
    },
    /// An older generation of a run cannot step any more (S1).
    GangFenced {
        /// Of which run.
        run: RunId,
        /// Which generation.
        generation: Generation,
    },
    /// A phase took longer than it was known to.
    PhaseTimed {
        /// In which run.
        run: RunId,
        /// Which phase.
        phase: Phase,
        /// What is known of it now.
        timing: Timing,
    },
    /// The pace of a run is another than before.
    PaceSeen {
        /// Which run.
        run: RunId,
        /// How long a step takes.
        step: Duration,
        /// How long a save holds it up, where that is known.
        save: Option<Duration>,
    },
    /// A run became slower; the node that makes it so is searched for over the next restarts.
    SearchBegun {
        /// Which run.
        run: RunId,
        /// What a step took.
        before: Duration,
        /// What it takes.
        now: Duration,
        /// How much longer the ranks of each of its nodes are busy than their like; 1 is as long.
        #[serde(default)]
        busy: BTreeMap<NodeId, f64>,
    },
    /// The pace without some of the suspects is known.
    SearchJudged {
        /// Of which run.
        run: RunId,
        /// How long a step takes.
        step: Duration,
    },
    /// Something broke.
    IncidentOpened {
        /// In which run.
        run: RunId,
        /// What.
        cause: Cause,
        /// When it broke, as far as is known.
        began: Instant,
        /// When the engine heard of it.
        heard: Instant,
        /// Steps done by then.
        step: Step,
        /// Where recovery begins; none where the generation in force goes on.
        rung: Option<Rung>,
    },
    /// Something else was seen while an incident was open.
    EvidenceAdded {
        /// In which run.
        run: RunId,
        /// What.
        cause: Cause,
    },
    /// The run has caught up.
    IncidentClosed {
        /// Which run.
        run: RunId,
        /// Steps done by then.
        step: Step,
    },
    /// A rank wrote its shard.
    ShardSaved {
        /// Of which run.
        run: RunId,
        /// Of which checkpoint.
        checkpoint: CheckpointId,
        /// Samples consumed by then.
        samples: u64,
        /// The shard.
        shard: Shard,
    },
    /// A checkpoint will not come about.
    CheckpointFailed {
        /// Of which run.
        run: RunId,
        /// Which.
        checkpoint: CheckpointId,
    },
    /// A checkpoint is complete on all ranks and its manifest is written (S6).
    CheckpointSealed {
        /// Of which run.
        run: RunId,
        /// Which.
        checkpoint: CheckpointId,
        /// Samples consumed by then.
        samples: u64,
    },
    /// A sealed checkpoint turned out to be unsound; it is never resumed from again.
    CheckpointRejected {
        /// Of which run.
        run: RunId,
        /// Which.
        checkpoint: CheckpointId,
        /// The node that found it so.
        node: NodeId,
    },
    /// A node refused one checkpoint after the other: those that it alone refused count as sealed
    /// again, until another node says the same (S6).
    StorageBlamed {
        /// Of which run.
        run: RunId,
        /// Which node.
        node: NodeId,
    },
    /// A spike cost these samples: no later generation trains on them, and no checkpoint of this
    /// generation or an older one that did is resumed from.
    SamplesSkipped {
        /// In which run.
        run: RunId,
        /// The generation that came upon them.
        generation: Generation,
        /// Samples consumed before the first of them.
        consumed: u64,
        /// Which.
        samples: Samples,
    },
    /// Checkpoints are removed.
    CheckpointsPruned {
        /// Of which run.
        run: RunId,
        /// Which.
        checkpoints: Vec<CheckpointId>,
    },
    /// How training stood when a checkpoint was sealed, or when the run ended.
    MilepostPassed {
        /// Of which run.
        run: RunId,
        /// Steps done.
        step: Step,
        /// Loss of that step.
        loss: f32,
        /// Gradient norm of that step, where one is known.
        grad_norm: Option<f32>,
    },
    /// A run was evaluated.
    Evaluated {
        /// Which.
        run: RunId,
        /// In which generation.
        generation: Generation,
        /// What it gave.
        evaluation: Evaluation,
    },
    /// A run is over, for now or for good.
    RunEnded {
        /// Which.
        run: RunId,
        /// How.
        state: RunState,
        /// Why.
        cause: Cause,
    },
}
