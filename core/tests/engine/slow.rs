//! What the engine learns from pages and output: deadlines, log rules, slow nodes, the interval.

use crate::world::*;
use rebloom_core::cause::Cause;
use rebloom_core::engine::{RunState, Rung};
use rebloom_core::flight::Phase;
use rebloom_core::hang::deadline::Learn;
use rebloom_core::hang::rules::{Breach, Match};
use rebloom_core::id::{Generation, Rank, RunId, Step};
use rebloom_core::order::{Order, Stop};
use rebloom_core::report::RankEvent;
use rebloom_core::spec::Auto;
use rebloom_core::time::Duration;

/// Every rank does these steps, one a beat, each of which takes as long as the clock says.
pub(super) fn steps(world: &mut World, run: &RunId, steps: std::ops::Range<u64>, nanos: u64) {
    for step in steps {
        world.for_each_process(run, |_, process| {
            process.page.step = Step(step);
            process.page.phase = Phase::Step;
            process.page.step_nanos = nanos;
            process.page.busy_nanos = nanos / 2;
        });
        world.pass(millis(500));
    }
}

#[test]
fn a_learned_deadline_ends_a_hang_long_before_the_one_that_was_set() {
    let mut spec = spec("bloom", 2, 1, 2);
    spec.deadlines.step = 1800.0;
    spec.deadlines.learn = Some(Learn::default());
    let (mut world, run) = World::running(&[2, 2], spec);
    steps(&mut world, &run, 2..30, 500_000_000);
    world.pass(Duration::from_secs(8));
    assert_eq!(
        world.generation(&run),
        Generation(1),
        "below the least of 10 s"
    );
    world.pass(Duration::from_secs(10));
    let view = world.view(&run);
    assert_eq!(view.generation, Generation(2));
    assert!(matches!(
        view.incidents[0].cause,
        Cause::GangHung {
            phase: Phase::Step,
            ..
        }
    ));
    let start = world.starts_since(0).pop().unwrap().1;
    let told = start.gang.spec.deadlines.step;
    assert_eq!(told, 1800.0, "the first steps of a generation take longer");
}

fn watched() -> rebloom_core::spec::RunSpec {
    let mut spec = spec("bloom", 2, 1, 2);
    let rule = r#"{"name": "iterations", "pattern": "iteration", "expected_start": 20,
        "expected_recurrence": 30}"#;
    spec.log_rules = vec![serde_json::from_str(rule).unwrap()];
    spec
}

fn say(world: &mut World, run: &RunId, lines: u32) {
    let found = Match {
        generation: world.generation(run),
        rule: 0,
        lines,
        stopped: false,
    };
    let agent = world.agents.get_mut(&node("n0")).unwrap();
    agent.runs.get_mut(run).unwrap().said = (lines > 0).then_some(found).into_iter().collect();
}

#[test]
fn output_that_ceases_is_a_hang() {
    let (mut world, run) = World::running(&[2, 2], watched());
    world.pass(Duration::from_secs(15));
    say(&mut world, &run, 1);
    world.pass(Duration::from_secs(5));
    say(&mut world, &run, 0);
    world.pass(Duration::from_secs(29));
    assert_eq!(world.generation(&run), Generation(1));
    world.pass(Duration::from_secs(2));
    let view = world.view(&run);
    assert_eq!(view.generation, Generation(2));
    let within = Duration::from_secs(30);
    let expected = Cause::LogRule {
        rule: "iterations".to_owned(),
        breach: Breach::Ceased { within },
        rank: None,
        node: None,
    };
    assert_eq!(view.incidents[0].cause, expected);
    assert_eq!(view.incidents[0].rung, Some(Rung::Restart));
    world.pass(Duration::from_secs(21));
    let view = world.view(&run);
    assert!(
        matches!(
            &view.why,
            Cause::LogRule {
                breach: Breach::NotStarted { .. },
                ..
            }
        ),
        "{}",
        view.why
    );
}

#[test]
fn a_line_that_must_not_come_is_a_fault_of_the_rank_that_wrote_it() {
    let (mut world, run) = World::running(&[2, 2], watched());
    let broken = RankEvent::RuleBroken {
        rule: "oom".to_owned(),
        line: "out of memory".to_owned(),
    };
    world.rank_event(&run, 2, broken);
    let view = world.view(&run);
    assert_eq!(
        (view.state, view.generation),
        (RunState::Running, Generation(2))
    );
    let cause = &view.incidents[0].cause;
    assert!(
        matches!(
            cause,
            Cause::LogRule {
                rank: Some(Rank(2)),
                node: Some(_),
                ..
            }
        ),
        "{cause}"
    );
}

