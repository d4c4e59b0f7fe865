//! Who gets room, and who has to leave it.

use crate::world::*;
use rebloom_core::cause::Cause;
use rebloom_core::engine::{Answer, Ask, Limits, RunState};
use rebloom_core::id::{Generation, RunId};
use rebloom_core::order::{Order, Stop};
use rebloom_core::report::Finish;
use rebloom_core::spec::RunSpec;
use rebloom_core::time::Duration;

fn urgent(name: &str, priority: i32, data: u32) -> RunSpec {
    let mut spec = spec(name, 2, 1, data);
    spec.priority = priority;
    spec
}

/// Every rank of a run that was asked to stop safely does, with a checkpoint of its step.
fn step_down(world: &mut World, run: &RunId, step: u64) {
    world.save(run, step);
    world.finish(run, Finish::Stopped, step);
}

#[test]
fn a_higher_priority_takes_the_place_of_a_lower_one_which_goes_on_later() {
    let (mut world, low) = World::running(&[2, 2], spec("low", 2, 1, 2));
    let high = run_id("high");
    let mark = world.orders.len();
    world.submit(urgent("high", 5, 1));
    let is_safe = |order: &Order| {
        let by = Cause::Preempted { by: high.clone() };
        matches!(order, Order::Stop { how: Stop::Safely, cause, .. } if *cause == by)
    };
    let asked = world.orders[mark..]
        .iter()
        .filter(|(_, order)| is_safe(order));
    assert_eq!(
        asked.count(),
        2,
        "both nodes are asked to stop at a step boundary"
    );
    assert_eq!(
        world.state(&high),
        RunState::Pending,
        "not before they have"
    );
    step_down(&mut world, &low, 7);
    assert_eq!(world.state(&high), RunState::Running);
    let view = world.view(&low);
    assert_eq!(view.state, RunState::Pending);
    assert_eq!(view.why, Cause::Preempted { by: high.clone() });
    assert!(view.incidents.is_empty(), "nothing broke");
    assert_eq!(view.checkpoints[0].0.step.0, 7);
    let last = view.transitions.last().map(|it| (it.state, it.why.clone()));
    let wanted = (RunState::Pending, Cause::Preempted { by: high.clone() });
    assert_eq!(last, Some(wanted), "its story tells of it");

    world.ask(Ask::Stop {
        run: high,
        how: Stop::Now,
    });
    let view = world.view(&low);
    assert_eq!(
        (view.state, view.generation),
        (RunState::Running, Generation(2))
    );
    assert_eq!(view.step.0, 8, "it goes on from its checkpoint");
}

#[test]
fn no_more_runs_are_preempted_than_needed_and_the_least_urgent_first() {
    let mut world = World::new(&[2, 2, 2]);
    world.submit(urgent("a", 1, 1));
    world.submit(urgent("b", 0, 1));
    world.submit(urgent("c", 2, 1));
    world.submit(urgent("high", 3, 1));
    let stops = |world: &World| -> Vec<RunId> {
        let orders = world.orders.iter();
        let stops = orders.filter_map(|(_, order)| match order {
            Order::Stop { run, .. } => Some(run.clone()),
            _ => None,
        });
        stops.collect()
    };
    assert_eq!(stops(&world), [run_id("b")]);
    world.beat();
    assert_eq!(
        stops(&world),
        [run_id("b")],
        "it waits for the one it asked"
    );
    world.submit(urgent("same", 1, 1));
    step_down(&mut world, &run_id("b"), 3);
    assert_eq!(world.state(&run_id("high")), RunState::Running);
    assert_eq!(
        world.state(&run_id("same")),
        RunState::Pending,
        "its equals stay"
    );
    assert_eq!(stops(&world), [run_id("b")]);
}

#[test]
fn a_run_that_does_not_step_down_in_time_is_stopped_all_the_same() {
    let (mut world, low) = World::running(&[2], spec("low", 2, 1, 1));
    world.submit(urgent("high", 1, 1));
    // step, save and exit deadlines, and some slack
    world.pass(Duration::from_secs(60 + 120 + 30 + 6));
    assert_eq!(world.state(&low), RunState::Pending);
    assert_eq!(world.state(&run_id("high")), RunState::Running);
}

