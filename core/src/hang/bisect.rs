//! Bisecting a slow gang: which node makes it slow, found over the restarts that come anyway.
//!
//! A node can slow a gang down without any sign of its own; BLOOM's tested only 2.5 % slow alone. So at each
//! restart half of the suspects stay out, as far as there are spares, and the pace afterwards says which
//! half it was. Never restarts a gang.

use crate::id::NodeId;
use crate::time::Duration;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// A search that is under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bisect {
    before: Duration,
    slow: Duration,
    suspects: BTreeSet<NodeId>,
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
    /// A search among these nodes, since a step takes `slow` and took `before`.
    pub const fn new(before: Duration, slow: Duration, suspects: BTreeSet<NodeId>) -> Self {
        Self {
            before,
            slow,
            suspects,
            out: BTreeSet::new(),
        }
    }

    /// Suspects that the next generation should leave out, the more the better, up to half.
    pub fn next_out(&self) -> impl Iterator<Item = &NodeId> {
        self.suspects.iter().take(self.suspects.len().div_ceil(2))
    }

    /// A generation runs on these nodes.
    pub fn placed(&mut self, nodes: &BTreeSet<NodeId>) {
        self.out = self.suspects.difference(nodes).cloned().collect();
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
        if step <= self.before / 2 + self.slow / 2 {
            self.suspects = out;
        } else {
            self.suspects.retain(|node| !out.contains(node));
        }
        match (self.suspects.first(), self.suspects.len()) {
            (None, _) => Outcome::Gone,
            (Some(node), 1) => Outcome::Found(node.clone()),
            (Some(_), _) => Outcome::GoesOn,
        }
    }
}