#[test]
fn a_slow_node_is_found_over_the_restarts_that_come_anyway() {
    let (mut world, run) = World::running(&[2, 2, 2, 2], spec("bloom", 2, 1, 2));
    let culprit = world.node_of(&run, 2);
    let (fast, slow) = (500_000_000, 550_000_000);
    steps(&mut world, &run, 2..40, fast);
    let mut done = 40;
    for _ in 0..4 {
        let view = world.view(&run);
        let is_in = view.ranks.iter().any(|rank| rank.seating.node == culprit);
        steps(
            &mut world,
            &run,
            done..done + 40,
            if is_in { slow } else { fast },
        );
        done += 40;
        world.kill(&run, &[0]);
    }
    let view = world.view(&run);
    let causes: Vec<_> = view.incidents.iter().map(|i| i.cause.label()).collect();
    assert!(causes.contains(&"Slower"), "{causes:?}");
    let found = view
        .incidents
        .iter()
        .find_map(|incident| match &incident.cause {
            Cause::NodeSlow { node } => Some(node.clone()),
            _ => None,
        });
    assert_eq!(found, Some(culprit.clone()), "{causes:?}");
    assert!(view.ranks.iter().all(|rank| rank.seating.node != culprit));
}

/// Whether a restart was asked for since `mark`.
pub(super) fn turns(world: &World, mark: usize) -> bool {
    let mut orders = world.orders[mark..].iter();
    orders.any(|(_, order)| {
        matches!(
            order,
            Order::Stop {
                how: Stop::Safely,
                ..
            }
        )
    })
}

#[test]
fn a_slow_node_is_left_by_planned_restarts_where_waiting_costs_more() {
    let mut spec = spec("bloom", 2, 1, 2);
    spec.train.steps = 1_000_000;
    let (mut world, run) = World::running(&[2, 2, 2, 2], spec);
    // From here on it is known what a restart costs.
    world.kill(&run, &[0]);
    let culprit = world.node_of(&run, 2);
    let (fast, slow) = (500_000_000, 550_000_000);
    steps(&mut world, &run, 2..40, fast);
    assert!(!turns(&world, 0), "nothing is slow");
    let (mut done, mut asked) = (40, 0);
    for _ in 0..4 {
        let mark = world.orders.len();
        let view = world.view(&run);
        let is_in = view.ranks.iter().any(|rank| rank.seating.node == culprit);
        let nanos = if is_in { slow } else { fast };
        // A restart pays only after a while.
        steps(&mut world, &run, done..done + 30, nanos);
        assert!(!turns(&world, mark));
        world.pass(Duration::from_secs(700));
        steps(&mut world, &run, done + 30..done + 40, nanos);
        done += 40;
        assert_eq!(turns(&world, mark), is_in);
        if is_in {
            asked += 1;
            world.save(&run, done);
            world.finish_turn(&run, done);
            let view = world.view(&run);
            assert_eq!(view.state, RunState::Running);
            let start = world.starts_since(mark).pop().unwrap().1;
            assert_eq!(start.gang.resume.unwrap().step.0, done, "nothing is lost");
            let planned = view.incidents.last().unwrap();
            assert!(
                ["Slower", "NodeSlow"].contains(&planned.cause.label()),
                "{}",
                planned.cause
            );
            assert_eq!(planned.rung, Some(Rung::Restart));
        }
    }
    assert!(asked == 1 || asked == 2, "{asked}");
    let view = world.view(&run);
    assert!(view.ranks.iter().all(|rank| rank.seating.node != culprit));
}

#[test]
fn the_node_whose_ranks_are_busy_longest_is_suspected_first() {
    let mut spec = spec("bloom", 2, 1, 4);
    spec.train.steps = 1_000_000;
    let (mut world, run) = World::running(&[2, 2, 2, 2, 2], spec);
    world.kill(&run, &[0]);
    let culprit = world.node_of(&run, 6);
    steps(&mut world, &run, 2..40, 500_000_000);
    world.pass(Duration::from_secs(2000));
    let mark = world.orders.len();
    for step in 40..80 {
        world.for_each_process(&run, |rank, process| {
            let busy = if rank >= Rank(6) { 105 } else { 100 };
            process.page.step = Step(step);
            process.page.step_nanos = 525_000_000;
            process.page.busy_nanos = busy * 4_000_000;
        });
        world.pass(millis(500));
    }
    assert!(turns(&world, mark));
    world.save(&run, 80);
    world.finish_turn(&run, 80);
    let view = world.view(&run);
    assert!(view.ranks.iter().all(|rank| rank.seating.node != culprit));
    steps(&mut world, &run, 81..120, 500_000_000);
    let view = world.view(&run);
    let last = &view.incidents.last().unwrap().cause;
    assert_eq!(*last, Cause::NodeSlow { node: culprit });
}

#[test]
fn no_restart_is_planned_where_there_is_nowhere_else_to_go() {
    let mut spec = spec("bloom", 2, 1, 2);
    spec.train.steps = 1_000_000;
    let (mut world, run) = World::running(&[2, 2], spec);
    world.kill(&run, &[0]);
    steps(&mut world, &run, 2..40, 500_000_000);
    world.pass(Duration::from_secs(1000));
    steps(&mut world, &run, 40..120, 550_000_000);
    assert!(!turns(&world, 0));
    assert_eq!(world.generation(&run), Generation(2));
}

