//! The queue: which runs are placed when there is room, and whose place they may take.
//!
//! The first that would fit into the fleet as it is, were it empty, lets nobody behind it pass (L3).
//! A run of a higher priority may ask lower ones to leave: they stop at a step boundary, with a
//! checkpoint, and wait again. New runs leave spares; recoveries use them.

use super::state::{Node, Run};
use super::{Engine, Fact, NodeState, Placement, RunState};
use crate::id::{NodeId, Rank, RunId};
use crate::placement::Waiting;
use crate::time::Instant;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

impl Engine {
    /// Places runs that wait, as far as there is room.
    pub(super) fn place_waiting(&mut self) {
        if self.agenda.waiting.is_empty() || self.doubts_until().is_some() {
            return;
        }
        let mut held = BTreeSet::new();
        for id in self.in_order() {
            let Some(run) = self.state.runs.get(&id) else {
                continue;
            };
            if run.broken.is_some() {
                self.recover(&id, &held);
            } else if let Some(placement) = self.room_for(&id, run, &held) {
                self.tell(self.first_placed(&id, run, placement));
            }
            let run = self.state.runs.get(&id);
            let Some(run) = run.filter(|run| run.state == RunState::Pending) else {
                continue;
            };
            if self.wants_room(run) {
                return self.preempt_for(&id, &held);
            }
            held.extend(self.claimed(run));
        }
    }

    /// Where a run that waits may go now: off what is held for others and, where there is room without them,
    /// off nodes that it found slow. New runs leave spares; recoveries use them.
    fn room_for(&self, id: &RunId, run: &Run, held: &BTreeSet<NodeId>) -> Option<Arc<Placement>> {
        let slow: Vec<_> = run.slow.iter().cloned().collect();
        let placement = self.find_place(id, run.spec.layout, &slow, held)?;
        let recovers = run.broken.is_some();
        (recovers || self.spares_short(run, &placement) == 0).then_some(placement)
    }

    /// The next generation of a run that waits and is not broken.
    fn first_placed(&self, id: &RunId, run: &Run, placement: Arc<Placement>) -> Fact {
        let (resume, snapshot) = self.begins_with(id, run, run.spec.layout, &placement);
        Fact::Placed {
            run: id.clone(),
            generation: run.floor.next(),
            layout: run.spec.layout,
            every_steps: self.interval(run, placement.nodes.len()),
            placement,
            async_off: run.async_off,
            rung: None,
            resume,
            snapshot,
            fresh: false,
            kill: Vec::new(),
            cause: run.why.clone(),
        }
    }

    /// Runs that wait for room, who comes first at the front.
    pub(super) fn in_order(&self) -> Vec<RunId> {
        let runs = self.agenda.waiting.iter();
        let mut waiting: Vec<_> = runs
            .filter_map(|id| {
                let run = self.state.runs.get(id)?;
                Some(Waiting {
                    run: id.clone(),
                    priority: run.spec.priority,
                    damaged: run.claim.is_some(),
                    since: run.turn.since,
                    submitted: run.submitted,
                })
            })
            .collect();
        Waiting::sort(&mut waiting, self.now, self.limits.starve_after);
        waiting.into_iter().map(|waiting| waiting.run).collect()
    }

    /// Whether a waiting run would have room if no other run had any: then it waits for the others.
    pub(super) fn wants_room(&self, run: &Run) -> bool {
        let layout = run.spec.layout;
        self.floor.fits_usable(layout.tensor, layout.groups())
    }

    /// What is held for a broken gang: the nodes it left, while one of them may still come back.
    pub(super) fn claimed(&self, run: &Run) -> BTreeSet<NodeId> {
        let claim = run.claim.as_ref();
        let claim = claim.filter(|claim| self.now < claim.at + self.limits.hold_for);
        let Some(claim) = claim else {
            return BTreeSet::new();
        };
        let is_away = |node: &NodeId| {
            let allowed = self.state.nodes.get(node).is_some_and(Node::is_allowed);
            let cut = self.node_state(node) != NodeState::Ready;
            allowed && (cut || self.state.health.is_withdrawn_for_now(node))
        };
        if claim.nodes.iter().any(is_away) {
            claim.nodes.iter().cloned().collect()
        } else {
            BTreeSet::new()
        }
    }

