//! The account of a run's wall clock: every nanosecond since it was submitted is in one entry.
//!
//! It only ever moves forward: a fault that began earlier than it was heard of takes its time from
//! what has not been booked yet, never from what has.

use super::{Ledger, Spend};
use crate::time::{Duration, Instant};
use serde::{Deserialize, Serialize};

/// A ledger that is being written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Book {
    since: Instant,
    /// What time goes into now; none once the run is over for good.
    spend: Option<Spend>,
    ledger: Ledger,
}

impl Book {
    pub(super) fn open(at: Instant) -> Self {
        Self {
            since: at,
            spend: Some(Spend::Waiting),
            ledger: Ledger::default(),
        }
    }

    /// Books the time up to `at` and goes on with `spend`; says what was booked.
    pub(super) fn turn(&mut self, at: Instant, spend: Option<Spend>) -> Option<(Spend, Duration)> {
        let span = at.since(self.since);
        self.since = self.since.max(at);
        let booked = self
            .spend
            .filter(|_| !span.is_zero())
            .map(|spent| (spent, span));
        if let Some((spent, span)) = booked {
            *self.ledger.spent.entry(spent).or_default() += span;
        }
        self.spend = spend;
        booked
    }

    /// The ledger as it stands at `now`.
    pub(super) fn at(&self, now: Instant) -> Ledger {
        let mut book = self.clone();
        book.turn(now, None);
        book.ledger
    }
}
