//! The whole path with ranks that need no libtorch: a rank and a node are killed, and the state at the end is
//! that of a run that nothing happened to.

use anyhow::{Context, Result, ensure};
use rebloom_core::checkpoint::CheckpointId;
use rebloom_core::engine::{RunState, Rung};
use rebloom_core::id::{Generation, Rank, RunId, Step};
use rebloom_core::layout::Layout;
use rebloom_tests::cluster::{Cluster, Plan, pid_of};
use rebloom_tests::light::{self, State};
use rebloom_tests::process::signal;
use rebloom_tests::weights::{self, Weights};
use rustix::process::Signal;
use std::time::Duration;

const LAYOUT: Layout = Layout {
    tensor: 2,
    pipeline: 2,
    data: 4,
};
const STEPS: u64 = 100;
const EVERY: u64 = 10;
const STEP: Duration = Duration::from_millis(50);

fn submit(cluster: &Cluster, name: &str) -> Result<RunId> {
    let mut spec = light::spec(name, LAYOUT, &cluster.checkpoints())?;
    spec.train.steps = STEPS;
    spec.checkpoint.every_steps = EVERY;
    cluster.submit(&spec)
}

fn final_state(cluster: &Cluster, run: &RunId) -> Result<Weights> {
    Ok(weights::of(&cluster.checkpoints(), run, STEPS)?.0)
}

#[test]
fn light_ranks_end_as_if_neither_a_rank_nor_a_node_had_been_killed() -> Result<()> {
    // Four nodes of four ranks, and a spare.
    let mut cluster = Cluster::of(Plan::light(5, 4, STEP))?;

    let quiet = submit(&cluster, "quiet")?;
    let end = cluster.until_completed(&quiet)?;
    ensure!(end.incidents.is_empty(), "{:#?}", end.incidents);

    let run = submit(&cluster, "night")?;
    let before = cluster.until_step(&run, EVERY + 2)?;
    signal(pid_of(&before, 5)?, Signal::KILL)?;
    let after = cluster.until(&run, "the killed rank is replaced", |view| {
        view.generation > before.generation && view.state == RunState::Running
    })?;
    for rank in LAYOUT.ranks().filter(|rank| *rank != Rank(5)) {
        ensure!(
            pid_of(&before, rank.0)? == pid_of(&after, rank.0)?,
            "rank {rank} was restarted"
        );
    }

    let before = cluster.until_step(&run, 3 * EVERY + 2)?;
    let node = &before.ranks.last().context("a rank")?.seating.node;
    cluster.kill_agent(node.as_str())?;
    for rank in before
        .ranks
        .iter()
        .filter(|rank| rank.seating.node == *node)
    {
        signal(rank.pid.context("a pid")?, Signal::KILL)?;
    }
    let end = cluster.until_completed(&run)?;
    ensure!(end.generation >= Generation(3), "{}", end.generation);
    let rungs: Vec<_> = end.incidents.iter().filter_map(|it| it.rung).collect();
    ensure!(rungs.contains(&Rung::Reform) && rungs.contains(&Rung::Replace));
    let sealed = |it: Option<CheckpointId>| it.is_some_and(|id| id.step >= Step(EVERY));
    ensure!(
        end.incidents.iter().any(|it| sealed(it.resumed_from)),
        "{:#?}",
        end.incidents
    );

    let states = final_state(&cluster, &run)?;
    ensure!(states == final_state(&cluster, &quiet)?, "another state");
    // Two runs could be wrong alike.
    let mut alone = State::begin(end.spec.train.seed, Rank(0));
    (0..STEPS).for_each(|_| alone.advance(end.spec.train.global_batch));
    ensure!(
        weights::of_bytes(Rank(0), &alone.to_bytes())?
            .iter()
            .all(|(key, hash)| states.get(key) == Some(hash)),
        "another state than of {STEPS} steps"
    );
    Ok(())
}
