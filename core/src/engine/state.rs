//! The durable state of the engine: the fold of its journal.
//!
//! [`State::apply`] (in `apply.rs`) is the only thing that changes it. Nothing in here depends on
//! links, beats or the order in which maps were filled, so that a snapshot and the records after it
//! give the same state as the whole journal.

mod ladder;
mod members;

pub(super) use ladder::Ladder;
pub(super) use members::{Member, Members};

use super::ledger::Book;
use super::{CheckpointState, Incident, Milepost, Placement, RunState, Rung, Spend, Transition};
use crate::by_name::Register;
use crate::cause::Cause;
use crate::checkpoint::{CheckpointId, Shard};
use crate::eval::Evaluation;
use crate::flight::Phase;
use crate::guard::Samples;
use crate::hang::bisect::Bisect;
use crate::hang::deadline::Timing;
use crate::health::fleet::Fleet;
use crate::id::{Digest, Generation, NodeId, Rank, RunId, Slot, Step};
use crate::layout::Layout;
use crate::node_set::NodeSet;
use crate::order::Stop;
use crate::placement::Reliability;
use crate::report::{Milestone, NodeFacts};
use crate::snapshot::Restore;
use crate::spec::RunSpec;
use crate::time::{Duration, Instant};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// Everything the engine knows for good; a snapshot of it and the later records make it again.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct State {
    pub(super) nodes: Register<NodeId, Node>,
    pub(super) runs: Register<RunId, Run>,
    /// Highest generations that agents remember of runs that are not known here.
    pub(super) floors: BTreeMap<RunId, Generation>,
    /// That of all other runs: what journals that lost their end may have said of them.
    #[serde(default)]
    pub(super) left_out: u64,
    /// How often nodes were lost, and for how long.
    #[serde(default)]
    pub(super) reliability: Reliability,
    /// What is known of the nodes' health.
    #[serde(default)]
    pub(super) health: Fleet,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Node {
    pub(super) facts: Box<NodeFacts>,
    pub(super) identity: Digest,
    pub(super) cordoned: bool,
    pub(super) lost: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Run {
    pub(super) spec: Arc<RunSpec>,
    pub(super) submitted: Instant,
    pub(super) state: RunState,
    pub(super) why: Cause,
    /// The generation in force, or the last one.
    pub(super) generation: Generation,
    /// The highest generation that anybody ever heard of; the next one is above it.
    pub(super) floor: Generation,
    /// What that was when the run was submitted: checkpoints up to it are another run's.
    pub(super) first: Generation,
    pub(super) gang: Option<Gang>,
    /// Set from the fault that ends a generation until the next one is placed.
    pub(super) broken: Option<Broken>,
    pub(super) stop: Option<StopAsked>,
    pub(super) moving: Option<Moving>,
    /// Set from the moment another run asked for its place until it has left it.
    #[serde(default)]
    pub(super) yielding: Option<Yielding>,
    /// How long it has waited for room, or had to wait.
    #[serde(default)]
    pub(super) turn: Turn,
    /// What it had to leave when it broke, which is held for it for a while.
    #[serde(default)]
    pub(super) claim: Option<Claim>,
    /// Nodes that have yet to say that nothing of an older generation runs there.
    pub(super) owed: BTreeMap<NodeId, Owed>,
    /// Older gangs that might still step (S1).
    pub(super) older: Vec<OldGang>,
    /// When it last wrote a shard, which is the last that a journal knows of it in training.
    #[serde(default)]
    pub(super) trained_at: Instant,
    /// Checkpoints that are being saved, oldest first.
    pub(super) saves: Vec<Save>,
    /// Checkpoints that were sealed, oldest first.
    pub(super) held: Vec<Held>,
    /// Samples that spikes cost.
    #[serde(default)]
    pub(super) skipped: Vec<Skipped>,
    /// Checkpoints that it went back to because of spikes, oldest first, with none newer sealed since.
    #[serde(default)]
    pub(super) tried: Vec<CheckpointId>,
    /// Of these, those that led to a spike again.
    #[serde(default)]
    pub(super) doubted: Vec<CheckpointId>,
    /// Checkpoints that did not come about and whose files are still to be removed.
    pub(super) garbage: Vec<CheckpointId>,
    /// What was removed last, so that it can be asked for again.
    pub(super) pruned: VecDeque<CheckpointId>,
    pub(super) ladder: Ladder,
    /// The layout that it had before it shrank; none where it has the one it was given.
    pub(super) full: Option<Layout>,
    /// Whether its ranks launch nothing asynchronously.
    pub(super) async_off: bool,
    /// What was learned of its phases.
    pub(super) timings: BTreeMap<Phase, Timing>,
    /// How long a step takes, and how long a save holds it up.
    pub(super) step_time: Option<Duration>,
    pub(super) save_cost: Option<Duration>,
    /// Faults that made it go back.
    pub(super) failures: u64,
    /// Nodes that were found slow; it stays off them where it can.
    pub(super) slow: BTreeSet<NodeId>,
    /// The search for the node that makes it slow.
    pub(super) search: Option<Bisect>,
    /// What each node refused to load since a gang last loaded.
    pub(super) misread: BTreeMap<NodeId, Misread>,
    pub(super) incidents: VecDeque<Incident>,
    pub(super) incidents_seen: u64,
    pub(super) book: Book,
    /// How its state changed beside its incidents, oldest first.
    #[serde(default)]
    pub(super) transitions: VecDeque<Transition>,
    /// How training stood at checkpoints, oldest first.
    pub(super) mileposts: Vec<Milepost>,
    /// What its evaluations gave, oldest first.
    #[serde(default)]
    pub(super) evaluations: Vec<(Instant, Evaluation)>,
    pub(super) final_states: Vec<Digest>,
}

/// One placement that is in force.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Gang {
    pub(super) generation: Generation,
    pub(super) placement: Arc<Placement>,
    pub(super) rung: Option<Rung>,
    /// Steps between two of its checkpoints.
    pub(super) every_steps: u64,
    pub(super) resume: Option<CheckpointId>,
    /// What that is, where it is a snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) snapshot: Option<Box<Restore>>,
    pub(super) fresh: bool,
    pub(super) kill: Vec<Rank>,
    /// The generation before, in which the ranks to kill still are.
    pub(super) after: Generation,
    pub(super) cause: Cause,
    pub(super) members: Members,
    /// The milestone that every rank has reached.
    pub(super) reached: Option<Milestone>,
    /// When that came about, or the gang was placed.
    pub(super) reached_at: Instant,
    /// A rank is known to be unable to go on, so the gang cannot step any more.
    pub(super) dead: bool,
    /// When a rank first reported that it lost a peer, and in which phase.
    pub(super) symptom: Option<(Instant, Phase)>,
    pub(super) overdue: Option<Overdue>,
    /// Nodes on which it is known to be fenced.
    pub(super) fenced: BTreeSet<NodeId>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Overdue {
    pub(super) at: Instant,
    pub(super) rank: Rank,
    pub(super) phase: Phase,
    /// The step that its page named, where it was late by what was learned.
    #[serde(default)]
    pub(super) step: Option<Step>,
    /// The step that its page named, where its own deadline passed.
    #[serde(default)]
    pub(super) seen: Option<Step>,
}

/// How a generation came to its end, and where recovery begins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Broken {
    pub(super) cause: Cause,
    pub(super) rung: Rung,
    /// Nodes that the next placement leaves where it can, the surest first.
    pub(super) avoid: Vec<NodeId>,
    pub(super) kill: Vec<Rank>,
    /// Steps done by then.
    pub(super) step: Step,
    /// When it broke down.
    pub(super) at: Instant,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct StopAsked {
    pub(super) how: Stop,
    pub(super) at: Instant,
    pub(super) cause: Cause,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Moving {
    pub(super) cause: Cause,
    pub(super) at: Instant,
}

/// Checkpoints that one node refused in a row.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(super) struct Misread {
    pub(super) refused: Vec<CheckpointId>,
    /// Whether its storage was already blamed for it; from then on its word counts again.
    pub(super) blamed: bool,
}

/// Another run needs the place of this one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Yielding {
    pub(super) by: RunId,
    pub(super) at: Instant,
}

