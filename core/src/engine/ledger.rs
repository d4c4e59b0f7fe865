//! The account of a run's wall clock: every nanosecond since it was submitted is in one entry.
//!
//! It only ever moves forward: a fault that began earlier than it was heard of takes its time from
//! what has not been booked yet, never from what has. Device time goes along: a run that waits holds
//! none, and otherwise every rank of its gang spends the same time on the same thing.

use super::{Ledger, Spend};
use crate::time::{Duration, Instant};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// What the sliding ratio looks back on.
const HOUR: Duration = Duration::from_secs(3600);
/// Spans that are remembered of the last hour; more turns than that are a storm, and the oldest of
/// them are forgotten.
const SPANS: usize = 1024;

/// A ledger that is being written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Book {
    since: Instant,
    /// What time goes into now; none once the run is over for good.
    spend: Option<Spend>,
    /// Devices that the run holds while it does not wait.
    devices: u32,
    /// What ended within the last hour: when, on what, how long.
    recent: VecDeque<(Instant, Spend, Duration)>,
    ledger: Ledger,
}

impl Book {
    pub(super) fn open(at: Instant) -> Self {
        Self {
            since: at,
            spend: Some(Spend::Waiting),
            devices: 0,
            recent: VecDeque::new(),
            ledger: Ledger::default(),
        }
    }

    /// What time goes into now.
    pub(super) const fn spends(&self) -> Option<Spend> {
        self.spend
    }

    /// So many steps will be done again.
    pub(super) const fn lose(&mut self, steps: u64) {
        self.ledger.lost_steps = self.ledger.lost_steps.saturating_add(steps);
    }

    /// From here on the run holds so many devices.
    pub(super) const fn hold(&mut self, devices: u32) {
        self.devices = devices;
    }

    /// Books the time up to `at` and goes on with `spend`; says what was booked.
    pub(super) fn turn(&mut self, at: Instant, spend: Option<Spend>) -> Option<Booked> {
        let span = at.since(self.since);
        self.since = self.since.max(at);
        let booked = self.spend.filter(|_| !span.is_zero()).map(|spent| {
            let devices = if spent.holds_devices() {
                self.devices
            } else {
                0
            };
            Booked {
                spend: spent,
                span,
                devices: span * devices,
            }
        });
        if let Some(booked) = booked {
            self.ledger.add(booked);
            self.recent.push_back((self.since, booked.spend, span));
            let since = self.since;
            let is_old = |(end, _, _): &(Instant, Spend, Duration)| since.since(*end) >= HOUR;
            while self.recent.len() > SPANS || self.recent.front().is_some_and(is_old) {
                self.recent.pop_front();
            }
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

    /// ETTR of the hour before `now`; none where the run did nothing but wait in it.
    pub(super) fn last_hour(&self, now: Instant) -> Option<f64> {
        let mut book = self.clone();
        book.turn(now, None);
        let mut hour = Ledger::default();
        for (end, spend, span) in book.recent {
            let age = now.since(end);
            let within = span.min(HOUR.saturating_sub(age));
            *hour.spent.entry(spend).or_default() += within;
        }
        hour.ettr()
    }
}

/// A span that was booked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Booked {
    pub(super) spend: Spend,
    pub(super) span: Duration,
    /// Time of all devices together.
    pub(super) devices: Duration,
}

impl Ledger {
    pub(super) fn add(&mut self, booked: Booked) {
        *self.spent.entry(booked.spend).or_default() += booked.span;
        if !booked.devices.is_zero() {
            *self.devices.entry(booked.spend).or_default() += booked.devices;
        }
    }
}
