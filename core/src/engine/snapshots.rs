//! Snapshots as the engine knows them: what lies in whose memory, and what a run goes on from.
//!
//! What agents say of their memory is not journaled: it is as passing as the memory, and every join says
//! it anew. Only what a generation is to resume from is a fact, with the hash of every shard and the node
//! that has it, so that the order goes out as it was decided whoever sends it (S6).

use super::state::{Gang, Run};
use super::{Engine, Fact, NodeState, Placement, SnapshotView};
use crate::cause::Cause;
use crate::checkpoint::CheckpointId;
use crate::eval::Evaluation;
use crate::id::{NodeId, Rank, RunId, Step};
use crate::layout::Layout;
use crate::order::Seat;
use crate::report::{FABRIC, RACK};
use crate::snapshot::{
    Home, Peer, Piece, Put, Recall, Restore, Shelf, TRUSTED, Tier, explain, replicas,
};
use std::collections::{BTreeMap, BTreeSet};

impl Engine {
    /// A node says that a shard lies in its memory, or in that of the one that keeps its replicas.
    pub(super) fn snapshot_held(&mut self, node: &NodeId, id: &RunId, piece: &Piece, at: &NodeId) {
        let Some(run) = self.state.runs.get(id) else {
            return self.count("unknown_run");
        };
        let gang = run.gang.as_ref().filter(|gang| {
            gang.generation == piece.checkpoint.generation
                && gang.node_of(piece.shard.rank) == Some(node)
        });
        if gang.is_none() || !self.state.nodes.contains(at) {
            return self.count("stale_snapshot");
        }
        self.take_snapshot(id, piece, at);
    }

    /// What lies in the memory of a node that joins is what it says, and nothing else.
    pub(super) fn remembers_snapshots(&mut self, node: &NodeId, id: &RunId, pieces: &[Piece]) {
        let Some(run) = self.state.runs.get(id) else {
            return;
        };
        let known = run.first..=run.generation;
        let mine = |piece: &&Piece| {
            let generation = piece.checkpoint.generation;
            generation > run.first && known.contains(&generation)
        };
        let mine: Vec<_> = pieces.iter().filter(mine).cloned().collect();
        for piece in mine {
            self.take_snapshot(id, &piece, node);
        }
    }

    fn take_snapshot(&mut self, id: &RunId, piece: &Piece, at: &NodeId) {
        let run = self.state.runs.get(id);
        let is_wanted = run.is_some_and(|run| {
            run.is_live()
                && run.spec.checkpoint.snapshot.is_some()
                && piece.layout == run.spec.layout
                && piece.checkpoint.step.0 <= run.spec.train.steps
        });
        if !is_wanted {
            return self.count("stale_snapshot");
        }
        let shelf = self.snapshots.entry(id.clone()).or_default();
        match shelf.put(piece, at) {
            Put::Taken | Put::Sealed | Put::Known => {}
            Put::Old => self.count("old_snapshot"),
            Put::Contradicts => self.count("contradicting_snapshot"),
        }
    }

    /// The memory of a node is not what it was.
    pub(super) fn memory_lost(&mut self, node: &NodeId) {
        for shelf in self.snapshots.values_mut() {
            shelf.lose(node);
        }
    }

    /// Follows what became so.
    pub(super) fn note_snapshots(&mut self, fact: &Fact) {
        if let Fact::NodeLost { node, .. } = fact {
            self.memory_lost(node);
        } else if let Fact::Placed { run, resume, .. } = fact {
            if let Some(shelf) = self.snapshots.get_mut(run) {
                shelf.resumed(*resume);
            }
        } else if let Fact::RunEnded { run, .. }
        | Fact::RunForgotten { run }
        | Fact::ResumeAsked { run } = fact
        {
            self.snapshots.remove(run);
        }
    }

    /// What the next generation begins with: the newest sealed state that every rank can be restored from,
    /// in memory or else on durable storage.
    pub(super) fn begins_with(
        &self,
        id: &RunId,
        run: &Run,
        layout: Layout,
        placement: &Placement,
    ) -> (Option<CheckpointId>, Option<Box<Restore>>) {
        let sealed = run.newest_sealed();
        match self.newest_snapshot(id, run, layout, placement) {
            Some(restore) => (Some(restore.id), Some(Box::new(restore))),
            None => (sealed, None),
        }
    }

    /// Whether a snapshot is known that a run may be restored from, if all who have it can be asked.
    pub(super) fn has_snapshot(&self, id: &RunId, run: &Run) -> bool {
        let shelf = self.snapshots.get(id);
        run.ladder.recoveries() < TRUSTED
            && shelf.is_some_and(|shelf| shelf.newest_sealed().is_some())
    }

