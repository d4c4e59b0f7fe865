//! Bisecting a slow gang: which node makes it slow, found over a few restarts.
//!
//! A node can slow a gang down without any sign of its own; BLOOM's tested only 2.5 % slow alone. So at each
//! restart half of the suspects stay out, as far as there are spares, and the pace afterwards says which half
//! it was. Where one node's ranks are busy for longer than all others, it alone stays out first. A node is named
//! once the gang was fast without it, and without no other that could be it. Never restarts a gang itself.

use crate::id::NodeId;
use crate::node_set::NodeSet;
use crate::time::Duration;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// A search that is under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bisect {
    before: Duration,
    slow: Duration,
    /// The likeliest first.
    suspects: Vec<NodeId>,
    /// The one that stands out among them.
    busiest: Option<NodeId>,
    /// Suspects that the generation in force leaves out.
    out: BTreeSet<NodeId>,
}

/// What the pace of a generation told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing, or half of what was left.
    GoesOn,
    /// It is this node.
    Found(NodeId),
    /// It was none of them.
    Gone,
}

impl Bisect {
    /// A search among these nodes, given how much longer each is busy than its like (1 is as long), since a
    /// step takes `slow` and took `before`.
    pub fn new(before: Duration, slow: Duration, busy: &BTreeMap<NodeId, f64>) -> Self {
        let mut nodes: Vec<_> = busy.iter().collect();
        nodes.sort_by(|(one, a), (other, b)| b.total_cmp(a).then_with(|| one.cmp(other)));
        let mut search = Self {
            before,
            slow,
            suspects: nodes.iter().map(|(node, _)| (*node).clone()).collect(),
            busiest: None,
            out: BTreeSet::new(),
        };
        let share = search.share();
        if let [(node, most), rest @ ..] = nodes.as_slice() {
            let next = rest.first().map_or(1.0, |(_, next)| **next);
            let stands_out = **most > 1.0 + share / 2.0 && next < 1.0 + share / 4.0;
            search.busiest = stands_out.then(|| (*node).clone());
        }
        search
    }

    /// What a step took, and takes.
    pub const fn steps(&self) -> (Duration, Duration) {
        (self.before, self.slow)
    }

    /// Which part of every step is lost.
    pub fn share(&self) -> f64 {
        let lost = self.slow.saturating_sub(self.before);
        lost.as_secs_f64() / self.slow.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// Those of `nodes` that may be the slow one.
    pub fn suspects_in(&self, nodes: &NodeSet) -> usize {
        let suspects = self.suspects.iter();
        suspects.filter(|node| nodes.contains(node)).count()
    }

    /// The one whose ranks are busy for longer than all others, unless it was left out already.
    pub const fn busiest(&self) -> Option<&NodeId> {
        self.busiest.as_ref()
    }

    /// Suspects that the next generation should leave out, the more the better: the one that stands out, or up
    /// to half.
    pub fn next_out(&self) -> impl Iterator<Item = &NodeId> {
        let half = self.suspects.len().div_ceil(2);
        let many = if self.busiest.is_some() { 1 } else { half };
        self.suspects.iter().take(many)
    }

    /// A generation runs on these nodes.
    pub fn placed(&mut self, nodes: &NodeSet) {
        let out = self.suspects.iter().filter(|node| !nodes.contains(node));
        self.out = out.cloned().collect();
    }

    /// Whether the pace of the generation in force says anything.
    pub fn asks(&self) -> bool {
        !self.out.is_empty()
    }

    /// Takes in how long a step of the generation in force takes.
    pub fn judge(&mut self, step: Duration) -> Outcome {
        let out = std::mem::take(&mut self.out);
        if out.is_empty() {
            return Outcome::GoesOn;
        }
        let is_fast = step <= self.before / 2 + self.slow / 2;
        if let Some(node) = self.busiest.take_if(|node| out.contains(node))
            && is_fast
        {
            self.suspects = vec![node.clone()];
            return Outcome::Found(node);
        }
        self.suspects.retain(|node| out.contains(node) == is_fast);
        match self.suspects.as_slice() {
            [] => Outcome::Gone,
            [node] if is_fast => Outcome::Found(node.clone()),
            [_, ..] => Outcome::GoesOn,
        }
    }
}