#[test]
fn a_repaired_node_goes_back_to_the_gang_that_lost_it() {
    let (mut world, broken) = World::running(&[2, 2], spec("broken", 2, 1, 2));
    world.submit(spec("filler", 2, 1, 1));
    world.destroy(&node("n1"));
    world.pass(millis(4000));
    assert_eq!(world.state(&broken), RunState::Pending);
    let filler = run_id("filler");
    assert_eq!(
        world.state(&filler),
        RunState::Pending,
        "what the gang has left is held for it"
    );
    assert!(
        world
            .view(&filler)
            .waits_for
            .contains("held for run broken"),
        "{}",
        world.view(&filler).waits_for
    );
    world.join(&node("n1"));
    assert_eq!(world.state(&broken), RunState::Running);
    assert_eq!(world.state(&filler), RunState::Pending);
}

#[test]
fn what_is_held_for_a_broken_gang_is_let_go_after_a_while() {
    let (mut world, broken) = World::running(&[2, 2], spec("broken", 2, 1, 2));
    world.submit(spec("filler", 2, 1, 1));
    world.destroy(&node("n1"));
    world.pass(millis(4000));
    let hold = world.engine.limits().hold_for;
    world.pass(hold);
    assert_eq!(world.state(&run_id("filler")), RunState::Running);
    assert_eq!(world.state(&broken), RunState::Pending);
}

#[test]
fn who_has_waited_too_long_is_served_before_the_urgent_and_then_left_alone() {
    let mut world = World::new(&[2]);
    world.submit(urgent("first", 9, 1));
    world.submit(urgent("poor", 0, 1));
    world.pass_in_silence(Duration::from_secs(1));
    let limit = world.engine.limits().starve_after;
    world.now = world.now + limit;
    world.beat();
    world.submit(urgent("urgent", 9, 1));
    world.ask(Ask::Stop {
        run: run_id("first"),
        how: Stop::Now,
    });
    world.pass(millis(5000));
    let (poor, urgent) = (run_id("poor"), run_id("urgent"));
    assert_eq!(world.state(&poor), RunState::Running);
    assert_eq!(world.state(&urgent), RunState::Pending);
    let asked = |world: &World| {
        let mut orders = world.orders.iter();
        orders.any(|(_, order)| {
            matches!(order, Order::Stop { run, how: Stop::Safely, .. } if *run == run_id("poor"))
        })
    };
    assert!(!asked(&world), "it has its turn");
    world.now = world.now + limit;
    world.beat();
    world.pass(millis(1000));
    assert!(asked(&world), "and then it is over");
}

#[test]
fn new_runs_leave_spares_once_nodes_have_been_lost_often() {
    let limits = Limits {
        silent_after: Duration::from_secs(30 * 86_400),
        ..Limits::default()
    };
    let mut world = World::limited(&[2; 6], limits);
    let run = run_id("first");
    world.submit(spec("first", 2, 1, 3));
    // Nodes that are lost for hours again and again.
    for _ in 0..40 {
        world.destroy(&node("n5"));
        world.pass_in_silence(millis(4000));
        world.now = world.now + Duration::from_secs(4 * 3600);
        world.join(&node("n5"));
    }
    assert_eq!(world.state(&run), RunState::Running);
    world.submit(spec("second", 2, 1, 3));
    let view = world.view(&run_id("second"));
    assert_eq!(view.state, RunState::Pending);
    assert!(view.waits_for.contains("spares"), "{}", view.waits_for);
    world.submit(spec("third", 2, 1, 6));
    world.ask(Ask::Stop {
        run,
        how: Stop::Now,
    });
    assert_eq!(world.state(&run_id("second")), RunState::Running);
}