    /// Whole nodes that this placement would leave too few, for the nodes that would then be in use.
    /// A run that needs them all still gets them when it is alone (L3).
    pub(super) fn spares_short(&self, run: &Run, placement: &Placement) -> u32 {
        let Some(first) = placement.seat(Rank(0)).filter(|_| self.limits.keep_spares) else {
            return 0;
        };
        if run.turn.since + self.limits.starve_after <= self.now {
            return 0;
        }
        let (usable, empty) = self.floor.nodes_like(first.node);
        let nodes = &placement.nodes;
        let count = |nodes: usize| u32::try_from(nodes).unwrap_or(u32::MAX);
        let takes = nodes
            .iter()
            .filter(|node| self.floor.is_empty(node))
            .count();
        let left = empty.saturating_sub(count(takes));
        let wanted = self.state.reliability.spares(usable.saturating_sub(left));
        let most = usable.saturating_sub(count(nodes.len()));
        wanted.min(most).saturating_sub(left)
    }

    /// Asks runs of a lower priority to leave, as few as will do, unless enough leave already.
    fn preempt_for(&mut self, id: &RunId, held: &BTreeSet<NodeId>) {
        let Some(run) = self.state.runs.get(id).filter(|run| run.older.is_empty()) else {
            return;
        };
        let priority = run.spec.priority;
        let gangs = self.state.runs.iter().filter(|(_, run)| run.gang.is_some());
        let mut leaving = Vec::new();
        let mut lower = Vec::new();
        for (other, run) in gangs {
            if run.yielding.is_some() || run.state == RunState::Stopping {
                leaving.push(other.clone());
            } else if run.spec.priority < priority && self.turn_over(run) && run.moving.is_none() {
                let least = std::cmp::Reverse(run.turn.since);
                lower.push((run.spec.priority, least, other.clone()));
            }
        }
        if lower.is_empty() {
            return;
        }
        lower.sort();
        let lower = lower.into_iter().map(|(_, _, run)| run);
        let victims = self.enough(id, held, &leaving, lower);
        for run in victims {
            self.tell(Fact::PreemptAsked {
                run,
                by: id.clone(),
            });
        }
    }

    /// The first of these runs whose places together make room for one, less those that turn out not
    /// to be needed; none if even all of them do not.
    fn enough(
        &mut self,
        id: &RunId,
        held: &BTreeSet<NodeId>,
        leaving: &[RunId],
        lower: impl Iterator<Item = RunId>,
    ) -> Vec<RunId> {
        for run in leaving {
            self.floor.hold(run, BTreeMap::new());
        }
        let mut victims = Vec::new();
        let fits_now = |engine: &Self| {
            let run = engine.state.runs.get(id);
            run.is_some_and(|run| engine.room_for(id, run, held).is_some())
        };
        let mut fits = fits_now(self);
        for run in lower {
            if fits {
                break;
            }
            self.floor.hold(&run, BTreeMap::new());
            victims.push(run);
            fits = fits_now(self);
        }
        let mut needed = Vec::new();
        for run in victims.iter().filter(|_| fits) {
            self.rehold(run);
            if !fits_now(self) {
                self.floor.hold(run, BTreeMap::new());
                needed.push(run.clone());
            }
        }
        victims
            .iter()
            .chain(leaving)
            .for_each(|run| self.rehold(run));
        needed
    }

    /// Whether a run that has a place may be asked to leave it: one that had to wait too long keeps
    /// it for a while (L3).
    fn turn_over(&self, run: &Run) -> bool {
        let limit = self.limits.starve_after;
        run.turn.waited < limit || self.now >= run.turn.since + limit
    }

    /// When the order of the queue changes by the mere passing of time.
    pub(super) fn turn_ends(&self, run: &Run) -> Vec<Instant> {
        let waits = run.state == RunState::Pending;
        let turn = run.turn.since + self.limits.starve_after;
        let matters = waits || run.turn.waited >= self.limits.starve_after;
        let claim = run.claim.as_ref().filter(|_| waits);
        let claim = claim.map(|claim| claim.at + self.limits.hold_for);
        claim.into_iter().chain(matters.then_some(turn)).collect()
    }
}
