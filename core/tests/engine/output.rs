//! Log rules: a gang that evaluates or saves has nothing to say, and a rule can end its own watch.

use crate::world::*;
use rebloom_core::cause::Cause;
use rebloom_core::flight::Phase;
use rebloom_core::hang::rules::Match;
use rebloom_core::id::{Generation, Rank, RunId};
use rebloom_core::time::Duration;

/// A run whose iterations come every 30 s, the first within 20 s, in HyperPod's words.
fn watched() -> (World, RunId) {
    let mut spec = spec("bloom", 2, 1, 2);
    let rule = r#"{"name": "iterations", "logPattern": "iteration", "stopPattern": "done",
        "expectedStartCutOffInSeconds": 20, "expectedRecurringFrequencyInSeconds": 30}"#;
    spec.log_rules = vec![serde_json::from_str(rule).unwrap()];
    World::running(&[2, 2], spec)
}

/// The next beat of a node brings a line, or the end of the watch.
fn say(world: &mut World, run: &RunId, stopped: bool) {
    let found = Match {
        generation: world.generation(run),
        rule: 0,
        lines: 1,
        stopped,
    };
    let said = |world: &mut World, said| {
        let agent = world.agents.get_mut(&node("n0")).unwrap();
        agent.runs.get_mut(run).unwrap().said = said;
    };
    said(world, vec![found]);
    world.beat();
    said(world, Vec::new());
}

fn is_whole(world: &World, run: &RunId) -> bool {
    world.generation(run) == Generation(1)
}

/// One rank is in this phase for so many seconds, the others do steps.
fn rank_1_in(world: &mut World, run: &RunId, phase: Phase, seconds: u64) {
    world.for_each_process(run, |rank, process| {
        let is_it = rank == Rank(1);
        process.page.phase = if is_it { phase } else { Phase::Step };
    });
    world.pass(Duration::from_secs(seconds));
}

#[test]
fn time_in_which_a_gang_evaluates_or_saves_is_left_out() {
    for (phase, pauses) in [
        (Phase::Eval, true),
        (Phase::Save, true),
        (Phase::Step, false),
    ] {
        let (mut world, run) = watched();
        say(&mut world, &run, false);
        rank_1_in(&mut world, &run, Phase::Step, 20);
        rank_1_in(&mut world, &run, phase, 720);
        assert_eq!(is_whole(&world, &run), pauses, "{phase}");
        if !pauses {
            continue;
        }
        rank_1_in(&mut world, &run, Phase::Step, 8);
        assert!(is_whole(&world, &run));
        // What was heard in the middle of one counts from its end.
        rank_1_in(&mut world, &run, phase, 100);
        say(&mut world, &run, false);
        world.pass(Duration::from_secs(100));
        rank_1_in(&mut world, &run, Phase::Step, 28);
        assert!(is_whole(&world, &run));
        world.pass(Duration::from_secs(4));
        assert!(!is_whole(&world, &run), "and then it counts again");
    }
}

#[test]
fn a_first_line_is_not_expected_of_a_gang_that_begins_with_an_evaluation() {
    let (mut world, run) = watched();
    rank_1_in(&mut world, &run, Phase::Eval, 720);
    rank_1_in(&mut world, &run, Phase::Step, 18);
    assert!(is_whole(&world, &run));
    world.pass(Duration::from_secs(4));
    assert!(!is_whole(&world, &run));
}

#[test]
fn a_line_that_ends_the_watch_ends_it_for_this_generation() {
    let (mut world, run) = watched();
    say(&mut world, &run, true);
    world.pass(Duration::from_secs(1000));
    assert!(is_whole(&world, &run));
    world.kill(&run, &[0]);
    world.pass(Duration::from_secs(25));
    let view = world.view(&run);
    assert_eq!(view.generation, Generation(3), "the next one is watched");
    assert!(matches!(view.why, Cause::LogRule { .. }), "{}", view.why);
}
