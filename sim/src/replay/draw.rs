//! Chance in real numbers, and from it what breaks when in one replay of a history.

use super::scenario::{Kind, Moment, Scenario};
use crate::random::{Random, mix};
use std::time::Duration;

/// A generator of real numbers; the same seed gives the same ones.
#[derive(Debug, Clone)]
pub struct Draw(Random);

impl Draw {
    /// The generator of this seed for one purpose.
    pub const fn new(seed: u64, purpose: u64) -> Self {
        Self(Random::new(mix(seed) ^ purpose))
    }

    /// Uniform in 0 .. 1, never 0.
    pub fn unit(&mut self) -> f64 {
        ((self.0.bits() >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    }

    /// Standard normal (Box and Muller).
    pub fn normal(&mut self) -> f64 {
        let (a, b) = (self.unit(), self.unit());
        (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()
    }

    /// A whole number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        ((self.unit() * end as f64) as usize).min(end.saturating_sub(1))
    }

    /// How many events of a Poisson process come about when `mean` are expected.
    fn poisson(&mut self, mean: f64) -> u32 {
        let (mut count, mut at) = (0, -self.unit().ln());
        while at < mean {
            count += 1;
            at -= self.unit().ln();
        }
        count
    }
}

/// Something that breaks at a moment.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Fault {
    /// When, from the beginning.
    pub at: Duration,
    /// What it does.
    pub kind: Kind,
    /// What people call it.
    pub name: String,
    /// Who is hit: a share of the gang's seats, or of the lemons.
    pub whom: f64,
    /// Whether it hits a lemon.
    pub lemon: bool,
    /// The moment it waits for.
    pub during: Option<Moment>,
    /// For a site that is down; for storage, how long saves go on failing.
    pub hours: f64,
    /// For a GPU: the XID that the kernel log shows.
    pub xid: u32,
    /// For a slow node.
    pub slowdown: f64,
    /// Hours it cost the operators of then, where known.
    pub then_lost_hours: Option<f64>,
    /// For a slow node: hours until the operators of then had found it.
    pub then_hours: f64,
}

/// What breaks in one replay, in order of time. Both sides of a comparison get the same.
pub(super) fn faults(scenario: &Scenario, seed: u64) -> Vec<Fault> {
    let mut draw = Draw::new(seed, 0xfa17);
    let wall = scenario.days * 86_400.0;
    let mut faults = Vec::new();
    let expected = scenario.rate.map_or(0.0, |rate| {
        rate.per_1000_node_days / 1000.0 * f64::from(scenario.gang_nodes()) * scenario.days
    });
    let weights: f64 = scenario
        .causes
        .iter()
        .filter_map(|cause| cause.weight)
        .sum();
    for cause in &scenario.causes {
        let count = match (cause.count, cause.per_week, cause.weight) {
            (Some(count), _, _) => count,
            (_, Some(rate), _) => draw.poisson(rate * scenario.days / 7.0),
            (_, _, Some(weight)) => draw.poisson(expected * weight / weights),
            (None, None, None) => 0,
        };
        for _ in 0..count {
            faults.push(Fault {
                at: Duration::from_secs_f64(draw.unit() * wall),
                kind: cause.kind,
                name: cause.name.clone(),
                whom: draw.unit(),
                lemon: scenario.lemons > 0 && draw.unit() < scenario.lemon_share,
                during: None,
                hours: cause.hours,
                xid: cause.xid,
                slowdown: cause.slowdown,
                then_lost_hours: None,
                then_hours: cause.then_hours,
            });
        }
    }
    for event in &scenario.events {
        for time in 0..event.times {
            faults.push(Fault {
                at: Duration::from_secs_f64(event.day * 86_400.0 + f64::from(time) * 3600.0),
                kind: event.kind,
                name: event.name.clone(),
                whom: draw.unit(),
                lemon: false,
                during: event.during,
                hours: event.hours,
                xid: event.xid,
                slowdown: event.slowdown,
                then_lost_hours: event
                    .then_lost_hours
                    .map(|hours| hours / f64::from(event.times)),
                then_hours: event.then_hours,
            });
        }
    }
    faults.retain(|fault| fault.at.as_secs_f64() < wall);
    faults.sort_by_key(|fault| fault.at);
    faults
}
