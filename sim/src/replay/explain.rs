//! Why each decision of a replay was taken: the engine's own journal, in sentences.

use super::fleet::Fleet;
use super::name_of;
use rebloom_core::engine::{Fact, RunView};
use std::fmt::Write;

/// The decisions of one replay, in order, each with its cause.
pub(super) fn story(fleet: &Fleet<'_>, view: &RunView) -> String {
    let mut text = String::new();
    for record in fleet.told.journal.iter().flatten() {
        if let Some(line) = line(&record.fact) {
            let seconds = record.at.as_nanos() / 1_000_000_000;
            let (days, rest) = (seconds / 86_400, seconds % 86_400);
            let clock = (rest / 3600, rest / 60 % 60, rest % 60);
            let struck = if let Fact::IncidentOpened { .. } = &record.fact {
                format!(" [{}]", name_of(fleet, record.at))
            } else {
                String::new()
            };
            let written = writeln!(
                text,
                "day {days:>3} {:02}:{:02}:{:02}  {line}{struck}",
                clock.0, clock.1, clock.2
            );
            written.expect("a string takes everything");
        }
    }
    for (at, why) in &fleet.told.humans {
        writeln!(text, "day {:>7.3}  a human acted: {why}", at / 86_400.0)
            .expect("a string takes everything");
    }
    writeln!(
        text,
        "{} incidents, {} events",
        view.incidents.len(),
        fleet.told.events
    )
    .expect("a string takes everything");
    text
}

/// A decision as a sentence; none for what is only taken note of.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "what is not a decision is not told"
)]
fn line(fact: &Fact) -> Option<String> {
    Some(match fact {
        Fact::NodeLost { node, silent_for } => format!(
            "node {node} is given up: its link broke and it did not come back (last heard {:.0} s ago)",
            silent_for.as_secs_f64()
        ),
        Fact::NodeReturned { node } => format!("node {node} is back and can be used"),
        Fact::NodeCordoned { node } => {
            format!("nothing new is placed on node {node}: an admin asked")
        }
        Fact::NodeUncordoned { node } => format!("node {node} can be used again: an admin asked"),
        Fact::StopAsked { cause, .. } => format!("the run stops: {cause}"),
        Fact::MoveAsked { node, .. } => {
            format!("the run moves off node {node} at the next step boundary")
        }
        Fact::IncidentOpened {
            cause, step, rung, ..
        } => match rung {
            Some(rung) => {
                format!("incident at step {step}: {cause}; recovery begins with rung {rung:?}")
            }
            None => format!("incident at step {step}: {cause}; training goes on"),
        },
        Fact::EvidenceAdded { cause, .. } => format!("also seen: {cause}"),
        Fact::Placed {
            generation,
            rung,
            resume,
            fresh,
            cause,
            ..
        } => {
            let how = match (rung, fresh) {
                (None, _) => "every process is started".to_owned(),
                (Some(rung), true) => format!("rung {rung:?}, every process anew"),
                (Some(rung), false) => format!("rung {rung:?}, survivors keep their process"),
            };
            let from = resume.map_or_else(
                || "from step 0".to_owned(),
                |id| format!("from step {}", id.step),
            );
            format!("generation {generation} is placed ({how}) {from}, because {cause}")
        }
        Fact::Unplaced { .. } => "no room: the run waits".to_owned(),
        Fact::IncidentClosed { step, .. } => format!("caught up at step {step}"),
        Fact::RunEnded { state, cause, .. } => format!("the run is {state}: {cause}"),
        _ => return None,
    })
}