#[test]
fn no_restart_is_planned_just_before_the_end() {
    for (left, pays) in [(1000, false), (2000, true)] {
        let mut spec = spec("bloom", 2, 1, 2);
        spec.train.steps = 120 + left;
        let (mut world, run) = World::running(&[2, 2, 2, 2], spec);
        steps(&mut world, &run, 2..40, 500_000_000);
        world.pass(Duration::from_secs(1000));
        steps(&mut world, &run, 40..120, 550_000_000);
        assert_eq!(turns(&world, 0), pays, "{left} steps are left");
    }
}

#[test]
fn the_interval_between_checkpoints_follows_what_was_measured() {
    let mut spec = spec("bloom", 2, 1, 2);
    spec.checkpoint.auto = Some(Auto {
        min: 10.0,
        max: 60.0,
    });
    let (mut world, run) = World::running(&[2, 2], spec);
    let every = |world: &World| {
        world
            .starts_since(0)
            .pop()
            .unwrap()
            .1
            .gang
            .spec
            .checkpoint
            .every_steps
    };
    assert_eq!(every(&world), 10, "what was set, before a step was seen");
    steps(&mut world, &run, 2..40, 500_000_000);
    world.kill(&run, &[0]);
    assert_eq!(every(&world), 20, "ten seconds, before a save was");
    let mut done = 40;
    for _ in 0..4 {
        steps(&mut world, &run, done..done + 40, 500_000_000);
        done += 40;
        world.save(&run, done - 1);
    }
    world.kill(&run, &[0]);
    assert_eq!(
        every(&world),
        120,
        "saves cost nothing, so as rarely as allowed"
    );
    assert_eq!(world.view(&run).spec.checkpoint.every_steps, 10);
}

#[test]
fn an_interval_that_turned_out_wrong_is_left_within_a_run_once_that_pays() {
    for (max, pays) in [(600.0, true), (5.0, false)] {
        let mut spec = spec("bloom", 2, 1, 2);
        spec.train.steps = 1_000_000;
        spec.checkpoint.auto = Some(Auto { min: 5.0, max });
        let (mut world, run) = World::running(&[2, 2], spec);
        steps(&mut world, &run, 2..40, 500_000_000);
        for step in [40, 50, 60] {
            // Each save holds every rank up for one beat, a tenth of the five seconds between two.
            world.for_each_process(&run, |_, process| process.page.phase = Phase::Save);
            world.pass(millis(500));
            steps(&mut world, &run, step..step + 10, 500_000_000);
            world.save(&run, step);
        }
        world.pass(Duration::from_secs(500));
        steps(&mut world, &run, 70..80, 500_000_000);
        assert!(!turns(&world, 0), "less is lost yet than a restart costs");
        world.pass(Duration::from_secs(300));
        steps(&mut world, &run, 80..90, 500_000_000);
        assert_eq!(turns(&world, 0), pays, "at most {max} s are allowed");
        if pays {
            let mark = world.orders.len();
            world.save(&run, 89);
            world.finish_turn(&run, 89);
            let view = world.view(&run);
            assert_eq!(view.state, RunState::Running);
            assert_eq!(view.why, Cause::IntervalOff { from: 10, to: 1200 });
            assert_eq!(view.incidents.last().unwrap().lost_steps, 0);
            let start = world.starts_since(mark).pop().unwrap().1;
            assert_eq!(start.gang.spec.checkpoint.every_steps, 1200);
            assert_eq!(start.gang.resume.unwrap().step, Step(89));
            // Now it is right.
            world.pass(Duration::from_secs(2000));
            steps(&mut world, &run, 90..130, 500_000_000);
            assert!(!turns(&world, mark));
        }
    }
}

#[test]
fn a_restart_is_planned_later_where_a_start_takes_long() {
    // A start of ten minutes, or one and a restart at once; a tenth is lost by slowness.
    for (failures, too_soon, enough) in [(0, 5000, 700), (1, 2000, 400)] {
        let mut spec = spec("bloom", 2, 1, 2);
        spec.train.steps = 1_000_000;
        spec.deadlines.init = 3600.0;
        let run = spec.name.clone();
        let mut world = World::new(&[2, 2, 2, 2]);
        world.obedient = false;
        world.submit(spec);
        world.pass(Duration::from_secs(600));
        world.obedient = true;
        for at in 0..4 {
            let name = node(&format!("n{at}"));
            world.cut(&name);
            world.join(&name);
        }
        assert_eq!(world.state(&run), RunState::Running);
        for _ in 0..failures {
            world.kill(&run, &[0]);
        }
        steps(&mut world, &run, 2..40, 500_000_000);
        world.pass(Duration::from_secs(1000));
        steps(&mut world, &run, 40..120, 550_000_000);
        world.pass(Duration::from_secs(too_soon));
        steps(&mut world, &run, 120..130, 550_000_000);
        assert!(!turns(&world, 0), "{failures} failures: too soon");
        world.pass(Duration::from_secs(enough));
        steps(&mut world, &run, 130..140, 550_000_000);
        assert!(turns(&world, 0), "{failures} failures");
    }
}
