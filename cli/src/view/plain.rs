//! The view where there is no terminal: a line for each thing that happens, and one every few seconds.

use super::{Line, Model, newest_sealed};
use crate::format::{faults, grouped, line, say, short, span};
use rebloom_core::engine::{NodeState, RunState};
use rebloom_core::time::{Duration, Instant};

/// Between two lines of numbers.
const EVERY: Duration = Duration::from_secs(5);

/// Prints lines.
#[derive(Debug, Default)]
pub(crate) struct Plain {
    told: Option<(Instant, u64)>,
}

impl Plain {
    /// Prints what happened.
    pub(crate) fn note(&self, model: &Model, what: &Line) {
        say(&format!("{} {}", stamp(model.elapsed()), what.text));
    }

    /// Prints the numbers, where it is time to and there is something new.
    pub(crate) fn show(&mut self, model: &Model) {
        let Some(run) = model.run().filter(|run| run.state == RunState::Running) else {
            return;
        };
        let due = self
            .told
            .is_none_or(|(at, step)| model.now.since(at) >= EVERY && step != run.step.0);
        if due && run.loss.is_some() {
            self.told = Some((model.now, run.step.0));
            line(&format!("{} {}", stamp(model.elapsed()), numbers(model)));
        }
    }
}

/// `[ 1:05]`.
pub(super) fn stamp(elapsed: Duration) -> String {
    let seconds = elapsed.as_secs();
    match seconds {
        0..3600 => format!("[{:>2}:{:02}]", seconds / 60, seconds % 60),
        _ => format!(
            "[{}:{:02}:{:02}]",
            seconds / 3600,
            seconds / 60 % 60,
            seconds % 60
        ),
    }
}

/// All that matters, in one line.
pub(super) fn numbers(model: &Model) -> String {
    let Some(run) = model.run() else {
        return String::new();
    };
    let mut parts = vec![format!("step {}/{}", run.step, run.spec.train.steps)];
    if let Some(loss) = run.loss {
        parts.push(format!("loss {loss:.3}"));
    }
    if let Some(tokens) = model.tokens() {
        parts.push(format!("{} tokens/s", grouped(tokens)));
    }
    if let Some(time) = run.step_time {
        parts.push(format!("{} a step", short(time)));
    }
    if let Some(left) = model.remaining() {
        parts.push(format!("ETA {}", span(left)));
    }
    let ready = model
        .nodes
        .iter()
        .filter(|node| node.state == NodeState::Ready)
        .count();
    parts.push(format!("nodes {ready}/{}", model.nodes.len()));
    let living = run.ranks.iter().filter(|rank| rank.pid.is_some()).count();
    parts.push(format!("ranks {living}/{}", run.spec.layout.world()));
    if let Some(id) = newest_sealed(run) {
        parts.push(format!("checkpoint {}", id.step));
    }
    let faults = faults(run).count();
    if faults > 0 {
        parts.push(format!("incidents {faults}"));
    }
    parts.join("  ")
}
