//! The story of a run: what happened, why, what was done about it, and what it cost.
//!
//! Every reason is rendered by core's `Cause`; nothing here finds words of its own for one.

use crate::format::{count, or_dash, rung, short, span, standing};
use rebloom_core::engine::{Incident, Ledger, RunView, Spend};
use rebloom_core::time::{Duration, Instant};
use std::fmt::Write;

/// Evidence beyond this many lines is only counted.
const MOST_EVIDENCE: usize = 8;

/// The story, as text.
pub(crate) fn story(run: &RunView, now: Instant) -> String {
    let mut text = String::new();
    head(run, now, &mut text);
    for incident in &run.incidents {
        text.push('\n');
        tell(incident, run, &mut text);
    }
    if run.incidents.is_empty() {
        text.push_str("\nno incidents\n");
    }
    text.push('\n');
    account(&run.ledger, &mut text);
    text
}

/// Writing to a string cannot fail.
macro_rules! say {
    ($text:expr, $($format:tt)*) => {
        writeln!($text, $($format)*).expect("a string takes everything")
    };
}

fn head(run: &RunView, now: Instant, text: &mut String) {
    let spec = &run.spec;
    say!(text, "run {}: {}", spec.name, standing(run));
    if !run.waits_for.is_empty() {
        say!(text, "  waits: {}", run.waits_for);
    }
    say!(
        text,
        "  step {} of {}, loss {}, generation {}, submitted {} ago",
        run.step,
        spec.train.steps,
        or_dash(run.loss.map(|loss| format!("{loss:.3}"))),
        run.generation,
        span(now.since(run.submitted)),
    );
    for (node, ranks) in by_node(run) {
        say!(text, "  {node}: ranks {ranks}");
    }
}

fn by_node(run: &RunView) -> Vec<(String, String)> {
    let mut nodes: std::collections::BTreeMap<String, Vec<String>> = Default::default();
    for rank in &run.ranks {
        let seat = &rank.seating;
        nodes
            .entry(seat.node.to_string())
            .or_default()
            .push(seat.rank.to_string());
    }
    nodes
        .into_iter()
        .map(|(node, ranks)| (node, ranks.join(", ")))
        .collect()
}

fn tell(incident: &Incident, run: &RunView, text: &mut String) {
    let after = span(incident.opened.since(run.submitted));
    say!(
        text,
        "incident {}: {}, {after} after it was submitted",
        incident.id,
        incident.cause.label()
    );
    say!(text, "  what      {}", incident.cause);
    for (at, seen) in incident.evidence.iter().take(MOST_EVIDENCE).enumerate() {
        say!(
            text,
            "  {:<8}  {seen}",
            if at == 0 { "seen too" } else { "" }
        );
    }
    if let Some(more) = incident.evidence.len().checked_sub(MOST_EVIDENCE + 1) {
        say!(text, "            and {} more", more + 1);
    }
    let Some(done) = incident.rung else {
        say!(text, "  done      nothing had to be");
        return;
    };
    match incident.recovered_by {
        Some(next) => {
            say!(
                text,
                "  done      {} (generation {} -> {next})",
                rung(done),
                incident.generation
            );
        }
        None => say!(
            text,
            "  {:<8}  {} (generation {})",
            if incident.closed.is_some() {
                "done"
            } else {
                "doing"
            },
            rung(done),
            incident.generation
        ),
    }
    match incident.resumed_from {
        Some(id) => say!(
            text,
            "  resumed   from the checkpoint at step {} (generation {}); {} done again",
            id.step,
            id.generation,
            count(incident.lost_steps, "step"),
        ),
        None if incident.recovered_by.is_some() => say!(
            text,
            "  resumed   from the beginning, since nothing was sealed yet; {} done again",
            count(incident.lost_steps, "step"),
        ),
        None => {}
    }
    let parts: Vec<String> = incident
        .spent
        .spent
        .iter()
        .map(|(what, time)| format!("{} {}", what.name(), short(*time)))
        .collect();
    let total: Duration = incident.spent.spent.values().sum();
    if !parts.is_empty() {
        say!(text, "  cost      {}: {}", short(total), parts.join(", "));
    }
    if incident.closed.is_none() {
        say!(text, "  open      the run has not caught up yet");
    }
}

fn account(ledger: &Ledger, text: &mut String) {
    let all: Duration = ledger.spent.values().sum();
    say!(text, "where the time went");
    for (what, time) in &ledger.spent {
        let share = if all.is_zero() {
            0.0
        } else {
            time.as_secs_f64() / all.as_secs_f64()
        };
        say!(
            text,
            "  {:<10}  {:>12}  {:>5.1} %",
            what.name(),
            short(*time),
            share * 100.0
        );
    }
    let waited = ledger.spent.contains_key(&Spend::Waiting);
    match ledger.ettr() {
        Some(ratio) => {
            let note = if waited {
                " (its turn in the queue left out)"
            } else {
                ""
            };
            say!(text, "ETTR {ratio:.3}: productive time / all time{note}");
        }
        None => say!(text, "ETTR -: nothing was done yet"),
    }
}

#[cfg(test)]
mod tests;
