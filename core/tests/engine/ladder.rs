//! Rungs, budgets, and the end of patience.

use crate::world::*;
use rebloom_core::cause::{Blamed, Cause};
use rebloom_core::engine::{RunState, Rung};
use rebloom_core::flight::Phase;
use rebloom_core::id::Generation;
use rebloom_core::report::RankEvent;

fn rungs(world: &World, run: &rebloom_core::id::RunId) -> Vec<Rung> {
    world
        .view(run)
        .incidents
        .iter()
        .filter_map(|incident| incident.rung)
        .collect()
}

#[test]
fn without_progress_each_rung_has_its_budget_and_then_the_run_is_parked() {
    let mut stubborn = spec("bloom", 2, 1, 2);
    stubborn.recovery.reform = 2;
    stubborn.recovery.restart = 1;
    stubborn.recovery.replace = 1;
    let (mut world, run) = World::running(&[2, 2, 2], stubborn);
    let home = world.node_of(&run, 2);
    for _ in 0..4 {
        let mark = world.orders.len();
        world.kill(&run, &[2]);
        assert_eq!(world.state(&run), RunState::Running);
        let starts = world.starts_since(mark);
        let fresh = rungs(&world, &run).last() != Some(&Rung::Reform);
        assert!(
            starts
                .iter()
                .all(|(_, start)| start.gang.fresh_processes == fresh)
        );
    }
    assert_eq!(
        rungs(&world, &run),
        [Rung::Reform, Rung::Reform, Rung::Restart, Rung::Replace]
    );
    assert_ne!(
        world.node_of(&run, 2),
        home,
        "the node of the rank that keeps dying is replaced"
    );
    world.kill(&run, &[2]);
    let view = world.view(&run);
    assert_eq!(view.state, RunState::Parked);
    assert_eq!(view.why, Cause::NoProgress { recoveries: 4 });
    assert_eq!(view.generation, Generation(5));
    assert_eq!(view.incidents.len(), 5, "parked with its evidence");
    world.ask(rebloom_core::engine::Ask::Resume {
        run: run.clone(),
        layout: None,
    });
    assert_eq!(world.state(&run), RunState::Running, "with fresh budgets");
}

#[test]
fn progress_gives_the_budgets_back() {
    let mut spec = spec("bloom", 2, 1, 2);
    spec.recovery.reform = 1;
    let (mut world, run) = World::running(&[2, 2], spec);
    for step in 1..6 {
        world.train(&run, 10 * step);
        if step % 2 == 0 {
            world.save(&run, 10 * step);
        }
        world.kill(&run, &[1]);
        assert_eq!(world.state(&run), RunState::Running);
    }
    assert_eq!(rungs(&world, &run), [Rung::Reform; 5]);
    world.kill(&run, &[1]);
    assert_eq!(
        rungs(&world, &run).last(),
        Some(&Rung::Restart),
        "no further than before"
    );
}

#[test]
fn failures_of_its_own_spend_the_budget_of_the_run_and_nothing_else_does() {
    let (mut world, run) = World::running(&[2, 2], spec("bloom", 2, 1, 2));
    let failed = |blamed| RankEvent::Failed {
        phase: Phase::Step,
        error: "loss is not a number".to_owned(),
        blamed,
    };
    world.rank_event(&run, 0, failed(Blamed::Infrastructure));
    for generation in 3..6 {
        world.rank_event(&run, 0, failed(Blamed::Run));
        assert_eq!(world.state(&run), RunState::Running);
        assert_eq!(world.generation(&run), Generation(generation));
    }
    world.train(&run, 500);
    world.save(&run, 500);
    world.rank_event(&run, 0, failed(Blamed::Run));
    let view = world.view(&run);
    assert_eq!(
        (view.state, view.why),
        (RunState::Failed, Cause::BudgetSpent { restarts: 3 })
    );
    assert_eq!(view.generation, Generation(5), "no further attempt (S7)");
    let living = world
        .agents
        .values()
        .flat_map(|agent| &agent.runs[&run].ranks);
    assert_eq!(living.filter(|(_, process)| process.alive).count(), 0);
}

#[test]
fn a_process_that_cannot_be_started_is_a_fault() {
    let (mut world, run) = World::running(&[2, 2], spec("bloom", 2, 1, 2));
    world.process(&run, 1).alive = false;
    world.rank_event(
        &run,
        1,
        RankEvent::NotStarted {
            error: "no such file".to_owned(),
        },
    );
    let view = world.view(&run);
    assert_eq!(view.generation, Generation(2));
    assert!(matches!(
        view.incidents[0].cause,
        Cause::RankNotStarted { .. }
    ));
}

#[test]
fn a_replaced_node_is_not_avoided_where_there_is_no_other() {
    let mut spec = spec("bloom", 2, 1, 2);
    (spec.recovery.reform, spec.recovery.restart) = (0, 0);
    let (mut world, run) = World::running(&[2, 2], spec);
    world.kill(&run, &[2]);
    let view = world.view(&run);
    assert_eq!(view.state, RunState::Running);
    assert_eq!(view.incidents[0].rung, Some(Rung::Replace));
}
