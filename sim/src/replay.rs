//! Histories played again: what real clusters went through, under the real engine.
//!
//! A history says what broke and when; `durations.toml` says how long things take, each entry with
//! its source; `core::Engine` decides, through the same four methods as everywhere. The baseline
//! lives through the same faults as the operators of then did, and has to come out near what they
//! published. Nothing here decides how to recover.

pub mod arguments;
mod baseline;
pub mod chart;
mod draw;
pub mod durations;
mod explain;
mod fleet;
mod machine;
pub mod outcome;
mod pace;
pub mod report;
pub mod scenario;

use draw::{Fault, faults};
use durations::Durations;
use fleet::Fleet;
use outcome::Outcome;
use rebloom_core::cause::Cause;
use rebloom_core::engine::{RunView, Spend};
use rebloom_core::spec::RunSpec;
use rebloom_core::time::Instant;
use scenario::{Kind, Scenario};
use std::sync::atomic::{AtomicU64, Ordering};

/// The longest interval between two saves that the engine may choose, in seconds.
const LONGEST_SAVE: f64 = 86_400.0;

/// A history with its durations, ready to be played.
#[derive(Debug, Clone)]
pub struct Replay {
    /// The history.
    pub scenario: Scenario,
    /// How long things take.
    pub durations: Durations,
    /// Steps between two saves; none leaves it to the engine.
    pub save_every: Option<u64>,
}

/// One seed: what the engine made of it, and what the operators of then did.
#[derive(Debug, Clone)]
pub struct Pair {
    /// Under the engine.
    pub rebloom: Outcome,
    /// As it was then.
    pub then: Outcome,
}

impl Replay {
    /// A replay of a history by name, or of a scenario in a file's text.
    pub fn new(scenario: &str, durations: Option<&str>) -> Result<Self, String> {
        let scenario = Scenario::parse(scenario)?;
        let durations =
            Durations::parse(durations.unwrap_or(durations::BUILT_IN), scenario.gpus())?;
        let replay = Self {
            scenario,
            durations,
            save_every: None,
        };
        // What is left is a layout that no run may have; what follows from it is not the scenario's.
        let mut flaws = replay.spec().flaws();
        if flaws.iter().any(|flaw| flaw.field.starts_with("layout")) {
            flaws.retain(|flaw| flaw.field.starts_with("layout"));
        }
        scenario::told(flaws)?;
        Ok(replay)
    }

    /// Plays seeds `0 .. seeds`, side by side.
    pub fn play(&self, seeds: u64) -> Vec<Pair> {
        self.play_watched(seeds, &|_| {})
    }

    /// The same; `watch` hears how many are done, from any thread.
    pub fn play_watched(&self, seeds: u64, watch: &(dyn Fn(u64) + Sync)) -> Vec<Pair> {
        let (next, played) = (AtomicU64::new(0), AtomicU64::new(0));
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let mut pairs: Vec<(u64, Pair)> = std::thread::scope(|scope| {
            let work = || {
                let mut done = Vec::new();
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds {
                        return done;
                    }
                    done.push((seed, self.pair(seed)));
                    watch(played.fetch_add(1, Ordering::Relaxed) + 1);
                }
            };
            let handles: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            let joined = handles
                .into_iter()
                .map(|handle| handle.join().expect("a replay does not panic"));
            joined.flatten().collect()
        });
        pairs.sort_by_key(|(seed, _)| *seed);
        pairs.into_iter().map(|(_, pair)| pair).collect()
    }

    /// Plays one seed both ways.
    pub fn pair(&self, seed: u64) -> Pair {
        let faults = faults(&self.scenario, seed);
        Pair {
            rebloom: self.rebloom(&faults, seed),
            then: baseline::live(&self.scenario, &self.durations, &faults, seed),
        }
    }

    /// Plays one seed under the engine and tells what was decided, and why.
    pub fn explain(&self, seed: u64) -> String {
        let faults = faults(&self.scenario, seed);
        let spec = self.spec();
        let mut fleet = Fleet::new(&self.scenario, &self.durations, (&faults, seed), spec, true);
        let view = fleet.live();
        explain::story(&fleet, seed, &view)
    }

    fn rebloom(&self, faults: &[Fault], seed: u64) -> Outcome {
        let spec = self.spec();
        let mut fleet = Fleet::new(&self.scenario, &self.durations, (faults, seed), spec, false);
        let view = fleet.live();
        let mut outcome = account(&fleet, &view);
        let (steps, evaluations) = fleet.pace.worth(fleet.place());
        let all: f64 = outcome.by_phase.values().sum();
        let productive = outcome
            .by_phase
            .get(Spend::Productive.name())
            .copied()
            .unwrap_or_default();
        outcome.finish(&self.scenario, (steps, evaluations), productive / all);
        outcome.save_every = fleet.pace.save_every;
        outcome.energy = self.scenario.energy(view.ledger.device_time());
        outcome
    }

    /// The run as it is submitted. How often it saves is for the engine to choose, by what it measures; it begins
    /// as the operators of then did, and never goes faster than a save can be written. A fixed number of steps
    /// takes that choice away.
    fn spec(&self) -> RunSpec {
        let step = self.scenario.work.step_seconds;
        let least = self.durations.median("save-write").clamp(0.1, LONGEST_SAVE);
        let then = self.scenario.then.save_every_steps;
        let every = self.save_every.unwrap_or(then).clamp(1, 1_000_000_000);
        let auto = match self.save_every {
            Some(_) => String::new(),
            None => format!("auto = {{ min = {least:.1}, max = {LONGEST_SAVE:.1} }},"),
        };
        let layout = self.scenario.layout;
        let factor = self.durations.median("deadline-factor");
        let (layers, heads) = (layout.pipeline, layout.tensor);
        let (hidden, vocab) = (16 * heads, 64 * heads);
        // The sizes of the model do not matter here, but the layout has to divide them.
        let text = format!(
            "name = 'replay'\n\
             model = {{ layers = {layers}, hidden = {hidden}, heads = {heads}, vocab = {vocab}, sequence = 32 }}\n\
             layout = {{ tensor = {}, pipeline = {}, data = {} }}\n\
             train = {{ steps = 1000000000, global_batch = {}, micro_batch = 1 }}\n\
             data = {{ prefix = '/data/text' }}\n\
             checkpoint = {{ directory = '/checkpoints', every_steps = {every}, {auto} keep = 2 }}\n\
             deadlines = {{ step = {:.1}, save = 3600.0, load = 3600.0, init = 3600.0 }}\n\
             recovery = {{ reform = 1, restart = 1, replace = 8 }}\n",
            layout.tensor,
            layout.pipeline,
            layout.data,
            layout.data,
            // The histories are judged by `deadline-factor`; this one only has to be one that a run may have.
            (step * factor).clamp(0.1, 86_400.0),
        );
        toml::from_str(&text).expect("a run spec")
    }
}

