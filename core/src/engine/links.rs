//! The connections of agents, as far as this life of the engine knows; none of it is journaled.

use crate::by_name::ByName;
use crate::id::{NodeId, Session};
use crate::time::Instant;
use std::collections::BTreeMap;

/// The connection of one agent.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) node: NodeId,
    pub(super) session: Option<Session>,
    /// The link that the present one replaced: what it still brings is true, only late.
    pub(super) previous: Option<Session>,
    pub(super) heard: Instant,
    /// When the link before this one was last heard: what is missing now went missing since.
    pub(super) heard_before: Instant,
    pub(super) down_since: Instant,
    /// When it last beat.
    pub(super) beat: Option<Instant>,
    /// Whether its node was given up, as the state says too.
    pub(super) lost: bool,
}

impl Link {
    /// Whether this life of the engine has heard it at all.
    pub(super) const fn was_up(&self) -> bool {
        self.session.is_some() || self.previous.is_some()
    }

    /// The link over which its node can be commanded.
    pub(super) fn open(&self) -> Option<Session> {
        self.session.filter(|_| !self.lost)
    }
}

/// The place of a link among all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LinkAt(u32);

/// One link a node, found by the node's name or by the number of the link.
#[derive(Debug, Default)]
pub(super) struct Links {
    all: Vec<Link>,
    nodes: ByName<NodeId, LinkAt>,
    sessions: BTreeMap<Session, LinkAt>,
    /// Nodes that this life of the engine has not heard.
    unheard: usize,
}

impl Links {
    /// Where the link of a node is, which does not change.
    pub(super) fn find(&self, node: &NodeId) -> Option<LinkAt> {
        self.nodes.get(node).copied()
    }

    pub(super) fn at(&self, at: LinkAt) -> Option<&Link> {
        self.all.get(at.0 as usize)
    }

    pub(super) fn get(&self, node: &NodeId) -> Option<&Link> {
        self.at(self.find(node)?)
    }

    pub(super) fn get_mut(&mut self, node: &NodeId) -> Option<&mut Link> {
        self.find(node).map(|at| &mut self.all[at.0 as usize])
    }

    /// The link of this number, if it is that node's and is up.
    pub(super) fn up(&mut self, session: Session, node: &NodeId) -> Option<&mut Link> {
        let at = self.sessions.get(&session)?;
        Some(&mut self.all[at.0 as usize]).filter(|link| link.node == *node)
    }

    /// A node that is known, though nothing was heard of it yet.
    pub(super) fn enter(&mut self, node: &NodeId, lost: bool, now: Instant) {
        if self.nodes.get(node).is_some() {
            return;
        }
        let at = LinkAt(u32::try_from(self.all.len()).unwrap_or(u32::MAX));
        self.nodes.insert(node.clone(), at);
        self.unheard += 1;
        self.all.push(Link {
            node: node.clone(),
            session: None,
            previous: None,
            heard: now,
            heard_before: now,
            down_since: now,
            beat: None,
            lost,
        });
    }

    pub(super) fn joined(&mut self, node: &NodeId, session: Session, now: Instant) {
        self.enter(node, false, now);
        let Some(at) = self.find(node) else {
            return;
        };
        let link = &mut self.all[at.0 as usize];
        self.unheard -= usize::from(!link.was_up());
        link.previous = link.session.replace(session);
        link.heard_before = std::mem::replace(&mut link.heard, now);
        if let Some(previous) = link.previous {
            self.sessions.remove(&previous);
        }
        self.sessions.insert(session, at);
    }

    /// Says whether that was the node's link.
    pub(super) fn left(&mut self, node: &NodeId, session: Session, now: Instant) -> bool {
        let Some(link) = self.up(session, node) else {
            return false;
        };
        link.previous = link.session.take();
        link.down_since = now;
        self.sessions.remove(&session);
        true
    }

    /// Whether there are nodes that this life of the engine has not heard.
    pub(super) const fn has_unheard(&self) -> bool {
        self.unheard > 0
    }

    /// A node that can be commanded, if there is any.
    pub(super) fn any_open(&self) -> Option<&NodeId> {
        let mut up = self.sessions.values().filter_map(|at| self.at(*at));
        up.find(|link| !link.lost).map(|link| &link.node)
    }
}
