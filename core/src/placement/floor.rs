//! The floor: every node, who holds which of its slots, and where there is room.

use super::holding::{Holding, Seated};
use super::rack::{Rack, Sizes, Spot};
use super::slots::Slots;
use crate::by_name::ByName;
use crate::engine::Placement;
use crate::id::{NodeId, RunId};
use crate::node_set::NOBODY;
use crate::report::{FABRIC, NodeFacts, RACK};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Whether something may be placed on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Standing {
    /// Nobody holds it back for good: it counts for what the fleet can hold at all.
    pub allowed: bool,
    /// It can be used now (S3).
    pub usable: bool,
    /// Something is held against its health; others are taken first.
    pub suspect: bool,
}

/// Every node, by where it is and what is free on it.
#[derive(Debug, Default)]
pub struct Floor {
    ids: ByName<NodeId, Spot>,
    pub(super) spots: Vec<Place>,
    pub(super) racks: Vec<Rack>,
    rack_ids: BTreeMap<(u32, String), u32>,
    pub(super) fabrics: Vec<Fabric>,
    fabric_ids: BTreeMap<(u32, String), u32>,
    pub(super) kinds: Vec<Kind>,
    kind_ids: BTreeMap<String, u32>,
    holdings: ByName<RunId, Holding>,
}

/// One node.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) node: NodeId,
    pub(super) kind: u32,
    pub(super) rack: u32,
    pub(super) slots: u32,
    pub(super) standing: Standing,
    holders: Vec<(RunId, Slots)>,
    /// Slots that nobody holds.
    pub(super) free: Slots,
}

/// Racks that reach each other fast.
#[derive(Debug, Default)]
pub(super) struct Fabric {
    pub(super) racks_by_free: BTreeSet<(u32, u32)>,
    pub(super) free: u64,
}

/// Nodes with the same GPUs: only among these is the result of a step the same to the bit.
#[derive(Debug, Default)]
pub(super) struct Kind {
    /// Fabrics on which something is free, by how much.
    pub(super) fabrics_by_free: BTreeSet<(u64, u32)>,
    /// Usable nodes by free slots.
    pub(super) free: Sizes,
    /// Usable nodes by slots.
    pub(super) usable: Sizes,
    /// Nodes that nobody holds back for good, by slots.
    pub(super) allowed: Sizes,
    /// Usable nodes on which nothing is.
    pub(super) empty: Sizes,
}

/// What nodes of one kind have in common.
fn kind(facts: &NodeFacts) -> &str {
    facts.gpus.first().map_or("", String::as_str)
}

impl Floor {
    /// Takes in what a node is and whether it can be used.
    pub fn set(&mut self, facts: &NodeFacts, standing: Standing) {
        let label = |key| facts.labels.get(key).unwrap_or_default().to_owned();
        let kind = kind(facts);
        let spot = match self.ids.get(&facts.node) {
            Some(spot) => *spot,
            None => self.enter(&facts.node),
        };
        self.leave_index(spot);
        let (kind, rack) = self.rack(kind, label(FABRIC), label(RACK));
        let place = &mut self.spots[spot as usize];
        if place.slots != facts.slots {
            place.slots = facts.slots;
            place.free = place.unheld();
        }
        (place.kind, place.rack, place.standing) = (kind, rack, standing);
        self.join_index(spot);
    }

    /// Takes in whether a node can be used; says whether the node is known.
    pub fn stand(&mut self, node: &NodeId, standing: Standing) -> bool {
        let Some(spot) = self.ids.get(node).copied() else {
            return false;
        };
        if self.spots[spot as usize].standing != standing {
            self.leave_index(spot);
            self.spots[spot as usize].standing = standing;
            self.join_index(spot);
        }
        true
    }

    fn enter(&mut self, node: &NodeId) -> Spot {
        let spot = Spot::try_from(self.spots.len()).unwrap_or(Spot::MAX);
        let (kind, rack) = self.rack("", String::new(), String::new());
        self.ids.insert(node.clone(), spot);
        self.spots.push(Place {
            node: node.clone(),
            kind,
            rack,
            slots: 0,
            standing: Standing::default(),
            holders: Vec::new(),
            free: Slots::default(),
        });
        spot
    }

    /// Numbers of a kind and a rack.
    fn rack(&mut self, kind: &str, fabric: String, rack: String) -> (u32, u32) {
        let number = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
        let kind = match self.kind_ids.get(kind) {
            Some(id) => *id,
            None => {
                let id = number(self.kinds.len());
                self.kinds.push(Kind::default());
                self.kind_ids.insert(kind.to_owned(), id);
                id
            }
        };
        let fabrics = &mut self.fabrics;
        let fabric = *self.fabric_ids.entry((kind, fabric)).or_insert_with(|| {
            fabrics.push(Fabric::default());
            number(fabrics.len() - 1)
        });
        let racks = &mut self.racks;
        let rack = *self.rack_ids.entry((fabric, rack)).or_insert_with(|| {
            racks.push(Rack::new(fabric));
            number(racks.len() - 1)
        });
        (kind, rack)
    }

