//! Placement: where the ranks of a gang go. Pure, and the same for the same input.
//!
//! A gang is placed whole or not at all (S4), a tensor group never leaves a node, seats that can be
//! kept are kept, and what has to go elsewhere goes to as few nodes as possible so that spares stay
//! free. Groups of one model copy go beside each other, stage after stage, because neighbours in
//! the pipeline talk most.

use super::{Engine, NodeState, Placement, Seating};
use crate::id::{NodeId, Rank, RunId, Slot};
use crate::layout::{Coordinates, Layout};
use std::collections::{BTreeMap, BTreeSet};

/// A node that ranks may be placed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) node: NodeId,
    pub(super) free: BTreeSet<Slot>,
    /// How often it was at fault lately; others are taken first.
    pub(super) blamed: u32,
}

/// Places a gang in these rooms, or says that it does not fit.
pub(super) fn place(
    layout: Layout,
    rooms: Vec<Room>,
    current: Option<&Placement>,
) -> Option<Placement> {
    let mut rooms: BTreeMap<NodeId, Room> = rooms
        .into_iter()
        .map(|room| (room.node.clone(), room))
        .collect();
    let mut seats: BTreeMap<Rank, Seating> = BTreeMap::new();
    let mut homeless = Vec::new();
    for group in groups(layout) {
        let old = current
            .map(|placement| seats_of(placement, &group))
            .unwrap_or_default();
        let fits = old.len() == group.len()
            && old.iter().all(|seat| {
                rooms
                    .get(&seat.node)
                    .is_some_and(|room| room.free.contains(&seat.slot))
            });
        if !fits {
            homeless.push(group);
            continue;
        }
        for seat in old {
            rooms.get_mut(&seat.node)?.free.remove(&seat.slot);
            seats.insert(seat.rank, seat.clone());
        }
    }
    let tensor = layout.tensor as usize;
    let kept: BTreeSet<NodeId> = seats.values().map(|seat| seat.node.clone()).collect();
    let mut order: Vec<_> = rooms.into_values().collect();
    order.sort_by_key(|room| {
        let most = std::cmp::Reverse(room.free.len() / tensor);
        (
            !kept.contains(&room.node),
            room.blamed,
            most,
            room.node.clone(),
        )
    });
    let mut wanted = homeless.len();
    order.retain(|room| {
        let takes = wanted > 0 && room.free.len() >= tensor;
        wanted = wanted.saturating_sub(if takes { room.free.len() / tensor } else { 0 });
        takes
    });
    if wanted > 0 {
        return None;
    }
    order.sort_by(|a, b| a.node.cmp(&b.node));
    let mut places = order.iter().flat_map(|room| {
        let slots: Vec<_> = room.free.iter().copied().collect();
        let chunks: Vec<Vec<Slot>> = slots.chunks_exact(tensor).map(<[Slot]>::to_vec).collect();
        chunks.into_iter().map(|slots| (room.node.clone(), slots))
    });
    for group in homeless {
        let (node, slots) = places.next()?;
        for (rank, slot) in group.into_iter().zip(slots) {
            seats.insert(
                rank,
                Seating {
                    rank,
                    node: node.clone(),
                    slot,
                },
            );
        }
    }
    let seats: Vec<_> = seats.into_values().collect();
    let store_node = seats.first()?.node.clone();
    Some(Placement { seats, store_node })
}

/// Tensor groups, one model copy after the other, stage after stage.
fn groups(layout: Layout) -> impl Iterator<Item = Vec<Rank>> {
    (0..layout.data).flat_map(move |data| {
        (0..layout.pipeline).map(move |stage| {
            layout.tensor_group(layout.rank(Coordinates {
                tensor: 0,
                stage,
                data,
            }))
        })
    })
}

fn seats_of<'a>(placement: &'a Placement, group: &[Rank]) -> Vec<&'a Seating> {
    group
        .iter()
        .filter_map(|rank| placement.seats.get(rank.0 as usize))
        .collect()
}

/// Whether a gang fits into rooms of these sizes when they are empty.
pub(super) fn fits(layout: Layout, slots: impl Iterator<Item = u32>) -> bool {
    let groups: u64 = slots.map(|slots| u64::from(slots / layout.tensor)).sum();
    groups >= u64::from(layout.pipeline) * u64::from(layout.data)
}

impl Engine {
    /// Where ranks of `run` may go now: nodes that can be reached and that nobody holds back (S3),
    /// less the slots that other runs have or may still have (S2).
    pub(super) fn rooms(&self, run: &RunId, without: &[NodeId]) -> Vec<Room> {
        let mut taken: BTreeMap<&NodeId, BTreeSet<Slot>> = BTreeMap::new();
        for (id, other) in &self.state.runs {
            if id == run {
                continue;
            }
            let seats = other.gang.iter().flat_map(|gang| &gang.placement.seats);
            seats.for_each(|seat| {
                taken.entry(&seat.node).or_default().insert(seat.slot);
            });
            for (node, owed) in &other.owed {
                taken.entry(node).or_default().extend(&owed.slots);
            }
        }
        let blamed = self.state.runs.get(run).map(|run| &run.ladder.blamed);
        let usable = self.state.nodes.iter().filter(|(id, node)| {
            !node.cordoned
                && self.node_state(id) == NodeState::Ready
                && !without.contains(id)
                && !self.desk.has_strays(id, run)
        });
        let rooms = usable.map(|(id, node)| {
            let used = taken.get(id);
            let slots = (0..node.facts.slots).map(Slot);
            Room {
                node: id.clone(),
                free: slots
                    .filter(|slot| used.is_none_or(|used| !used.contains(slot)))
                    .collect(),
                blamed: blamed
                    .and_then(|blamed| blamed.get(id))
                    .copied()
                    .unwrap_or_default(),
            }
        });
        rooms.collect()
    }

    /// Whether placing a new generation on these nodes keeps S1: every older gang that might still
    /// step is torn apart by it, because a node of it is among them and fences it on starting.
    pub(super) fn tears_older(&self, run: &RunId, nodes: &BTreeSet<&NodeId>) -> bool {
        let Some(run) = self.state.runs.get(run) else {
            return false;
        };
        let gang = run.gang.as_ref().filter(|gang| !gang.dead);
        gang.is_none_or(|gang| gang.nodes.iter().any(|node| nodes.contains(node)))
            && run
                .older
                .iter()
                .all(|old| old.nodes.iter().any(|node| nodes.contains(node)))
    }
}
