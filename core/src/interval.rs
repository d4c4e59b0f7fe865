//! How often to save: the interval at which saves and repeated steps together cost the least.
//!
//! First order: J. W. Young, "A first order approximation to the optimum checkpoint interval", CACM 17(9),
//! 1974: `sqrt(2 d M)` for a save that costs `d` and a mean time between failures `M`. Used here is J. T.
//! Daly, "A higher order estimate of the optimum checkpoint interval for restart dumps", FGCS 22(3),
//! 2006, eq. 37, which holds for short `M` as well. The user's bounds always win. Decides nothing else.

use crate::time::Duration;

/// Failures of a node and day before a run has seen any of its own: 6.5 per 1,000 node-days, as in
/// A. Kokolis et al., "Revisiting Reliability in Large-Scale Machine Learning Research Clusters", 2024;
/// BLOOM's GPUs alone came to 3 to 6.
const NODE_FAILURES_A_DAY: f64 = 6.5e-3;
const DAY: f64 = 86_400.0;

/// What was measured of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    /// Nodes that it runs on.
    pub nodes: usize,
    /// How long it has run; waiting for room does not count.
    pub ran: Duration,
    /// Failures meanwhile that made it go back.
    pub failures: u64,
    /// How long one save holds the training up; none before any was seen.
    pub save: Option<Duration>,
    /// How long one step takes; none before any was seen.
    pub step: Option<Duration>,
}

impl Measured {
    /// Mean time between failures. What is known of nodes in general counts as one failure seen, so
    /// that a run without any has a finite one, and weighs less the more the run has seen itself.
    pub fn between_failures(&self) -> Duration {
        let nodes = f64::from(u32::try_from(self.nodes.max(1)).unwrap_or(u32::MAX));
        let prior = DAY / (NODE_FAILURES_A_DAY * nodes);
        let failures = f64::from(u32::try_from(self.failures).unwrap_or(u32::MAX));
        let mean = (self.ran.as_secs_f64() + prior) / (failures + 1.0);
        Duration::try_from_secs_f64(mean).unwrap_or(Duration::MAX)
    }

    /// Steps between two checkpoints within these bounds; none before a step was seen. Before a save
    /// was, the shortest interval that is allowed: then one soon is.
    pub fn steps(&self, (least, most): (Duration, Duration)) -> Option<u64> {
        let step = self.step.filter(|step| !step.is_zero())?;
        let best = self
            .save
            .map_or(least, |save| best(save, self.between_failures()));
        let interval = best.clamp(least, most.max(least));
        let steps = (interval.as_secs_f64() / step.as_secs_f64()).round();
        // In range: at least 0, and a step takes a nanosecond or more.
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "rounded, not negative, and cut off at the top"
        )]
        let steps = steps.min(1e9) as u64;
        Some(steps.max(1))
    }

    /// How much more of the time is lost with a checkpoint every so many steps than with as many as
    /// [`Self::steps`] says, as a share; none before a step and a save were seen.
    pub fn excess(&self, every_steps: u64, bounds: (Duration, Duration)) -> Option<f64> {
        let (best, step, save) = (self.steps(bounds)?, self.step?, self.save?);
        let between = self.between_failures();
        let cost = |steps: u64| {
            let steps = u32::try_from(steps).unwrap_or(u32::MAX);
            cost(step.saturating_mul(steps), save, between)
        };
        Some(cost(every_steps) - cost(best))
    }
}

/// The share of the time that saves and repeated steps cost with so long from the end of one save to the begin of
/// the next, to first order (Young); more than 1 where nothing gets done.
fn cost(interval: Duration, save: Duration, between_failures: Duration) -> f64 {
    let (t, d, m) = (
        interval.as_secs_f64(),
        save.as_secs_f64(),
        between_failures.as_secs_f64(),
    );
    d / (t + d) + (t + d) / (2.0 * m)
}

/// The time from the end of one save to the begin of the next that loses the least (Daly, eq. 37).
pub fn best(save: Duration, between_failures: Duration) -> Duration {
    let (d, m) = (save.as_secs_f64(), between_failures.as_secs_f64());
    if d >= 2.0 * m {
        return between_failures;
    }
    let x = d / (2.0 * m);
    let seconds = (2.0 * d * m).sqrt() * (1.0 + x.sqrt() / 3.0 + x / 9.0) - d;
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}
