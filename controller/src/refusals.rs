//! Counts what is refused at the door, and says so once in a while: strangers cannot fill the log.

use rebloom_core::time::Duration;
use rebloom_runtime::telemetry::Seldom;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::{Mutex, PoisonError};
use tracing::warn;

const LOG_EVERY: Duration = Duration::from_secs(60);

/// What was refused since the start, by kind.
#[derive(Debug)]
pub(crate) struct Refusals {
    counts: Mutex<BTreeMap<&'static str, u64>>,
    logged: Seldom<(&'static str, String)>,
}

impl Refusals {
    pub(crate) const fn new() -> Self {
        Self {
            counts: Mutex::new(BTreeMap::new()),
            logged: Seldom::new(LOG_EVERY),
        }
    }

    /// Counts one, and logs it unless the same was logged a moment ago.
    pub(crate) fn count(&self, kind: &'static str, who: &str, what: &dyn Display) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(kind).or_default() += 1;
        drop(counts);
        if let Some(held_back) = self.logged.admit((kind, who.to_owned())) {
            warn!(kind, who, held_back, "refused: {what}");
        }
    }

    pub(crate) fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.counts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}
