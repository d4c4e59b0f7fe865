//! How ETTR falls when detection, re-forming, restoring or saves get worse.

use super::line;
use crate::replay::Replay;
use crate::replay::chart::{Line, lines};
use crate::replay::outcome::{Outcome, spread};
use std::cell::Cell;

/// How many times as long.
const FACTORS: [f64; 5] = [1.0, 3.0, 10.0, 30.0, 100.0];

/// A history with one of its durations scaled, or the interval between two saves that the engine came to.
type Variant = fn(&Replay, f64, f64) -> Replay;

/// What takes longer.
const VARIANTS: [(&str, Variant); 4] = [
    ("detection", |replay, factor, _| {
        ["notice-exit", "notice-silence", "deadline-factor"]
            .iter()
            .fold(replay.clone(), |replay, name| scaled(&replay, name, factor))
    }),
    ("re-forming", |replay, factor, _| {
        scaled(&scaled(replay, "form", factor), "spawn", factor)
    }),
    ("restore", |replay, factor, _| {
        scaled(replay, "restore", factor)
    }),
    ("interval between saves", |replay, factor, chosen| Replay {
        save_every: Some((chosen * factor).ceil() as u64),
        ..replay.clone()
    }),
];

/// The ETTR of a history where something takes longer.
#[derive(Debug)]
pub struct Sensitivity {
    /// Of which history.
    name: String,
    /// Seeds of each figure.
    seeds: u64,
    /// What takes how many times as long, and the mean ETTR then.
    pub(super) lines: Vec<Line>,
}

impl Sensitivity {
    /// How many variants are played.
    pub const VARIANTS: u64 = ((FACTORS.len() - 1) * VARIANTS.len()) as u64 + 1;

    /// Plays every variant; `watch` hears how many are done.
    pub fn new(replay: &Replay, seeds: u64, watch: &dyn Fn(u64)) -> Self {
        let played = Cell::new(0);
        let mean = |replay: &Replay, figure: fn(&Outcome) -> f64| {
            let pairs = replay.play(seeds);
            let outcomes: Vec<_> = pairs.into_iter().map(|pair| pair.rebloom).collect();
            played.set(played.get() + 1);
            watch(played.get());
            (
                spread(&outcomes, |it| it.ettr).mean,
                spread(&outcomes, figure).mean,
            )
        };
        // As it is, it is the same for all of them.
        let (usual, chosen) = mean(replay, |outcome| outcome.save_every as f64);
        let point = |change: &Variant, factor: f64| {
            if factor == 1.0 {
                return (factor, usual);
            }
            let (ettr, _) = mean(&change(replay, factor, chosen), |outcome| outcome.ettr);
            (factor, ettr)
        };
        let lines = VARIANTS.iter().map(|(name, change)| Line {
            label: (*name).to_owned(),
            points: FACTORS
                .iter()
                .map(|factor| point(change, *factor))
                .collect(),
        });
        Self {
            name: replay.scenario.name.clone(),
            seeds,
            lines: lines.collect(),
        }
    }

    /// The table.
    pub fn text(&self) -> String {
        let seeds = match self.seeds {
            1 => "seed 0".to_owned(),
            many => format!("mean of seeds 0 to {}", many - 1),
        };
        let mut text = format!("\nETTR when something takes so many times as long ({seeds})\n");
        let heads = FACTORS.map(|factor| format!("{:>10}", format!("x {factor}")));
        line(&mut text, format_args!("  {:<34}{}", "", heads.concat()));
        for Line { label, points } in &self.lines {
            let row: Vec<String> = points
                .iter()
                .map(|(_, ettr)| format!("{:>8.2} %", ettr * 100.0))
                .collect();
            line(&mut text, format_args!("  {label:<34}{}", row.concat()));
        }
        text
    }

    /// The chart.
    pub fn chart(&self) -> String {
        let title = format!("{}: ETTR when something takes longer", self.name);
        lines(&title, "how many times as long", &self.lines)
    }
}

fn scaled(replay: &Replay, name: &str, factor: f64) -> Replay {
    Replay {
        durations: replay.durations.clone().scaled(name, factor),
        ..replay.clone()
    }
}
