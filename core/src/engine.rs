//! The controller's machine: places runs, watches them, recovers them.
//!
//! Its state is the fold of its journal. An [`Event`] that tells something new becomes one or more
//! facts; each fact is applied to the state and handed out as [`Command::Persist`] before any command
//! that depends on it. Replaying the journal gives the same state, and the first join of each agent
//! after it brings back what was going on. Beats and links are not journaled.

mod command;
mod event;
mod view;

pub use command::{Answer, Command, Refusal};
pub use event::{Ask, Event, Ticket};
pub use view::{
    CheckpointState, Incident, Ledger, NodeState, NodeView, Placement, RankView, RunState, RunView,
    Rung, Seating, Spend,
};

use crate::time::Duration;

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
