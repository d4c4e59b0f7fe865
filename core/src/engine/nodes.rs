//! Nodes: which can be reached, which are silent, which are lost.
//!
//! A broken link alone is no fault: an agent that is started again adopts its ranks, so a node is
//! given up only after a while. Links are not part of the state; after a replay every node counts
//! as just gone until it joins.

use super::agenda::Due;
use super::state::Node;
use super::{Engine, Fact, NodeState};
use crate::flight::Sighting;
use crate::id::{NodeId, Session};
use crate::report::{Beat, Pages};
use crate::time::{Duration, Instant};

/// As many generations of one run as a journal can lose in its last moments.
const FORGOTTEN: u64 = 15;

impl Node {
    /// Whether nobody holds it back (S3, S11).
    pub(super) const fn is_allowed(&self) -> bool {
        !self.cordoned
    }
}

impl Engine {
    /// The link over which a node can be commanded now.
    pub(super) fn session(&self, node: &NodeId) -> Option<Session> {
        self.links.get(node)?.open()
    }

    pub(super) fn node_state(&self, node: &NodeId) -> NodeState {
        match self.links.get(node) {
            Some(link) if link.lost => NodeState::Lost,
            Some(link) if link.session.is_some() => NodeState::Ready,
            Some(_) => NodeState::Unreachable,
            None if self.is_lost(node) => NodeState::Lost,
            None => NodeState::Unreachable,
        }
    }

    /// Whether a node was given up, or was never known.
    pub(super) fn is_lost(&self, node: &NodeId) -> bool {
        self.state.nodes.get(node).is_none_or(|node| node.lost)
    }

    pub(super) fn heard(&self, node: &NodeId) -> Instant {
        let never = self.began.unwrap_or_default();
        self.links
            .get(node)
            .map_or(never, |link| link.heard.max(self.awake))
    }

    pub(super) fn left(&mut self, node: &NodeId, session: Session) {
        if self.links.left(node, session, self.now) {
            self.node_changed(node, false);
        } else {
            self.count("stale_link");
        }
    }

    pub(super) fn beat(&mut self, node: &NodeId, session: Session, beat: Beat) {
        let now = self.now;
        let Some(link) = self.links.up(session, node) else {
            return self.count("stale_link");
        };
        (link.heard, link.beat) = (now, Some(now));
        if link.lost {
            self.tell(Fact::NodeReturned { node: node.clone() });
        }
        for pages in beat.pages {
            let run = pages.run.clone();
            self.read_out(node, &run, &pages.matches);
            self.sighted(node, pages);
            self.judge_pace(&run);
        }
        // Runs that wait to be judged by their pages.
        for run in &self.judging {
            let gang = self.state.runs.get(run).and_then(|run| run.gang.as_ref());
            if gang.is_some_and(|gang| gang.placement.nodes.contains(node)) {
                self.agenda.touch(run);
            }
        }
    }

    fn sighted(&mut self, node: &NodeId, pages: Pages) {
        let run = self.state.runs.get(&pages.run);
        let Some((run, gang)) = run.and_then(|run| Some((run, run.gang.as_ref()?))) else {
            return self.count("stale_page");
        };
        let generation = gang.generation;
        let (mut stale, mut seen, mut goes_on) = (0, Vec::new(), false);
        let watch = match self.watches.get_mut(&pages.run) {
            Some(watch) => watch,
            None => self.watches.get_or_default(&pages.run),
        };
        watch.follow(run, gang, self.now);
        let times = (self.now, self.awake, self.limits.beat_every);
        let step = watch.step;
        for Sighting { rank, page } in pages.sightings {
            if gang.node_of(rank) != Some(node) {
                stale += 1;
                continue;
            }
            if page.generation == generation {
                let look = watch.look(run, gang, (rank, &page), times);
                seen.extend(look.into_iter().map(|look| (rank, look)));
                goes_on |= watch.pause.look(rank, page.phase, self.now);
            }
            if page.generation == generation && page.step > watch.step {
                watch.step = page.step;
                watch.moved_at = self.now;
            }
            let before = watch.pages.get(rank).map(|before| before.pulse);
            let since = watch.beating.get_or_insert(rank, self.now);
            if before != Some(page.pulse) {
                *since = self.now;
            }
            watch.pages.insert(rank, page);
        }
        if goes_on || (watch.step > step && run.catches_up()) {
            // What its output should say is due again; or it may have caught up.
            self.agenda.touch(&pages.run);
        }
        (0..stale).for_each(|_| self.count("stale_page"));
        for (rank, seen) in seen {
            self.looked(&pages.run, node, rank, seen);
        }
    }

    /// Until when nothing may be placed, since a node that has not joined yet may run what the journal lost.
    pub(super) fn doubts_until(&self) -> Option<Instant> {
        let forgot = self.doubts && self.links.has_unheard();
        let until = self.began.filter(|_| forgot)? + self.fence_after();
        (self.now < until).then_some(until)
    }

    /// Whether it still does not know what its journal may lack. A driver remembers until then that
    /// the power was lost, so that the next life doubts as well.
    pub const fn is_in_doubt(&self) -> bool {
        self.doubts
    }

    /// Stops doubting once each node has told what it remembers, or has surely fenced itself. That is not all
    /// that the journal lost: a node that lost its power as well may have been sent a number.
    pub(super) fn check_doubts(&mut self) {
        if !self.doubts || self.doubts_until().is_some() {
            return;
        }
        self.doubts = false;
        self.tell(Fact::NumbersLeftOut { many: FORGOTTEN });
        let runs: Vec<_> = self.state.runs.names().cloned().collect();
        runs.iter().for_each(|run| self.agenda.reorder(run));
        self.agenda.room_changed();
    }

    /// Gives up a node that was silent, or gone, for too long.
    pub(super) fn check_node(&mut self, node: NodeId) {
        let lost_at = self.lost_at(&node).filter(|_| !self.is_lost(&node));
        if lost_at.is_some_and(|at| at <= self.now) {
            let silent_for = self.now.since(self.heard(&node));
            self.tell(Fact::NodeLost { node, silent_for });
        } else {
            self.agenda.wake(Due::Node(node), lost_at);
        }
    }

    /// When a node that is not lost will be, if nothing is heard of it.
    pub(super) fn lost_at(&self, node: &NodeId) -> Option<Instant> {
        let link = self.links.get(node)?;
        Some(match link.session {
            Some(_) => link.heard.max(self.awake) + self.limits.silent_after,
            None => link.down_since.max(self.awake) + self.limits.rejoin_within,
        })
    }

    /// Hearing nothing of an agent for this long, its ranks have surely fenced themselves (S1): it
    /// may take a while to notice that its link is dead, and clocks differ.
    pub(super) fn fence_after(&self) -> Duration {
        self.limits.orphan_after + self.limits.orphan_after / 10 + self.limits.silent_after
    }
}
