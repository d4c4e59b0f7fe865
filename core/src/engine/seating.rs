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
    /// By rank: which of the nodes it is on.
    nodes_of: Vec<u32>,
    /// The seats of the first node, then of the second and so on, each in the order of ranks.
    seats: Arc<[Seat]>,
    /// How many of these there are up to the end of each node.
    ends: Vec<u32>,
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

/// Seats that are collected node by node, in the order of the nodes.
struct Rows {
    nodes: Vec<NodeId>,
    seats: Vec<Seat>,
    ends: Vec<u32>,
}

impl Rows {
    fn new(nodes: usize, ranks: usize) -> Self {
        Self {
            nodes: Vec::with_capacity(nodes),
            seats: Vec::with_capacity(ranks),
            ends: Vec::with_capacity(nodes),
        }
    }

    /// A node with all its seats.
    fn add(&mut self, node: &NodeId, row: &[Seat]) {
        if !row.is_empty() {
            self.nodes.push(node.clone());
            self.seats.extend_from_slice(row);
            self.ends.push(number(self.seats.len()));
        }
    }

    /// Nodes that have the seats that they had there.
    fn keep(&mut self, before: &Placement, nodes: Range<usize>) {
        let ends = before.ends.get(nodes.clone()).unwrap_or_default();
        let (Some(last), begin) = (ends.last(), before.range(nodes.start).start) else {
            return;
        };
        let seats = begin as usize..*last as usize;
        let base = number(self.seats.len());
        self.nodes.extend_from_slice(&before.nodes[nodes]);
        self.seats.extend_from_slice(&before.seats[seats]);
        self.ends.extend(ends.iter().map(|end| base + end - begin));
    }

    /// The placement of so many ranks.
    fn place(self, ranks: usize, store_node: NodeId) -> Placement {
        let mut nodes_of = vec![u32::MAX; ranks];
        let mut begin = 0;
        for (at, end) in (0..).zip(&self.ends) {
            let end = *end as usize;
            for seat in &self.seats[begin..end] {
                if let Some(node) = nodes_of.get_mut(seat.rank.0 as usize) {
                    *node = at;
                }
            }
            begin = end;
        }
        Placement {
            store_node,
            nodes: Arc::new(NodeSet::sorted(self.nodes)),
            nodes_of,
            seats: self.seats.into(),
            ends: self.ends,
        }
    }
}

/// Each node of some seats with those on it, in the order of nodes and ranks.
fn by_node(seats: &[Seating]) -> Vec<(&NodeId, Vec<Seat>)> {
    let mut rows: Vec<_> = seats.chunk_by(|a, b| a.node == b.node).collect();
    rows.sort_by_key(|row| &row[0].node);
    let rows = rows.chunk_by(|a, b| a[0].node == b[0].node);
    let rows = rows.map(|of_node| {
        let seats = of_node.iter().copied().flatten();
        let seats = seats.map(|Seating { rank, slot, .. }| Seat {
            rank: *rank,
            slot: *slot,
        });
        let mut seats: Vec<_> = seats.collect();
        seats.sort_unstable_by_key(|seat| seat.rank);
        (&of_node[0][0].node, seats)
    });
    rows.collect()
}

impl Placement {
    /// These seats, one a rank, in rank order.
    pub fn new(seats: &[Seating], store_node: NodeId) -> Self {
        let new = by_node(seats);
        let mut rows = Rows::new(new.len(), seats.len());
        for (node, row) in new {
            rows.add(node, &row);
        }
        rows.place(seats.len(), store_node)
    }

    /// The same but for the seats of some ranks.
    pub(crate) fn with(&self, moved: &[Seating]) -> Self {
        let mut moves = vec![false; self.ranks()];
        let mut loses = vec![false; self.nodes.len()];
        for seat in moved {
            let rank = seat.rank.0 as usize;
            let at = self.nodes_of.get(rank).map(|at| *at as usize);
            let lost = at.and_then(|at| loses.get_mut(at));
            for flag in moves.get_mut(rank).into_iter().chain(lost) {
                *flag = true;
            }
        }
        let stays = |seat: &&Seat| moves.get(seat.rank.0 as usize) == Some(&false);
        let new = by_node(moved);
        let mut rows = Rows::new(self.nodes.len() + new.len(), self.ranks());
        let new = new.into_iter().map(|(node, row)| {
            let at = self.nodes.partition_point(|other| other < node);
            (at, node, row)
        });
        let mut new = new.peekable();
        // (Most nodes are as they were, and go over in one piece.)
        let mut done = 0;
        for (at, (known, loses)) in self.nodes.iter().zip(loses).enumerate() {
            let gains = new.peek().is_some_and(|(to, ..)| *to == at);
            if !gains && !loses {
                continue;
            }
            rows.keep(self, done..at);
            while let Some((_, node, row)) = new.next_if(|(to, new, _)| *to == at && *new != known)
            {
                rows.add(node, &row);
            }
            let gained = new.next_if(|(to, ..)| *to == at);
            let mut row: Vec<_> = self.row(at).iter().filter(stays).copied().collect();
            row.extend(gained.into_iter().flat_map(|(.., gained)| gained));
            row.sort_unstable_by_key(|seat| seat.rank);
            rows.add(known, &row);
            done = at + 1;
        }
        rows.keep(self, done..self.nodes.len());
        for (_, node, row) in new {
            rows.add(node, &row);
        }
        let placement = rows.place(self.ranks(), self.store_node.clone());
        match placement.node_of(Rank(0)).cloned() {
            Some(store_node) => Self {
                store_node,
                ..placement
            },
            None => placement,
        }
    }

