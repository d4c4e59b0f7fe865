//! A run from its submission to its end, and back again.

use crate::world::*;
use rebloom_core::cause::{Cause, Exit};
use rebloom_core::engine::{Ask, RunState, Rung};
use rebloom_core::id::{Generation, Rank};
use rebloom_core::order::{Order, Stop};
use rebloom_core::report::{Finish, Milestone, RankEvent, Report};

#[test]
fn a_run_is_placed_whole_and_runs_when_every_rank_has_stepped() {
    let mut world = World::new(&[2, 2]);
    world.obedient = false;
    let run = run_id("bloom");
    world.submit(spec("bloom", 2, 1, 2));
    assert_eq!(world.state(&run), RunState::Starting);
    let starts = world.starts_since(0);
    assert_eq!(starts.len(), 2);
    for (name, start) in &starts {
        assert_eq!(start.gang.generation, Generation(1));
        assert_eq!(start.seats.len(), 2);
        assert_eq!(start.gang.store_node, node("n0"));
        assert_eq!(start.gang.store_address, "n0:1");
        assert_eq!(start.gang.resume, None);
        assert_eq!(start.gang.cause, Cause::Submitted);
        world.obey(name, Order::Start(start.clone()));
    }
    world.obedient = true;
    world.beat();
    assert_eq!(world.state(&run), RunState::Running);
    let ranks = world.view(&run).ranks;
    assert!(
        ranks
            .iter()
            .all(|rank| rank.milestone == Some(Milestone::Stepped))
    );
}

#[test]
fn one_dead_rank_re_forms_the_gang_in_place() {
    let (mut world, run) = World::running(&[2, 2, 2], spec("bloom", 2, 1, 2));
    let before = world.view(&run).ranks;
    world.train(&run, 14);
    let checkpoint = world.save(&run, 10);
    let mark = world.orders.len();
    world.kill(&run, &[3]);
    let view = world.view(&run);
    assert_eq!(
        (view.state, view.generation),
        (RunState::Running, Generation(2))
    );
    let starts = world.starts_since(mark);
    assert_eq!(starts.len(), 2);
    assert!(starts.iter().all(|(_, start)| !start.gang.fresh_processes));
    assert!(
        starts
            .iter()
            .all(|(_, start)| start.gang.resume == Some(checkpoint))
    );
    for (was, is) in before.iter().zip(&view.ranks) {
        assert_eq!(was.seating, is.seating);
        assert_eq!(
            was.pid == is.pid,
            is.seating.rank != Rank(3),
            "only rank 3 is a new process"
        );
    }
    let incident = view.incidents.last().unwrap();
    assert!(matches!(
        incident.cause,
        Cause::RankExited { rank: Rank(3), .. }
    ));
    assert_eq!(incident.rung, Some(Rung::Reform));
    assert_eq!(incident.recovered_by, Some(Generation(2)));
    assert_eq!(incident.resumed_from, Some(checkpoint));
    assert_eq!(incident.lost_steps, 4);
    assert_eq!(incident.closed, None, "step 14 is not reached again yet");
    world.train(&run, 14);
    assert!(world.view(&run).incidents.last().unwrap().closed.is_some());
}

#[test]
fn ranks_that_die_together_are_one_incident_and_one_generation() {
    let (mut world, run) = World::running(&[2, 2], spec("bloom", 2, 1, 2));
    world.kill(&run, &[0, 2, 3]);
    let view = world.view(&run);
    assert_eq!(
        (view.state, view.generation),
        (RunState::Running, Generation(2))
    );
    assert_eq!(view.incidents.len(), 1);
    assert_eq!(
        view.incidents[0].evidence.len(),
        2,
        "{:?}",
        view.incidents[0].evidence
    );
}

#[test]
fn a_fault_during_a_recovery_starts_one_more_generation() {
    let (mut world, run) = World::running(&[2, 2], spec("bloom", 2, 1, 2));
    world.obedient = false;
    world.kill(&run, &[0]);
    assert_eq!(world.generation(&run), Generation(2));
    let starts = world.starts_since(0);
    for (name, start) in starts
        .into_iter()
        .filter(|(_, start)| start.gang.generation.0 == 2)
    {
        world.obey(&name, Order::Start(start));
    }
    world.obedient = true;
    world.kill(&run, &[1]);
    let view = world.view(&run);
    assert_eq!(
        (view.state, view.generation),
        (RunState::Running, Generation(3))
    );
    assert_eq!(view.incidents.len(), 1, "still the same incident");
    assert!(matches!(
        view.incidents[0].evidence[..],
        [Cause::RankExited { rank: Rank(1), .. }]
    ));
}

