//! What happened between two looks at a run, a line each.

use super::newest_sealed;
use crate::format::{count, is_note, recovered, rung};
use rebloom_core::engine::{CheckpointState, Incident, NodeState, NodeView, RunState, RunView};
use rebloom_core::id::NodeId;
use rebloom_core::time::{Duration, Instant};
use std::collections::BTreeMap;

/// How a line is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    /// News.
    Plain,
    /// Something came right.
    Good,
    /// Something broke.
    Bad,
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// How it is meant.
    pub(crate) tone: Tone,
    /// What happened.
    pub(crate) text: String,
}

impl Line {
    /// News.
    pub(crate) fn plain(text: impl Into<String>) -> Self {
        Self {
            tone: Tone::Plain,
            text: text.into(),
        }
    }
    /// Something came right.
    pub(crate) fn good(text: impl Into<String>) -> Self {
        Self {
            tone: Tone::Good,
            text: text.into(),
        }
    }
    /// Something broke.
    pub(crate) fn bad(text: impl Into<String>) -> Self {
        Self {
            tone: Tone::Bad,
            text: text.into(),
        }
    }
}

/// What happened to a run; nothing before is told at the first look but where it stands.
pub(super) fn of_run(before: Option<&RunView>, after: &RunView) -> Vec<Line> {
    let mut lines = Vec::new();
    let Some(before) = before else {
        lines.push(Line::plain(stands(after)));
        return lines;
    };
    for incident in &after.incidents {
        let known = before
            .incidents
            .iter()
            .find(|known| known.id == incident.id);
        if known.is_none() && is_note(incident) {
            lines.push(Line::plain(format!("note: {}", incident.cause)));
            continue;
        }
        if known.is_none() {
            lines.push(Line::bad(format!(
                "incident {}: {}",
                incident.id, incident.cause
            )));
        }
        if incident.closed.is_some() && known.is_none_or(|known| known.closed.is_none()) {
            lines.push(Line::good(format!(
                "incident {}: {}",
                incident.id,
                outcome(incident)
            )));
        }
    }
    for (id, state) in &after.checkpoints {
        let known = before
            .checkpoints
            .iter()
            .find(|(known, _)| known == id)
            .map(|(_, state)| *state);
        match state {
            CheckpointState::Sealed if known.is_none() => {
                lines.push(Line::plain(format!(
                    "checkpoint at step {} sealed",
                    id.step
                )));
            }
            CheckpointState::Rejected if known != Some(CheckpointState::Rejected) => {
                lines.push(Line::bad(format!(
                    "checkpoint at step {} is unsound and will not be used",
                    id.step
                )));
            }
            CheckpointState::Sealed | CheckpointState::Rejected => {}
        }
    }
    if before.state != after.state {
        lines.push(Line {
            tone: tone(after.state),
            text: stands(after),
        });
    }
    lines
}

const fn tone(state: RunState) -> Tone {
    match state {
        RunState::Running | RunState::Completed => Tone::Good,
        RunState::Recovering | RunState::Failed | RunState::Parked => Tone::Bad,
        RunState::Pending | RunState::Starting | RunState::Stopping | RunState::Stopped => {
            Tone::Plain
        }
    }
}

fn stands(run: &RunView) -> String {
    let mut text = format!("{} is {}", run.spec.name, run.state);
    match run.state {
        RunState::Pending if !run.waits_for.is_empty() => text += &format!(": {}", run.waits_for),
        RunState::Pending
        | RunState::Stopping
        | RunState::Stopped
        | RunState::Completed
        | RunState::Failed
        | RunState::Parked => text += &format!(": {}", run.why),
        RunState::Starting | RunState::Recovering => match newest_sealed(run) {
            Some(id) => text += &format!(" from step {}", id.step),
            None => text += " from the beginning",
        },
        RunState::Running => {
            text += &format!(" in generation {}, step {}", run.generation, run.step)
        }
    }
    text
}

/// How an incident ended.
fn outcome(incident: &Incident) -> String {
    let Some(done) = incident.rung else {
        return "nothing had to be done".to_owned();
    };
    format!(
        "{}; {}, {} done again",
        recovered(incident),
        rung(done),
        count(incident.lost_steps, "step")
    )
}

/// A node that cannot be reached for less than this is no news: an agent that is started again.
const SHORT: Duration = Duration::from_secs(2);

/// A node that is not there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Away {
    since: Instant,
    told: Option<NodeState>,
}

/// What happened to the nodes. `away` remembers which are not there, and what was told of them.
pub(super) fn of_nodes(
    before: &[NodeView],
    after: &[NodeView],
    away: &mut BTreeMap<NodeId, Away>,
    now: Instant,
) -> Vec<Line> {
    let mut lines = Vec::new();
    for node in after {
        let name = &node.facts.node;
        if node.state == NodeState::Ready {
            if away.remove(name).is_some_and(|away| away.told.is_some()) {
                lines.push(Line::good(format!("{name} is back")));
            }
        } else {
            let away = away.entry(name.clone()).or_insert(Away {
                since: now,
                told: None,
            });
            let lost = node.state == NodeState::Lost;
            if away.told != Some(node.state) && (lost || now.since(away.since) >= SHORT) {
                away.told = Some(node.state);
                let word = if lost { "is lost" } else { "cannot be reached" };
                lines.push(Line::bad(format!("{name} {word}")));
            }
        }
        let known = before.iter().find(|known| known.facts.node == *name);
        if known.is_some_and(|known| known.cordoned != node.cordoned) {
            let word = if node.cordoned {
                "is cordoned"
            } else {
                "is in use again"
            };
            lines.push(Line::plain(format!("{name} {word}")));
        }
    }
    lines
}
