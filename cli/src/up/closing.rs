//! The runs of the cluster beside each other, and its end: who still goes on, who is asked to stop, what is
//! waited for and for how long. It only keeps account; asking and ending is `up`'s.

use super::signals::AGAIN;
use crate::client::goes_on;
use crate::format::count;
use crate::view::{Line, newest_sealed};
use rebloom_core::engine::{RunState, RunView};
use rebloom_core::flight::Phase;
use rebloom_core::id::RunId;
use rebloom_core::time::{Duration, Instant};
use std::collections::BTreeMap;

/// How long a safe stop may go without anything moving before its run is killed.
const STOP_WITHIN: Duration = Duration::from_secs(60);
/// Between two lines that say what is waited for.
const TELL_EVERY: Duration = Duration::from_secs(5);
/// A run that does not stop is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// Account of the runs of one cluster.
#[derive(Debug)]
pub(super) struct Closing {
    own: RunId,
    runs: BTreeMap<RunId, Known>,
    stopping: Option<Stopping>,
}

/// A run as it was last seen.
#[derive(Debug)]
struct Known {
    run: RunView,
    /// It went on while this cluster was up.
    lived: bool,
    asked: Option<Instant>,
}

#[derive(Debug)]
struct Stopping {
    moved: Instant,
    told: Instant,
}

impl Closing {
    /// Knows no run yet; `own` is the one that `up` trains.
    pub(super) const fn new(own: RunId) -> Self {
        Self {
            own,
            runs: BTreeMap::new(),
            stopping: None,
        }
    }

    /// Takes over how the runs stand; returns what became of those that the view does not show.
    pub(super) fn update(&mut self, runs: &[RunView], now: Instant) -> Vec<Line> {
        let mut lines = Vec::new();
        for run in runs {
            let name = &run.spec.name;
            let before = self.runs.remove(name);
            let stood = before.as_ref().map(|known| known.run.state);
            let news = stood != Some(run.state) && (stood.is_some() || goes_on(run.state));
            if news && *name != self.own {
                lines.push(Line::plain(format!("{name} is {}", run.state)));
            }
            let moved = before
                .as_ref()
                .is_none_or(|known| trace(&known.run) != trace(run));
            if let Some(stopping) = self.stopping.as_mut().filter(|_| moved) {
                stopping.moved = now;
            }
            let known = Known {
                run: run.clone(),
                lived: goes_on(run.state) || before.as_ref().is_some_and(|known| known.lived),
                asked: before.and_then(|known| known.asked),
            };
            self.runs.insert(name.clone(), known);
        }
        lines
    }

    /// Runs that go on.
    pub(super) fn live(&self) -> impl Iterator<Item = &RunView> {
        let runs = self.runs.values().map(|known| &known.run);
        runs.filter(|run| goes_on(run.state))
    }

    /// Runs beside `up`'s own that went on while it was there, as they were last seen.
    pub(super) fn others(&self) -> Vec<RunView> {
        let others = self.runs.values().filter(|known| known.lived);
        others
            .map(|known| known.run.clone())
            .filter(|run| run.spec.name != self.own)
            .collect()
    }

    /// Whether the runs are to stop.
    pub(super) const fn is_stopping(&self) -> bool {
        self.stopping.is_some()
    }

    /// From now on every run is to stop.
    pub(super) fn begin(&mut self, now: Instant) -> Line {
        self.stopping = Some(Stopping {
            moved: now,
            told: now,
        });
        let names: Vec<&str> = self.live().map(|run| run.spec.name.as_str()).collect();
        Line::plain(format!(
            "stopping {} at the next step, with a checkpoint; {AGAIN}",
            names.join(" and ")
        ))
    }

    /// Runs that are to be asked to stop, now.
    pub(super) fn ask(&mut self, now: Instant) -> Vec<RunId> {
        if self.stopping.is_none() {
            return Vec::new();
        }
        let mut names = Vec::new();
        for (name, known) in &mut self.runs {
            let open = goes_on(known.run.state) && known.run.state != RunState::Stopping;
            if open && known.asked.is_none_or(|at| now.since(at) >= ASK_AGAIN) {
                known.asked = Some(now);
                names.push(name.clone());
            }
        }
        names
    }

    /// Every few seconds: what is waited for.
    pub(super) fn tick(&mut self, now: Instant) -> Vec<Line> {
        let Some(stopping) = &mut self.stopping else {
            return Vec::new();
        };
        if now.since(stopping.told) < TELL_EVERY {
            return Vec::new();
        }
        stopping.told = now;
        self.live().map(|run| Line::plain(waiting(run))).collect()
    }

    /// Whether nothing has moved for too long since the runs were to stop.
    pub(super) fn is_stuck(&self, now: Instant) -> bool {
        self.stopping
            .as_ref()
            .is_some_and(|stopping| now.since(stopping.moved) > STOP_WITHIN)
    }
}

/// What changes while a run gets anywhere.
fn trace(run: &RunView) -> impl PartialEq + '_ {
    (
        run.state,
        run.generation,
        run.step,
        &run.ranks,
        &run.checkpoints,
    )
}

