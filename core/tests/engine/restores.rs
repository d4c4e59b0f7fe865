//! Learned deadlines and the phases that are not like those before: a start, a restore, the first steps, the
//! last save. None of them ends a run that is sound.

use crate::slow::steps;
use crate::world::*;
use rebloom_core::cause::Cause;
use rebloom_core::engine::{Ask, Fact, RunState};
use rebloom_core::flight::Phase;
use rebloom_core::hang::deadline::Learn;
use rebloom_core::id::{Generation, RunId};
use rebloom_core::order::Stop;
use rebloom_core::spec::RunSpec;
use rebloom_core::time::Duration;

/// Every phase may take ten minutes, and by what is learned from so short ones, ten seconds.
fn learning() -> RunSpec {
    let mut spec = spec("bloom", 2, 1, 2);
    spec.train.steps = 1_000_000;
    let deadlines = &mut spec.deadlines;
    (deadlines.init, deadlines.load, deadlines.save) = (600.0, 600.0, 600.0);
    (deadlines.step, deadlines.eval) = (600.0, 600.0);
    deadlines.learn = Some(Learn::default());
    spec
}

/// Every rank is in this phase for so many seconds.
fn be_in(world: &mut World, run: &RunId, phase: Phase, seconds: u64) {
    world.for_each_process(run, |_, process| process.page.phase = phase);
    world.pass(Duration::from_secs(seconds));
}

/// A generation loads for so long, trains on by ten steps from `from`, and saves.
fn live(world: &mut World, run: &RunId, (load, from): (u64, u64)) {
    be_in(world, run, Phase::Load, load);
    steps(world, run, from..from + 10, 500_000_000);
    world.save(run, from + 9);
}

fn hangs(world: &World, run: &RunId) -> usize {
    let incidents = world.view(run).incidents;
    incidents.iter().filter(|it| it.cause.is_hang()).count()
}

fn was_overdue(world: &World) -> bool {
    let mut journal = world.journal.iter();
    journal.any(|record| matches!(record.fact, Fact::RankOverdue { .. }))
}

/// How long each generation loads, the first one from nothing, and how many of them hang.
#[test]
fn a_restore_is_measured_by_restores_and_a_doubt_gives_it_all_its_time() {
    for (loads, expected) in [
        // A start says nothing of a restore, and one restore, which four ranks show, not enough.
        (&[2, 60][..], 0),
        (&[2, 2, 60], 0),
        // Two that were as long say what the next may take, which is 300 s.
        (&[2, 60, 60, 240], 0),
        (&[2, 60, 60, 310], 1),
        // What two short ones say is wrong, and the second long one has all its time.
        (&[2, 2, 2, 60, 60, 60], 1),
    ] {
        let (mut world, run) = World::running(&[2, 2], learning());
        for (load, at) in loads.iter().zip(0..) {
            if at > 0 {
                world.kill(&run, &[0]);
            }
            let before = hangs(&world, &run);
            be_in(&mut world, &run, Phase::Load, *load);
            if hangs(&world, &run) == before {
                live(&mut world, &run, (0, 10 * at + 1));
            }
        }
        assert_eq!(hangs(&world, &run), expected, "{loads:?}");
        assert_eq!(world.state(&run), RunState::Running, "{loads:?}");
    }
}

#[test]
fn an_admin_who_lets_a_run_go_on_lets_it_learn_anew() {
    for resumes in [false, true] {
        let (mut world, run) = World::running(&[2, 2], learning());
        live(&mut world, &run, (2, 1));
        for from in [11, 21] {
            world.kill(&run, &[0]);
            live(&mut world, &run, (2, from));
        }
        if resumes {
            let (run, how) = (run.clone(), Stop::Now);
            world.ask(Ask::Stop {
                run: run.clone(),
                how,
            });
            world.ask(Ask::Resume { run, layout: None });
        } else {
            world.kill(&run, &[0]);
        }
        be_in(&mut world, &run, Phase::Load, 60);
        assert_eq!(hangs(&world, &run), usize::from(!resumes));
    }
}

/// The first five steps of a generation take as long as was set, the sixth as long as was learned.
#[test]
fn the_first_steps_of_a_generation_are_not_held_to_what_was_learned() {
    for (done, expected) in [(0, false), (4, false), (5, true)] {
        let (mut world, run) = World::running(&[2, 2], learning());
        steps(&mut world, &run, 1..21, 500_000_000);
        world.save(&run, 20);
        world.kill(&run, &[0]);
        steps(&mut world, &run, 20..21 + done, 500_000_000);
        world.pass(Duration::from_secs(40));
        assert_eq!(was_overdue(&world), expected, "after {done} steps");
    }
}

#[test]
fn the_save_that_a_gang_ends_with_is_not_held_to_those_beside_steps() {
    for (stops, expected) in [(false, true), (true, false)] {
        let (mut world, run) = World::running(&[2, 2], learning());
        for from in [1, 21, 41] {
            steps(&mut world, &run, from..from + 10, 500_000_000);
            be_in(&mut world, &run, Phase::Save, 1);
        }
        steps(&mut world, &run, 61..71, 500_000_000);
        if stops {
            let (run, how) = (run.clone(), Stop::Safely);
            world.ask(Ask::Stop { run, how });
        }
        be_in(&mut world, &run, Phase::Save, 60);
        assert_eq!(was_overdue(&world), expected);
    }
}

#[test]
fn a_controller_that_slept_finds_nobody_late() {
    for beats in [false, true] {
        let (mut world, run) = World::running(&[2, 2], learning());
        steps(&mut world, &run, 1..30, 500_000_000);
        if beats {
            world.pass(Duration::from_secs(30));
        } else {
            world.wait(Duration::from_secs(30));
            world.beat();
            steps(&mut world, &run, 30..40, 500_000_000);
        }
        assert_eq!(was_overdue(&world), beats);
    }
}

#[test]
fn a_rank_that_was_late_and_has_moved_on_is_not_judged() {
    let (mut world, run) = World::running(&[2, 2], learning());
    steps(&mut world, &run, 1..30, 500_000_000);
    while !was_overdue(&world) {
        world.now = world.now + millis(500);
        world.beat();
    }
    steps(&mut world, &run, 30..50, 500_000_000);
    assert_eq!(world.generation(&run), Generation(1));
    let dropped = |fact: &Fact| matches!(fact, Fact::OverdueDropped { .. });
    assert!(world.journal.iter().any(|record| dropped(&record.fact)));
    world.pass(Duration::from_secs(14));
    let view = world.view(&run);
    assert_eq!(view.generation, Generation(2), "the next hang is one");
    assert!(matches!(view.incidents[0].cause, Cause::GangHung { .. }));
}
