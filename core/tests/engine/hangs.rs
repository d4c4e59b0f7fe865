//! Hangs: a deadline passes, the pages are read, one rank is named or none.

use crate::world::*;
use rebloom_core::cause::{Cause, Exit};
use rebloom_core::engine::{Ask, RunState, Rung, Spend};
use rebloom_core::flight::{Channel, Phase};
use rebloom_core::id::{Generation, Rank, RunId, Step};
use rebloom_core::order::{Order, Stop};
use rebloom_core::report::{RankEvent, Report};
use rebloom_core::time::Duration;

/// Rank 3 does not arrive in its tensor group; its partner waits there, the others in the data group.
fn hang_rank_3(world: &mut World, run: &RunId) {
    world.for_each_process(run, |rank, process| {
        let page = &mut process.page;
        match rank.0 {
            3 => count(page, Channel::Tensor, 8, 8),
            2 => count(page, Channel::Tensor, 9, 8),
            _ => {
                count(page, Channel::Tensor, 9, 9);
                count(page, Channel::Data, 2, 1);
            }
        }
        if rank.0 >= 2 {
            count(page, Channel::Data, 1, 1);
        }
    });
}

fn gang_hung(phase: Phase, suspects: &[u32]) -> Cause {
    Cause::GangHung {
        phase,
        suspects: suspects.iter().copied().map(Rank).collect(),
        group: None,
    }
}

fn kills(world: &World) -> Vec<(Rank, Generation)> {
    let kills = world.orders.iter().filter_map(|(_, order)| match order {
        Order::Kill {
            rank, generation, ..
        } => Some((*rank, *generation)),
        _ => None,
    });
    kills.collect()
}

#[test]
fn a_hung_rank_is_named_killed_and_replaced_in_place() {
    let (mut world, run) = World::running(&[2, 2], spec("bloom", 2, 1, 2));
    world.train(&run, 30);
    let survivor = world.view(&run).ranks[2].pid;
    hang_rank_3(&mut world, &run);
    world.pass(Duration::from_secs(60));
    world.rank_event(
        &run,
        2,
        RankEvent::Overdue {
            phase: Phase::Step,
            step: None,
        },
    );
    assert_eq!(
        world.generation(&run),
        Generation(1),
        "every node shows its pages first"
    );
    world.now = world.now + millis(1);
    world.beat();
    let view = world.view(&run);
    assert_eq!(
        (view.state, view.generation),
        (RunState::Running, Generation(2))
    );
    let incident = view.incidents.last().unwrap();
    assert_eq!(
        incident.cause,
        Cause::RankHung {
            rank: Rank(3),
            node: node("n1"),
            phase: Phase::Step,
            channel: Some(Channel::Tensor)
        }
    );
    assert_eq!(incident.rung, Some(Rung::Reform));
    assert_eq!(kills(&world), [(Rank(3), Generation(1))]);
    assert_eq!(view.ranks[2].pid, survivor);
    let killed = world
        .orders
        .iter()
        .position(|(_, o)| matches!(o, Order::Kill { .. }))
        .unwrap();
    let (killed_on, next) = (&world.orders[killed].0, &world.orders[killed + 1]);
    assert!(
        matches!(next, (n, Order::Start(s)) if n == killed_on && s.gang.generation.0 == 2),
        "the kill comes before the start"
    );
}

#[test]
fn without_a_single_odd_one_out_all_ranks_are_restarted() {
    let (mut world, run) = World::running(&[2, 2], spec("bloom", 2, 1, 2));
    world.pass(Duration::from_secs(2));
    world.for_each_process(&run, |_, process| {
        count(&mut process.page, Channel::World, 4, 3)
    });
    world.rank_event(
        &run,
        0,
        RankEvent::Overdue {
            phase: Phase::Step,
            step: None,
        },
    );
    world.now = world.now + millis(1);
    world.beat();
    let view = world.view(&run);
    assert_eq!(view.generation, Generation(2));
    assert_eq!(
        view.incidents[0].cause,
        gang_hung(Phase::Step, &[0, 1, 2, 3])
    );
    assert_eq!(view.incidents[0].rung, Some(Rung::Restart));
    assert!(world.starts_since(0).pop().unwrap().1.gang.fresh_processes);
}

