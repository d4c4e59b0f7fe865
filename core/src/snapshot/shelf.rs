//! What is known to lie in the memories of nodes, and the newest state in it that every rank has.

use super::{KEPT, Piece, age};
use crate::checkpoint::{CheckpointId, Shard};
use crate::id::{Generation, NodeId, Rank, Step};
use crate::layout::Layout;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The snapshots of one run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Shelf {
    snapshots: BTreeMap<(Generation, Step), Snapshot>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Snapshot {
    layout: Layout,
    samples: u64,
    shards: BTreeMap<Rank, Copies>,
    /// Two ranks said what cannot both be so; it is never resumed from.
    contradicts: bool,
}

/// A shard, and the nodes that hold it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Copies {
    shard: Shard,
    at: BTreeSet<NodeId>,
}

/// What came of a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// It is taken in.
    Taken,
    /// By it the snapshot is sealed: every rank has one.
    Sealed,
    /// It was known.
    Known,
    /// It is older than all that are looked at.
    Old,
    /// It is of another layout, sample or hash than what is known of the same; that snapshot is out.
    Contradicts,
}

/// State that every rank can be restored from, and from where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Restore {
    /// Which snapshot.
    pub id: CheckpointId,
    /// Its layout.
    pub layout: Layout,
    /// Samples consumed by then.
    pub samples: u64,
    /// Each rank's shard and the node that it is read from, in rank order.
    pub shards: Vec<(Shard, NodeId)>,
}

impl Restore {
    /// What a rank reads, and where it lies.
    pub fn of(&self, rank: Rank) -> Option<(Piece, &NodeId)> {
        let (shard, node) = self.shards.get(rank.0 as usize)?;
        let piece = Piece {
            checkpoint: self.id,
            layout: self.layout,
            samples: self.samples,
            shard: shard.clone(),
        };
        Some((piece, node))
    }
}

impl Shelf {
    /// Takes in that a node holds a piece.
    pub fn put(&mut self, piece: &Piece, at: &NodeId) -> Put {
        let key = age(piece.checkpoint);
        let oldest = self.snapshots.first_key_value().map(|(oldest, _)| *oldest);
        let is_new = !self.snapshots.contains_key(&key);
        if is_new && self.snapshots.len() >= KEPT && oldest.is_some_and(|oldest| key < oldest) {
            return Put::Old;
        }
        let new = || Snapshot {
            layout: piece.layout,
            samples: piece.samples,
            shards: BTreeMap::new(),
            contradicts: false,
        };
        let snapshot = self.snapshots.entry(key).or_insert_with(new);
        let put = snapshot.put(piece, at);
        if self.snapshots.len() > KEPT {
            self.snapshots.pop_first();
        }
        put
    }

    /// The memory of a node is lost: what it holds counts no more.
    pub fn lose(&mut self, node: &NodeId) {
        for snapshot in self.snapshots.values_mut() {
            snapshot.shards.retain(|_, copies| {
                copies.at.remove(node);
                !copies.at.is_empty()
            });
        }
    }

    /// A generation goes on from there: what has more steps belongs to a future that does not come.
    pub fn resumed(&mut self, from: Option<CheckpointId>) {
        let step = from.map_or(Step(0), |from| from.step);
        self.snapshots.retain(|(_, of), _| *of <= step);
    }

    /// The newest state that every rank of this layout can be restored from and that has more steps than the
    /// checkpoint `beyond`, and where each rank reads it: `pick` says which of its holders, if any of them
    /// can be asked.
    pub fn newest(
        &self,
        layout: Layout,
        beyond: Option<CheckpointId>,
        is_sound: impl Fn(CheckpointId, u64) -> bool,
        pick: impl Fn(Rank, &BTreeSet<NodeId>) -> Option<NodeId>,
    ) -> Option<Restore> {
        let beyond = beyond.map_or(Step(0), |checkpoint| checkpoint.step);
        let mut ids: Vec<_> = self
            .snapshots
            .iter()
            .map(|(key, it)| (id(*key), it))
            .collect();
        ids.sort_unstable_by_key(|(id, _)| std::cmp::Reverse(*id));
        ids.into_iter().find_map(|(id, snapshot)| {
            let fits = id.step > beyond
                && snapshot.layout == layout
                && snapshot.is_sealed()
                && is_sound(id, snapshot.samples);
            let shards = snapshot.shards.iter().filter(|_| fits);
            let shards: Option<Vec<_>> = shards
                .map(|(rank, copies)| Some((copies.shard.clone(), pick(*rank, &copies.at)?)))
                .collect();
            let shards = shards.filter(|_| fits)?;
            Some(Restore {
                id,
                layout,
                samples: snapshot.samples,
                shards,
            })
        })
    }

    /// The newest snapshot that is sealed, wherever it lies, and on how many nodes each of its shards lies
    /// at least.
    pub fn newest_sealed(&self) -> Option<(CheckpointId, usize)> {
        let sealed = self.snapshots.iter().filter(|(_, it)| it.is_sealed());
        let newest = sealed.max_by_key(|(key, _)| id(**key));
        newest.map(|(key, snapshot)| {
            let copies = snapshot.shards.values().map(|copies| copies.at.len());
            (id(*key), copies.min().unwrap_or_default())
        })
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.snapshots.is_empty()
    }
}

impl Snapshot {
    fn put(&mut self, piece: &Piece, at: &NodeId) -> Put {
        let was_sealed = self.is_sealed();
        let rank = piece.shard.rank;
        let known = self.shards.get(&rank).map(|copies| &copies.shard);
        if (self.layout, self.samples) != (piece.layout, piece.samples)
            || known.is_some_and(|known| *known != piece.shard)
            || rank.0 >= self.layout.world()
        {
            self.contradicts = true;
            return Put::Contradicts;
        }
        let new = || Copies {
            shard: piece.shard.clone(),
            at: BTreeSet::new(),
        };
        let copies = self.shards.entry(rank).or_insert_with(new);
        if !copies.at.insert(at.clone()) {
            return Put::Known;
        }
        if self.is_sealed() && !was_sealed {
            Put::Sealed
        } else {
            Put::Taken
        }
    }

    fn is_sealed(&self) -> bool {
        !self.contradicts && self.shards.len() == self.layout.world() as usize
    }
}

const fn id((generation, step): (Generation, Step)) -> CheckpointId {
    CheckpointId { step, generation }
}