    fn leave_index(&mut self, spot: Spot) {
        self.index(spot, false);
    }

    fn join_index(&mut self, spot: Spot) {
        self.index(spot, true);
    }

    /// Counts a node in, or out.
    fn index(&mut self, spot: Spot, counts: bool) {
        let place = &self.spots[spot as usize];
        let (slots, free) = (place.slots, place.free.len());
        let kind = &mut self.kinds[place.kind as usize];
        let count = |sizes: &mut Sizes, size| {
            if counts {
                sizes.add(size);
            } else {
                sizes.remove(size);
            }
        };
        if place.standing.allowed {
            count(&mut kind.allowed, slots);
        }
        if !place.standing.usable {
            return;
        }
        count(&mut kind.usable, slots);
        count(&mut kind.free, free);
        if place.holders.is_empty() {
            count(&mut kind.empty, slots);
        }
        let rack = &mut self.racks[place.rack as usize];
        let before = rack.free;
        if counts {
            rack.add(spot, free);
        } else {
            rack.remove(spot, free);
        }
        if rack.free == before {
            return;
        }
        let fabric = &mut self.fabrics[rack.fabric as usize];
        fabric.racks_by_free.remove(&(before, place.rack));
        if rack.free > 0 {
            fabric.racks_by_free.insert((rack.free, place.rack));
        }
        kind.fabrics_by_free.remove(&(fabric.free, rack.fabric));
        fabric.free = fabric.free - u64::from(before) + u64::from(rack.free);
        if fabric.free > 0 {
            kind.fabrics_by_free.insert((fabric.free, rack.fabric));
        }
    }

    /// Lets a run hold the seats of a placement and, where there is more that it holds or may hold, that:
    /// slots by node (S2). Nothing else.
    pub fn seat(
        &mut self,
        run: &RunId,
        placement: &Arc<Placement>,
        more: BTreeMap<&NodeId, Slots>,
    ) {
        let known = self.holdings.get(run);
        if more.is_empty() && known.is_some_and(|known| known.is_just(placement)) {
            return;
        }
        let before = self.leave(run);
        let spots = match &before.seated {
            Some(seated) if Arc::ptr_eq(&seated.placement, placement) => seated.spots.clone(),
            before => self.spots_of(placement, before.as_ref()),
        };
        let placement = Arc::clone(placement);
        let now = Holding {
            seated: Some(Seated { placement, spots }),
            more: self.by_spot(more),
        };
        self.replace(run, &before, now);
    }

    /// Replaces what a run that has no place holds or may hold: slots by node (S2).
    pub fn hold(&mut self, run: &RunId, slots: BTreeMap<&NodeId, Slots>) {
        let before = self.leave(run);
        let more = self.by_spot(slots);
        let now = Holding { seated: None, more };
        self.replace(run, &before, now);
    }

    fn leave(&mut self, run: &RunId) -> Holding {
        let known = self.holdings.get_mut(run);
        known.map(std::mem::take).unwrap_or_default()
    }

    fn by_spot(&mut self, slots: BTreeMap<&NodeId, Slots>) -> Vec<(Spot, Slots)> {
        let slots = slots.into_iter();
        slots
            .map(|(node, slots)| (self.spot(node), slots))
            .collect()
    }

    /// The spots of the nodes of a placement; most are those of before.
    fn spots_of(&mut self, placement: &Placement, before: Option<&Seated>) -> Vec<Spot> {
        let nodes = &placement.nodes;
        let known = nodes.places_in(before.map_or(&NOBODY, Seated::nodes));
        let known = known.map(|at| before.zip(at).map(|(before, at)| before.spots[at]));
        let named = nodes.iter().zip(known);
        named
            .map(|(node, known)| known.unwrap_or_else(|| self.spot(node)))
            .collect()
    }

    pub(super) fn holding(&self, run: &RunId) -> Option<&Holding> {
        self.holdings.get(run)
    }

    /// The number of a node that was seen before.
    pub(super) fn known(&self, node: &NodeId) -> Option<Spot> {
        self.ids.get(node).copied()
    }

    /// The number of a node, which may be new.
    fn spot(&mut self, node: &NodeId) -> Spot {
        match self.ids.get(node) {
            Some(spot) => *spot,
            None => self.enter(node),
        }
    }

