//! What a run holds of the floor: the seats of its gang, and what it may hold beside them (S2).

use super::rack::Spot;
use super::slots::Slots;
use crate::engine::Placement;
use crate::node_set::{NOBODY, NodeSet};
use crate::order::Seat;
use std::sync::Arc;

/// What a run holds.
#[derive(Debug, Default)]
pub(super) struct Holding {
    /// Where its gang is.
    pub(super) seated: Option<Seated>,
    /// What it holds or may hold beside the seats of its gang.
    pub(super) more: Vec<(Spot, Slots)>,
}

/// Where the gang of a run is.
#[derive(Debug)]
pub(super) struct Seated {
    pub(super) placement: Arc<Placement>,
    /// Of each of its nodes.
    pub(super) spots: Vec<Spot>,
}

impl Holding {
    /// Whether that placement is all of it.
    pub(super) fn is_just(&self, placement: &Arc<Placement>) -> bool {
        self.more.is_empty() && self.seated(placement).is_some()
    }

    /// Where its gang is, if that is this placement.
    pub(super) fn seated(&self, placement: &Arc<Placement>) -> Option<&Seated> {
        let seated = self.seated.as_ref();
        seated.filter(|seated| Arc::ptr_eq(&seated.placement, placement))
    }

    /// At most how many spots it holds something on.
    pub(super) fn most_spots(&self) -> usize {
        let seated = self.seated.as_ref();
        seated.map_or(0, |seated| seated.spots.len()) + self.more.len()
    }

    /// Every spot on which it holds something: those of its gang first, in the order of the nodes.
    pub(super) fn spots(&self) -> impl Iterator<Item = Spot> {
        let seated = self.seated.as_ref();
        let seated = seated.map_or(&[][..], |seated| &seated.spots);
        let more = self.more.iter().map(|(spot, _)| spot);
        let more = more.filter(|spot| !seated.contains(spot));
        seated.iter().chain(more).copied()
    }

    /// What it holds on the spots where that may be something else than before; some come twice, and what is
    /// held there is all that is said of them.
    pub(super) fn changes(&self, before: &Self) -> Vec<(Spot, Option<Slots>)> {
        let mut changes = Vec::new();
        let (old, new) = (before.seated.as_ref(), self.seated.as_ref());
        let same = |(a, b): (&Seated, &Seated)| Arc::ptr_eq(&a.placement, &b.placement);
        if !old.zip(new).is_some_and(same) {
            changes.extend(new.into_iter().flat_map(|new| new.new_slots(old)));
            changes.extend(old.into_iter().flat_map(|old| old.left(new)));
        }
        let held = self.more.iter();
        let held = held.map(|(spot, slots)| (*spot, Some(slots.clone())));
        let gone = before.more.iter().map(|(spot, _)| (*spot, None));
        for (spot, slots) in held.chain(gone) {
            changes.push((spot, slots));
            let seats = new.and_then(|new| new.slots_on(spot));
            changes.extend(seats.map(|seats| (spot, Some(seats))));
        }
        changes
    }
}

impl Seated {
    pub(super) fn nodes(&self) -> &NodeSet {
        &self.placement.nodes
    }

    /// Where it has other seats than before, with their slots.
    fn new_slots<'a>(
        &'a self,
        before: Option<&'a Self>,
    ) -> impl Iterator<Item = (Spot, Option<Slots>)> {
        let places = self.nodes().places_in(before.map_or(&NOBODY, Self::nodes));
        let rows = self.placement.rows().zip(places).zip(&self.spots);
        rows.filter_map(move |(((_, row), place), spot)| {
            let was = before.zip(place);
            let stays = was.is_some_and(|(before, at)| before.placement.row(at) == row);
            (!stays).then(|| (*spot, Some(slots(row))))
        })
    }

    /// Where it has no seats now.
    fn left<'a>(&'a self, now: Option<&'a Self>) -> impl Iterator<Item = (Spot, Option<Slots>)> {
        let places = self.nodes().places_in(now.map_or(&NOBODY, Self::nodes));
        let spots = self.spots.iter().zip(places);
        let left = spots.filter(|(_, place)| place.is_none());
        left.map(|(spot, _)| (*spot, None))
    }

    fn slots_on(&self, spot: Spot) -> Option<Slots> {
        let at = self.spots.iter().position(|own| *own == spot)?;
        Some(slots(self.placement.row(at)))
    }
}

/// The slots of seats.
pub(super) fn slots(seats: &[Seat]) -> Slots {
    seats.iter().map(|seat| seat.slot).collect()
}
