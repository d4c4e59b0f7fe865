//! The tables and charts of a replay. Pure: figures in, text out.

use super::chart::{Bar, Line, bars, lines};
use super::outcome::{Outcome, Spread, spread};
use super::scenario::Scenario;
use super::{Pair, Replay};
use std::collections::BTreeMap;
use std::fmt::Write;

/// How often durations are made longer for the sensitivity.
const FACTORS: [f64; 5] = [1.0, 3.0, 10.0, 30.0, 100.0];
/// Causes that the table names; the rest is one line.
const CAUSES: usize = 12;

/// One figure of a played history.
type Figure = fn(&Outcome) -> f64;

/// A history with one of its durations scaled.
type Variant = fn(&Replay, f64) -> Replay;

/// The replays of a history and what they show.
#[derive(Debug)]
pub struct Report<'a> {
    scenario: &'a Scenario,
    rebloom: Vec<Outcome>,
    then: Vec<Outcome>,
}

fn percent(spread: Spread) -> String {
    format!(
        "{:6.2} % ({:.2} to {:.2})",
        spread.mean * 100.0,
        spread.min * 100.0,
        spread.max * 100.0
    )
}

fn number(spread: Spread) -> String {
    format!(
        "{:8.1} ({:.0} to {:.0})",
        spread.mean, spread.min, spread.max
    )
}

impl<'a> Report<'a> {
    /// The report of these replays.
    pub fn new(scenario: &'a Scenario, pairs: Vec<Pair>) -> Self {
        let (rebloom, then) = pairs
            .into_iter()
            .map(|pair| (pair.rebloom, pair.then))
            .unzip();
        Self {
            scenario,
            rebloom,
            then,
        }
    }

    /// Mean ETTR under the engine.
    pub fn ettr(&self) -> Spread {
        spread(&self.rebloom, |outcome| outcome.ettr)
    }

    /// What the baseline comes to, counted as the published figure counts.
    pub fn baseline(&self) -> Option<Spread> {
        let published = self.scenario.published?;
        Some(spread(&self.then, |outcome| {
            outcome.counted(published.counts)
        }))
    }

    /// Whether the baseline comes out near the published figure.
    pub fn is_calibrated(&self) -> bool {
        let Some((published, baseline)) = self.scenario.published.zip(self.baseline()) else {
            return true;
        };
        let off = baseline.mean - published.ettr;
        if published.at_least {
            (-0.005..=published.tolerance + 0.03).contains(&off)
        } else {
            off.abs() <= published.tolerance
        }
    }

    /// Whether the goal is reached by the mean of all seeds.
    pub fn reaches_goal(&self) -> bool {
        self.scenario
            .goal
            .is_none_or(|goal| self.ettr().mean >= goal)
    }

