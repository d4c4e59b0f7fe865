//! Who is placed first.

use crate::id::RunId;
use crate::time::{Duration, Instant};
use std::cmp::Reverse;

/// A run that waits for room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// Which.
    pub run: RunId,
    /// The priority of its spec.
    pub priority: i32,
    /// Whether it had room until something broke.
    pub damaged: bool,
    /// Since when it waits.
    pub since: Instant,
    /// When it was submitted.
    pub submitted: Instant,
}

impl Waiting {
    /// Sorts those that are to be placed first to the front: whoever has waited too long (L3), then
    /// by priority, then damaged gangs, so that a repaired node goes back to its own, then by age.
    pub fn sort(waiting: &mut [Self], now: Instant, starve_after: Duration) {
        waiting.sort_by_cached_key(|run| {
            let starves = now.since(run.since) >= starve_after;
            let waits = (!starves, Reverse(run.priority), !run.damaged);
            (waits, run.submitted, run.run.clone())
        });
    }
}