#[test]
fn a_run_that_waits_says_what_is_against_each_node() {
    let mut world = World::new(&[4, 4, 4, 1, 4]);
    world.submit(spec("small", 2, 1, 1));
    world.ask(Ask::Cordon { node: node("n1") });
    world.cut(&node("n2"));
    world.submit(spec("large", 4, 1, 2));
    let answer = world.view(&run_id("large")).waits_for;
    for part in [
        "needs 8 slots, 4 together on a node",
        "1 node: cordoned (n1)",
        "1 node: unreachable (n2)",
        "1 node: too few free slots (needs 4 together, has 2) (n0)",
        "1 node: too small (needs 4 slots together, has 1 in all) (n3)",
        "1 node: room for one tensor group (n4)",
    ] {
        assert!(answer.contains(part), "`{part}` is not in: {answer}");
    }
    let dry = world.ask(Ask::Submit {
        spec: Box::new(spec("other", 4, 1, 2)),
        dry_run: true,
    });
    assert!(matches!(dry, Answer::WouldPlace { seating, .. } if seating.is_empty()));
}

#[test]
fn a_run_that_waited_for_just_too_long_is_left_alone_as_well() {
    let mut world = World::new(&[2]);
    world.submit(urgent("first", 9, 1));
    world.submit(urgent("poor", 0, 1));
    world.wait(world.engine.limits().starve_after);
    world.ask(Ask::Stop {
        run: run_id("first"),
        how: Stop::Now,
    });
    assert_eq!(world.state(&run_id("poor")), RunState::Running);
    let mark = world.orders.len();
    world.submit(urgent("urgent", 9, 1));
    assert_eq!(world.orders.len(), mark, "it has its turn");
}

/// Nobody's silence wakes the engine here.
fn patient() -> Limits {
    Limits {
        silent_after: Duration::from_secs(30 * 86_400),
        ..Limits::default()
    }
}

#[test]
fn a_turn_ends_by_itself_when_nobody_says_anything() {
    let mut world = World::limited(&[2], patient());
    let limit = world.engine.limits().starve_after;
    world.submit(urgent("first", 9, 1));
    world.submit(urgent("poor", 0, 1));
    world.wait(limit);
    world.ask(Ask::Stop {
        run: run_id("first"),
        how: Stop::Now,
    });
    world.submit(urgent("urgent", 9, 1));
    let mark = world.orders.len();
    world.pass_in_silence(limit - millis(1));
    assert_eq!(world.orders.len(), mark);
    world.pass_in_silence(millis(1));
    let asked = |(_, order): &(_, Order)| matches!(order, Order::Stop { run, how: Stop::Safely, .. } if *run == run_id("poor"));
    assert!(world.orders[mark..].iter().any(asked));
}

#[test]
fn nothing_is_held_for_a_gang_whose_nodes_are_back_or_held_back() {
    let broken = |slots: &[u32]| {
        let (mut world, broken) = World::running(slots, spec("broken", 2, 1, 2));
        world.submit(spec("filler", 2, 1, 1));
        world.destroy(&node("n1"));
        world.pass(millis(4000));
        assert_eq!(world.state(&broken), RunState::Pending);
        assert_eq!(world.state(&run_id("filler")), RunState::Pending);
        world
    };
    // It is back, and too small by now.
    let mut world = broken(&[2, 2]);
    world.agents.get_mut(&node("n1")).unwrap().slots = 1;
    world.join(&node("n1"));
    assert_eq!(world.state(&run_id("filler")), RunState::Running);
    // An admin does not want it back.
    let mut world = broken(&[2, 2]);
    world.ask(Ask::Cordon { node: node("n1") });
    assert_eq!(world.state(&run_id("filler")), RunState::Running);
}

/// Whoever is asked to leave makes room enough, spares included: else room would be made and nobody use it.
#[test]
fn a_higher_priority_asks_for_the_spares_that_it_must_leave_as_well() {
    let mut world = World::new(&[2; 16]);
    world.submit(urgent("large", 1, 8));
    world.submit(urgent("small", 2, 7));
    assert_eq!(world.state(&run_id("small")), RunState::Running);
    world.submit(urgent("high", 3, 9));
    // The place of the large one alone would do for it without a spare.
    for name in ["large", "small"] {
        step_down(&mut world, &run_id(name), 3);
    }
    assert_eq!(world.state(&run_id("high")), RunState::Running);
}