    /// The tables.
    pub fn text(&self) -> String {
        let mut text = format!(
            "{}\n{} seeds; mean (least to most)\n\n",
            self.scenario.title,
            self.rebloom.len()
        );
        let rows: [(&str, Figure); 3] = [
            ("productive time / wall time (ETTR)", |outcome| outcome.ettr),
            ("  steps and evaluations, at nominal speed", |outcome| {
                outcome.work
            }),
            ("  steps alone, at nominal speed", |outcome| outcome.steps),
        ];
        line(
            &mut text,
            format_args!("{:<44}{:<30}{}", "", "rebloom", "as they did it then"),
        );
        for (name, figure) in rows {
            let (ours, theirs) = (spread(&self.rebloom, figure), spread(&self.then, figure));
            line(
                &mut text,
                format_args!("{name:<44}{:<30}{}", percent(ours), percent(theirs)),
            );
        }
        let counts: [(&str, Figure); 4] = [
            ("human interventions", |outcome| f64::from(outcome.humans)),
            ("  that an automatic rung could have taken", |outcome| {
                f64::from(outcome.avoidable)
            }),
            ("incidents that stopped the run", |outcome| {
                f64::from(outcome.incidents)
            }),
            ("steps done twice", |outcome| outcome.lost_steps as f64),
        ];
        for (at, (name, figure)) in counts.into_iter().enumerate() {
            let theirs = if at == 0 {
                number(spread(&self.then, figure))
            } else {
                String::new()
            };
            line(
                &mut text,
                format_args!(
                    "{name:<44}{:<30}{theirs}",
                    number(spread(&self.rebloom, figure))
                ),
            );
        }
        let every = self.rebloom.first().map_or(0, |outcome| outcome.save_every);
        line(
            &mut text,
            format_args!(
                "{:<44}{every:>8} steps{:>25} steps",
                "a save every", self.scenario.then.save_every_steps
            ),
        );
        self.verdict(&mut text);
        text.push_str("\nwhere the time went, hours of a run              rebloom        then\n");
        let (ours, theirs) = (phases(&self.rebloom), phases(&self.then));
        let names: std::collections::BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
        for name in names {
            let hours = |side: &BTreeMap<&str, f64>| {
                side.get(name)
                    .map_or_else(|| "-".to_owned(), |h| format!("{h:.2}"))
            };
            line(
                &mut text,
                format_args!("  {name:<44}{:>10}{:>12}", hours(&ours), hours(&theirs)),
            );
        }
        text.push_str(
            "\nlost by cause, a run                             times   rebloom, h   then, h\n",
        );
        let (ours, theirs) = (causes(&self.rebloom), causes(&self.then));
        let mut order: Vec<_> = theirs.iter().collect();
        order.sort_by(|a, b| b.1.1.total_cmp(&a.1.1));
        for (name, (times, lost)) in order.into_iter().take(CAUSES) {
            let mine = ours.get(name).map_or(0.0, |(_, lost)| *lost);
            line(
                &mut text,
                format_args!("  {:<44}{times:>8.1}{mine:>13.2}{lost:>10.2}", cut(name)),
            );
        }
        text
    }

    fn verdict(&self, text: &mut String) {
        if let Some((published, baseline)) = self.scenario.published.zip(self.baseline()) {
            let sign = if published.at_least { "above " } else { "" };
            line(
                text,
                format_args!(
                    "\nbaseline   {:.2} %, published {sign}{:.1} %: {}",
                    baseline.mean * 100.0,
                    published.ettr * 100.0,
                    if self.is_calibrated() {
                        "the model of the history holds"
                    } else {
                        "THE MODEL IS WRONG"
                    }
                ),
            );
        }
        if let Some(goal) = self.scenario.goal {
            line(
                text,
                format_args!(
                    "goal       ETTR of at least {:.1} %: {}",
                    goal * 100.0,
                    if self.reaches_goal() {
                        "reached"
                    } else {
                        "MISSED"
                    }
                ),
            );
        }
    }

    /// The charts: file name and content.
    pub fn charts(&self) -> Vec<(String, String)> {
        let name = &self.scenario.name;
        let bar = |label: &str, spread: Spread| Bar {
            label: label.to_owned(),
            value: spread.mean,
            spread: Some((spread.min, spread.max)),
            text: format!("{:.2} %", spread.mean * 100.0),
        };
        let mut ratios = vec![bar("Rebloom, replayed", self.ettr())];
        if let Some((published, baseline)) = self.scenario.published.zip(self.baseline()) {
            ratios.push(bar("as it was then, replayed", baseline));
            let published = Spread {
                mean: published.ettr,
                min: published.ettr,
                max: published.ettr,
            };
            ratios.push(bar("published", published));
        } else {
            ratios.push(bar(
                "as it was then, replayed",
                spread(&self.then, |outcome| outcome.ettr),
            ));
        }
        let least = ratios
            .iter()
            .filter_map(|bar| bar.spread)
            .map(|(least, _)| least)
            .fold(1.0, f64::min);
        let from = (least * 20.0 - 0.5).floor() / 20.0;
        let title = format!("{}: productive time by wall time", self.scenario.title);
        let mut lost: Vec<_> = phases(&self.rebloom)
            .into_iter()
            .filter(|(name, _)| *name != "productive")
            .collect();
        lost.sort_by(|a, b| b.1.total_cmp(&a.1));
        let most = lost.first().map_or(1.0, |(_, hours)| *hours);
        let lost: Vec<_> = lost
            .into_iter()
            .map(|(name, hours)| Bar {
                label: name.to_owned(),
                value: hours,
                spread: None,
                text: format!("{hours:.2} h"),
            })
            .collect();
        vec![
            (
                format!("{name}-ettr.svg"),
                bars(&title, (from, 1.0), &ratios),
            ),
            (
                format!("{name}-time.svg"),
                bars(
                    "Hours of a run that were not productive",
                    (0.0, most),
                    &lost,
                ),
            ),
        ]
    }
}

