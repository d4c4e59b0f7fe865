//! Placement of runs: what the engine knows, put before [`crate::placement`].

use super::state::{Run, State};
use super::{Engine, Placement};
use crate::id::{Generation, NodeId, RunId};
use crate::layout::Layout;
use crate::placement::{Slots, Want};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What a run may hold beside the seats of its gang: what its older generations may still be on, and whole
/// nodes with ranks of it that nobody here knows (S2).
pub(super) fn remains<'a>(
    state: &State,
    run: Option<&'a Run>,
    strays: Option<&'a BTreeMap<NodeId, Generation>>,
) -> BTreeMap<&'a NodeId, Slots> {
    let owed = run.into_iter().flat_map(|run| &run.owed);
    let mut slots: BTreeMap<&NodeId, Slots> = owed
        .map(|(node, owed)| (node, owed.slots.iter().copied().collect()))
        .collect();
    for node in strays.into_iter().flat_map(BTreeMap::keys) {
        let all = state.nodes.get(node).map_or(0, |node| node.facts.slots);
        let held = slots.entry(node).or_default();
        Slots::first(all).iter().for_each(|slot| held.insert(slot));
    }
    slots
}

impl Engine {
    /// Where a gang of this layout can go now, off these nodes or, where there is no room without
    /// them, off as many of them as there is room for; the first are the surest. Never on nodes that
    /// are held for others.
    pub(super) fn find_place(
        &self,
        id: &RunId,
        layout: Layout,
        avoid: &[NodeId],
        held: &BTreeSet<NodeId>,
    ) -> Option<Arc<Placement>> {
        let run = self.state.runs.get(id)?;
        let current = run.gang.as_ref().filter(|_| run.spec.layout == layout);
        let current = current.map(|gang| &gang.placement);
        (0..=avoid.len()).rev().find_map(|many| {
            let mut without = held.clone();
            without.extend(avoid[..many].iter().cloned());
            let placement = self.floor.place(&Want {
                run: id,
                layout,
                current,
                without: &without,
                blamed: &run.ladder.blamed,
            })?;
            self.tears_older(run, &placement).then_some(placement)
        })
    }

    /// Whether there is room for a run now, whatever else keeps it waiting.
    pub(super) fn fits_now(&self, id: &RunId) -> bool {
        let run = self.state.runs.get(id);
        run.is_some_and(|run| {
            let want = Want {
                run: id,
                layout: run.spec.layout,
                current: None,
                without: &BTreeSet::new(),
                blamed: &run.ladder.blamed,
            };
            self.floor.place(&want).is_some()
        })
    }

    /// Whether placing a new generation there keeps S1: every older gang that might still step is
    /// torn apart by it, because a node of it is among them and fences it on starting.
    fn tears_older(&self, run: &Run, placement: &Placement) -> bool {
        let gang = run.gang.as_ref().filter(|gang| !gang.dead);
        let old = gang.map(|gang| &gang.placement.nodes).into_iter();
        let mut old = old.chain(run.older.iter().map(|old| &old.nodes));
        old.all(|old| !old.is_disjoint(&placement.nodes))
    }
}
