//! Snapshots on the whole path, with ranks that need no libtorch: a killed rank goes back to what lies in the
//! memory of its own node, a killed node to its replica on a peer, and the state at the end is that of a run
//! that nothing happened to.

use anyhow::{Context, Result, ensure};
use rebloom_core::cause::Cause;
use rebloom_core::engine::{Incident, RunState, RunView};
use rebloom_core::id::{Generation, Rank, RunId, Step};
use rebloom_core::layout::Layout;
use rebloom_core::snapshot::{KEPT, Tier};
use rebloom_core::spec::Snapshots;
use rebloom_tests::cluster::{Cluster, Plan, pid_of};
use rebloom_tests::light::{self, State};
use rebloom_tests::process::signal;
use rebloom_tests::weights;
use rustix::process::Signal;
use std::time::Duration;

const LAYOUT: Layout = Layout {
    tensor: 2,
    pipeline: 2,
    data: 2,
};
const STEPS: u64 = 400;
/// Far apart, so that a resume from a checkpoint would show.
const EVERY: u64 = 300;
/// Two seconds and more: ranks that share no collective train on while one of their nodes is silent, and a
/// node holds the newest three.
const SNAPSHOTS: u64 = 40;
const STEP: Duration = Duration::from_millis(60);

/// Four nodes of two ranks, and a spare, with a run that has a snapshot of at least this step.
fn snapping(name: &str, step: u64) -> Result<(Cluster, RunId, RunView)> {
    let cluster = Cluster::of(Plan::light(5, 2, STEP))?;
    let mut spec = light::spec(name, LAYOUT, &cluster.checkpoints())?;
    spec.train.steps = STEPS;
    spec.checkpoint.every_steps = EVERY;
    spec.checkpoint.snapshot = Some(Snapshots {
        every_steps: SNAPSHOTS,
    });
    let run = cluster.submit(&spec)?;
    let view = cluster.until(&run, "a snapshot lies on two nodes", |view| {
        let snapshot = view.snapshot.as_ref();
        snapshot
            .is_some_and(|it| it.copies == 2 && it.newest.is_some_and(|id| id.step >= Step(step)))
    })?;
    ensure!(view.checkpoints.is_empty(), "{:?}", view.checkpoints);
    Ok((cluster, run, view))
}

/// Ends the run and says what happened to it, once its state is seen to be the true one.
fn ends_true(cluster: &Cluster, run: &RunId) -> Result<Incident> {
    let mut end = cluster.until_completed(run)?;
    let states = weights::of(&cluster.checkpoints(), run, STEPS)?.0;
    let mut alone = State::begin(end.spec.train.seed, Rank(0));
    let batch = end.spec.train.global_batch;
    (1..=STEPS).for_each(|step| alone.advance(batch, step * u64::from(batch) - 1));
    ensure!(
        weights::of_bytes(Rank(0), &alone.to_bytes())?
            .iter()
            .all(|(key, hash)| states.get(key) == Some(hash)),
        "another state than of {STEPS} steps"
    );
    ensure!(end.incidents.len() == 1, "{:#?}", end.incidents);
    end.incidents.pop().context("an incident")
}

/// The run is in its next generation, from a snapshot that is as new as the one that was seen.
fn goes_on(cluster: &Cluster, run: &RunId, before: &RunView) -> Result<Incident> {
    let after = cluster.until(run, "the run goes on", |view| {
        view.generation > before.generation && view.state == RunState::Running
    })?;
    let seen = before.snapshot.as_ref().and_then(|it| it.newest);
    let incident = after.incidents.last().context("an incident")?.clone();
    ensure!(
        incident.resumed_from >= seen && seen.is_some(),
        "{incident:#?}"
    );
    Ok(incident)
}

#[test]
fn a_killed_rank_goes_back_to_the_memory_of_its_own_node() -> Result<()> {
    let (cluster, run, before) = snapping("memory", SNAPSHOTS)?;
    signal(pid_of(&before, 5)?, Signal::KILL)?;
    let incident = goes_on(&cluster, &run, &before)?;
    ensure!(incident.tier == Tier::Memory, "{incident:#?}");
    for node in cluster.names() {
        let folder = cluster.memory(&node).join(run.as_str());
        let kept = std::fs::read_dir(folder).map_or(0, Iterator::count);
        ensure!(kept <= KEPT, "{kept} snapshots lie on {node}");
    }
    ensure!(matches!(incident.cause, Cause::RankExited { .. }));
    ends_true(&cluster, &run)?;
    Ok(())
}

#[test]
fn a_killed_node_is_replaced_and_the_spare_reads_the_replica() -> Result<()> {
    let (mut cluster, run, before) = snapping("replica", SNAPSHOTS)?;
    let node = before.ranks.last().context("a rank")?.seating.node.clone();
    let ranks: Vec<_> = before
        .ranks
        .iter()
        .filter(|rank| rank.seating.node == node)
        .collect();
    cluster.kill_agent(node.as_str())?;
    for rank in &ranks {
        signal(rank.pid.context("a pid")?, Signal::KILL)?;
    }
    // Its memory is gone with its power.
    std::fs::remove_dir_all(cluster.memory(node.as_str()))?;
    let incident = goes_on(&cluster, &run, &before)?;
    ensure!(incident.tier == Tier::Replica, "{incident:#?}");
    let incident = ends_true(&cluster, &run)?;
    ensure!(incident.recovered_by > Some(Generation(1)));
    Ok(())
}

#[test]
fn a_replica_that_was_changed_is_not_loaded() -> Result<()> {
    let (cluster, run, before) = snapping("changed", SNAPSHOTS)?;
    // Every copy of rank 3's shards gets another last byte, wherever it lies, from now on.
    let mut changed = 0;
    for node in cluster.names() {
        let folder = cluster.memory(&node).join(run.as_str());
        for snapshot in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let shard = snapshot.path().join("rank-00003.safetensors");
            if let Ok(mut bytes) = std::fs::read(&shard) {
                if let Some(last) = bytes.last_mut() {
                    *last ^= 1;
                }
                std::fs::write(&shard, bytes)?;
                changed += 1;
            }
        }
    }
    ensure!(changed >= 2, "only {changed} copies");
    signal(pid_of(&before, 5)?, Signal::KILL)?;
    let end = cluster.until_completed(&run)?;
    let is_refusal =
        |it: &&Incident| matches!(it.cause, Cause::SnapshotUnsound { rank: Rank(3), .. });
    let refused = end.incidents.iter().filter(is_refusal).count();
    // One that was written after the change may have been whole by then.
    let resumed = end.incidents.iter().filter_map(|it| it.resumed_from);
    let is_newer = resumed.max() > before.snapshot.and_then(|it| it.newest);
    ensure!(refused > 0 || is_newer, "{:#?}", end.incidents);
    let states = weights::of(&cluster.checkpoints(), &run, STEPS)?.0;
    let mut alone = State::begin(end.spec.train.seed, Rank(3));
    let batch = end.spec.train.global_batch;
    (1..=STEPS).for_each(|step| alone.advance(batch, step * u64::from(batch) - 1));
    ensure!(
        weights::of_bytes(Rank(3), &alone.to_bytes())?
            .iter()
            .all(|(key, hash)| states.get(key) == Some(hash)),
        "another state than of {STEPS} steps"
    );
    Ok(())
}