#[test]
fn what_a_gang_left_is_held_while_a_node_of_it_is_quarantined() {
    let (mut world, broken) = crate::health::running(&[2, 2]);
    world.submit(spec("filler", 2, 1, 1));
    crate::health::say(&mut world, "n1", &crate::health::boot(1));
    crate::health::say(&mut world, "n1", &crate::health::xid(79));
    assert_eq!(world.state(&broken), RunState::Pending);
    let filler = run_id("filler");
    assert_eq!(world.state(&filler), RunState::Pending);
    let why = world.view(&filler).waits_for;
    assert!(why.contains("held for run a"), "{why}");
    world.pass(world.engine.limits().hold_for);
    assert_eq!(world.state(&filler), RunState::Running, "not for ever");
}

/// Nodes that their health takes out of use count for the spares as lost ones do.
#[test]
fn withdrawn_nodes_count_for_the_spares() {
    let mut world = World::limited(&[2; 6], patient());
    let run = run_id("first");
    world.submit(spec("first", 2, 1, 3));
    for at in 0..40_u64 {
        crate::health::say(&mut world, "n5", &crate::health::boot(2 * at));
        crate::health::say(&mut world, "n5", &crate::health::xid(79));
        assert_eq!(world.view(&run).state, RunState::Running);
        world.now = world.now + Duration::from_secs(4 * 3600);
        crate::health::say(&mut world, "n5", &crate::health::boot(2 * at + 1));
        world.pass_in_silence(Duration::from_secs(2 * 3600));
        world.ask(Ask::Uncordon { node: node("n5") });
    }
    world.submit(spec("second", 2, 1, 3));
    let view = world.view(&run_id("second"));
    assert_eq!(view.state, RunState::Pending);
    assert!(view.waits_for.contains("spares"), "{}", view.waits_for);
}

/// Turns of seven seconds, and no other limit of a fleet within an hour.
fn quick() -> Limits {
    let long = Duration::from_secs(3600);
    Limits {
        starve_after: Duration::from_secs(7),
        hold_for: long,
        silent_after: long,
        rejoin_within: long,
        keep_spares: false,
        ..Limits::default()
    }
}

#[test]
fn the_engine_wakes_when_a_turn_ends_that_matters() {
    let mut world = World::limited(&[2], quick());
    let turn = world.engine.limits().starve_after;
    world.submit(spec("first", 2, 1, 1));
    let placed = world.now + turn;
    assert_ne!(
        world.engine.poll_timeout(),
        Some(placed),
        "it did not wait, so it may be asked to leave at any time"
    );
    world.submit(spec("second", 2, 1, 1));
    assert_eq!(
        world.engine.poll_timeout(),
        Some(world.now + turn),
        "then it is served before the urgent"
    );
    world.wait(turn);
    world.ask(Ask::Stop {
        run: run_id("first"),
        how: Stop::Now,
    });
    assert_eq!(world.state(&run_id("second")), RunState::Running);
    assert_eq!(
        world.engine.poll_timeout(),
        Some(world.now + turn),
        "then it may be asked to leave"
    );
}

#[test]
fn the_engine_wakes_when_what_it_holds_for_a_broken_gang_is_let_go() {
    let limits = Limits {
        hold_for: Duration::from_secs(7),
        starve_after: Duration::from_secs(3600),
        rejoin_within: Duration::from_secs(1),
        ..quick()
    };
    let (mut world, broken) = World::limited(&[2, 2], limits).with_run(spec("broken", 2, 1, 2));
    world.destroy(&node("n1"));
    world.pass_in_silence(Duration::from_secs(1));
    assert_eq!(world.state(&broken), RunState::Pending);
    assert_eq!(
        world.engine.poll_timeout(),
        Some(world.now + Duration::from_secs(7))
    );
}