/// What a stop waits for: `waiting for night: step 88; rank 2: step 88; ranks 0, 1: save`.
fn waiting(run: &RunView) -> String {
    let mut text = format!(
        "waiting for {}, {} at step {}",
        run.spec.name, run.state, run.step
    );
    let mut at: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for rank in run.ranks.iter().filter(|rank| rank.pid.is_some()) {
        let place = match (rank.phase, rank.step) {
            (Some(Phase::Step), Some(step)) => format!("step {step}"),
            (Some(phase), _) => phase.to_string(),
            (None, _) => "starting".to_owned(),
        };
        at.entry(place)
            .or_default()
            .push(rank.seating.rank.to_string());
    }
    if at.is_empty() {
        text += ": no rank has a process any more";
    }
    // The fewest first: who is behind, most often.
    let mut at: Vec<_> = at.into_iter().collect();
    at.sort_by_key(|(_, ranks)| ranks.len());
    for (place, ranks) in at {
        let word = if ranks.len() == 1 { "rank" } else { "ranks" };
        text += &format!("; {word} {}: {place}", ranks.join(", "));
    }
    text
}

/// What is lost where a run is killed now.
pub(super) fn loss(run: &RunView) -> String {
    match newest_sealed(run) {
        Some(id) => {
            let lost = run.step.0.saturating_sub(id.step.0);
            let is = if lost == 1 { "is" } else { "are" };
            let steps = count(lost, "step");
            format!("{steps} since the checkpoint at step {} {is} lost", id.step)
        }
        None => {
            let steps = count(run.step.0, "step");
            format!("nothing was sealed yet: all of its progress is lost ({steps})")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::sample;
    use rebloom_core::id::Step;

    fn at(seconds: u64) -> Instant {
        Instant::from_nanos(seconds * 1_000_000_000)
    }

    fn run(name: &str, state: RunState, step: u64) -> RunView {
        let mut run = sample::run(step);
        run.spec.name = RunId::new(name).unwrap();
        RunView { state, ..run }
    }

    fn texts(lines: &[Line]) -> Vec<&str> {
        lines.iter().map(|line| line.text.as_str()).collect()
    }

    fn names(runs: &[RunId]) -> Vec<&str> {
        runs.iter().map(RunId::as_str).collect()
    }

    #[test]
    fn every_run_that_goes_on_is_asked_and_waited_for() {
        let mut closing = Closing::new(RunId::new("own").unwrap());
        let own = |state| run("own", state, 50);
        let night = |state| run("night", state, 70);
        let old = run("old", RunState::Completed, 300);
        let first = [own(RunState::Running), night(RunState::Running), old];
        assert_eq!(texts(&closing.update(&first, at(0))), ["night is Running"]);
        assert!(closing.ask(at(0)).is_empty(), "nobody wants it stopped");
        let told = closing.begin(at(1)).text;
        assert!(told.contains("stopping night and own"), "{told}");
        assert!(told.contains("Ctrl-C again"), "{told}");
        assert_eq!(names(&closing.ask(at(1))), ["night", "own"]);
        assert!(closing.ask(at(2)).is_empty(), "once is enough for a while");
        // One that is submitted meanwhile is asked too.
        let late = run("late", RunState::Pending, 0);
        let now = [own(RunState::Stopping), night(RunState::Stopping), late];
        closing.update(&now, at(3));
        assert_eq!(names(&closing.ask(at(3))), ["late"]);
        assert_eq!(names(&closing.ask(at(9))), ["late"], "nobody heard it");
        let now = [
            own(RunState::Stopped),
            night(RunState::Stopping),
            run("late", RunState::Stopped, 0),
        ];
        assert_eq!(texts(&closing.update(&now, at(4))), ["late is Stopped"]);
        let live: Vec<_> = closing.live().map(|run| run.spec.name.as_str()).collect();
        assert_eq!(live, ["night"]);
        closing.update(&[night(RunState::Stopped)], at(5));
        assert_eq!(closing.live().count(), 0);
        let others = closing.others();
        let others: Vec<_> = others.iter().map(|run| run.spec.name.as_str()).collect();
        assert_eq!(
            others,
            ["late", "night"],
            "own has its own summary, old took no part"
        );
    }

    #[test]
    fn a_stop_says_what_it_waits_for_and_gives_up_when_nothing_moves() {
        let mut closing = Closing::new(RunId::new("own").unwrap());
        let mut own = run("own", RunState::Stopping, 88);
        for rank in &mut own.ranks {
            rank.phase = Some(Phase::Save);
        }
        own.ranks[2].phase = Some(Phase::Step);
        own.ranks[5].pid = None;
        closing.update(&[own.clone()], at(0));
        closing.begin(at(0));
        assert!(closing.tick(at(4)).is_empty());
        assert_eq!(
            texts(&closing.tick(at(5))),
            ["waiting for own, Stopping at step 88; rank 2: step 88; ranks 0, 1, 3, 4, 6, 7: save"]
        );
        assert!(closing.tick(at(6)).is_empty());
        assert!(!closing.is_stuck(at(60)));
        closing.update(&[own.clone()], at(60));
        assert!(closing.is_stuck(at(61)));
        own.ranks[2].phase = Some(Phase::Save);
        closing.update(&[own], at(61));
        assert!(!closing.is_stuck(at(61)), "it moved");
        assert!(closing.is_stuck(at(122)));
    }

    #[test]
    fn what_is_killed_says_what_is_lost() {
        let text = loss(&run("own", RunState::Stopping, 48));
        assert_eq!(text, "8 steps since the checkpoint at step 40 are lost");
        let mut bare = run("own", RunState::Stopping, 41);
        let text = loss(&bare);
        assert_eq!(text, "1 step since the checkpoint at step 40 is lost");
        bare.checkpoints.clear();
        bare.step = Step(3);
        let text = loss(&bare);
        assert!(
            text.contains("nothing was sealed yet") && text.contains("3 steps"),
            "{text}"
        );
    }
}
