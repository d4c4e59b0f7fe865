//! Recovery: from a fault to the next generation, rung by rung.
//!
//! A fault ends the generation at once ([`Engine::broke`]); placing the next one may have to wait for
//! room, for an agent that is about to come back, or until the old gang surely cannot step (S1).
//! What was decided is a fact before anything is sent, so a recovery that is cut in two goes on.

use super::placement::place;
use super::state::Run;
use super::{Engine, Fact, NodeState, Placement, RunState, Rung};
use crate::cause::Cause;
use crate::id::{Generation, NodeId, RunId};
use crate::spec::Recovery;
use crate::time::Instant;

/// More generations than a journal can lose in its last moments.
const FORGOTTEN: u64 = 16;

/// Where recovery begins for a root cause.
const fn first_rung(cause: &Cause) -> Rung {
    if matches!(cause, Cause::NodeLost { .. }) {
        Rung::Replace
    } else {
        Rung::Reform
    }
}

/// The rung to take: the first from `rung` on whose budget is not spent.
fn climb(run: &Run, rung: Rung) -> Option<Rung> {
    let Recovery {
        restarts: _,
        reform,
        restart,
        replace,
    } = run.spec.recovery;
    let budgets = [
        (Rung::Reform, reform),
        (Rung::Restart, restart),
        (Rung::Replace, replace),
    ];
    let mut left = budgets.into_iter().filter(|(at, _)| *at >= rung);
    left.find(|(at, budget)| run.ladder.spent(*at) < *budget)
        .map(|(at, _)| at)
}

impl Engine {
    /// Takes in a root cause that was heard of now and began at `began`.
    pub(super) fn fault(&mut self, id: &RunId, cause: Cause, began: Instant) {
        let rung = first_rung(&cause);
        self.broke(id, cause, (began, self.now), rung);
    }

    /// Opens an incident that ends the generation in force, or adds to the one that is open. A run
    /// that is coming to a stop only records it.
    pub(super) fn broke(
        &mut self,
        id: &RunId,
        cause: Cause,
        (began, heard): (Instant, Instant),
        rung: Rung,
    ) {
        let Some(run) = self.state.runs.get(id) else {
            return;
        };
        let rung = match run.state {
            RunState::Starting | RunState::Running | RunState::Recovering => Some(rung),
            RunState::Pending
            | RunState::Stopping
            | RunState::Stopped
            | RunState::Completed
            | RunState::Failed
            | RunState::Parked => None,
        };
        let (run, step) = (id.clone(), self.step(id));
        self.tell(Fact::IncidentOpened {
            run,
            cause,
            began,
            heard,
            step,
            rung,
        });
    }

    /// A root cause of an older generation: what else was seen of the incident that ended it.
    pub(super) fn too_late(&mut self, id: &RunId, generation: Generation, cause: Cause) {
        let open = self.state.runs.get(id).and_then(Run::open_incident);
        if open.is_some_and(|open| open.generation == generation && open.cause != cause) {
            self.tell(Fact::EvidenceAdded {
                run: id.clone(),
                cause,
            });
        }
    }

    /// Gives up nodes of the gang that are lost, unless none of its nodes can be reached: then the
    /// cut may be ours, the gang may be training, and only time can tell (S1).
    pub(super) fn check_gang_nodes(&mut self, id: &RunId) {
        let Some((run, watch)) = self.state.runs.get(id).zip(self.watches.get(id)) else {
            return;
        };
        let Some(gang) = &run.gang else { return };
        let nodes = &gang.nodes;
        let is_time = if watch.dark {
            self.now >= self.all_fenced_at(nodes.iter())
        } else {
            self.now >= watch.lit_at + self.limits.rejoin_within
        };
        if !is_time {
            return;
        }
        let lost = nodes
            .iter()
            .filter(|node| self.node_state(node) == NodeState::Lost);
        let finished = |node: &&NodeId| gang.on(node).all(|(_, member)| member.finished.is_some());
        let lost: Vec<_> = lost.filter(|node| !finished(node)).cloned().collect();
        for node in lost {
            let heard = self.heard(&node);
            let silent_for = self.now.since(heard);
            self.fault(id, Cause::NodeLost { node, silent_for }, heard);
        }
    }

    /// Carries a broken run on: to its next generation, to waiting, or to its end.
    pub(super) fn recover(&mut self, id: &RunId) {
        let Some(run) = self.state.runs.get(id) else {
            return;
        };
        let Some(broken) = &run.broken else { return };
        if broken.cause.spends_budget() && run.ladder.own >= run.spec.recovery.restarts {
            let restarts = run.spec.recovery.restarts;
            return self.end(id, RunState::Failed, Cause::BudgetSpent { restarts });
        }
        let rung = if broken.cause.climbs() {
            climb(run, broken.rung)
        } else {
            Some(broken.rung)
        };
        let Some(rung) = rung else {
            let recoveries = run.ladder.recoveries();
            return self.end(id, RunState::Parked, Cause::NoProgress { recoveries });
        };
        let waits = run.gang.as_ref().is_some_and(|gang| {
            gang.nodes
                .iter()
                .any(|node| self.node_state(node) == NodeState::Unreachable)
        });
        if waits || self.doubts_until().is_some() {
            return;
        }
        let fresh = rung == Rung::Restart || (rung == Rung::Replace && broken.rung < rung);
        let (cause, kill) = (broken.cause.clone(), broken.kill.clone());
        let avoid = broken.avoid.clone().filter(|_| rung == Rung::Replace);
        match self.find_place(id, avoid.as_ref()) {
            Some(placement) => {
                let fact = self.placed(id, placement, Some(rung), cause);
                let Some(mut fact) = fact else { return };
                if let Fact::Placed {
                    fresh: is_fresh,
                    kill: kills,
                    ..
                } = &mut fact
                {
                    (*is_fresh, *kills) = (fresh, kill);
                }
                self.tell(fact);
            }
            None if run.gang.is_some() => self.tell(Fact::Unplaced { run: id.clone() }),
            None => {}
        }
    }

