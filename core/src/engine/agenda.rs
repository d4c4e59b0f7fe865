//! What has to be looked at again: runs that something happened to, and moments to wake up at.
//!
//! After an event only the runs that it touches are decided on, so that a decision costs the same in
//! any fleet. A fact touches its run; a node that comes, goes or is held back touches the runs on it;
//! whatever else a decision depends on must touch the run as well, or be one of its deadlines.

use super::placement::remains;
use super::{Engine, Fact, RunState};
use crate::by_name::ByName;
use crate::health::Verdict;
use crate::id::{NodeId, RunId};
use crate::placement::Standing;
use crate::time::Instant;
use std::collections::BTreeSet;

/// Rounds after one event before what is left waits for the next; two are usual.
const ROUNDS: usize = 4;

/// Whose deadline it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Due {
    /// A node may have been silent for too long.
    Node(NodeId),
    /// Something has to be decided about a run.
    Run(RunId),
}

#[derive(Debug, Default)]
pub(super) struct Agenda {
    touched: BTreeSet<RunId>,
    /// Those of them whose nodes may have to be told something else.
    reordered: BTreeSet<RunId>,
    /// Whether there may be room that was not there before.
    room_changed: bool,
    /// Runs that wait for room.
    pub(super) waiting: BTreeSet<RunId>,
    /// Runs that shrank and may grow back when there is room.
    shrunk: BTreeSet<RunId>,
    /// Runs that are over and leave nothing behind, by when they were submitted.
    pub(super) over: BTreeSet<(Instant, RunId)>,
    by_time: BTreeSet<(Instant, Due)>,
    deadlines: ByName<Due, Instant>,
}

impl Agenda {
    pub(super) fn touch(&mut self, run: &RunId) {
        if !self.touched.contains(run) {
            self.touched.insert(run.clone());
        }
    }

    /// The same where its nodes may have to be told something else.
    pub(super) fn reorder(&mut self, run: &RunId) {
        self.touch(run);
        if !self.reordered.contains(run) {
            self.reordered.insert(run.clone());
        }
    }

    pub(super) const fn room_changed(&mut self) {
        self.room_changed = true;
    }

    pub(super) fn wake(&mut self, due: Due, at: Option<Instant>) {
        let before = match at {
            Some(at) => self.deadlines.insert(due.clone(), at),
            None => self.deadlines.remove(&due),
        };
        if before == at {
            return;
        }
        if let Some(before) = before {
            self.by_time.remove(&(before, due.clone()));
        }
        self.by_time.extend(at.map(|at| (at, due)));
    }

    fn pop(&mut self, now: Instant) -> Option<Due> {
        let due = self.by_time.first().is_some_and(|(at, _)| *at <= now);
        let (_, due) = due.then(|| self.by_time.pop_first())??;
        self.deadlines.remove(&due);
        Some(due)
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.by_time.first().map(|(at, _)| *at)
    }
}

impl Engine {
    /// Brings what is in line with what shall be, until nothing is left to decide.
    pub(super) fn settle(&mut self) {
        self.check_due();
        self.check_health();
        let mut seen = BTreeSet::new();
        for _ in 0..ROUNDS {
            let mut batch = std::mem::take(&mut self.agenda.touched);
            let room = std::mem::take(&mut self.agenda.room_changed);
            if room {
                batch.extend(self.agenda.shrunk.iter().cloned());
            }
            if batch.is_empty() && !room {
                break;
            }
            // Runs that have a place come first, since they may free theirs.
            batch.iter().for_each(|run| self.settle_run(run));
            if room || self.agenda.waiting.iter().any(|run| batch.contains(run)) {
                self.place_waiting();
            }
            seen.extend(batch);
        }
        let mut reordered = std::mem::take(&mut self.agenda.reordered);
        for run in &seen {
            self.watch(run);
            self.keep_checkpoints(run);
            if reordered.remove(run) {
                self.write_orders(run);
            }
            self.set_alarm(run);
        }
        reordered.iter().for_each(|run| self.write_orders(run));
        let left: Vec<_> = self.agenda.touched.iter().cloned().collect();
        left.iter().for_each(|run| self.set_alarm(run));
        let doubts = self.doubts_until();
        self.wake = [self.agenda.next(), doubts, self.ward.deadline()]
            .into_iter()
            .flatten()
            .min();
    }

    /// Decides on one run until nothing is left to decide: a fleet does not fit into a cache, its parts do.
    fn settle_run(&mut self, run: &RunId) {
        for _ in 1..ROUNDS {
            self.decide(run);
            if !self.agenda.touched.remove(run) {
                return;
            }
        }
        self.decide(run);
    }

    fn set_alarm(&mut self, run: &RunId) {
        let deadline = self.run_deadline(run);
        self.agenda.wake(Due::Run(run.clone()), deadline);
    }