/// While its node could not be reached a rank went on and then hung: what it showed before is no later than that.
#[test]
fn what_a_rank_showed_before_it_was_overdue_does_not_say_that_it_moved_on() {
    for beats in [false, true] {
        let (mut world, run) = World::running(&[2], spec("bloom", 2, 1, 1));
        world.train(&run, 30);
        world.now = world.now + millis(1);
        let (phase, step) = (Phase::Step, Some(Step(31)));
        world.rank_event(&run, 0, RankEvent::Overdue { phase, step });
        if beats {
            // (Now it shows that it is at another step, so that is over.)
            world.now = world.now + millis(1);
            world.beat();
        } else {
            world.pass_in_silence(Duration::from_secs(3));
        }
        let next = if beats { 1 } else { 2 };
        assert_eq!(world.generation(&run), Generation(next));
    }
}

/// An agent says again what its controller may not have heard before it died: by then it may be long over.
#[test]
fn a_rank_that_has_done_its_step_since_it_was_overdue_did_not_hang() {
    for (at, hangs) in [(29, false), (30, true)] {
        let (mut world, run) = World::running(&[2, 2], spec("bloom", 2, 1, 2));
        world.train(&run, 30);
        hang_rank_3(&mut world, &run);
        let overdue = RankEvent::Overdue {
            phase: Phase::Step,
            step: Some(Step(at)),
        };
        world.rank_event(&run, 2, overdue);
        world.pass(millis(1500));
        let view = world.view(&run);
        assert_eq!(view.generation == Generation(2), hangs, "overdue in {at}");
        assert_eq!(view.incidents.len(), usize::from(hangs));
        world.restart(world.journal.clone());
        assert_eq!(world.view(&run).incidents.len(), usize::from(hangs));
    }
}

#[test]
fn a_rank_that_is_stopped_inside_an_operation_is_known_by_its_pulse() {
    let (mut world, run) = World::running(&[2, 2], spec("bloom", 2, 1, 2));
    for pulse in 1..10 {
        world.for_each_process(&run, |rank, process| {
            count(&mut process.page, Channel::World, 4, 3);
            process.page.pulse = if rank == Rank(1) { pulse.min(4) } else { pulse };
        });
        world.pass(millis(500));
    }
    world.rank_event(
        &run,
        0,
        RankEvent::Overdue {
            phase: Phase::Step,
            step: None,
        },
    );
    world.pass(millis(10));
    let view = world.view(&run);
    assert_eq!(view.generation, Generation(2));
    let cause = &view.incidents[0].cause;
    assert!(
        matches!(
            cause,
            Cause::RankHung {
                rank: Rank(1),
                channel: Some(Channel::World),
                ..
            }
        ),
        "{cause:?}"
    );
}

#[test]
fn a_node_that_is_silent_during_a_hang_is_judged_as_lost() {
    let (mut world, run) = World::running(&[2, 2, 2], spec("bloom", 2, 1, 2));
    world.beat();
    world.cut(&node("n1"));
    world.rank_event(
        &run,
        0,
        RankEvent::Overdue {
            phase: Phase::Step,
            step: None,
        },
    );
    world.pass(millis(3500));
    let view = world.view(&run);
    assert_eq!(view.generation, Generation(2));
    assert!(matches!(view.incidents[0].cause, Cause::NodeLost { .. }));
}

#[test]
fn a_rank_that_moved_on_in_the_meantime_is_left_alone() {
    let (mut world, run) = World::running(&[2, 2], spec("bloom", 2, 1, 2));
    world.rank_event(
        &run,
        0,
        RankEvent::Overdue {
            phase: Phase::Save,
            step: None,
        },
    );
    world.pass(Duration::from_secs(2));
    assert_eq!(
        (world.state(&run), world.generation(&run)),
        (RunState::Running, Generation(1))
    );
    hang_rank_3(&mut world, &run);
    world.rank_event(
        &run,
        0,
        RankEvent::Overdue {
            phase: Phase::Step,
            step: None,
        },
    );
    world.pass(Duration::from_secs(2));
    assert_eq!(
        world.generation(&run),
        Generation(2),
        "and is watched as before"
    );
}

