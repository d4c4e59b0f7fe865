//! What a person sees of a run while it trains: numbers that stay in place, and lines that tell what happened.
//!
//! [`Model`] is the knowledge; [`screen`] draws it in place on a terminal, [`plain`] prints lines where
//! there is none. Neither asks anybody anything.

mod changes;
mod plain;
#[cfg(test)]
pub(crate) mod sample;
mod screen;
mod stall;
#[cfg(test)]
mod tests;

use changes::Away;
pub(crate) use changes::{Line, Tone};
pub(crate) use plain::Plain;
pub(crate) use screen::Screen;

use crate::client::Cluster;
use rebloom_core::checkpoint::CheckpointId;
use rebloom_core::engine::{CheckpointState, NodeView, RunState, RunView};
use rebloom_core::id::{NodeId, RunId};
use rebloom_core::time::{Duration, Instant};
use std::collections::{BTreeMap, VecDeque};

/// Over this span the speed is measured.
const PACE_OVER: Duration = Duration::from_secs(20);
/// Points of the loss that are kept; beyond, every second one is dropped.
const MOST_LOSSES: usize = 2048;

/// What is known of a run and its cluster.
#[derive(Debug)]
pub(crate) struct Model {
    name: RunId,
    began: Instant,
    now: Instant,
    run: Option<RunView>,
    nodes: Vec<NodeView>,
    away: BTreeMap<NodeId, Away>,
    losses: Vec<(u64, f32)>,
    pace: VecDeque<(Instant, u64)>,
    /// When the run was last seen to move, the time of a step before that, and whether a stall was told.
    moved: Instant,
    usual: Option<Duration>,
    stall_told: bool,
    down: Option<String>,
    hint: String,
}

impl Model {
    /// Knows nothing yet. `now` is this machine's monotonic clock, here and below.
    pub(crate) fn new(name: RunId, now: Instant) -> Self {
        Self {
            name,
            began: now,
            now,
            run: None,
            nodes: Vec::new(),
            away: BTreeMap::new(),
            losses: Vec::new(),
            pace: VecDeque::new(),
            moved: now,
            usual: None,
            stall_told: false,
            down: None,
            hint: String::new(),
        }
    }

    /// Takes over what the controller says; returns what happened since.
    pub(crate) fn update(&mut self, cluster: Cluster, now: Instant) -> Vec<Line> {
        self.now = now;
        let mut lines = Vec::new();
        if self.down.take().is_some() {
            lines.push(Line::good("the controller answers again"));
            self.moved = now;
        }
        lines.extend(changes::of_nodes(
            &self.nodes,
            &cluster.nodes,
            &mut self.away,
            now,
        ));
        self.nodes = cluster.nodes;
        if let Some(run) = cluster
            .runs
            .into_iter()
            .find(|run| run.spec.name == self.name)
        {
            lines.extend(changes::of_run(self.run.as_ref(), &run));
            self.learn(&run);
            self.run = Some(run);
        }
        lines
    }

    fn learn(&mut self, run: &RunView) {
        // Steps that are done again tell the loss anew.
        if let (Some(loss), RunState::Running) = (run.loss, run.state) {
            while self
                .losses
                .last()
                .is_some_and(|(step, _)| *step >= run.step.0)
            {
                self.losses.pop();
            }
            self.losses.push((run.step.0, loss));
            if self.losses.len() > MOST_LOSSES {
                let mut at = 0;
                self.losses.retain(|_| {
                    at += 1;
                    at % 2 == 1
                });
            }
        }
        let before = self.run.as_ref();
        let moved = before.is_none_or(|before| {
            (before.generation, before.state, before.step) != (run.generation, run.state, run.step)
        });
        if moved {
            (self.moved, self.usual, self.stall_told) = (self.now, run.step_time, false);
        }
        let broken = before
            .is_none_or(|before| before.generation != run.generation || before.state != run.state);
        if broken || run.state != RunState::Running {
            self.pace.clear();
        }
        if self.pace.back().is_none_or(|(_, step)| *step < run.step.0) {
            self.pace.push_back((self.now, run.step.0));
        }
        while self.pace.len() > 2
            && self
                .pace
                .front()
                .is_some_and(|(at, _)| self.now.since(*at) > PACE_OVER)
        {
            self.pace.pop_front();
        }
    }

    /// The controller does not answer.
    pub(crate) fn lost(&mut self, error: &str) -> Vec<Line> {
        let first = self.down.replace(error.to_owned()).is_none();
        let told = first && self.run.is_some();
        if told {
            vec![Line::bad(
                "the controller does not answer; the ranks train on",
            )]
        } else {
            Vec::new()
        }
    }

    /// Time goes on; returns what shows by that alone.
    pub(crate) fn tick(&mut self, now: Instant) -> Option<Line> {
        self.now = now;
        let stall = self.stall().filter(|_| !self.stall_told)?;
        self.stall_told = true;
        Some(Line::bad(format!("{}: {stall}", self.name)))
    }

    /// What the last line says.
    pub(crate) fn hint(&mut self, hint: &str) {
        hint.clone_into(&mut self.hint);
    }

    /// The run, once it is known.
    pub(crate) const fn run(&self) -> Option<&RunView> {
        self.run.as_ref()
    }

    /// Time since the view began.
    pub(crate) const fn elapsed(&self) -> Duration {
        self.now.since(self.began)
    }

    /// The loss as it was last seen; one that does not train any more tells none.
    pub(crate) fn loss(&self) -> Option<f32> {
        let told = self.run.as_ref().and_then(|run| run.loss);
        told.or_else(|| self.losses.last().map(|(_, loss)| *loss))
    }

    /// Steps a second, while it trains.
    fn speed(&self) -> Option<f64> {
        let run = self
            .run
            .as_ref()
            .filter(|run| run.state == RunState::Running && self.stall().is_none())?;
        let (first, last) = (self.pace.front()?, self.pace.back()?);
        let time = last.0.since(first.0).as_secs_f64();
        if time > 1.0 && last.1 > first.1 {
            #[expect(clippy::cast_precision_loss, reason = "for reading, to three digits")]
            return Some((last.1 - first.1) as f64 / time);
        }
        run.step_time
            .map(|time| time.as_secs_f64())
            .filter(|time| *time > 0.0)
            .map(f64::recip)
    }

    /// Tokens a second.
    fn tokens(&self) -> Option<u64> {
        let spec = &self.run.as_ref()?.spec;
        let batch = spec.train.batch(self.run.as_ref()?.samples);
        let step = f64::from(batch) * f64::from(spec.model.sequence);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a positive number, for reading"
        )]
        self.speed().map(|speed| (speed * step).round() as u64)
    }

    /// Time to the last step at the present speed.
    fn remaining(&self) -> Option<Duration> {
        let run = self.run.as_ref()?;
        let steps = run.spec.train.steps.saturating_sub(run.step.0);
        #[expect(clippy::cast_precision_loss, reason = "for reading, to three digits")]
        let seconds = steps as f64 / self.speed()?;
        Duration::try_from_secs_f64(seconds).ok()
    }
}

/// The newest checkpoint that can be resumed from.
pub(crate) fn newest_sealed(run: &RunView) -> Option<CheckpointId> {
    let sealed = |(_, state): &&(CheckpointId, CheckpointState)| *state == CheckpointState::Sealed;
    run.checkpoints
        .iter()
        .filter(sealed)
        .map(|(id, _)| *id)
        .max()
}