/// How ETTR falls when detection, restore or snapshots get worse.
pub fn sensitivity(replay: &Replay, seeds: u64) -> (String, String) {
    let mut text = String::from("\nETTR when something is so many times as long\n");
    let heads: Vec<String> = FACTORS
        .iter()
        .map(|factor| format!("{:>10}", format!("x {factor}")))
        .collect();
    line(&mut text, format_args!("  {:<34}{}", "", heads.concat()));
    let mut drawn = Vec::new();
    let variants: [(&str, Variant); 4] = [
        ("detection", |replay, factor| {
            ["notice-exit", "notice-silence", "deadline-factor"]
                .iter()
                .fold(replay.clone(), |replay, name| scaled(&replay, name, factor))
        }),
        ("re-forming", |replay, factor| {
            scaled(&scaled(replay, "form", factor), "spawn", factor)
        }),
        ("restore", |replay, factor| {
            scaled(replay, "restore", factor)
        }),
        ("interval between saves", |replay, factor| {
            let mut replay = replay.clone();
            replay.save_factor = factor;
            replay
        }),
    ];
    for (name, change) in variants {
        let ettr = |factor: f64| {
            let outcomes: Vec<_> = change(replay, factor)
                .play(seeds)
                .into_iter()
                .map(|pair| pair.rebloom)
                .collect();
            spread(&outcomes, |outcome| outcome.ettr).mean
        };
        let points: Vec<(f64, f64)> = FACTORS
            .iter()
            .map(|factor| (*factor, ettr(*factor)))
            .collect();
        let row: Vec<String> = points
            .iter()
            .map(|(_, ettr)| format!("{:>8.2} %", ettr * 100.0))
            .collect();
        line(&mut text, format_args!("  {name:<34}{}", row.concat()));
        drawn.push(Line {
            label: name.to_owned(),
            points,
        });
    }
    let title = format!("{}: ETTR when something takes longer", replay.scenario.name);
    (text, lines(&title, "how many times as long", &drawn))
}

fn scaled(replay: &Replay, name: &str, factor: f64) -> Replay {
    Replay {
        durations: replay.durations.clone().scaled(name, factor),
        ..replay.clone()
    }
}

fn line(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    writeln!(text, "{arguments}").expect("a string takes everything");
}

fn cut(name: &str) -> String {
    name.chars().take(43).collect()
}

/// Mean hours of a run by phase.
fn phases(outcomes: &[Outcome]) -> BTreeMap<&'static str, f64> {
    let mut hours = BTreeMap::new();
    for (name, seconds) in outcomes.iter().flat_map(|outcome| &outcome.by_phase) {
        *hours.entry(*name).or_default() += seconds / 3600.0 / outcomes.len() as f64;
    }
    hours
}

/// Mean times and hours of a run by cause.
fn causes(outcomes: &[Outcome]) -> BTreeMap<String, (f64, f64)> {
    let mut causes: BTreeMap<String, (f64, f64)> = BTreeMap::new();
    let share = 1.0 / outcomes.len().max(1) as f64;
    for (name, (times, seconds)) in outcomes.iter().flat_map(|outcome| &outcome.by_cause) {
        let (all_times, hours) = causes.entry(name.clone()).or_default();
        *all_times += f64::from(*times) * share;
        *hours += seconds / 3600.0 * share;
    }
    causes
}