    /// Takes up what has come due.
    fn check_due(&mut self) {
        self.check_doubts();
        let mut nodes = Vec::new();
        while let Some(due) = self.agenda.pop(self.now) {
            match due {
                Due::Run(run) => {
                    self.agenda.reorder(&run);
                    // Its turn may be over.
                    self.agenda.room_changed |= !self.agenda.waiting.is_empty();
                }
                Due::Node(node) => nodes.push(node),
            }
        }
        nodes.sort();
        for node in nodes {
            // Signs of life do not move the deadline, so it may be early.
            self.check_node(node);
        }
    }

    /// Takes in what a fact changed: where there is room, and what has to be decided.
    pub(super) fn note(&mut self, fact: &Fact) {
        if let Some(node) = fact.fleet_node() {
            let is_new = matches!(fact, Fact::NodeEnrolled { .. });
            let (Fact::NodeEnrolled { .. } | Fact::NodeLost { .. } | Fact::NodeReturned { .. }) =
                fact
            else {
                // It is held back or let go, and as far away as before.
                self.node_stands(node, false);
                return;
            };
            let known = self.state.nodes.get(node);
            let lost = known.is_some_and(|known| known.lost);
            self.links.enter(node, lost, self.now);
            if let Some(link) = self.links.get_mut(node) {
                link.lost = lost;
            }
            return self.node_changed(node, is_new);
        }
        let Some(run) = fact.run() else { return };
        if matches!(fact, Fact::IncidentOpened { .. }) {
            self.agenda.reorder(run);
        } else {
            self.agenda.touch(run);
        }
        if fact.moves() {
            self.agenda.reorder(run);
            self.rehold(run);
            self.agenda.room_changed();
            self.list(run);
        }
    }

    /// Files a run where it belongs: with those that wait, with those that are over, or nowhere.
    fn list(&mut self, id: &RunId) {
        let run = self.state.runs.get(id);
        let waits = run.is_some_and(|run| run.state == RunState::Pending);
        if waits {
            self.agenda.waiting.insert(id.clone());
        } else {
            self.agenda.waiting.remove(id);
        }
        if run.is_some_and(|run| run.full.is_some()) {
            self.agenda.shrunk.insert(id.clone());
        } else {
            self.agenda.shrunk.remove(id);
        }
        if let Some(run) = run {
            let key = (run.submitted, id.clone());
            if !run.is_live() && run.owed.is_empty() && run.older.is_empty() {
                self.agenda.over.insert(key);
            } else {
                self.agenda.over.remove(&key);
            }
        }
    }

    /// Takes in what a run holds or may hold now.
    pub(super) fn rehold(&mut self, id: &RunId) {
        let run = self.state.runs.get(id);
        let strays = self.desk.strays_of(id);
        let remains = remains(&self.state, run, strays);
        match run.and_then(|run| run.gang.as_ref()) {
            Some(gang) => self.floor.seat(id, &gang.placement, remains),
            None => self.floor.hold(id, remains),
        }
    }

    /// Takes in that a node came or went.
    pub(super) fn node_changed(&mut self, node: &NodeId, is_news: bool) {
        let is_open = self.session(node).is_some();
        for run in self.node_stands(node, is_news) {
            self.watch_node(&run, node, is_open);
        }
        let files = self.desk.files_at(node);
        files.iter().for_each(|run| self.agenda.touch(run));
        let deadline = self.lost_at(node).filter(|_| !self.is_lost(node));
        self.agenda.wake(Due::Node(node.clone()), deadline);
    }

    /// Takes in whether something may be placed on a node now; says which runs are on it.
    fn node_stands(&mut self, node: &NodeId, is_news: bool) -> Vec<RunId> {
        let Some(known) = self.state.nodes.get(node) else {
            return Vec::new();
        };
        let is_open = self.session(node).is_some();
        let verdict = self.state.health.verdict(node);
        let standing = Standing {
            allowed: known.is_allowed(),
            usable: known.is_allowed() && is_open && !verdict.withdraws(),
            suspect: verdict > Verdict::Healthy,
        };
        if is_news || !self.floor.stand(node, standing) {
            self.floor.set(&known.facts, standing);
        }
        let runs = self.floor.on(node);
        runs.iter().for_each(|run| self.agenda.reorder(run));
        self.agenda.room_changed();
        runs
    }

    /// Makes everything again that is derived from the state.
    pub(super) fn take_stock(&mut self) {
        let nodes: Vec<_> = self
            .state
            .nodes
            .iter()
            .map(|(id, node)| (id.clone(), node.lost))
            .collect();
        for (node, lost) in nodes {
            self.links.enter(&node, lost, self.now);
            self.node_changed(&node, true);
        }
        let runs: Vec<_> = self.state.runs.names().cloned().collect();
        for run in runs {
            self.rehold(&run);
            self.list(&run);
            self.agenda.reorder(&run);
        }
    }
}