    /// How many ranks it seats.
    pub const fn ranks(&self) -> usize {
        self.nodes_of.len()
    }

    /// The node of a rank.
    pub fn node_of(&self, rank: Rank) -> Option<&NodeId> {
        let at = self.nodes_of.get(rank.0 as usize)?;
        self.nodes.get(*at as usize)
    }

    /// The seat of a rank.
    pub fn seat(&self, rank: Rank) -> Option<Position<'_>> {
        let at = *self.nodes_of.get(rank.0 as usize)? as usize;
        let node = self.nodes.get(at)?;
        let mut row = self.row(at).iter();
        let slot = row.find(|seat| seat.rank == rank)?.slot;
        Some(Position { rank, node, slot })
    }

    /// One seat a rank, in rank order.
    pub fn seats(&self) -> impl Iterator<Item = Position<'_>> {
        let ranks = (0..).map(Rank).take(self.ranks());
        ranks.filter_map(|rank| self.seat(rank))
    }

    /// The seats of one of the nodes, in the order of ranks.
    pub(crate) fn row(&self, at: usize) -> &[Seat] {
        let Range { start, end } = self.range(at);
        let seats = self.seats.get(start as usize..end as usize);
        seats.unwrap_or_default()
    }

    /// Each node with its seats, in the order of nodes and ranks.
    pub(crate) fn rows(&self) -> impl Iterator<Item = (&NodeId, &[Seat])> {
        let mut begin = 0;
        self.nodes.iter().zip(&self.ends).map(move |(node, end)| {
            let end = *end as usize;
            let row = self.seats.get(std::mem::replace(&mut begin, end)..end);
            (node, row.unwrap_or_default())
        })
    }

    /// The seats of one of the nodes for its order: all orders share them.
    pub(super) fn shared_row(&self, at: usize) -> Seats {
        Seats::of(&self.seats, self.range(at))
    }

    fn range(&self, at: usize) -> Range<u32> {
        let end = |at: usize| self.ends.get(at).copied();
        let begin = at.checked_sub(1).map_or(Some(0), end);
        begin.zip(end(at)).map_or(0..0, |(begin, end)| begin..end)
    }
}

fn number(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn node(at: u8) -> NodeId {
        NodeId::new(&format!("n{at}")).unwrap()
    }

    fn seating(rank: u32, at: u8) -> Seating {
        let (node, slot) = (node(at), Slot(rank % 3));
        let rank = Rank(rank);
        Seating { rank, node, slot }
    }

    proptest! {
        #[test]
        fn what_moves_is_as_if_it_had_been_there(
            before in prop::collection::vec(0..6u8, 1..24),
            moved in prop::collection::btree_map(0..24u32, 0..9u8, 0..9),
            order in any::<prop::sample::Index>(),
        ) {
            let mut seats: Vec<_> = (0..).zip(before).map(|(rank, at)| seating(rank, at)).collect();
            let placement = Placement::new(&seats, seats[0].node.clone());
            let moved = moved.into_iter().filter(|(rank, _)| (*rank as usize) < seats.len());
            let mut moved: Vec<_> = moved.map(|(rank, at)| seating(rank, at)).collect();
            for new in &moved {
                seats[new.rank.0 as usize] = new.clone();
            }
            // (They come in no order.)
            let turn = order.index(moved.len().max(1));
            moved.rotate_left(turn);
            let after = placement.with(&moved);
            prop_assert_eq!(&after, &Placement::new(&seats, seats[0].node.clone()));
            prop_assert!(after.seats().map(Seating::from).eq(seats.iter().cloned()));
            for (at, (_, row)) in after.rows().enumerate() {
                prop_assert!(row.is_sorted() && !row.is_empty());
                prop_assert_eq!(row, after.row(at));
                prop_assert_eq!(row, &*after.shared_row(at));
            }
            for seat in &seats {
                prop_assert_eq!(after.node_of(seat.rank), Some(&seat.node));
            }
        }
    }
}
