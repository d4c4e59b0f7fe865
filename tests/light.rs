//! The whole path with ranks that need no libtorch: a rank and a node are killed, and the state at the end is
//! that of a run that nothing happened to.

use anyhow::{Context, Result, ensure};
use rebloom_core::cause::Cause;
use rebloom_core::checkpoint::CheckpointId;
use rebloom_core::engine::{RunState, RunView, Rung};
use rebloom_core::guard::{GuardAction, Samples};
use rebloom_core::id::{Generation, Rank, RunId, Step};
use rebloom_core::layout::Layout;
use rebloom_core::spec::RunSpec;
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
/// Steps of the shorter runs.
const SHORT: u64 = 50;
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
    let batch = end.spec.train.global_batch;
    for step in 1..=STEPS {
        alone.advance(batch, step * u64::from(batch) - 1);
    }
    ensure!(
        weights::of_bytes(Rank(0), &alone.to_bytes())?
            .iter()
            .all(|(key, hash)| states.get(key) == Some(hash)),
        "another state than of {STEPS} steps"
    );
    Ok(())
}

/// The state at the end of a run of these steps in a cluster whose ranks have this variable.
fn ends(
    variable: Option<(&'static str, &str)>,
    name: &str,
    change: impl Fn(&mut RunSpec),
) -> Result<(RunView, Weights)> {
    let mut plan = Plan::light(5, 4, STEP);
    let variable = variable.map(|(name, value)| (name, value.to_owned()));
    plan.variables.extend(variable);
    let cluster = Cluster::of(plan)?;
    let mut spec = light::spec(name, LAYOUT, &cluster.checkpoints())?;
    spec.train.steps = SHORT;
    spec.checkpoint.every_steps = EVERY;
    change(&mut spec);
    let run = cluster.submit(&spec)?;
    let end = cluster.until_completed(&run)?;
    let (states, _) = weights::of(&cluster.checkpoints(), &run, SHORT)?;
    Ok((end, states))
}

#[test]
fn a_light_run_that_spikes_goes_back_once_and_ends_as_one_that_was_told_to_skip() -> Result<()> {
    // Eight samples a step: of step 36.
    let bad = "283 285";
    let guarded = |spec: &mut RunSpec| spec.guard.action = GuardAction::RollBack;
    let (end, states) = ends(Some((light::BAD, bad)), "spikes", guarded)?;
    let skipped = Samples {
        from: 280,
        until: 288,
    };
    let spikes = end.incidents.iter().map(|it| &it.cause);
    let spikes: Vec<_> = spikes.collect();
    let [
        Cause::LossSpiked {
            step,
            samples,
            rolls_back: true,
            ..
        },
    ] = spikes[..]
    else {
        anyhow::bail!("{:#?}", end.incidents);
    };
    ensure!((*step, *samples) == (Step(36), skipped), "{spikes:?}");
    let resumed = end.incidents[0].resumed_from.map(|id| id.step);
    ensure!(resumed == Some(Step(30)), "{resumed:?}");
    ensure!(end.generation == Generation(2));

    let (told, wanted) = ends(Some((light::BAD, bad)), "told", |spec| {
        guarded(spec);
        spec.guard.skip = vec![skipped];
    })?;
    ensure!(told.incidents.is_empty(), "{:#?}", told.incidents);
    ensure!(states == wanted, "another state");
    let (_, other) = ends(None, "plain", guarded)?;
    ensure!(states != other, "what is skipped does not show");
    Ok(())
}

#[test]
fn a_light_rank_that_comes_to_hold_something_else_is_blamed_and_nothing_of_it_is_kept() -> Result<()>
{
    let (end, states) = ends(Some((light::ODD, "5 22")), "odd", |_| ())?;
    let [incident] = &end.incidents[..] else {
        anyhow::bail!("{:#?}", end.incidents);
    };
    let Cause::ReplicasDiffer { differs, node } = &incident.cause else {
        anyhow::bail!("{incident:#?}");
    };
    ensure!(differs.ranks == [Rank(5)], "{differs}");
    ensure!(node.is_some(), "its node is named");
    // It is found before the save of step 30.
    let resumed = incident.resumed_from.map(|id| id.step);
    ensure!(resumed == Some(Step(20)), "{resumed:?}");
    ensure!(end.generation == Generation(2));
    let (sound, wanted) = ends(None, "sound", |_| ())?;
    ensure!(sound.incidents.is_empty(), "{:#?}", sound.incidents);
    ensure!(states == wanted, "another state");
    Ok(())
}
