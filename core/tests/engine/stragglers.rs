//! Ranks that are slower than their like: when that is noted, and what comes of it.

use crate::world::*;
use rebloom_core::cause::Cause;
use rebloom_core::engine::RunState;
use rebloom_core::flight::Phase;
use rebloom_core::id::{Generation, Rank, RunId, Step};
use rebloom_core::spec::RampUp;

#[test]
fn a_straggler_s_node_is_left_at_the_next_restart_and_no_sooner() {
    let (mut world, run) = World::running(&[2, 2, 2], spec("bloom", 2, 1, 2));
    let home = world.node_of(&run, 2);
    assert!(is_straggler(&mut world, &run, 2, (2, 39)));
    let view = world.view(&run);
    assert_eq!(view.generation, Generation(1));
    let cause = &view.incidents[0].cause;
    assert!(
        matches!(cause, Cause::Straggler { rank: Rank(2), .. }),
        "{cause}"
    );
    assert_eq!((view.incidents.len(), view.incidents[0].rung), (1, None));
    world.kill(&run, &[0]);
    assert_ne!(world.node_of(&run, 2), home);
    assert_eq!(world.state(&run), RunState::Running);
    world.restart(world.journal.clone());
    world.kill(&run, &[0]);
    assert_ne!(
        world.node_of(&run, 2),
        home,
        "the next controller knows it too"
    );
}

#[test]
fn a_batch_that_grows_makes_longer_steps_and_nobody_slow() {
    let mut spec = spec("bloom", 2, 1, 2);
    spec.train.ramp_up = Some(RampUp {
        start: 8,
        increment: 2,
        samples: 1600,
    });
    let train = spec.train;
    let (mut world, run) = World::running(&[2, 2], spec);
    for step in 2..200 {
        let nanos = u64::from(train.batch(train.samples_after(step - 1))) * 50_000_000;
        world.for_each_process(&run, |rank, process| {
            process.page.step = Step(step);
            process.page.samples = train.samples_after(step);
            process.page.phase = Phase::Step;
            process.page.step_nanos = nanos;
            process.page.busy_nanos = nanos / 2 + u64::from(rank.0) * 1_000_000;
        });
        world.pass(millis(500));
    }
    assert_eq!(train.batch(train.samples_after(199)), 16);
    let view = world.view(&run);
    let causes: Vec<_> = view.incidents.iter().map(|i| i.cause.label()).collect();
    assert_eq!(causes, [""; 0]);
}

/// Whether rank 2 is called a straggler when it is slow in the steps `slow`, and in no other from `first` on.
fn is_straggler(world: &mut World, run: &RunId, first: u64, slow: (u64, u64)) -> bool {
    let train = world.view(run).spec.train;
    for step in first..slow.1 + 20 {
        world.for_each_process(run, |rank, process| {
            let is_slow = rank == Rank(2) && (slow.0..=slow.1).contains(&step);
            process.page.step = Step(step);
            process.page.samples = train.samples_after(step);
            process.page.phase = Phase::Step;
            process.page.step_nanos = 500_000_000;
            process.page.busy_nanos = if is_slow { 450_000_000 } else { 200_000_000 };
        });
        world.pass(millis(500));
    }
    let incidents = world.view(run).incidents;
    incidents.iter().any(|i| i.cause.label() == "Straggler")
}

#[test]
fn the_first_steps_of_a_gang_make_nobody_a_straggler() {
    // Five steps to warm up, and sixteen looks in a row.
    for (resumed, last, expected) in [
        (0, 20, false),
        (0, 21, true),
        (10, 30, false),
        (10, 31, true),
    ] {
        let (mut world, run) = World::running(&[2, 2, 2], spec("bloom", 2, 1, 2));
        if resumed > 0 {
            world.train(&run, resumed);
            world.save(&run, resumed);
            world.kill(&run, &[0]);
        }
        let first = resumed + 1;
        let found = is_straggler(&mut world, &run, first, (first, last));
        assert_eq!(found, expected, "slow in {first} to {last}");
    }
}

#[test]
fn the_step_in_which_the_batch_grows_makes_nobody_a_straggler() {
    for (last, expected) in [(65, false), (66, true)] {
        let mut spec = spec("bloom", 2, 1, 2);
        spec.train.ramp_up = Some(RampUp {
            start: 8,
            increment: 8,
            samples: 400,
        });
        assert_eq!(spec.train.samples_after(50), 400);
        let (mut world, run) = World::running(&[2, 2, 2], spec);
        let found = is_straggler(&mut world, &run, 1, (50, last));
        assert_eq!(found, expected, "slow until {last}");
    }
}
