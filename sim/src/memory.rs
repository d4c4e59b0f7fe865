//! The memories of nodes: snapshots and replicas, which belong to agents. They outlive ranks and agents, and
//! are gone with the power.

use crate::options::Planted;
use crate::storage::{BYTES, Saved, digest, name};
use crate::worker::SaveAction;
use crate::world::{Happening, World};
use rebloom_core::cause::Unsound;
use rebloom_core::checkpoint::{CheckpointId, Shard};
use rebloom_core::id::{NodeId, Rank, RunId, Step};
use rebloom_core::member::Event;
use rebloom_core::snapshot::{Peer, Piece, Recall, outdated};
use rebloom_core::supervisor;
use std::collections::BTreeMap;

/// What lies in the memory of a node.
#[derive(Debug, Default)]
pub(crate) struct Memory(BTreeMap<(RunId, CheckpointId, Rank), (Piece, Saved)>);

/// A shard on its way to another node.
#[derive(Debug)]
pub(crate) struct Replica {
    run: RunId,
    piece: Piece,
    saved: Saved,
    to: NodeId,
}

impl Memory {
    fn keep(&mut self, run: &RunId, piece: Piece, saved: Saved) {
        let key = (run.clone(), piece.checkpoint, piece.shard.rank);
        self.0.insert(key, (piece, saved));
        let ids = self.0.keys().filter(|(of, ..)| of == run);
        let old = outdated(ids.map(|(_, id, _)| *id));
        self.0
            .retain(|(of, id, _), _| of != run || !old.contains(id));
    }

    fn find(&self, run: &RunId, piece: &Piece) -> Option<Saved> {
        let key = (run.clone(), piece.checkpoint, piece.shard.rank);
        self.0.get(&key).map(|(_, saved)| *saved)
    }

    pub(crate) fn of(&self, run: &RunId) -> Vec<Piece> {
        let of_run = self.0.iter().filter(|((of, ..), _)| of == run);
        of_run.map(|(_, (piece, _))| piece.clone()).collect()
    }

    pub(crate) fn drop_after(&mut self, run: &RunId, after: Step) {
        self.0
            .retain(|(of, id, _), _| of != run || id.step <= after);
    }
}

impl World {
    /// A rank's copy is in the memory of its node.
    pub(crate) fn snapshot_taken(&mut self, pid: u32, save: SaveAction) {
        let Some(process) = self.processes.get(&pid) else {
            return;
        };
        let SaveAction { checkpoint, saved } = save;
        let Some(layout) = process.go.as_ref().map(|go| go.spec.layout) else {
            return;
        };
        let piece = Piece {
            checkpoint,
            layout,
            samples: saved.samples,
            shard: Shard {
                rank: process.rank,
                file: name(process.rank),
                bytes: BYTES,
                hash: digest(saved),
            },
        };
        let (node, run) = (process.node, process.run.clone());
        self.nodes[node].snapshots.keep(&run, piece.clone(), saved);
        let outcome = Ok(piece);
        self.tell_member(
            pid,
            Event::Snapped {
                checkpoint,
                outcome,
            },
        );
    }

    /// An agent sends what lies in its memory to another.
    pub(crate) fn replicate(&mut self, at: usize, life: u64, run: RunId, piece: Piece, to: Peer) {
        let Some(saved) = self.nodes[at].snapshots.find(&run, &piece) else {
            return;
        };
        let replica = Replica {
            run,
            piece,
            saved,
            to: to.node,
        };
        let takes = self.chance.micros(500, 50_000);
        self.after(
            takes,
            Happening::Replicated {
                node: at,
                life,
                replica,
            },
        );
    }

    pub(crate) fn replicated(&mut self, at: usize, life: u64, replica: Replica) {
        let Replica {
            run,
            piece,
            saved,
            to,
        } = replica;
        let Some(keeper) = self.answers(at, &to) else {
            return;
        };
        self.nodes[keeper]
            .snapshots
            .keep(&run, piece.clone(), saved);
        let event = supervisor::Event::Replicated { run, piece, at: to };
        self.tell_agent(at, life, event);
    }

    /// The node of this name, where its agent answers.
    fn answers(&self, from: usize, name: &NodeId) -> Option<usize> {
        let at = self.nodes.iter().position(|node| node.id == *name)?;
        let is_there = self.nodes[at].agent.as_ref().is_some_and(|a| !a.is_frozen);
        (is_there && self.reach(from, at)).then_some(at)
    }

    /// Reads a rank's shard of a snapshot: from its own node, or by its agent from another.
    pub(crate) fn recall(&mut self, pid: u32, recall: &Recall) -> Result<Saved, Unsound> {
        let (node, run) = match self.processes.get(&pid) {
            Some(process) => (process.node, process.run.clone()),
            None => return Err(missing(recall)),
        };
        let piece = &recall.piece;
        let own = self.nodes[node].snapshots.find(&run, piece);
        let saved = own.or_else(|| {
            let from = self.answers(node, &recall.from.as_ref()?.node)?;
            self.nodes[from].snapshots.find(&run, piece)
        });
        let saved = saved.ok_or_else(|| missing(recall))?;
        let is_checked = self.options.planted != Some(Planted::ShardUnverified);
        if digest(saved) != piece.shard.hash && is_checked {
            let file = piece.shard.file.clone();
            return Err(Unsound::Hash { file });
        }
        self.nodes[node].snapshots.keep(&run, piece.clone(), saved);
        Ok(saved)
    }
}

fn missing(recall: &Recall) -> Unsound {
    Unsound::Missing {
        file: recall.piece.shard.file.clone(),
    }
}
