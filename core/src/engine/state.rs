//! The durable state of the engine: the fold of its journal, changed by [`State::apply`] only.

use super::Fact;
use crate::time::Instant;
use serde::{Deserialize, Serialize};

/// Everything the engine knows for good; a snapshot of it and the later records make it again.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct State {}

impl State {
    /// Makes `fact` so.
    pub fn apply(&mut self, _at: Instant, _fact: &Fact) {}
}
