//! What a run has tried to get on again, as far as the ladder goes by it.

use crate::engine::Rung;
use crate::id::{NodeId, Step};
use crate::node_set::NodeSet;
use crate::time::{Duration, Instant};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What was tried without progress, and what progress would be.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(in crate::engine) struct Ladder {
    /// Tries of each rung since the last progress.
    pub(in crate::engine) tries: BTreeMap<Rung, u32>,
    /// Recoveries since the newest checkpoint was sealed, progress or not.
    pub(in crate::engine) unsealed: u32,
    /// Hangs since the last clean spell, and when the last one came or launches were changed.
    pub(in crate::engine) hangs: u32,
    pub(in crate::engine) calm_since: Instant,
    /// How many of these hangs spoke against each node.
    #[serde(default)]
    pub(in crate::engine) named: BTreeMap<NodeId, u32>,
    /// Restarts after failures of the run's own; progress does not give them back (S7).
    pub(in crate::engine) own: u32,
    /// Most steps ever done.
    pub(in crate::engine) best: Step,
    /// Step of the newest checkpoint that was ever sealed.
    pub(in crate::engine) sealed: Step,
    /// How often each node was at fault since it last took part in progress: a spare on which nothing can be
    /// started stays the last to be tried.
    pub(in crate::engine) blamed: BTreeMap<NodeId, u32>,
}

impl Ladder {
    /// These nodes came further than ever before.
    pub(in crate::engine) fn progress(&mut self, nodes: &NodeSet) {
        self.tries.clear();
        self.blamed.retain(|node, _| !nodes.contains(node));
    }

    pub(in crate::engine) fn recoveries(&self) -> u32 {
        self.tries.values().sum()
    }

    /// Counts a hang that speaks against these nodes; those before a clean spell are forgotten.
    pub(in crate::engine) fn hung(&mut self, at: Instant, clean_spell: Duration, nodes: &[NodeId]) {
        if at.since(self.calm_since) >= clean_spell {
            self.hangs = 0;
            self.named.clear();
        }
        self.hangs += 1;
        self.calm_since = at;
        for node in nodes {
            *self.named.entry(node.clone()).or_default() += 1;
        }
    }

    /// How many hangs spoke against the one of these nodes that was named most often.
    pub(in crate::engine) fn named(&self, nodes: &[NodeId]) -> u32 {
        let named = nodes.iter().filter_map(|node| self.named.get(node));
        named.copied().max().unwrap_or_default()
    }
}
