//! What admins ask for, and what bad input gets.

use crate::world::*;
use rebloom_core::cause::Cause;
use rebloom_core::engine::{Answer, Ask, Refusal, RunState};
use rebloom_core::id::Generation;
use rebloom_core::order::{Order, Stop};
use rebloom_core::report::Finish;

fn flaw(answer: Answer) -> rebloom_core::spec::Flaw {
    let Answer::Refused(Refusal::Flaws(mut flaws)) = answer else {
        panic!("{answer:?}")
    };
    flaws.remove(0)
}

#[test]
fn what_the_fleet_can_never_hold_is_refused_by_name_and_number() {
    let mut world = World::new(&[2, 2]);
    let flaw_ = flaw(world.submit(spec("bloom", 2, 1, 3)));
    assert_eq!(flaw_.field, "layout");
    assert!(
        flaw_.problem.contains("6 ranks") && flaw_.problem.contains("4 slots"),
        "{flaw_}"
    );
    let flaw_ = flaw(world.submit(spec("bloom", 4, 1, 1)));
    assert!(flaw_.problem.contains("together on one node"), "{flaw_}");
    world.ask(Ask::Cordon { node: node("n1") });
    let flaw_ = flaw(world.submit(spec("bloom", 2, 1, 2)));
    assert!(
        flaw_.problem.contains("2 slots"),
        "cordoned nodes do not count: {flaw_}"
    );
    let mut bad = spec("bloom", 2, 1, 1);
    bad.model.heads = 3;
    assert_eq!(flaw(world.submit(bad)).field, "model.heads");
    assert!(
        world.engine.runs(world.now).is_empty(),
        "nothing was started"
    );
}

#[test]
fn a_name_is_given_once() {
    let (mut world, run) = World::running(&[2, 2], spec("bloom", 2, 1, 2));
    let again = world.submit(spec("bloom", 2, 1, 2));
    assert_eq!(
        again,
        Answer::Refused(Refusal::RunExists(run.clone(), RunState::Running))
    );
    world.ask(Ask::Stop {
        run,
        how: Stop::Now,
    });
    let again = world.submit(spec("bloom", 2, 1, 2));
    assert!(
        matches!(&again, Answer::Refused(Refusal::WrongState(_, RunState::Stopped, remedy)) if remedy.contains("resume")),
        "{again:?}"
    );
    let other = world.submit(spec("bloom", 2, 1, 1));
    assert!(matches!(other, Answer::Refused(Refusal::RunExists(..))));
}

#[test]
fn a_dry_run_says_where_and_starts_nothing() {
    let mut world = World::new(&[2, 2]);
    let spec = Box::new(spec("bloom", 2, 1, 2));
    let answer = world.ask(Ask::Submit {
        spec,
        dry_run: true,
    });
    let Answer::WouldPlace { seating, message } = answer else {
        panic!("{answer:?}")
    };
    assert_eq!(seating.len(), 4);
    assert!(message.contains("n0, n1"), "{message}");
    assert!(world.orders.is_empty() && world.engine.runs(world.now).is_empty());
}

#[test]
fn what_makes_no_sense_is_refused_with_a_reason() {
    let (mut world, run) = World::running(&[2, 2], spec("bloom", 2, 1, 2));
    let refused = |answer| matches!(answer, Answer::Refused(_));
    assert!(refused(world.ask(Ask::Resume {
        run: run.clone(),
        layout: None
    })));
    assert!(refused(world.ask(Ask::Stop {
        run: run_id("nope"),
        how: Stop::Now
    })));
    assert!(refused(world.ask(Ask::Cordon { node: node("nope") })));
    assert!(refused(world.ask(Ask::Drain {
        node: node("nope"),
        dry_run: false
    })));
    let no_room = world.ask(Ask::Drain {
        node: node("n0"),
        dry_run: false,
    });
    assert_eq!(no_room, Answer::Refused(Refusal::NoRoom(run.clone())));
    assert!(!world.engine.nodes()[0].cordoned, "and nothing is done");
    world.train(&run, 1000);
    world.save(&run, 1000);
    world.finish(&run, Finish::Completed, 1000);
    assert!(refused(world.ask(Ask::Stop {
        run: run.clone(),
        how: Stop::Now
    })));
    assert!(refused(world.ask(Ask::Resume { run, layout: None })));
}

#[test]
fn a_drained_node_is_left_at_a_step_boundary_and_stays_cordoned() {
    let (mut world, run) = World::running(&[2, 2, 2], spec("bloom", 2, 1, 2));
    let answer = world.ask(Ask::Drain {
        node: node("n1"),
        dry_run: true,
    });
    assert!(matches!(answer, Answer::WouldPlace { .. }));
    assert!(!world.engine.nodes()[1].cordoned);
    let mark = world.orders.len();
    world.ask(Ask::Drain {
        node: node("n1"),
        dry_run: false,
    });
    let is_safe = |order: &Order| {
        matches!(
            order,
            Order::Stop {
                how: Stop::Safely,
                ..
            }
        )
    };
    assert!(world.orders[mark..].iter().all(|(_, order)| is_safe(order)));
    assert_eq!(world.state(&run), RunState::Running);
    world.train(&run, 17);
    let checkpoint = world.save(&run, 17);
    world.finish(&run, Finish::Stopped, 17);
    let view = world.view(&run);
    assert_eq!(
        (view.state, view.generation),
        (RunState::Running, Generation(2))
    );
    assert!(
        view.ranks
            .iter()
            .all(|rank| rank.seating.node != node("n1"))
    );
    assert_eq!(
        view.incidents[0].cause,
        Cause::NodeDrained { node: node("n1") }
    );
    assert_eq!(view.incidents[0].resumed_from, Some(checkpoint));
    assert_eq!(view.incidents[0].lost_steps, 0);
    world.cut(&node("n1"));
    world.pass(millis(4000));
    world.join(&node("n1"));
    assert!(world.engine.nodes()[1].cordoned, "S11");
    world.ask(Ask::Uncordon { node: node("n1") });
    assert!(!world.engine.nodes()[1].cordoned);
}

#[test]
fn a_fault_in_the_middle_of_a_drain_moves_the_run_at_once() {
    let (mut world, run) = World::running(&[2, 2, 2], spec("bloom", 2, 1, 2));
    world.ask(Ask::Drain {
        node: node("n1"),
        dry_run: false,
    });
    world.kill(&run, &[0]);
    let view = world.view(&run);
    assert_eq!(
        (view.state, view.generation),
        (RunState::Running, Generation(2))
    );
    assert!(
        view.ranks
            .iter()
            .all(|rank| rank.seating.node != node("n1"))
    );
    let stops = world
        .orders
        .iter()
        .rev()
        .take_while(|(_, o)| !matches!(o, Order::Start(_)));
    assert!(stops.count() <= 2, "the new generation is not told to stop");
}
