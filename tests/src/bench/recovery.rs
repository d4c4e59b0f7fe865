//! From `kill -9` of one of eight ranks to the first new optimizer step, by phase, beside torchrun.

use super::{largest, median, millis, torchrun};
use crate::cluster::{Cluster, pid_of};
use crate::process::signal;
use crate::wait;
use anyhow::{Context, Result};
use rebloom_core::engine::{RunState, Spend};
use rebloom_core::time::Instant;
use rebloom_runtime::clock::Wall;
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::time::Duration;

const ROUNDS: usize = 20;
/// A fault costs torchrun seconds, now and then a minute.
const PEER_ROUNDS: u32 = 9;
const PHASES: [Spend; 5] = [
    Spend::Detect,
    Spend::Decide,
    Spend::Reform,
    Spend::Restore,
    Spend::CatchUp,
];

/// Runs the bench and prints its tables.
#[expect(clippy::print_stdout, reason = "a bench prints its figures")]
pub fn run() -> Result<()> {
    let (mut totals, mut detected) = (Vec::new(), Vec::new());
    let wall = Wall::starting_at_least(Instant::ZERO);
    let mut phases: BTreeMap<Spend, Vec<Duration>> = BTreeMap::new();
    let cluster = Cluster::start(5)?;
    let mut spec = cluster.spec("recovery")?;
    spec.train.steps = 20_000;
    spec.checkpoint.keep = 3;
    let run = cluster.submit(&spec)?;
    cluster.until_step(&run, 6)?;
    for round in 0..ROUNDS {
        // One node after the other: faults seldom come twice in a few seconds to one.
        let before = cluster.until(&run, "every incident is closed", |view| {
            view.state == RunState::Running
                && view
                    .incidents
                    .iter()
                    .all(|incident| incident.closed.is_some())
        })?;
        let before = cluster.until_step(&run, before.step.0 + 3)?;
        let victim = pid_of(&before, u32::try_from(round * 3 % 8)?)?;
        let killed = wall.now();
        signal(victim, Signal::KILL)?;
        wait::until(
            "a first step after the fault",
            Duration::from_secs(60),
            || {
                let view = cluster.run(&run)?;
                Ok(
                    (view.generation > before.generation && view.state == RunState::Running)
                        .then_some(()),
                )
            },
        )?;
        totals.push(wall.now().since(killed));
        let closed = cluster.until(&run, "the incident is closed", |view| {
            view.incidents
                .last()
                .is_some_and(|incident| incident.closed.is_some())
        })?;
        let incident = closed.incidents.last().context("an incident")?;
        detected.push(incident.opened.since(killed));
        for phase in PHASES {
            let spent = incident
                .spent
                .spent
                .get(&phase)
                .copied()
                .unwrap_or_default();
            phases.entry(phase).or_default().push(spent);
        }
    }
    println!("| from kill -9 of one of eight ranks | p50, ms | max, ms |\n|---|---|---|");
    println!(
        "| **to the first new optimizer step of every rank** ({ROUNDS} times) | {} | {} |",
        millis(median(&totals)),
        millis(largest(&totals))
    );
    println!(
        "| kill to the controller's incident | {} | {} |",
        millis(median(&detected)),
        millis(largest(&detected))
    );
    for (phase, spans) in &phases {
        println!(
            "| {phase:?} (ledger) | {} | {} |",
            millis(median(spans)),
            millis(largest(spans))
        );
    }
    drop(cluster);
    let peer = torchrun::restarts(PEER_ROUNDS)?;
    println!(
        "| torchrun --max-restarts, two-rank Gloo toy ({} times) | {} | {} |",
        peer.len(),
        millis(median(&peer)),
        millis(largest(&peer))
    );
    println!(
        "\np50 is {:.1} times faster than torchrun's.",
        median(&peer).as_secs_f64() / median(&totals).as_secs_f64()
    );
    Ok(())
}
