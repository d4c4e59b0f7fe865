//! The controller's machine: places runs, watches them, recovers them.
//!
//! Its state is the fold of its journal. An [`Event`] that tells something new becomes one or more
//! facts; each fact is applied to the state and handed out as [`Command::Persist`] before any command
//! that depends on it. Replaying the journal gives the same state, and the first join of each agent
//! after it brings back what was going on. Beats and links are not journaled.

mod audit;
mod command;
mod event;
mod fact;
mod state;
mod view;

pub use audit::{Violation, judge};
pub use command::{Answer, Command, Refusal};
pub use event::{Ask, Event, Ticket};
pub use fact::{Fact, Record};
pub use state::State;
pub use view::{
    CheckpointState, Incident, Ledger, NodeState, NodeView, Placement, RankView, RunState, RunView,
    Rung, Seating, Spend,
};

use crate::id::RunId;
use crate::time::{Duration, Instant};
use std::collections::{BTreeMap, VecDeque};

/// What an admin configured for the whole cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// How often an agent gives a sign of life.
    pub beat_every: Duration,
    /// An agent silent for this long is lost, unless its link broke: see `rejoin_within`.
    pub silent_after: Duration,
    /// An agent whose link broke is lost when it has not joined again within this time. Longer than
    /// an agent needs to be restarted, since its ranks train on meanwhile.
    pub rejoin_within: Duration,
    /// Agents and workers that hear from nobody for this long fence themselves; only after it may
    /// a run none of whose nodes can be reached be started elsewhere (S1).
    pub orphan_after: Duration,
    /// Largest share of the fleet that automatic verdicts may withdraw (S8), 0 to 1.
    pub withdraw_share: f64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            beat_every: Duration::from_millis(500),
            silent_after: Duration::from_secs(5),
            rejoin_within: Duration::from_secs(3),
            orphan_after: Duration::from_secs(300),
            withdraw_share: 0.5,
        }
    }
}

/// The controller's machine.
#[derive(Debug)]
pub struct Engine {
    limits: Limits,
    state: State,
    out: VecDeque<Command<Record>>,
    refusals: BTreeMap<&'static str, u64>,
    wake: Option<Instant>,
}

impl Engine {
    /// An engine that was told nothing yet.
    pub fn new(limits: Limits) -> Self {
        Self::from_snapshot(limits, State::default(), [])
    }

    /// The engine that wrote this journal, as far as the journal goes. It commands nothing before its
    /// first event.
    pub fn replay(limits: Limits, records: impl IntoIterator<Item = Record>) -> Self {
        Self::from_snapshot(limits, State::default(), records)
    }

    /// The same from a snapshot and the records that came after it.
    pub fn from_snapshot(
        limits: Limits,
        state: State,
        tail: impl IntoIterator<Item = Record>,
    ) -> Self {
        let mut state = state;
        for record in tail {
            state.apply(record.at, &record.fact);
        }
        Self {
            limits,
            state,
            out: VecDeque::new(),
            refusals: BTreeMap::new(),
            wake: None,
        }
    }

    /// The durable state: the fold of the journal up to the last `Persist` that was handed out.
    pub const fn snapshot(&self) -> &State {
        &self.state
    }

    /// How often each kind of thing was refused or dropped since this engine was made.
    pub const fn refusals(&self) -> &BTreeMap<&'static str, u64> {
        &self.refusals
    }

    /// Tells the engine something.
    pub fn handle(&mut self, _now: Instant, _event: Event) {}

    /// Tells the engine that the moment it asked for has come.
    pub fn handle_timeout(&mut self, _now: Instant) {}

    /// The next thing to do; drain until none after every `handle*`.
    pub fn poll_command(&mut self) -> Option<Command<Record>> {
        self.out.pop_front()
    }

    /// When to call [`Self::handle_timeout`] next.
    pub const fn poll_timeout(&self) -> Option<Instant> {
        self.wake
    }

    /// Every run, by name.
    pub fn runs(&self, _now: Instant) -> Vec<RunView> {
        Vec::new()
    }

    /// One run.
    pub fn run(&self, _run: &RunId, _now: Instant) -> Option<RunView> {
        None
    }

    /// Every node, by name.
    pub fn nodes(&self) -> Vec<NodeView> {
        Vec::new()
    }

    /// What the engine was configured with.
    pub const fn limits(&self) -> &Limits {
        &self.limits
    }
}
