//! Hangs in the phases in which BLOOM's worst came: evaluation, and the end.

use crate::world::*;
use rebloom_core::cause::Cause;
use rebloom_core::engine::{RunState, Rung};
use rebloom_core::flight::{Channel, Phase};
use rebloom_core::id::{Generation, Rank, RunId, Step};
use rebloom_core::report::{Finish, Milestone, RankEvent};
use rebloom_core::time::Duration;

fn all_in(world: &mut World, run: &RunId, phase: Phase) {
    world.for_each_process(run, |_, process| process.page.phase = phase);
    world.pass(Duration::from_secs(2));
}

fn overdue(world: &mut World, run: &RunId, rank: u32, phase: Phase) {
    world.rank_event(run, rank, RankEvent::Overdue { phase, step: None });
    world.pass(Duration::from_secs(2));
}

#[test]
fn a_rank_that_does_not_arrive_in_an_evaluation_is_named() {
    let (mut world, run) = World::running(&[2, 2], spec("bloom", 2, 1, 2));
    world.train(&run, 30);
    world.save(&run, 30);
    all_in(&mut world, &run, Phase::Eval);
    world.for_each_process(&run, |rank, process| {
        let entered = if rank == Rank(3) { 8 } else { 9 };
        count(&mut process.page, Channel::World, entered, 8);
    });
    overdue(&mut world, &run, 0, Phase::Eval);
    let view = world.view(&run);
    assert_eq!(view.generation, Generation(2));
    let expected = Cause::RankHung {
        rank: Rank(3),
        node: node("n1"),
        phase: Phase::Eval,
        channel: Some(Channel::World),
    };
    assert_eq!(view.incidents[0].cause, expected);
    assert_eq!(view.incidents[0].rung, Some(Rung::Reform));
    let resumed = view.incidents[0].resumed_from.map(|it| it.step);
    assert_eq!(resumed, Some(Step(30)), "the evaluation is made up for");
}

#[test]
fn an_evaluation_that_is_over_by_then_is_no_hang() {
    let (mut world, run) = World::running(&[2, 2], spec("bloom", 2, 1, 2));
    world.train(&run, 30);
    overdue(&mut world, &run, 0, Phase::Eval);
    assert_eq!(world.generation(&run), Generation(1));
}

fn finish(world: &mut World, run: &RunId, rank: u32) {
    let process = world.process(run, rank);
    process.milestone = Milestone::Finished;
    process.page.phase = Phase::Idle;
    let (why, step, state) = (Finish::Completed, Step(1000), digest(0));
    world.rank_event(run, rank, RankEvent::Finished { why, step, state });
}

/// All others are done; so it is the last one alone, in whichever phase it is, also where two are left.
#[test]
fn who_has_finished_is_no_suspect_of_a_hang_at_the_end() {
    for phase in [Phase::Eval, Phase::Exit] {
        for layout in [(2, 2), (1, 2)] {
            let (tensor, data) = layout;
            let (mut world, run) = World::running(&[2, 2], spec("bloom", tensor, 1, data));
            world.train(&run, 1000);
            world.save(&run, 1000);
            all_in(&mut world, &run, phase);
            let last = tensor * data - 1;
            (0..last).for_each(|rank| finish(&mut world, &run, rank));
            assert_eq!(world.state(&run), RunState::Running);
            overdue(&mut world, &run, last, phase);
            let view = world.view(&run);
            assert_eq!(view.generation, Generation(2), "{phase} {layout:?}");
            assert!(
                matches!(&view.incidents[0].cause, Cause::RankHung { rank, phase: at, .. }
                    if (*rank, *at) == (Rank(last), phase)),
                "{phase}: {}",
                view.incidents[0].cause
            );
        }
    }
}

/// Its work is done: its agent kills it, and no generation is ended for it.
#[test]
fn a_rank_that_hangs_on_its_way_out_ends_nothing() {
    let (mut world, run) = World::running(&[2, 2], spec("bloom", 2, 1, 2));
    world.train(&run, 1000);
    finish(&mut world, &run, 0);
    world.process(&run, 0).page.phase = Phase::Exit;
    overdue(&mut world, &run, 0, Phase::Exit);
    assert_eq!(world.generation(&run), Generation(1));
    assert_eq!(world.view(&run).incidents, []);
    world.save(&run, 1000);
    (1..4).for_each(|rank| finish(&mut world, &run, rank));
    assert_eq!(world.state(&run), RunState::Completed);
}
