//! The same history under what its operators did then: the check on the model.
//!
//! Synchronous saves, a new job after every failure, humans for hangs. If the ETTR that comes out is
//! not near the published one, the model of the history is wrong. No engine is involved.

use super::draw::{Draw, Fault};
use super::durations::Durations;
use super::outcome::Outcome;
use super::pace::{Pace, Place};
use super::scenario::{Kind, Scenario};
use rebloom_core::engine::Spend;
use std::collections::BTreeMap;
use std::time::Duration;

/// Pieces that the hours nobody wrote down come in.
const UNLOGGED_PIECES: u32 = 20;

/// Something that stops the job of then.
#[derive(Debug, Clone, Copy)]
enum Stop<'a> {
    Fault(&'a Fault),
    SlowFound(&'a Fault),
    Unlogged(f64),
}

/// The job of then.
struct Job<'a> {
    durations: &'a Durations,
    draw: Draw,
    pace: Pace,
    now: f64,
    place: Place,
    outcome: Outcome,
}

/// Lives through the history without Rebloom.
pub(super) fn live(
    scenario: &Scenario,
    durations: &Durations,
    faults: &[Fault],
    seed: u64,
) -> Outcome {
    let wall = scenario.days * 86_400.0;
    let pace = Pace {
        work: scenario.work,
        save_every: scenario.then.save_every_steps,
        save_stall: scenario.then.save_stall_seconds,
        slowdown: 0.0,
    };
    let mut job = Job {
        durations,
        draw: Draw::new(seed, 0x7e4),
        pace,
        now: 0.0,
        place: pace.after(0),
        outcome: Outcome::default(),
    };
    let mut stops: BTreeMap<(u64, usize), Stop<'_>> = BTreeMap::new();
    let key = |seconds: f64, at: usize| ((seconds * 1e3) as u64, at);
    for (at, fault) in faults.iter().enumerate() {
        stops.insert(key(fault.at.as_secs_f64(), at), Stop::Fault(fault));
        if fault.kind == Kind::Slow {
            let found = fault.at.as_secs_f64() + fault.then_hours * 3600.0;
            stops.insert(key(found, at), Stop::SlowFound(fault));
        }
    }
    if scenario.then.unlogged_hours > 0.0 {
        let piece = scenario.then.unlogged_hours * 3600.0 / f64::from(UNLOGGED_PIECES);
        for at in 0..UNLOGGED_PIECES {
            let when = job.draw.unit() * wall;
            stops.insert(key(when, faults.len() + at as usize), Stop::Unlogged(piece));
        }
    }
    for ((at, _), stop) in stops {
        job.advance((at as f64 / 1e3).min(wall));
        if job.now < wall {
            job.stop(stop);
        }
    }
    job.advance(wall);
    let (steps, evaluations) = job.pace.worth(job.place);
    job.outcome
        .finish(scenario, (steps, evaluations), (steps + evaluations) / wall);
    // Nobody gave nodes back meanwhile.
    let ranks = scenario.layout.world();
    job.outcome.energy = scenario.energy(Duration::from_secs_f64(wall) * ranks);
    job.outcome
}

impl Job<'_> {
    /// Trains until then; nothing where it is already later.
    fn advance(&mut self, until: f64) {
        if until > self.now {
            self.place = self.pace.later(self.place, until - self.now);
            self.now = until;
        }
    }

    fn lose(&mut self, phase: &'static str, name: &str, seconds: f64) {
        self.now += seconds;
        *self.outcome.by_phase.entry(phase).or_default() += seconds;
        let (_, lost) = self.outcome.by_cause.entry(name.to_owned()).or_default();
        *lost += seconds;
    }

    /// Back to the last save; what was done since is done again.
    fn roll_back(&mut self, name: &str) {
        let every = self.pace.save_every as f64;
        let saved = (self.place.step / every).floor() * every;
        let again = self.pace.after(saved as u64);
        let lost = self.pace.worth(self.place).0 - self.pace.worth(again).0;
        self.place = again;
        *self
            .outcome
            .by_phase
            .entry(Spend::CatchUp.name())
            .or_default() += lost;
        let (_, sum) = self.outcome.by_cause.entry(name.to_owned()).or_default();
        *sum += lost;
    }

    fn restart(&mut self, name: &str) {
        let restart = self.durations.seconds("then-restart", &mut self.draw);
        self.lose("restart", name, restart);
    }

    fn stop(&mut self, stop: Stop<'_>) {
        let fault = match stop {
            Stop::Fault(fault) => fault,
            Stop::SlowFound(slow) => {
                self.pace.slowdown = 0.0;
                self.outcome.humans += 1;
                return self.restart(&slow.name);
            }
            Stop::Unlogged(seconds) => return self.lose("not recorded", "not recorded", seconds),
        };
        let name = fault.name.as_str();
        self.outcome.by_cause.entry(name.to_owned()).or_default().0 += 1;
        if let Some(hours) = fault.then_lost_hours {
            self.outcome.humans += 1;
            return self.lose("as recorded", name, hours * 3600.0);
        }
        match fault.kind {
            Kind::Process | Kind::Gpu | Kind::Node | Kind::Storage => {
                let notice = self.durations.seconds("then-notice-exit", &mut self.draw);
                self.lose(Spend::Detect.name(), name, notice);
                self.roll_back(name);
                self.restart(name);
            }
            Kind::Hang | Kind::EvalHang => {
                let notice = self.durations.seconds("then-hang", &mut self.draw);
                self.outcome.humans += 1;
                self.lose(Spend::Detect.name(), name, notice);
                self.roll_back(name);
                self.restart(name);
            }
            Kind::Slow => self.pace.slowdown = fault.slowdown,
            // Somebody watched the loss, and decided to go on.
            Kind::Spike => self.outcome.humans += 1,
            Kind::Planned => {
                self.outcome.humans += 1;
                self.restart(name);
            }
            Kind::Site => {
                self.lose(Spend::Stalled.name(), name, fault.hours * 3600.0);
                self.roll_back(name);
                self.restart(name);
            }
        }
    }
}