#[test]
fn an_overdue_rank_is_judged_by_the_next_controller() {
    let (mut world, run) = World::running(&[2, 2], spec("bloom", 2, 1, 2));
    hang_rank_3(&mut world, &run);
    world.rank_event(
        &run,
        0,
        RankEvent::Overdue {
            phase: Phase::Step,
            step: None,
        },
    );
    world.restart(world.journal.clone());
    world.now = world.now + millis(1);
    world.beat();
    assert_eq!(
        world.generation(&run),
        Generation(1),
        "it cannot know yet whose pulse stands still"
    );
    world.pass(Duration::from_secs(2));
    let view = world.view(&run);
    assert_eq!(view.generation, Generation(2));
    assert!(matches!(
        view.incidents[0].cause,
        Cause::RankHung { rank: Rank(3), .. }
    ));
}

#[test]
fn a_start_that_leads_nowhere_is_a_hang_even_if_no_agent_says_so() {
    let mut world = World::new(&[2, 2]);
    world.obedient = false;
    let run = run_id("bloom");
    world.submit(spec("bloom", 2, 1, 2));
    world.pass(Duration::from_secs(69));
    assert_eq!(world.generation(&run), Generation(1));
    world.pass(Duration::from_secs(2));
    assert_eq!(world.generation(&run), Generation(2));
    assert_eq!(world.view(&run).why, gang_hung(Phase::Init, &[]));
}

#[test]
fn a_hang_on_the_way_to_a_stop_is_an_incident_and_ends_it_at_once() {
    let (mut world, run) = World::running(&[2, 2], spec("bloom", 2, 1, 2));
    world.train(&run, 30);
    world.ask(Ask::Stop {
        run: run.clone(),
        how: Stop::Safely,
    });
    hang_rank_3(&mut world, &run);
    world.pass(Duration::from_secs(15));
    world.rank_event(
        &run,
        2,
        RankEvent::Overdue {
            phase: Phase::Step,
            step: None,
        },
    );
    world.now = world.now + millis(1);
    world.beat();
    let view = world.view(&run);
    assert_eq!(view.state, RunState::Stopped);
    let [incident] = view.incidents.as_slice() else {
        panic!("{:?}", view.incidents)
    };
    assert!(matches!(
        incident.cause,
        Cause::RankHung { rank: Rank(3), .. }
    ));
    assert!(incident.closed.is_some());
    let hung = view.ledger.spent[&Spend::Detect];
    assert!(
        hung >= Duration::from_secs(14),
        "it did not train: {hung:?}"
    );
}

#[test]
fn what_a_recovery_kills_itself_is_no_evidence() {
    let (mut world, run) = World::running(&[2, 2], spec("bloom", 2, 1, 2));
    world.train(&run, 30);
    hang_rank_3(&mut world, &run);
    world.rank_event(
        &run,
        2,
        RankEvent::Overdue {
            phase: Phase::Step,
            step: None,
        },
    );
    world.pass(Duration::from_secs(2));
    assert_eq!(world.generation(&run), Generation(2));
    let exited = |world: &mut World, rank: u32| {
        let event = RankEvent::Exited {
            exit: Exit::Signal(9),
            noticed_after_nanos: None,
        };
        let (run, rank, generation) = (run.clone(), Rank(rank), Generation(1));
        world.report(
            &node("n1"),
            Report::Rank {
                run,
                generation,
                rank,
                event,
            },
        );
        let incidents = world.view(&run_id("bloom")).incidents;
        incidents.last().unwrap().evidence.len()
    };
    assert_eq!(exited(&mut world, 3), 0, "it was killed because it hung");
    assert_eq!(exited(&mut world, 2), 1, "nobody wanted that one to die");
}
