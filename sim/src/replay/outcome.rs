//! What comes out of one replay, and many of them put together.

use super::scenario::{Counts, Scenario};
use rebloom_core::footprint::Footprint;
use std::collections::BTreeMap;

/// One replay of a history.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// Productive time by wall time: by the engine's ledger, or for the baseline by its work.
    pub ettr: f64,
    /// Steps that were kept at their nominal speed, by wall time.
    pub steps: f64,
    /// The same with evaluations.
    pub work: f64,
    /// Seconds by phase.
    pub by_phase: BTreeMap<&'static str, f64>,
    /// Faults and seconds lost, by what people call the fault.
    pub by_cause: BTreeMap<String, (u32, f64)>,
    /// Times that a human had to act.
    pub humans: u32,
    /// Times that a node was given back by those who had repaired it (an `uncordon`); no run waited for that.
    pub given_back: u32,
    /// Incidents that stopped the run.
    pub incidents: u32,
    /// Steps done twice.
    pub lost_steps: u64,
    /// Events that the engine was told.
    pub events: u64,
    /// Steps between two saves, in the end.
    pub save_every: u64,
    /// What the devices of the gang drew; none where their power is not known.
    pub energy: Option<Footprint>,
}

impl Outcome {
    /// Sets the ratios from the seconds of kept steps and evaluations.
    pub(super) fn finish(
        &mut self,
        scenario: &Scenario,
        (steps, evaluations): (f64, f64),
        ettr: f64,
    ) {
        let wall = scenario.days * 86_400.0;
        self.ettr = ettr;
        self.steps = steps / wall;
        self.work = (steps + evaluations) / wall;
    }

    /// The ratio that a published figure counts.
    pub const fn counted(&self, counts: Counts) -> f64 {
        match counts {
            Counts::Steps => self.steps,
            Counts::Work => self.work,
        }
    }
}

/// Mean and spread of a figure over many seeds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// The mean.
    pub mean: f64,
    /// The least.
    pub min: f64,
    /// The most.
    pub max: f64,
}

/// The spread of one figure; zeros of nothing.
pub fn spread(outcomes: &[Outcome], figure: impl Fn(&Outcome) -> f64) -> Spread {
    let values: Vec<f64> = outcomes.iter().map(figure).collect();
    let sum: f64 = values.iter().sum();
    Spread {
        mean: sum / (values.len().max(1)) as f64,
        min: values.iter().copied().fold(f64::INFINITY, f64::min),
        max: values.iter().copied().fold(0.0, f64::max),
    }
}
