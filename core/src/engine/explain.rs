//! Why a run waits: what keeps it off each node, counted, and who comes before it.

use super::state::{Node, Run};
use super::{Engine, NodeState};
use crate::id::{NodeId, RunId};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Nodes named for each reason.
const NAMED: usize = 3;

/// Why nothing of a run can be placed on a node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Bar {
    Cordoned,
    Withdrawn,
    Lost,
    Unreachable,
    TooFewFree { needs: u32, has: u32 },
    TooSmall { needs: u32, has: u32 },
    HeldFor(RunId),
    HasRoom { groups: u32 },
}

impl fmt::Display for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cordoned => f.write_str("cordoned"),
            Self::Withdrawn => f.write_str("withdrawn for its health"),
            Self::Lost => f.write_str("lost"),
            Self::Unreachable => f.write_str("unreachable"),
            Self::TooFewFree { needs, has } => {
                write!(f, "too few free slots (needs {needs} together, has {has})")
            }
            Self::TooSmall { needs, has } => {
                write!(
                    f,
                    "too small (needs {needs} slots together, has {has} in all)"
                )
            }
            Self::HeldFor(run) => write!(f, "held for run {run}, which broke"),
            Self::HasRoom { groups: 1 } => f.write_str("room for one tensor group"),
            Self::HasRoom { groups } => write!(f, "room for {groups} tensor groups each"),
        }
    }
}

impl Engine {
    /// Why a waiting run waits, in a sentence.
    pub(super) fn waits_for(&self, id: &RunId) -> String {
        let Some(run) = self.state.runs.get(id) else {
            return String::new();
        };
        let layout = run.spec.layout;
        let (world, tensor) = (layout.world(), layout.tensor);
        let why = if let Some(old) = run.older.first()
            && self.fits_now(id)
        {
            let nodes: Vec<_> = old.nodes.iter().map(NodeId::as_str).collect();
            return format!(
                "generation {} on {} might still run; waits for one of them to confirm that it \
                 does not, or for all of them to have fenced themselves",
                old.generation,
                nodes.join(", ")
            );
        } else if let Some(before) = self.waits_behind(id) {
            format!("waits behind run {before}")
        } else if let Some(short) = self.lacks_spares(id, run) {
            return format!(
                "has room, but would leave {short} too few spares for the faults of one repair time"
            );
        } else {
            let (usable, free) = self.floor.room();
            format!("{free} of {usable} usable slots are free")
        };
        let bars = self.bars(id, run);
        format!("needs {world} slots, {tensor} together on a node; {why}; {bars}")
    }

    /// The run next in front of it in the queue that would fit the fleet.
    fn waits_behind(&self, id: &RunId) -> Option<RunId> {
        let order = self.in_order();
        let mut before = order.into_iter().take_while(|run| run != id);
        before.find(|run| {
            let run = self.state.runs.get(run);
            run.is_some_and(|run| self.wants_room(run))
        })
    }

    fn lacks_spares(&self, id: &RunId, run: &Run) -> Option<u32> {
        let placement = self.find_place(id, run.spec.layout, &[], &BTreeSet::new())?;
        Some(self.spares_short(run, &placement)).filter(|short| *short > 0)
    }

    /// What each node has against it: how many, what, and some of their names.
    fn bars(&self, id: &RunId, run: &Run) -> String {
        let mut held = BTreeMap::new();
        for before in self.in_order().into_iter().take_while(|run| run != id) {
            let claimed = self.state.runs.get(&before).map(|run| self.claimed(run));
            for node in claimed.into_iter().flatten() {
                held.insert(node, before.clone());
            }
        }
        let mut bars: BTreeMap<Bar, Vec<&NodeId>> = BTreeMap::new();
        for (node, known) in self.state.nodes.iter() {
            let bar = match held.remove(node) {
                Some(run) => Bar::HeldFor(run),
                None => self.bar(id, run, node, known),
            };
            bars.entry(bar).or_default().push(node);
        }
        let parts = bars.iter().map(|(bar, nodes)| {
            let named: Vec<_> = nodes.iter().take(NAMED).map(|node| node.as_str()).collect();
            let dots = if nodes.len() > NAMED { ", ..." } else { "" };
            let unit = if nodes.len() == 1 { "node" } else { "nodes" };
            format!("{} {unit}: {bar} ({}{dots})", nodes.len(), named.join(", "))
        });
        let parts: Vec<_> = parts.collect();
        if parts.is_empty() {
            "no node has joined".to_owned()
        } else {
            parts.join("; ")
        }
    }

    fn bar(&self, id: &RunId, run: &Run, node: &NodeId, known: &Node) -> Bar {
        let needs = run.spec.layout.tensor;
        let has = self.floor.free(node, id).len();
        if known.cordoned {
            return Bar::Cordoned;
        }
        if self.state.health.verdict(node).withdraws() {
            return Bar::Withdrawn;
        }
        match self.node_state(node) {
            NodeState::Lost => Bar::Lost,
            NodeState::Unreachable => Bar::Unreachable,
            NodeState::Ready if known.facts.slots < needs => Bar::TooSmall {
                needs,
                has: known.facts.slots,
            },
            NodeState::Ready if has < needs => Bar::TooFewFree { needs, has },
            NodeState::Ready => Bar::HasRoom {
                groups: has / needs,
            },
        }
    }
}
