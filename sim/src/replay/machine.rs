//! Light agents: what a node of a replay remembers, and what it has to say about an order.
//!
//! The engine is the real one; these answer it as the real agents would, as far as a history can
//! tell: they start ranks, keep those that survive, refuse broken devices and remember generations.

use rebloom_core::id::{Generation, NodeId, Rank, RunId, Session, Slot};
use rebloom_core::labels::Labels;
use rebloom_core::order::Start;
use rebloom_core::report::{Join, Milestone, NodeFacts, RankStatus, Remembered};
use std::collections::{BTreeMap, BTreeSet};

/// A rank's process.
#[derive(Debug, Clone)]
pub(super) struct Process {
    pub(super) slot: Slot,
    pub(super) pid: u32,
    pub(super) generation: Generation,
}

/// A node and its agent.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) id: NodeId,
    slots: u32,
    pub(super) is_up: bool,
    pub(super) session: Option<Session>,
    /// Highest generation it was told.
    pub(super) generation: Generation,
    pub(super) ranks: BTreeMap<Rank, Process>,
    /// Devices on which nothing starts.
    pub(super) broken: BTreeSet<Slot>,
    /// How much slower it is than it should be.
    pub(super) slowdown: f64,
}

/// What came of an order to start.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Started {
    /// Ranks of this node.
    pub(super) seats: u32,
    /// Whether a process has to be started anew.
    pub(super) spawns: bool,
    /// Ranks that cannot be started.
    pub(super) failed: Vec<Rank>,
}

impl Machine {
    pub(super) fn new(at: u32, slots: u32) -> Self {
        Self {
            id: NodeId::new(&format!("node-{at:04}")).expect("a name"),
            slots,
            is_up: true,
            session: None,
            generation: Generation(0),
            ranks: BTreeMap::new(),
            broken: BTreeSet::new(),
            slowdown: 0.0,
        }
    }

    /// What it says when its link is opened.
    pub(super) fn join(&self, run: &RunId) -> Join {
        let ranks = self.ranks.iter().map(|(rank, process)| RankStatus {
            rank: *rank,
            pid: process.pid,
            generation: process.generation,
            milestone: Milestone::Going,
        });
        let remembered = Remembered {
            run: run.clone(),
            generation: self.generation,
            ranks: ranks.collect(),
            snapshots: Vec::new(),
            sealed: Vec::new(),
        };
        Join {
            facts: NodeFacts {
                node: self.id.clone(),
                slots: self.slots,
                gpus: Vec::new(),
                store_address: format!("{}:1", self.id),
                host: self.id.to_string(),
                cores: 64,
                memory: 1 << 39,
                nccl: None,
                labels: Labels::default(),
            },
            runs: (self.generation > Generation(0))
                .then_some(remembered)
                .into_iter()
                .collect(),
        }
    }

    /// Obeys an order to start; none where it knows the generation already.
    pub(super) fn start(&mut self, start: &Start, next_pid: &mut u32) -> Option<Started> {
        if start.gang.generation <= self.generation {
            return None;
        }
        self.generation = start.gang.generation;
        let seat = |rank: &Rank| start.seats.iter().find(|seat| seat.rank == *rank);
        self.ranks.retain(|rank, process| {
            !start.gang.fresh_processes && seat(rank).is_some_and(|seat| seat.slot == process.slot)
        });
        let mut started = Started::default();
        for seat in &start.seats {
            started.seats += 1;
            let is_new = !self.ranks.contains_key(&seat.rank);
            started.spawns |= is_new;
            if is_new && self.broken.contains(&seat.slot) {
                started.failed.push(seat.rank);
                continue;
            }
            let process = self.ranks.entry(seat.rank).or_insert_with(|| {
                *next_pid += 1;
                Process {
                    slot: seat.slot,
                    pid: *next_pid,
                    generation: start.gang.generation,
                }
            });
            process.generation = start.gang.generation;
        }
        Some(started)
    }
}