/// Puts the engine's ledger and the faults as they struck together.
fn account(fleet: &Fleet<'_>, view: &RunView) -> Outcome {
    let mut outcome = Outcome {
        events: fleet.told.events,
        humans: fleet.told.humans.len() as u32,
        given_back: fleet.told.given_back,
        ..Outcome::default()
    };
    for (spend, time) in &view.ledger.spent {
        *outcome.by_phase.entry(spend.name()).or_default() += time.as_secs_f64();
    }
    for (_, fault) in &fleet.told.struck {
        let name = fleet.faults[*fault].name.clone();
        outcome.by_cause.entry(name).or_default().0 += 1;
    }
    for incident in view
        .incidents
        .iter()
        .filter(|incident| incident.rung.is_some())
    {
        outcome.incidents += 1;
        outcome.lost_steps += incident.lost_steps;
        let name = name_of(fleet, &incident.cause, incident.opened);
        let lost: f64 = incident
            .spent
            .spent
            .values()
            .map(std::time::Duration::as_secs_f64)
            .sum();
        outcome.by_cause.entry(name).or_default().1 += lost;
    }
    outcome
}

/// The fault that an incident came from, by what people call it.
fn name_of(fleet: &Fleet<'_>, cause: &Cause, opened: Instant) -> String {
    if matches!(cause, Cause::IntervalOff { .. }) {
        return "planned: another interval between saves".to_owned();
    }
    let fault = struck_before(fleet, cause, opened);
    fault.map_or_else(|| "start".to_owned(), |fault| fault.name.clone())
}

/// The last fault that struck by then and can show as this cause; the last of all where none can. None for what
/// the engine does of its own accord.
fn struck_before<'a>(fleet: &Fleet<'a>, cause: &Cause, by: Instant) -> Option<&'a Fault> {
    if matches!(cause, Cause::IntervalOff { .. }) {
        return None;
    }
    let by = by.as_nanos() as f64 / 1e9;
    let before = fleet.told.struck.partition_point(|(at, _)| *at <= by);
    let struck = &fleet.told.struck[..before];
    let faults = struck.iter().rev().map(|(_, fault)| &fleet.faults[*fault]);
    let mut likely = faults.clone().filter(|fault| shows_as(fault.kind, cause));
    likely.next().or_else(|| faults.clone().next())
}

/// Whether a fault of this kind can be what the engine calls so.
const fn shows_as(kind: Kind, cause: &Cause) -> bool {
    if matches!(cause, Cause::SaveFailed { .. }) {
        matches!(kind, Kind::Storage)
    } else if matches!(cause, Cause::LossSpiked { .. }) {
        matches!(kind, Kind::Spike)
    } else if cause.is_hang() {
        matches!(kind, Kind::Hang | Kind::EvalHang)
    } else if matches!(cause, Cause::StopRequested | Cause::ResumeRequested) {
        matches!(kind, Kind::Planned)
    } else if matches!(
        cause,
        Cause::Slower { .. }
            | Cause::NodeSlow { .. }
            | Cause::Straggler { .. }
            | Cause::NodeDrained { .. }
    ) {
        matches!(kind, Kind::Slow)
    } else {
        matches!(kind, Kind::Process | Kind::Gpu | Kind::Node | Kind::Site)
    }
}
