//! Snapshots of what trains, on real processes in bf16 and with dropout: a killed rank goes back to the memory of its own
//! node, a killed node to its replica on a peer, and the run ends with the bits of one that nothing happened to.

use anyhow::{Context, Result, ensure};
use rebloom_core::engine::{RunState, RunView};
use rebloom_core::id::{RunId, Step};
use rebloom_core::snapshot::Tier;
use rebloom_core::spec::{Numerics, Precision, RunSpec, Snapshots};
use rebloom_tests::cluster::{Cluster, pid_of};
use rebloom_tests::process::signal;
use rebloom_tests::weights::{self, Weights};
use rustix::process::Signal;

const STEPS: u64 = 120;
const SNAPSHOTS: u64 = 10;

/// One checkpoint, at the end: what a run goes back to lies in memory.
fn spec(cluster: &Cluster, name: &str) -> Result<RunSpec> {
    let mut spec = cluster.spec(name)?;
    spec.train.steps = STEPS;
    spec.train.numerics = Numerics {
        precision: Precision::Bf16,
        hidden_dropout: 0.1,
        attention_dropout: 0.1,
        ..Numerics::default()
    };
    spec.checkpoint.every_steps = STEPS;
    spec.checkpoint.snapshot = Some(Snapshots {
        every_steps: SNAPSHOTS,
    });
    Ok(spec)
}

fn ends(cluster: &Cluster, run: &RunId) -> Result<(RunView, Weights)> {
    let end = cluster.until_completed(run)?;
    let weights = weights::of(&cluster.checkpoints(), run, STEPS)?.0;
    ensure!(!weights.is_empty(), "no weights");
    Ok((end, weights))
}

/// The run trains, and a snapshot of at least this step lies on two nodes.
fn snapped(cluster: &Cluster, run: &RunId, least: u64) -> Result<(RunView, Step)> {
    let newest = |view: &RunView| {
        let snapshot = view.snapshot.as_ref()?;
        let step = snapshot.newest?.step;
        (snapshot.copies == 2 && step >= Step(least)).then_some(step)
    };
    let view = cluster.until(run, "a snapshot lies on two nodes", |view| {
        view.state == RunState::Running && newest(view).is_some()
    })?;
    let step = newest(&view).context("a snapshot")?;
    Ok((view, step))
}

/// The run went on from a snapshot, as new as the one that was seen, from where `tier` says.
fn went_on(cluster: &Cluster, run: &RunId, before: &RunView, seen: Step, tier: Tier) -> Result<()> {
    let after = cluster.until(run, "the run goes on", |view| {
        view.generation > before.generation && view.state == RunState::Running
    })?;
    let incident = after.incidents.last().context("an incident")?;
    let resumed = incident.resumed_from.context("a snapshot")?.step;
    ensure!(resumed >= seen && incident.tier == tier, "{incident:#?}");
    Ok(())
}

#[test]
fn a_run_in_bf16_with_dropout_goes_on_from_memory_to_the_same_bits() -> Result<()> {
    let mut cluster = Cluster::start(5)?;
    let quiet = cluster.submit(&spec(&cluster, "quiet")?)?;
    let (end, wanted) = ends(&cluster, &quiet)?;
    ensure!(end.incidents.is_empty(), "{:#?}", end.incidents);

    let run = cluster.submit(&spec(&cluster, "night")?)?;
    let (before, seen) = snapped(&cluster, &run, SNAPSHOTS)?;
    signal(pid_of(&before, 3)?, Signal::KILL)?;
    went_on(&cluster, &run, &before, seen, Tier::Memory)?;

    let (before, seen) = snapped(&cluster, &run, seen.0 + SNAPSHOTS)?;
    let node = before.ranks.last().context("a rank")?.seating.node.clone();
    let mine = before.ranks.iter().filter(|it| it.seating.node == node);
    let pids: Vec<_> = mine.filter_map(|rank| rank.pid).collect();
    cluster.kill_agent(node.as_str())?;
    for pid in pids {
        signal(pid, Signal::KILL)?;
    }
    // Its memory is gone with its power.
    std::fs::remove_dir_all(cluster.memory(node.as_str()))?;
    went_on(&cluster, &run, &before, seen, Tier::Replica)?;

    let (end, recovered) = ends(&cluster, &run)?;
    ensure!(end.incidents.len() == 2, "{:#?}", end.incidents);
    ensure!(recovered == wanted, "other bits");
    Ok(())
}
