//! What the supervisor wants done.

use super::Memory;
use crate::cause::Cause;
use crate::checkpoint::{CheckpointId, Manifest};
use crate::id::{Generation, Rank, RunId, Slot, Step};
use crate::report::{Beat, Report};
use crate::snapshot::{Peer, Piece};
use crate::word::ToWorker;
use serde::{Deserialize, Serialize};

/// What the supervisor wants done, in order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// Write this down; on disk before any later command is carried out.
    Remember(Memory),
    /// Start a worker process for a rank, in its own session, with a fresh flight page.
    Spawn {
        /// Of which run.
        run: RunId,
        /// Which rank.
        rank: Rank,
        /// On which device.
        slot: Slot,
        /// For which generation.
        generation: Generation,
        /// Whether nothing is to be launched asynchronously.
        async_off: bool,
        /// Why.
        cause: Cause,
    },
    /// Say something to a worker; kept for it until it is connected, a newer word replaces it.
    Tell {
        /// Of which run.
        run: RunId,
        /// Which rank.
        rank: Rank,
        /// What.
        word: ToWorker,
    },
    /// Write into a rank's flight page that every generation below this one is fenced.
    Fence {
        /// Of which run.
        run: RunId,
        /// Which rank.
        rank: Rank,
        /// The lowest generation that is not fenced.
        below: Generation,
        /// Why.
        cause: Cause,
    },
    /// Write into a rank's flight page that it shall stop at a step boundary of this generation.
    StopSafely {
        /// Of which run.
        run: RunId,
        /// Which rank.
        rank: Rank,
        /// Which generation.
        generation: Generation,
        /// Why.
        cause: Cause,
    },
    /// SIGKILL a rank's process group.
    Kill {
        /// Of which run.
        run: RunId,
        /// Which rank.
        rank: Rank,
        /// Which process.
        pid: u32,
        /// In which generation it was judged.
        generation: Generation,
        /// Why.
        cause: Cause,
    },
    /// Make a new, empty rendezvous store for this generation and drop those of older ones.
    OpenStore {
        /// Of which run.
        run: RunId,
        /// Which generation.
        generation: Generation,
    },
    /// Send a worker's rendezvous requests of this generation to the agent that hosts its store.
    RouteStore {
        /// Of which run.
        run: RunId,
        /// Which generation.
        generation: Generation,
        /// `host:port` of that agent.
        address: String,
    },
    /// Write a manifest beside its shards: aside, fsync, rename, fsync the directory. Refused, with
    /// an error, where a shard that it names is not there in its full length: it may have been removed
    /// since.
    WriteManifest {
        /// The `checkpoint.directory` of the run's spec.
        directory: String,
        /// What to write.
        manifest: Box<Manifest>,
    },
    /// Remove checkpoints: first the manifest, then the rest.
    Prune {
        /// Of which run.
        run: RunId,
        /// The `checkpoint.directory` of the run's spec.
        directory: String,
        /// Which.
        checkpoints: Vec<CheckpointId>,
    },
    /// Send a shard in this node's memory to the agent of another, which keeps it too; answer
    /// `Event::Replicated` once it lies there.
    Replicate {
        /// Of which run.
        run: RunId,
        /// What.
        piece: Piece,
        /// Where to.
        to: Peer,
    },
    /// Drop what lies in this node's memory of steps after this one: a generation goes on from there.
    DropSnapshots {
        /// Of which run.
        run: RunId,
        /// The last step that stays.
        after: Step,
    },
    /// Read the flight pages of every living rank and answer with `Event::Pages`.
    ReadPages,
    /// Close the link, if there is one, and join anew: what comes over it may be old.
    Rejoin,
    /// Send a sign of life, if the link is up.
    Beat(Beat),
    /// Send a report, if the link is up; it is asked for again after every `LinkUp` until `Acked`.
    Report {
        /// Its number; it only grows within one life of the agent.
        sequence: u64,
        /// What.
        report: Report,
    },
}