    /// Turns from what a run held to what it holds now.
    fn replace(&mut self, run: &RunId, before: &Holding, now: Holding) {
        let mut changes = now.changes(before);
        changes.sort_unstable_by_key(|(spot, _)| *spot);
        changes.dedup_by(|(spot, more), (kept, slots)| {
            let is_same = spot == kept;
            if is_same && let Some(more) = more.take() {
                let slots = slots.get_or_insert_default();
                more.iter().for_each(|slot| slots.insert(slot));
            }
            is_same
        });
        for (spot, slots) in changes {
            let mut holders = self.spots[spot as usize].holders.iter();
            let was = holders.find(|(holder, _)| holder == run);
            if was.map(|(_, was)| was) != slots.as_ref() {
                self.change(spot, run, slots);
            }
        }
        if now.seated.is_none() && now.more.is_empty() {
            self.holdings.remove(run);
        } else if let Some(holding) = self.holdings.get_mut(run) {
            *holding = now;
        } else {
            self.holdings.insert(run.clone(), now);
        }
    }

    fn change(&mut self, spot: Spot, run: &RunId, slots: Option<Slots>) {
        self.leave_index(spot);
        let place = &mut self.spots[spot as usize];
        place.holders.retain(|(holder, _)| holder != run);
        place
            .holders
            .extend(slots.map(|slots| (run.clone(), slots)));
        place.free = place.unheld();
        self.join_index(spot);
    }

    /// Runs that hold or may hold something on a node.
    pub fn on(&self, node: &NodeId) -> Vec<RunId> {
        let spot = self.ids.get(node);
        let holders = spot.map(|spot| &self.spots[*spot as usize].holders);
        let runs = holders.into_iter().flatten();
        runs.map(|(run, _)| run.clone()).collect()
    }

    /// Slots of a node that are free for `run`: those that no other run has.
    pub fn free(&self, node: &NodeId, run: &RunId) -> Slots {
        let spot = self.ids.get(node);
        spot.map(|spot| self.spots[*spot as usize].free_for(run))
            .unwrap_or_default()
    }

    /// Usable slots and how many of them are free, over all kinds.
    pub fn room(&self) -> (u64, u64) {
        let kinds = self.kinds.iter();
        kinds.fold((0, 0), |(usable, free), kind| {
            (usable + kind.usable.slots(), free + kind.free.slots())
        })
    }

    /// Whether a gang of `groups` tensor groups would have room if it were alone on the nodes that
    /// can be used now.
    pub fn fits_usable(&self, tensor: u32, groups: u64) -> bool {
        let fits = |kind: &Kind| kind.usable.groups(tensor) >= groups;
        self.kinds.iter().any(fits)
    }

    /// The same on all nodes that nobody holds back for good.
    pub fn fits_allowed(&self, tensor: u32, groups: u64) -> bool {
        let fits = |kind: &Kind| kind.allowed.groups(tensor) >= groups;
        self.kinds.iter().any(fits)
    }

    /// Of the nodes that nobody holds back for good: slots of all of one kind, and of the largest.
    pub fn allowed(&self) -> (u64, u32) {
        let kinds = || self.kinds.iter();
        let slots = kinds().map(|kind| kind.allowed.slots()).max();
        let largest = kinds().map(|kind| kind.allowed.largest()).max();
        (slots.unwrap_or_default(), largest.unwrap_or_default())
    }

    /// Of nodes that can take the place of a node (its kind, and at least its slots): those that can be used, and
    /// those of them on which nothing is.
    pub fn nodes_like(&self, node: &NodeId) -> (u32, u32) {
        let Some(spot) = self.ids.get(node) else {
            return (0, 0);
        };
        let place = &self.spots[*spot as usize];
        let kind = &self.kinds[place.kind as usize];
        (
            kind.usable.nodes(place.slots),
            kind.empty.nodes(place.slots),
        )
    }

    /// Whether nobody holds anything on a node.
    pub fn is_empty(&self, node: &NodeId) -> bool {
        let spot = self.ids.get(node);
        spot.is_some_and(|spot| self.spots[*spot as usize].holders.is_empty())
    }
}

impl Place {
    fn unheld(&self) -> Slots {
        let mut free = Slots::first(self.slots);
        let holders = self.holders.iter();
        holders.for_each(|(_, slots)| free.subtract(slots));
        free
    }

    /// What no other run has.
    pub(super) fn free_for(&self, run: &RunId) -> Slots {
        let mut free = Slots::first(self.slots);
        let others = self.holders.iter().filter(|(holder, _)| holder != run);
        others.for_each(|(_, slots)| free.subtract(slots));
        free
    }

    /// Whether a run holds something of it, or may.
    pub(super) fn is_held_by(&self, run: &RunId) -> bool {
        self.holders.iter().any(|(holder, _)| holder == run)
    }

    /// The same for a run that is known to hold some of it: most are alone, and their names far away in memory.
    pub(super) fn free_for_holder(&self, run: &RunId) -> Slots {
        if self.holders.len() == 1 {
            Slots::first(self.slots)
        } else {
            self.free_for(run)
        }
    }
}