#[test]
fn what_is_said_twice_or_late_changes_nothing() {
    let (mut world, run) = World::running(&[2, 2], spec("bloom", 2, 1, 2));
    let late = Report::Rank {
        run: run.clone(),
        generation: Generation(1),
        rank: Rank(0),
        event: RankEvent::Exited {
            exit: Exit::Signal(9),
            noticed_after_nanos: None,
        },
    };
    world.process(&run, 0).alive = false;
    world.report(&node("n0"), late.clone());
    assert_eq!(world.generation(&run), Generation(2));
    let (journal, orders) = (world.journal.len(), world.orders.len());
    world.report(&node("n0"), late);
    assert_eq!((world.journal.len(), world.orders.len()), (journal, orders));
    assert_eq!(world.engine.refusals()["stale_event"], 1);
    assert_eq!(world.state(&run), RunState::Running);
}

#[test]
fn an_agent_speaks_only_for_its_own_ranks() {
    let (mut world, run) = World::running(&[2, 2], spec("bloom", 2, 1, 2));
    let exited = RankEvent::Exited {
        exit: Exit::Signal(9),
        noticed_after_nanos: None,
    };
    world.report(
        &node("n1"),
        Report::Rank {
            run: run.clone(),
            generation: Generation(1),
            rank: Rank(0),
            event: exited,
        },
    );
    assert_eq!(world.generation(&run), Generation(1));
    assert_eq!(world.engine.refusals()["not_its_rank"], 1);
}

#[test]
fn lost_peers_alone_wait_for_the_root_cause_and_re_form_without_one() {
    let (mut world, run) = World::running(&[2, 2], spec("bloom", 2, 1, 2));
    let lost = || RankEvent::PeerLost {
        phase: rebloom_core::flight::Phase::Step,
        error: "connection closed by peer".to_owned(),
    };
    world.rank_event(&run, 0, lost());
    assert_eq!(
        world.generation(&run),
        Generation(1),
        "a symptom is no cause"
    );
    world.kill(&run, &[3]);
    let view = world.view(&run);
    assert_eq!(view.generation, Generation(2));
    assert!(matches!(
        view.incidents[0].cause,
        Cause::RankExited { rank: Rank(3), .. }
    ));

    world.train(&run, 20);
    world.rank_event(&run, 0, lost());
    world.pass(millis(1400));
    let view = world.view(&run);
    assert_eq!(
        (view.state, view.generation),
        (RunState::Running, Generation(3))
    );
    assert!(matches!(
        view.incidents.last().unwrap().cause,
        Cause::GangHung { .. }
    ));
    assert_eq!(view.incidents.last().unwrap().rung, Some(Rung::Reform));
}

#[test]
fn a_run_completes_when_its_last_checkpoint_is_sealed() {
    let (mut world, run) = World::running(&[2, 2], spec("bloom", 2, 1, 2));
    world.train(&run, 1000);
    let id = rebloom_core::checkpoint::CheckpointId {
        step: rebloom_core::id::Step(1000),
        generation: Generation(1),
    };
    (0..3).for_each(|rank| world.save_shard(&run, rank, id));
    world.finish(&run, Finish::Completed, 1000);
    assert_eq!(world.state(&run), RunState::Running, "a shard is missing");
    world.save_shard(&run, 3, id);
    let view = world.view(&run);
    assert_eq!(
        (view.state, view.why),
        (RunState::Completed, Cause::Completed)
    );
    assert_eq!(view.final_states, (0..4).map(digest).collect::<Vec<_>>());
    assert_eq!(
        view.generation,
        Generation(1),
        "leaving after the end is no fault"
    );
    assert!(view.incidents.is_empty());
    let free = world.submit(spec("next", 2, 1, 2));
    assert!(matches!(free, rebloom_core::engine::Answer::Done { .. }));
    assert_eq!(
        world.state(&run_id("next")),
        RunState::Running,
        "its slots are free again"
    );
}

