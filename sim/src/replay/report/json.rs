//! The report as a program reads it: every span of time in seconds, every ratio from 0 to 1.

use super::{Report, Sensitivity, causes, phases};
use crate::replay::outcome::{Outcome, Spread, spread};
use rebloom_core::footprint::Footprint;
use serde_json::{Value, json};
use std::collections::BTreeMap;

impl Report<'_> {
    /// Everything that the tables show, and each seed by itself.
    pub fn json(&self, sensitivity: Option<&Sensitivity>) -> Value {
        let scenario = self.scenario;
        let published = scenario
            .published
            .zip(self.baseline())
            .map(|(published, baseline)| {
                json!({
                    "ettr": published.ettr,
                    "at_least": published.at_least,
                    "baseline": shown(baseline),
                    "baseline_holds": self.is_calibrated(),
                })
            });
        let each = self.rebloom.iter().zip(&self.then).enumerate();
        let each = each.map(|(seed, (ours, then))| {
            json!({ "seed": seed, "ettr": ours.ettr, "humans": ours.humans, "then": then.ettr })
        });
        let sensitivity = sensitivity.map(|sensitivity| {
            let lines = sensitivity.lines.iter().map(|line| {
                let points = line.points.iter();
                let points = points.map(|(times, ettr)| json!({ "times": times, "ettr": ettr }));
                json!({ "longer": line.label, "points": points.collect::<Vec<_>>() })
            });
            lines.collect::<Vec<_>>()
        });
        json!({
            "name": scenario.name,
            "title": scenario.title,
            "seeds": self.rebloom.len(),
            "goal": scenario.goal,
            "goal_reached": self.reaches_goal(),
            "published": published,
            "rebloom": side(&self.rebloom),
            "then": side(&self.then),
            "each": each.collect::<Vec<_>>(),
            "sensitivity": sensitivity,
        })
    }
}

/// One side of the comparison.
fn side(outcomes: &[Outcome]) -> Value {
    let of = |figure: fn(&Outcome) -> f64| shown(spread(outcomes, figure));
    let is_known = outcomes.iter().all(|outcome| outcome.energy.is_some());
    let energy = |figure: fn(Footprint) -> f64| {
        let of = |outcome: &Outcome| outcome.energy.map_or(0.0, figure);
        is_known.then(|| shown(spread(outcomes, of)))
    };
    let spent: BTreeMap<_, _> = phases(outcomes)
        .into_iter()
        .map(|(phase, hours)| (phase, hours * 3600.0))
        .collect();
    let causes: BTreeMap<_, _> = causes(outcomes)
        .into_iter()
        .map(|(name, (times, hours))| (name, json!({ "times": times, "lost": hours * 3600.0 })))
        .collect();
    json!({
        "ettr": of(|outcome| outcome.ettr),
        "steps_and_evaluations": of(|outcome| outcome.work),
        "steps": of(|outcome| outcome.steps),
        "humans": of(|outcome| f64::from(outcome.humans)),
        "nodes_given_back": of(|outcome| f64::from(outcome.given_back)),
        "incidents": of(|outcome| f64::from(outcome.incidents)),
        "kilowatt_hours": energy(|energy| energy.kilowatt_hours),
        "kilograms_co2": energy(|energy| energy.kilograms),
        "save_every_steps": of(|outcome| outcome.save_every as f64),
        "steps_twice": of(|outcome| outcome.lost_steps as f64),
        "spent": spent,
        "causes": causes,
    })
}

fn shown(spread: Spread) -> Value {
    json!({ "mean": spread.mean, "min": spread.min, "max": spread.max })
}
