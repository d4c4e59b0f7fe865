//! Nodes: which can be reached, which are silent, which are lost.
//!
//! A broken link alone is no fault: an agent that is started again adopts its ranks, so a node is
//! given up only after a while. Links are not part of the state; after a replay every node counts
//! as just gone until it joins.

use super::{Engine, Fact, NodeState};
use crate::flight::Page;
use crate::id::{NodeId, Session};
use crate::report::Beat;
use crate::time::{Duration, Instant};

/// The connection of one agent, as far as this life of the engine knows.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) session: Option<Session>,
    /// The link that the present one replaced: what it still brings is true, only late.
    pub(super) previous: Option<Session>,
    pub(super) heard: Instant,
    /// When the link before this one was last heard: what is missing now went missing since.
    pub(super) heard_before: Instant,
    pub(super) down_since: Instant,
}

impl Link {
    pub(super) const fn down(now: Instant) -> Self {
        Self {
            session: None,
            previous: None,
            heard: now,
            heard_before: now,
            down_since: now,
        }
    }

    /// Whether this life of the engine has heard it at all.
    pub(super) const fn was_up(&self) -> bool {
        self.session.is_some() || self.previous.is_some()
    }
}

impl Engine {
    /// The link over which a node can be commanded now.
    pub(super) fn session(&self, node: &NodeId) -> Option<Session> {
        match self.node_state(node) {
            NodeState::Ready => self.links.get(node)?.session,
            NodeState::Unreachable | NodeState::Lost => None,
        }
    }

    pub(super) fn node_state(&self, node: &NodeId) -> NodeState {
        let is_up = self
            .links
            .get(node)
            .is_some_and(|link| link.session.is_some());
        match self.state.nodes.get(node) {
            Some(known) if !known.lost && is_up => NodeState::Ready,
            Some(known) if !known.lost => NodeState::Unreachable,
            Some(_) | None => NodeState::Lost,
        }
    }

    pub(super) fn heard(&self, node: &NodeId) -> Instant {
        let never = self.began.unwrap_or_default();
        self.links.get(node).map_or(never, |link| link.heard)
    }

    pub(super) fn left(&mut self, node: &NodeId, session: Session) {
        let link = self
            .links
            .get_mut(node)
            .filter(|link| link.session == Some(session));
        match link {
            Some(link) => {
                link.previous = link.session.take();
                link.down_since = self.now;
            }
            None => self.count("stale_link"),
        }
    }

    pub(super) fn beat(&mut self, node: &NodeId, session: Session, beat: Beat) {
        let Some(link) = self
            .links
            .get_mut(node)
            .filter(|link| link.session == Some(session))
        else {
            return self.count("stale_link");
        };
        link.heard = self.now;
        if self.state.nodes.get(node).is_some_and(|node| node.lost) {
            self.tell(Fact::NodeReturned { node: node.clone() });
        }
        for (run, watch) in &mut self.watches {
            if self
                .state
                .runs
                .get(run)
                .is_some_and(|run| run.gang.is_some())
            {
                watch.beats.insert(node.clone(), self.now);
            }
        }
        for pages in beat.pages {
            for sighting in pages.sightings {
                self.sighted(node, &pages.run, sighting.rank, sighting.page);
            }
        }
    }

    fn sighted(
        &mut self,
        node: &NodeId,
        run: &crate::id::RunId,
        rank: crate::id::Rank,
        page: Page,
    ) {
        let gang = self.state.runs.get(run).and_then(|run| run.gang.as_ref());
        let Some(gang) = gang.filter(|gang| gang.node_of(rank) == Some(node)) else {
            return self.count("stale_page");
        };
        let (generation, first) = (gang.generation, gang.first_step());
        let watch = self.watches.entry(run.clone()).or_default();
        watch.follow(generation, first, self.now);
        if page.generation == generation && page.step > watch.step {
            watch.step = page.step;
            watch.moved_at = self.now;
        }
        let pulse = watch.pulses.entry(rank).or_insert((page.pulse, self.now));
        if pulse.0 != page.pulse {
            *pulse = (page.pulse, self.now);
        }
        watch.pages.insert(rank, page);
    }

    /// Whether a node that has not joined yet may know what the journal lost.
    pub(super) fn may_have_forgotten(&self) -> bool {
        let is_silent = |node: &NodeId| !self.links.get(node).is_some_and(Link::was_up);
        self.doubts && self.state.nodes.keys().any(is_silent)
    }

    /// Until when nothing may be placed, since such a node may run what the journal lost.
    pub(super) fn doubts_until(&self) -> Option<Instant> {
        let until = self.began.filter(|_| self.may_have_forgotten())? + self.fence_after();
        (self.now < until).then_some(until)
    }

    /// Whether it still does not know what its journal may lack. A driver remembers until then that
    /// the power was lost, so that the next life doubts as well.
    pub fn is_in_doubt(&self) -> bool {
        self.doubts && (self.began.is_none() || self.doubts_until().is_some())
    }

    /// Gives up nodes that were silent, or gone, for too long.
    pub(super) fn check_nodes(&mut self) {
        let known = self.state.nodes.iter().filter(|(_, node)| !node.lost);
        let due = known.filter(|(node, _)| self.lost_at(node).is_some_and(|at| at <= self.now));
        let due: Vec<_> = due.map(|(node, _)| node.clone()).collect();
        for node in due {
            let silent_for = self.now.since(self.heard(&node));
            self.tell(Fact::NodeLost { node, silent_for });
        }
    }

    /// When a node that is not lost will be, if nothing is heard of it.
    pub(super) fn lost_at(&self, node: &NodeId) -> Option<Instant> {
        let link = self.links.get(node)?;
        Some(match link.session {
            Some(_) => link.heard + self.limits.silent_after,
            None => link.down_since + self.limits.rejoin_within,
        })
    }

    /// Hearing nothing of an agent for this long, its ranks have surely fenced themselves (S1): it
    /// may take a while to notice that its link is dead, and clocks differ.
    pub(super) fn fence_after(&self) -> Duration {
        self.limits.orphan_after + self.limits.orphan_after / 10 + self.limits.silent_after
    }
}