#[test]
fn what_is_not_saved_is_not_done() {
    let (mut world, run) = World::running(&[2, 2], spec("bloom", 2, 1, 2));
    world.train(&run, 990);
    let before = world.save(&run, 990);
    world.train(&run, 1000);
    world.disk_full = true;
    world.save(&run, 1000);
    let view = world.view(&run);
    let cause = &view.incidents.last().unwrap().cause;
    assert!(
        matches!(cause, Cause::SaveFailed { rank: None, .. }),
        "{cause:?}"
    );
    assert_eq!(
        (view.state, view.generation),
        (RunState::Running, Generation(2))
    );
    assert_eq!(
        world.starts_since(0).pop().unwrap().1.gang.resume,
        Some(before)
    );
    world.disk_full = false;
    world.train(&run, 1000);
    world.save(&run, 1000);
    world.finish(&run, Finish::Completed, 1000);
    assert_eq!(world.state(&run), RunState::Completed);
}

#[test]
fn a_run_stops_safely_and_goes_on_from_its_checkpoint() {
    let (mut world, run) = World::running(&[2, 2], spec("bloom", 2, 1, 2));
    world.ask(Ask::Stop {
        run: run.clone(),
        how: Stop::Safely,
    });
    assert_eq!(world.state(&run), RunState::Stopping);
    let told = |world: &World, how| {
        let is_it = |order: &Order| matches!(order, Order::Stop { how: h, .. } if *h == how);
        world
            .orders
            .iter()
            .filter(|(_, order)| is_it(order))
            .count()
    };
    assert_eq!(told(&world, Stop::Safely), 2);
    world.train(&run, 7);
    let checkpoint = world.save(&run, 7);
    world.finish(&run, Finish::Stopped, 7);
    assert_eq!(world.state(&run), RunState::Stopped);
    assert_eq!(told(&world, Stop::Now), 0);
    world.ask(Ask::Resume {
        run: run.clone(),
        layout: None,
    });
    let view = world.view(&run);
    assert_eq!(
        (view.state, view.generation),
        (RunState::Running, Generation(2))
    );
    let (_, start) = world.starts_since(0).pop().unwrap();
    assert_eq!(start.gang.resume, Some(checkpoint));
    assert_eq!(start.gang.cause, Cause::ResumeRequested);
}

#[test]
fn a_fault_while_stopping_stops_at_once() {
    let (mut world, run) = World::running(&[2, 2], spec("bloom", 2, 1, 2));
    world.ask(Ask::Stop {
        run: run.clone(),
        how: Stop::Safely,
    });
    world.kill(&run, &[1]);
    assert_eq!(world.state(&run), RunState::Stopped);
    assert_eq!(world.generation(&run), Generation(1));
    assert!(matches!(
        world.view(&run).incidents[0].cause,
        Cause::RankExited { .. }
    ));
}

#[test]
fn ranks_that_do_not_come_to_a_stop_are_stopped() {
    let (mut world, run) = World::running(&[2, 2], spec("bloom", 2, 1, 2));
    world.ask(Ask::Stop {
        run: run.clone(),
        how: Stop::Safely,
    });
    world.pass(std::time::Duration::from_secs(60 + 120 + 30));
    assert_eq!(world.state(&run), RunState::Stopping);
    world.pass(std::time::Duration::from_secs(6));
    assert_eq!(world.state(&run), RunState::Stopped);
}

#[test]
fn a_run_that_is_stopped_now_leaves_nothing_behind() {
    let (mut world, run) = World::running(&[2, 2], spec("bloom", 2, 1, 2));
    world.ask(Ask::Stop {
        run: run.clone(),
        how: Stop::Now,
    });
    assert_eq!(world.state(&run), RunState::Stopped);
    assert!(
        world
            .engine
            .nodes()
            .iter()
            .all(|node| node.ranks.is_empty())
    );
    world.ask(Ask::Resume {
        run: run.clone(),
        layout: None,
    });
    assert_eq!(world.state(&run), RunState::Running);
}

#[test]
fn a_pending_run_can_be_stopped() {
    let (mut world, _) = World::running(&[2, 2], spec("bloom", 2, 1, 2));
    let waits = run_id("waits");
    world.submit(spec("waits", 2, 1, 1));
    assert_eq!(world.state(&waits), RunState::Pending);
    assert!(
        world.view(&waits).waits_for.contains("2 slots"),
        "{}",
        world.view(&waits).waits_for
    );
    world.ask(Ask::Stop {
        run: waits.clone(),
        how: Stop::Safely,
    });
    assert_eq!(world.state(&waits), RunState::Stopped);
}
