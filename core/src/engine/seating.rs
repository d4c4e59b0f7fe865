//! Where a gang is.

use crate::id::{NodeId, Rank, Slot};
use crate::node_set::NodeSet;
use crate::order::{Seat, Seats};
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::sync::Arc;

/// A rank's place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Seating {
    /// Which rank.
    pub rank: Rank,
    /// On which node.
    pub node: NodeId,
    /// On which device of it.
    pub slot: Slot,
}

/// The same, as a placement shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position<'a> {
    /// Which rank.
    pub rank: Rank,
    /// On which node.
    pub node: &'a NodeId,
    /// On which device of it.
    pub slot: Slot,
}

impl From<Position<'_>> for Seating {
    fn from(Position { rank, node, slot }: Position<'_>) -> Self {
        let node = node.clone();
        Self { rank, node, slot }
    }
}

/// Where a whole gang is: all of it or nothing (S4).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Written", into = "Written")]
pub struct Placement {
    /// Every node of a seat.
    pub nodes: Arc<NodeSet>,
    /// The node whose agent hosts the rendezvous store.
    pub store_node: NodeId,
    /// By rank: which of the nodes, and which slot of it.
    seats: Vec<(u32, Slot)>,
}

/// A placement as it is written down.
#[derive(Serialize, Deserialize)]
struct Written {
    seats: Vec<Seating>,
    store_node: NodeId,
}

impl From<Written> for Placement {
    fn from(Written { seats, store_node }: Written) -> Self {
        Self::new(&seats, store_node)
    }
}

impl From<Placement> for Written {
    fn from(placement: Placement) -> Self {
        Self {
            seats: placement.seats().map(Seating::from).collect(),
            store_node: placement.store_node,
        }
    }
}

impl Placement {
    /// These seats, one a rank, in rank order.
    pub fn new(seats: &[Seating], store_node: NodeId) -> Self {
        let rows = || seats.chunk_by(|a, b| a.node == b.node);
        let nodes: NodeSet = rows().map(|row| row[0].node.clone()).collect();
        let seats = rows().flat_map(|row| {
            let at = nodes.position(&row[0].node).map_or(u32::MAX, number);
            row.iter().map(move |seat| (at, seat.slot))
        });
        Self {
            seats: seats.collect(),
            nodes: Arc::new(nodes),
            store_node,
        }
    }

    /// The same but for the seats of some ranks.
    pub(crate) fn with(&self, moved: &[Seating]) -> Self {
        const NOWHERE: u32 = u32::MAX;
        let mut seats = self.seats.clone();
        for seat in moved {
            if let Some(place) = seats.get_mut(seat.rank.0 as usize) {
                *place = (NOWHERE, seat.slot);
            }
        }
        let mut stays = vec![false; self.nodes.len()];
        for (at, _) in &seats {
            if let Some(stays) = stays.get_mut(*at as usize) {
                *stays = true;
            }
        }
        let rows = moved.chunk_by(|a, b| a.node == b.node);
        let mut nodes = Vec::with_capacity(self.nodes.len() + rows.clone().count());
        let kept = self.nodes.iter().zip(stays);
        nodes.extend(
            kept.filter(|(_, stays)| *stays)
                .map(|(node, _)| node.clone()),
        );
        nodes.extend(rows.clone().map(|row| row[0].node.clone()));
        let nodes = NodeSet::from(nodes);
        let places: Vec<_> = self.nodes.places_in(&nodes).collect();
        for (at, _) in &mut seats {
            let place = places.get(*at as usize).copied().flatten();
            *at = place.map_or(NOWHERE, number);
        }
        for row in rows {
            let at = nodes.position(&row[0].node).map_or(NOWHERE, number);
            for seat in row {
                if let Some((place, _)) = seats.get_mut(seat.rank.0 as usize) {
                    *place = at;
                }
            }
        }
        let first = seats.first().and_then(|(at, _)| nodes.get(*at as usize));
        Self {
            store_node: first.unwrap_or(&self.store_node).clone(),
            nodes: Arc::new(nodes),
            seats,
        }
    }

    /// How many ranks it seats.
    pub const fn ranks(&self) -> usize {
        self.seats.len()
    }

    /// The seat of a rank.
    pub fn seat(&self, rank: Rank) -> Option<Position<'_>> {
        let (at, slot) = *self.seats.get(rank.0 as usize)?;
        let node = self.nodes.get(at as usize)?;
        Some(Position { rank, node, slot })
    }

    /// One seat a rank, in rank order.
    pub fn seats(&self) -> impl Iterator<Item = Position<'_>> {
        let seats = (0..).map(Rank).zip(&self.seats);
        seats.filter_map(|(rank, (at, slot))| {
            let (node, slot) = (self.nodes.get(*at as usize)?, *slot);
            Some(Position { rank, node, slot })
        })
    }

    /// Of ranks that are all on one node: which of the nodes that is, and their slots.
    pub(crate) fn group(&self, ranks: Range<u32>) -> Option<(usize, impl Iterator<Item = Slot>)> {
        let seats = self.seats.get(ranks.start as usize..ranks.end as usize)?;
        let (at, _) = *seats.first()?;
        let is_whole = seats.iter().all(|(other, _)| *other == at);
        is_whole.then(|| (at as usize, seats.iter().map(|(_, slot)| *slot)))
    }

    /// Which of the nodes each rank is on, and its slot there, in rank order.
    pub(crate) fn places(&self) -> impl Iterator<Item = (usize, Slot)> {
        self.seats.iter().map(|(at, slot)| (*at as usize, *slot))
    }

    /// The seats of each node, in the order of the nodes. Ranks stay in order.
    pub(super) fn by_node(&self) -> Vec<(&NodeId, Seats)> {
        let mut ends = vec![0; self.nodes.len()];
        for (at, _) in self.places() {
            ends[at] += 1;
        }
        let mut end = 0;
        for many in &mut ends {
            end += std::mem::replace(many, end);
        }
        let nobody = Seat {
            rank: Rank(0),
            slot: Slot(0),
        };
        let mut seats = vec![nobody; self.seats.len()];
        for (rank, (at, slot)) in (0..).map(Rank).zip(self.places()) {
            seats[ends[at]] = Seat { rank, slot };
            ends[at] += 1;
        }
        self.nodes.iter().zip(Seats::split(seats, ends)).collect()
    }
}

fn number(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}