    /// Places runs that wait, the oldest first. One that would fit into the fleet as it is, were it
    /// empty, lets no younger one pass (L3).
    pub(super) fn place_waiting(&mut self) {
        if self.doubts_until().is_some() {
            return;
        }
        let waiting = self
            .state
            .runs
            .iter()
            .filter(|(_, run)| run.state == RunState::Pending);
        let mut waiting: Vec<_> = waiting
            .map(|(id, run)| (run.submitted, id.clone()))
            .collect();
        waiting.sort();
        for (_, id) in waiting {
            let Some(run) = self.state.runs.get(&id) else {
                continue;
            };
            if run.broken.is_some() {
                self.recover(&id);
            } else if let Some(placement) = self.find_place(&id, None) {
                let fact = self.placed(&id, placement, None, run.why.clone());
                fact.into_iter().for_each(|fact| self.tell(fact));
            }
            let is_waiting = |run: &Run| run.state == RunState::Pending;
            if self.state.runs.get(&id).is_some_and(is_waiting) && self.wants_room(&id) {
                break;
            }
        }
    }

    fn find_place(&self, id: &RunId, avoid: Option<&NodeId>) -> Option<Placement> {
        let run = self.state.runs.get(id)?;
        let current = run.gang.as_ref().map(|gang| &gang.placement);
        let keeps_s1 = |placement: &Placement| {
            self.tears_older(id, &placement.seats.iter().map(|seat| &seat.node).collect())
        };
        let found = |avoid| place(run.spec.layout, self.rooms(id, avoid), current);
        found(avoid)
            .filter(keeps_s1)
            .or_else(|| avoid.and_then(|_| found(None)).filter(keeps_s1))
    }

    fn placed(
        &self,
        id: &RunId,
        placement: Placement,
        rung: Option<Rung>,
        cause: Cause,
    ) -> Option<Fact> {
        let run = self.state.runs.get(id)?;
        Some(Fact::Placed {
            run: id.clone(),
            generation: self.next_generation(run.floor),
            placement,
            rung,
            resume: run.newest_sealed(),
            fresh: false,
            kill: Vec::new(),
            cause,
        })
    }

    /// The next number that nobody can have heard of.
    fn next_generation(&self, floor: Generation) -> Generation {
        if self.may_have_forgotten() {
            Generation(floor.0 + FORGOTTEN)
        } else {
            floor.next()
        }
    }

    /// Whether a waiting run would have room if no other run had any: then it waits for the others.
    fn wants_room(&self, id: &RunId) -> bool {
        let Some(run) = self.state.runs.get(id) else {
            return false;
        };
        super::placement::fits(run.spec.layout, self.usable_slots())
    }

    /// Slots of each node that may be used at all.
    pub(super) fn usable_slots(&self) -> impl Iterator<Item = u32> {
        let usable = self
            .state
            .nodes
            .iter()
            .filter(|(id, node)| !node.cordoned && self.node_state(id) == NodeState::Ready);
        usable.map(|(_, node)| node.facts.slots)
    }

    /// Why a waiting run waits, in a sentence.
    pub(super) fn waits_for(&self, id: &RunId) -> String {
        let Some(run) = self.state.runs.get(id) else {
            return String::new();
        };
        let layout = run.spec.layout;
        if let Some(old) = run.older.first()
            && place(layout, self.rooms(id, None), None).is_some()
        {
            let nodes: Vec<_> = old.nodes.iter().map(NodeId::as_str).collect();
            return format!(
                "generation {} on {} might still run; waits for one of them to confirm that it \
                 does not, or for all of them to have fenced themselves",
                old.generation,
                nodes.join(", ")
            );
        }
        let free: usize = self
            .rooms(id, None)
            .iter()
            .map(|room| room.free.len())
            .sum();
        let usable: u32 = self.usable_slots().sum();
        let (world, tensor) = (layout.world(), layout.tensor);
        if super::placement::fits(layout, self.usable_slots()) {
            format!(
                "needs {world} slots, {tensor} together on a node; {free} of {usable} usable slots \
                 are free, or older runs wait for them"
            )
        } else {
            format!(
                "needs {world} slots, {tensor} together on a node; the nodes that can be used have \
                 {usable}"
            )
        }
    }

    pub(super) fn end(&mut self, id: &RunId, state: RunState, cause: Cause) {
        self.pass_milepost(id);
        self.tell(Fact::RunEnded {
            run: id.clone(),
            state,
            cause,
        });
    }
}