/// Since when a run waits for room, or has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Turn {
    pub(super) since: Instant,
    /// How long it waited before it got room.
    pub(super) waited: Duration,
}

/// Nodes that a broken gang had to leave for want of one that is whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Claim {
    pub(super) nodes: Arc<NodeSet>,
    pub(super) at: Instant,
}

/// What a node has yet to confirm: that nothing up to this generation runs there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Owed {
    pub(super) generation: Generation,
    pub(super) slots: BTreeSet<Slot>,
    pub(super) ranks: BTreeSet<Rank>,
    pub(super) since: Instant,
    /// Its ranks have finished and are about to leave by themselves.
    pub(super) leaving: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct OldGang {
    pub(super) generation: Generation,
    pub(super) nodes: Arc<NodeSet>,
}

/// Samples that no later generation trains on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Skipped {
    /// The generation that came upon them.
    pub(super) by: Generation,
    /// Samples consumed before the first of them.
    pub(super) consumed: u64,
    pub(super) samples: Samples,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Save {
    pub(super) id: CheckpointId,
    /// The layout of the gang that writes it.
    pub(super) layout: Layout,
    pub(super) samples: u64,
    pub(super) shards: BTreeMap<Rank, Shard>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Held {
    pub(super) id: CheckpointId,
    pub(super) state: CheckpointState,
    pub(super) samples: u64,
}

impl Save {
    pub(super) fn is_whole(&self) -> bool {
        self.shards.len() == self.layout.world() as usize
    }
}

impl Gang {
    pub(super) fn node_of(&self, rank: Rank) -> Option<&NodeId> {
        self.placement.node_of(rank)
    }

    /// Ranks seated on a node, with what is known of each.
    pub(super) fn on(&self, node: &NodeId) -> impl Iterator<Item = (Rank, &Member)> {
        let at = self.placement.nodes.position(node);
        let row = at.map_or(&[][..], |at| self.placement.row(at));
        row.iter()
            .filter_map(|seat| Some((seat.rank, self.members.get(seat.rank)?)))
    }

    /// The step the gang began with.
    pub(super) fn first_step(&self) -> Step {
        self.resume.map_or(Step(0), |checkpoint| checkpoint.step)
    }
}

impl Run {
    pub(super) fn open_incident(&self) -> Option<&Incident> {
        self.incidents
            .back()
            .filter(|incident| incident.closed.is_none())
    }

    /// Whether steps are done again that were done before: after a fault, or after a stop that did not wait
    /// for a checkpoint.
    pub(super) fn catches_up(&self) -> bool {
        self.open_incident().is_some() || self.book.spends() == Some(Spend::CatchUp)
    }

    /// The checkpoint to resume from: only a sealed one ever (S6).
    pub(super) fn newest_sealed(&self) -> Option<CheckpointId> {
        let sealed = self
            .held
            .iter()
            .filter(|held| held.state == CheckpointState::Sealed);
        sealed.map(|held| held.id).max()
    }

    /// Whether its next generation would begin anew though it has sealed checkpoints: all of them were refused,
    /// or the older ones are gone. Where all that it ever sealed was trained on samples that are skipped, there
    /// is nothing else to begin with.
    pub(super) fn has_lost_its_checkpoints(&self) -> bool {
        let is_refused = |held: &Held| !self.is_tainted(held.id.generation, held.samples);
        self.ladder.sealed > Step(0)
            && self.newest_sealed().is_none()
            && (self.held.iter().any(is_refused) || !self.pruned.is_empty())
    }

    pub(super) fn checkpoint_state(&self, id: CheckpointId) -> Option<CheckpointState> {
        self.held
            .iter()
            .find(|held| held.id == id)
            .map(|held| held.state)
    }

    /// Whether what a generation had after so many samples was trained on some that are skipped by now.
    pub(super) fn is_tainted(&self, generation: Generation, samples: u64) -> bool {
        self.skipped
            .iter()
            .any(|skipped| generation <= skipped.by && samples > skipped.consumed)
    }

    /// The spec as the workers of its gang get it; a copy only where that differs from the user's.
    pub(super) fn spec_to_run(&self) -> Option<Arc<RunSpec>> {
        let every_steps = self.gang.as_ref()?.every_steps;
        let mut spec = Arc::clone(&self.spec);
        if !self.skipped.is_empty() {
            let skipped = self.skipped.iter().map(|skipped| skipped.samples);
            Arc::make_mut(&mut spec).guard.skip.extend(skipped);
        }
        if spec.checkpoint.every_steps != every_steps {
            Arc::make_mut(&mut spec).checkpoint.every_steps = every_steps;
        }
        Some(spec)
    }

    /// The newest step after which it was evaluated, up to the one that it resumes from: of what is done again,
    /// later evaluations may be known and earlier ones not.
    pub(super) fn evaluated(&self, resume: Option<CheckpointId>) -> Option<Step> {
        let from = resume.map_or(Step(0), |checkpoint| checkpoint.step);
        let steps = self.evaluations.iter().map(|(_, known)| known.step);
        steps.take_while(|step| *step <= from).last()
    }

    /// Since when its gang is asked to stop at a step boundary, so that it can go elsewhere or wait.
    pub(super) fn leaves_by_itself(&self) -> Option<Instant> {
        let moving = self.moving.as_ref().map(|moving| moving.at);
        moving.or(self.yielding.as_ref().map(|yielding| yielding.at))
    }

    /// Whether it trains, nothing is amiss and it is to stay: then a restart may be planned for it.
    pub(super) fn may_turn(&self) -> bool {
        self.state == RunState::Running
            && self.open_incident().is_none()
            && self.leaves_by_itself().is_none()
    }

    /// Nodes that its next generation stays off where it can, the surest first: those at fault, the one that
    /// is slow now by all that is seen, those found slow before, and suspects of a search.
    pub(super) fn shuns(&self, at_fault: &[NodeId]) -> Vec<NodeId> {
        let search = self.search.as_ref();
        let busiest = search.and_then(|search| search.busiest());
        let suspects = search.into_iter().flat_map(|search| search.next_out());
        let mut shunned = at_fault.to_vec();
        for node in busiest.into_iter().chain(&self.slow).chain(suspects) {
            if !shunned.contains(node) {
                shunned.push(node.clone());
            }
        }
        shunned
    }

    /// Whether the run has or wants a place.
    pub(super) const fn is_live(&self) -> bool {
        match self.state {
            RunState::Pending
            | RunState::Starting
            | RunState::Running
            | RunState::Recovering
            | RunState::Stopping => true,
            RunState::Stopped | RunState::Completed | RunState::Failed | RunState::Parked => false,
        }
    }
}
