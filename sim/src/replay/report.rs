//! The tables and charts of a replay. Pure: figures in, text out.

mod json;
mod sensitivity;

pub use sensitivity::Sensitivity;

use super::Pair;
use super::chart::{Bar, bars};
use super::outcome::{Outcome, Spread, spread};
use super::scenario::Scenario;
use rebloom_core::footprint::Footprint;
use std::collections::BTreeMap;
use std::fmt::Write;

/// Causes that the table names; the rest is one line.
const CAUSES: usize = 12;
/// The narrowest and the widest column of names.
const NAMES: (usize, usize) = (44, 72);

/// One figure of a played history.
type Figure = fn(&Outcome) -> f64;

/// A figure of energy and of work done, as a share of the wall time.
type Energy = dyn Fn(Footprint, f64) -> f64;

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

    /// The seed with the least ETTR under the engine, and that.
    pub fn worst(&self) -> (usize, f64) {
        let ettr = self.rebloom.iter().map(|outcome| outcome.ettr);
        let worst = ettr.enumerate().min_by(|a, b| a.1.total_cmp(&b.1));
        worst.unwrap_or_default()
    }

    /// The tables.
    pub fn text(&self) -> String {
        let seeds = match self.rebloom.len() {
            1 => "seed 0".to_owned(),
            many => format!("seeds 0 to {}; mean (least to most)", many - 1),
        };
        let mut text = format!("{}\n{seeds}\n\n", self.scenario.title);
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
            ("slow nodes given back after a repair", |outcome| {
                f64::from(outcome.given_back)
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
        self.energy(&mut text);
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
        self.causes_table(&mut text);
        text
    }

    /// What was lost by cause, what cost the operators of then most first.
    fn causes_table(&self, text: &mut String) {
        let (ours, theirs) = (causes(&self.rebloom), causes(&self.then));
        let names: std::collections::BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
        let of = |side: &BTreeMap<String, (f64, f64)>, name: &str| {
            side.get(name).copied().unwrap_or_default()
        };
        let mut rows: Vec<(String, f64, f64, f64)> = names
            .into_iter()
            .map(|name| {
                let ((my_times, mine), (times, theirs)) = (of(&ours, name), of(&theirs, name));
                (name.clone(), times.max(my_times), mine, theirs)
            })
            .collect();
        rows.sort_by(|a, b| b.3.total_cmp(&a.3).then(b.2.total_cmp(&a.2)));
        // One more is named rather than called the rest.
        let named = if rows.len() == CAUSES + 1 {
            CAUSES + 1
        } else {
            CAUSES
        };
        let rest = rows.split_off(rows.len().min(named));
        if !rest.is_empty() {
            let sum = |figure: fn(&(String, f64, f64, f64)) -> f64| rest.iter().map(figure).sum();
            let name = format!("{} others", rest.len());
            rows.push((name, sum(|row| row.1), sum(|row| row.2), sum(|row| row.3)));
        }
        let longest = rows.iter().map(|(name, ..)| name.chars().count()).max();
        let width = longest
            .map_or(0, |longest| longest + 1)
            .clamp(NAMES.0, NAMES.1);
        let head = "lost by cause, a run";
        let (times, mine, theirs) = ("times", "rebloom, h", "then, h");
        line(
            text,
            format_args!("\n{head:<width$}  {times:>8}{mine:>13}{theirs:>10}"),
        );
        for (name, times, mine, theirs) in rows {
            let name = cut(&name, width - 1);
            line(
                text,
                format_args!("  {name:<width$}{times:>8.1}{mine:>13.2}{theirs:>10.2}"),
            );
        }
    }

    /// What the devices drew, and how much of it an hour of steps and evaluations at nominal speed cost.
    fn energy(&self, text: &mut String) {
        let hours = self.scenario.days * 24.0;
        let known = |outcome: &Outcome| outcome.energy;
        if self.rebloom.iter().any(|outcome| known(outcome).is_none()) {
            return;
        }
        let rows: [(&str, Box<Energy>); 3] = [
            (
                "energy of the gang's devices, MWh",
                Box::new(|energy, _| energy.kilowatt_hours / 1000.0),
            ),
            (
                "  CO2 equivalents, t",
                Box::new(|energy, _| energy.kilograms / 1000.0),
            ),
            (
                "  kWh for an hour of work at nominal speed",
                Box::new(move |energy, work| energy.kilowatt_hours / (work * hours)),
            ),
        ];
        for (name, figure) in rows {
            let of = |outcome: &Outcome| {
                known(outcome).map_or(0.0, |energy| figure(energy, outcome.work))
            };
            let (ours, theirs) = (spread(&self.rebloom, of), spread(&self.then, of));
            line(
                text,
                format_args!("{name:<44}{:<30}{}", number(ours), number(theirs)),
            );
        }
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
                        "THE MODEL IS OFF; check [then], the causes and the durations"
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

fn line(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    writeln!(text, "{arguments}").expect("a string takes everything");
}

/// A name that fits into a column.
fn cut(name: &str, width: usize) -> String {
    if name.chars().count() <= width {
        return name.to_owned();
    }
    name.chars().take(width - 1).chain(['…']).collect()
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