    fn newest_snapshot(
        &self,
        id: &RunId,
        run: &Run,
        layout: Layout,
        placement: &Placement,
    ) -> Option<Restore> {
        let shelf = self.snapshots.get(id)?;
        if run.ladder.recoveries() >= TRUSTED {
            return None;
        }
        let is_there = |node: &&NodeId| self.node_state(node) == NodeState::Ready;
        let pick = |rank: Rank, holders: &BTreeSet<NodeId>| {
            let seat = placement.seat(rank)?;
            let own = holders.get(seat.node).filter(is_there);
            own.or_else(|| holders.iter().find(is_there)).cloned()
        };
        let sealed = run.newest_sealed();
        let is_sound = |id: CheckpointId, samples| {
            !run.is_tainted(id.generation, samples)
                && !was_refused(run, id)
                && has_scores(run, sealed, id)
        };
        shelf.newest(layout, sealed, is_sound, pick)
    }

    /// The cause that it is when a rank cannot restore the snapshot that its gang resumes from; none where it
    /// resumes from a checkpoint.
    pub(super) fn snapshot_refused(
        run: &Run,
        rank: Rank,
        checkpoint: CheckpointId,
        unsound: &crate::cause::Unsound,
    ) -> Option<Cause> {
        let gang = run.gang.as_ref()?;
        let restore = gang.snapshot.as_deref()?;
        (restore.id == checkpoint).then(|| Cause::SnapshotUnsound {
            step: checkpoint.step,
            rank,
            unsound: unsound.clone(),
        })
    }

    /// Where the ranks of a node read their shards; nothing where the gang resumes from a checkpoint.
    pub(super) fn recalls(&self, gang: &Gang, node: &NodeId, seats: &[Seat]) -> Vec<Recall> {
        let restore = gang.snapshot.as_deref().into_iter();
        let recalls = restore.flat_map(|restore| {
            seats.iter().filter_map(|seat| {
                let (piece, at) = restore.of(seat.rank)?;
                let from = (at != node).then(|| self.peer(at)).flatten();
                Some(Recall { piece, from })
            })
        });
        recalls.collect()
    }

    /// Whose agent keeps the replicas of each node of a gang; none where it takes no snapshots.
    pub(super) fn keepers(&self, run: &Run, gang: &Gang) -> BTreeMap<NodeId, Peer> {
        if run.spec.checkpoint.snapshot.is_none() {
            return BTreeMap::new();
        }
        let replicas = replicas(self.homes(gang));
        let keepers = replicas
            .into_iter()
            .filter_map(|replica| Some((replica.of.clone(), self.peer(replica.at)?)));
        keepers.collect()
    }

    fn homes<'a>(&'a self, gang: &'a Gang) -> Vec<Home<'a>> {
        let nodes = gang.placement.nodes.iter();
        let homes = nodes.map(|node| {
            let known = self.state.nodes.get(node);
            let label = |key| known.and_then(|known| known.facts.labels.get(key));
            Home {
                node,
                fabric: label(FABRIC).unwrap_or_default(),
                rack: label(RACK).unwrap_or_default(),
            }
        });
        homes.collect()
    }

    fn peer(&self, node: &NodeId) -> Option<Peer> {
        let known = self.state.nodes.get(node)?;
        Some(Peer {
            node: node.clone(),
            address: known.facts.store_address.clone(),
        })
    }

    /// What there is to see of a run's snapshots; none where it takes none.
    pub(super) fn snapshot_view(&self, id: &RunId, run: &Run) -> Option<SnapshotView> {
        run.spec.checkpoint.snapshot?;
        let newest = self.snapshots.get(id).and_then(Shelf::newest_sealed);
        let homes = run.gang.as_ref().map(|gang| self.homes(gang));
        let note = homes.and_then(|homes| explain(&homes, &replicas(homes.iter().copied())));
        Some(SnapshotView {
            newest: newest.map(|(id, _)| id),
            copies: newest.map_or(0, |(_, copies)| u32::try_from(copies).unwrap_or(u32::MAX)),
            note: note.unwrap_or_default(),
        })
    }
}

/// Whether a generation after the one that took this snapshot could not restore it.
fn was_refused(run: &Run, id: CheckpointId) -> bool {
    run.incidents.iter().rev().any(|incident| {
        matches!(incident.cause, Cause::SnapshotUnsound { step, .. } if step == id.step)
            && incident.generation > id.generation
    })
}

/// Whether all evaluations on the way from the checkpoint to this snapshot are known. Those before a checkpoint
/// are, by the order in which ranks say things; what only lies in memory may be heard of without them.
fn has_scores(run: &Run, sealed: Option<CheckpointId>, id: CheckpointId) -> bool {
    let Some(eval) = &run.spec.eval else {
        return true;
    };
    let first = sealed.map_or(1, |sealed| sealed.step.0 + 1);
    let mut due = (first..id.step.0).map(Step);
    due.all(|step| {
        let is_it = |(_, known): &(_, Evaluation)| known.step == step;
        !eval.is_due(step, run.spec.train.steps) || run.evaluations.iter().any(is_it)
    })
}

/// The tier that a generation resumes from.
pub(super) fn tier(restore: Option<&Restore>, placement: &Placement) -> Tier {
    let Some(restore) = restore else {
        return Tier::Storage;
    };
    let own = placement.seats().zip(&restore.shards);
    let mut own = own.map(|(seat, (_, at))| seat.node == at);
    if own.all(|is_own| is_own) {
        Tier::Memory
    } else {
        Tier::Replica
    }
}
