//! How many spares are worth keeping: enough for the faults of one repair time, but for one in a
//! hundred such times.

use crate::time::{Duration, Instant};
use serde::{Deserialize, Serialize};

/// Until enough was measured: nodes lost per node and day. 4.5 in 1,000, the middle of the published
/// rates of 2.3 (Llama 3), 4.5 (Meta's RSC) and 21.6 (a bad week).
const RATE: f64 = 4.5e-3;
/// How many node-days that counts as.
const RATE_WEIGHT: f64 = 1000.0;
/// Until enough was measured: time until a node is back. A restart or a swap, with somebody awake.
const REPAIR: f64 = 4.0 * 3600.0;
/// How many repairs that counts as.
const REPAIR_WEIGHT: f64 = 4.0;
const DAY: f64 = 86_400.0;

/// How often nodes were lost and how long they were away: a fold of the journal.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Reliability {
    /// Nodes that are there, and not lost.
    up: u32,
    /// Until when the times were added up.
    at: Instant,
    /// Time of all nodes together while they were up.
    up_time: Duration,
    lost: u64,
    returned: u64,
    /// Time of all nodes together while they were lost.
    down_time: Duration,
    down: u32,
}

impl Reliability {
    /// A new node.
    pub fn enrolled(&mut self, at: Instant) {
        self.pass(at);
        self.up += 1;
    }

    /// A node was lost.
    pub fn lost(&mut self, at: Instant) {
        self.pass(at);
        self.lost += 1;
        self.up = self.up.saturating_sub(1);
        self.down += 1;
    }

    /// A lost node is back.
    pub fn returned(&mut self, at: Instant) {
        self.pass(at);
        self.returned += 1;
        self.down = self.down.saturating_sub(1);
        self.up += 1;
    }

    fn pass(&mut self, at: Instant) {
        let span = at.since(self.at);
        self.at = self.at.max(at);
        self.up_time = self.up_time.saturating_add(span.saturating_mul(self.up));
        self.down_time = self
            .down_time
            .saturating_add(span.saturating_mul(self.down));
    }

    /// Nodes lost per node and day, measured, with the published rate as the prior.
    #[allow(clippy::cast_precision_loss, reason = "a rate needs no 53 bits")]
    pub fn rate(&self) -> f64 {
        let days = self.up_time.as_secs_f64() / DAY;
        (RATE * RATE_WEIGHT + self.lost as f64) / (RATE_WEIGHT + days)
    }

    /// Mean time until a lost node is back, measured, with four hours as the prior.
    #[allow(clippy::cast_precision_loss, reason = "a mean needs no 53 bits")]
    pub fn repair(&self) -> Duration {
        let spent = REPAIR * REPAIR_WEIGHT + self.down_time.as_secs_f64();
        let repairs = REPAIR_WEIGHT + self.returned as f64;
        Duration::try_from_secs_f64(spent / repairs).unwrap_or(Duration::MAX)
    }

    /// Spares for so many nodes in use.
    pub fn spares(&self, nodes: u32) -> u32 {
        let repair = self.repair().as_secs_f64() / DAY;
        spares(self.rate() * repair * f64::from(nodes), nodes)
    }
}

/// The 99th percentile of a Poisson distribution with this mean: with so many spares, faults take
/// more nodes within one repair time only once in a hundred such times. At most `most`.
pub fn spares(mean: f64, most: u32) -> u32 {
    // (In logarithms, since the first terms of a large mean are too small for a float.)
    let mut term = -mean;
    let mut sum = term.exp();
    let mut count = 0;
    while sum < 0.99 && count < most {
        count += 1;
        term += (mean / f64::from(count)).ln();
        sum += term.exp();
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_99th_percentile() {
        // 48 nodes over a day at 2.3, 4.5 and 21.6 faults in 1,000 node-days.
        let daily = [2.3, 4.5, 21.6].map(|rate| spares(48.0 * rate / 1000.0, 48));
        assert_eq!(daily, [1, 2, 4]);
        assert_eq!(spares(0.0, 10), 0);
        assert_eq!(spares(1e6, 10), 10);
        assert_eq!(spares(5.0, 100), 11);
        // About the mean and 2.33 standard deviations.
        assert_eq!(spares(2000.0, 100_000), 2105);
    }

    #[test]
    fn what_is_measured_outweighs_the_prior() {
        let mut seen = Reliability::default();
        let day = |days: u64| Instant::ZERO + Duration::from_secs(86_400 * days);
        (0..100).for_each(|_| seen.enrolled(day(0)));
        assert_eq!(seen.spares(100), 1, "by the prior");
        // A hundred nodes for a hundred days, one lost each day and away for one.
        for at in 0..100 {
            seen.lost(day(at));
            seen.returned(day(at + 1));
        }
        assert!((seen.rate() - 0.0096).abs() < 1e-3, "{}", seen.rate());
        let repair = seen.repair().as_secs_f64() / 86_400.0;
        assert!((repair - 0.97).abs() < 0.01, "{repair}");
        assert_eq!(seen.spares(100), 4);
    }
}
