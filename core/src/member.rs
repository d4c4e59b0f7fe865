//! The worker's machine: one process that lives through generations.
//!
//! It waits for a go, forms its groups, loads the state it is told, trains until it is done or
//! fenced, and waits again. The driver carries out one command at a time and answers with its
//! outcome; while it trains, each step is one command.

mod command;
mod event;

pub use command::Command;
pub use event::{Event, LoadTrouble, Stepped, Trouble};

use crate::time::Duration;

/// How this worker is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Without an agent for this long it leaves (S1; see `engine::Limits`).
    pub orphan_after: Duration,
}
