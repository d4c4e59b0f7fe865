//! The upper rungs: over-eviction, launches that block, shrinking and growing back, a bad mount.

use crate::world::*;
use rebloom_core::cause::{Blamed, Cause, Exit, Unsound};
use rebloom_core::engine::{Ask, CheckpointState, Engine, Fact, Record, RunState, Rung};
use rebloom_core::flight::{Channel, Phase};
use rebloom_core::id::{Generation, Rank, RunId};
use rebloom_core::ladder::evict::Group;
use rebloom_core::ladder::gate::Nccl;
use rebloom_core::order::Stop;
use rebloom_core::report::RankEvent;
use rebloom_core::spec::Elastic;
use rebloom_core::time::Duration;

fn last_rung(world: &World, run: &RunId) -> Option<Rung> {
    world.view(run).incidents.last().unwrap().rung
}

/// Ranks 2 and 3 are both busy with nobody knows what; the others wait for them.
fn hang_a_group(world: &mut World, run: &RunId) {
    world.for_each_process(run, |rank, process| {
        if rank.0 < 2 {
            count(&mut process.page, Channel::Data, 2, 1);
        } else {
            count(&mut process.page, Channel::Data, 1, 1);
        }
    });
    world.rank_event(
        run,
        0,
        RankEvent::Overdue {
            phase: Phase::Step,
            step: None,
        },
    );
    world.pass(millis(1500));
}

pub(super) fn equip(world: &mut World, nccl: Option<Nccl>) {
    let names: Vec<_> = world.agents.keys().cloned().collect();
    for name in names {
        let agent = world.agents.get_mut(&name).unwrap();
        (agent.gpus, agent.nccl) = (2, nccl);
        world.cut(&name);
        world.join(&name);
    }
}

#[test]
fn where_blame_is_not_sharp_the_group_that_the_suspects_share_leaves() {
    let (mut world, run) = World::running(&[2, 2, 2], spec("bloom", 2, 1, 2));
    let home = world.node_of(&run, 2);
    hang_a_group(&mut world, &run);
    let cause = Cause::GangHung {
        phase: Phase::Step,
        suspects: vec![Rank(2), Rank(3)],
        group: Some(Group::Tensor),
    };
    assert_eq!(world.view(&run).incidents[0].cause, cause);
    assert_eq!(last_rung(&world, &run), Some(Rung::Restart));
    assert_eq!(world.node_of(&run, 2), home);
    hang_a_group(&mut world, &run);
    assert_eq!(last_rung(&world, &run), Some(Rung::Replace));
    assert_ne!(world.node_of(&run, 2), home, "both suspects have left");
    assert!(world.starts_since(0).pop().unwrap().1.gang.fresh_processes);
}

#[test]
fn hangs_that_come_back_turn_asynchronous_launches_off_until_a_clean_spell() {
    let mut spec = spec("bloom", 2, 1, 2);
    (spec.recovery.hangs, spec.recovery.clean_spell) = (1, 600);
    let (mut world, run) = World::running(&[2, 2, 2], spec);
    equip(&mut world, Some(Nccl(2, 10, 3)));
    let mut done = 0;
    let mut train = |world: &mut World| {
        done += 10;
        world.train(&run, done);
        world.save(&run, done);
    };
    train(&mut world);
    hang_a_group(&mut world, &run);
    assert_eq!(last_rung(&world, &run), Some(Rung::Restart));
    train(&mut world);
    hang_a_group(&mut world, &run);
    assert_eq!(
        last_rung(&world, &run),
        Some(Rung::Replace),
        "it was the same group"
    );
    train(&mut world);
    let mark = world.orders.len();
    hang_a_group(&mut world, &run);
    assert_eq!(last_rung(&world, &run), Some(Rung::AsyncOff));
    let blocks = |(_, start): &(_, rebloom_core::order::Start)| {
        start.gang.async_off && start.gang.fresh_processes
    };
    assert!(world.starts_since(mark).iter().all(blocks));
    train(&mut world);
    let mark = world.orders.len();
    world.kill(&run, &[0]);
    assert!(
        world
            .starts_since(mark)
            .iter()
            .all(|(_, start)| start.gang.async_off)
    );
    train(&mut world);
    hang_a_group(&mut world, &run);
    assert_eq!(
        last_rung(&world, &run),
        Some(Rung::Replace),
        "they are off already"
    );
    train(&mut world);
    let before = world.generation(&run);
    world.pass(Duration::from_secs(590));
    assert_eq!(world.generation(&run), before);
    world.pass(Duration::from_secs(15));
    world.finish_turn(&run, done);
    let view = world.view(&run);
    assert!(matches!(view.why, Cause::CleanSpell { .. }), "{}", view.why);
    let start = world.starts_since(mark).pop().unwrap().1;
    assert!(!start.gang.async_off && start.gang.fresh_processes);
    assert_eq!(start.gang.resume.unwrap().step.0, done);
}

#[test]
fn the_gate_keeps_launches_asynchronous_where_blocking_ones_would_hang() {
    for nccl in [None, Some(Nccl(2, 14, 3))] {
        let mut spec = spec("bloom", 2, 1, 2);
        spec.recovery.hangs = 0;
        let (mut world, run) = World::running(&[2, 2], spec);
        equip(&mut world, nccl);
        hang_a_group(&mut world, &run);
        assert_eq!(last_rung(&world, &run), Some(Rung::Restart), "{nccl:?}");
        let evidence = &world.view(&run).incidents[0].evidence;
        let [Cause::LaunchesStayAsync { why }] = evidence.as_slice() else {
            panic!("{evidence:?}")
        };
        let expected = if nccl.is_some() {
            "2.14.3"
        } else {
            "not known"
        };
        assert!(why.contains(expected), "{why}");
    }
}

#[test]
fn a_node_that_is_blamed_for_two_hangs_of_one_spell_is_left_and_after_a_clean_one_is_not() {
    for (calm, expected) in [(60, Rung::Replace), (700, Rung::Reform)] {
        let mut spec = spec("bloom", 2, 1, 2);
        spec.recovery.clean_spell = 600;
        let (mut world, run) = World::running(&[2, 2, 2], spec);
        let home = world.node_of(&run, 3);
        for (at, expected) in [(1, Rung::Reform), (2, expected)] {
            world.train(&run, 10 * at);
            world.save(&run, 10 * at);
            world.pass(Duration::from_secs(calm));
            world.for_each_process(&run, |rank, process| {
                let entered = if rank == Rank(3) { 8 } else { 9 };
                count(&mut process.page, Channel::World, entered, 8);
            });
            world.rank_event(
                &run,
                0,
                RankEvent::Overdue {
                    phase: Phase::Step,
                    step: None,
                },
            );
            world.pass(millis(1500));
            assert_eq!(last_rung(&world, &run), Some(expected), "{calm} s, {at}");
        }
        assert_eq!(world.node_of(&run, 3) != home, expected == Rung::Replace);
    }
}

fn elastic() -> rebloom_core::spec::RunSpec {
    let mut spec = spec("bloom", 2, 1, 4);
    spec.elastic = Some(Elastic {
        min_data: 2,
        wait: 30.0,
    });
    spec
}

#[test]
fn a_run_without_room_shrinks_after_a_while_and_grows_back() {
    let (mut world, run) = World::running(&[2, 2, 2, 2], elastic());
    world.train(&run, 10);
    let id = world.save(&run, 10);
    world.destroy(&node("n3"));
    world.pass(Duration::from_secs(10));
    assert_eq!(
        world.state(&run),
        RunState::Pending,
        "it waits for room first"
    );
    world.pass(Duration::from_secs(31));
    let view = world.view(&run);
    assert_eq!(view.state, RunState::Running);
    // 3 copies do not divide the batch of 32.
    assert_eq!((view.spec.layout.data, view.ranks.len()), (2, 4));
    assert_eq!(last_rung(&world, &run), Some(Rung::Shrink));
    let start = world.starts_since(0).pop().unwrap().1;
    assert_eq!(
        (start.gang.spec.layout.data, start.gang.resume),
        (2, Some(id))
    );
    world.train(&run, 20);
    let small = world.save(&run, 20);
    world.join(&node("n3"));
    world.pass(Duration::from_secs(10));
    let asked = |world: &World| {
        let mut journal = world.journal.iter();
        journal.any(|record| matches!(record.fact, Fact::TurnAsked { .. }))
    };
    assert!(!asked(&world), "it has only just begun");
    world.pass(Duration::from_secs(21));
    assert!(asked(&world));
    world.finish_turn(&run, 20);
    let view = world.view(&run);
    assert_eq!(view.spec.layout.data, 4);
    assert_eq!(view.why, Cause::RoomToGrow { data: 4 });
    assert!(small <= world.starts_since(0).pop().unwrap().1.gang.resume.unwrap());
    world.restart(world.journal.clone());
    assert_eq!(world.view(&run).spec.layout.data, 4);
}

#[test]
fn a_run_that_may_not_shrink_waits() {
    let (mut world, run) = World::running(&[2, 2], spec("bloom", 2, 1, 2));
    world.destroy(&node("n1"));
    world.pass(Duration::from_secs(1000));
    assert_eq!(world.state(&run), RunState::Pending);
}

#[test]
fn the_last_rung_is_written_into_the_incident() {
    let mut spec = spec("bloom", 2, 1, 2);
    let recovery = &mut spec.recovery;
    (recovery.reform, recovery.restart, recovery.replace) = (1, 0, 0);
    let (mut world, run) = World::running(&[2, 2], spec);
    world.kill(&run, &[0]);
    world.kill(&run, &[0]);
    assert_eq!(world.state(&run), RunState::Parked);
    assert_eq!(last_rung(&world, &run), Some(Rung::Park));
}

#[test]
fn a_run_that_never_seals_anything_is_parked_however_many_steps_it_does() {
    let mut spec = spec("bloom", 2, 1, 2);
    spec.recovery.unsealed = 5;
    let (mut world, run) = World::running(&[2, 2], spec);
    for step in 1..=6 {
        assert_eq!(world.state(&run), RunState::Running, "step {step}");
        world.train(&run, step);
        world.kill(&run, &[0]);
    }
    assert_eq!(world.state(&run), RunState::Parked);
}

#[test]
fn lost_nodes_spend_no_budget() {
    let mut spec = spec("bloom", 2, 1, 2);
    spec.recovery.replace = 1;
    let (mut world, run) = World::running(&[2, 2, 2, 2, 2], spec);
    for _ in 0..3 {
        let node = world.node_of(&run, 2);
        world.destroy(&node);
        world.pass(Duration::from_secs(4));
        assert_eq!(world.state(&run), RunState::Running);
    }
}

#[test]
fn what_ends_because_it_was_told_to_is_no_incident() {
    let (mut world, run) = World::running(&[2, 2], spec("bloom", 2, 1, 2));
    world.ask(Ask::Stop {
        run: run.clone(),
        how: Stop::Now,
    });
    let view = world.view(&run);
    assert_eq!((view.state, view.incidents.len()), (RunState::Stopped, 0));
    assert!(world.engine.refusals()["ended_by_order"] > 0);
}

#[test]
fn a_node_that_refuses_two_checkpoints_in_a_row_is_at_fault_itself() {
    let (mut world, run) = World::running(&[2, 2, 2], spec("bloom", 2, 1, 2));
    for step in [10, 20] {
        world.train(&run, step);
        world.save(&run, step);
    }
    let home = world.node_of(&run, 2);
    world.rots = Some((
        home.clone(),
        Unsound::Missing {
            file: "rank-00002".to_owned(),
        },
    ));
    world.kill(&run, &[0]);
    let view = world.view(&run);
    assert_eq!(view.state, RunState::Running);
    assert_ne!(world.node_of(&run, 2), home);
    let sealed = |(_, state): &(_, CheckpointState)| *state == CheckpointState::Sealed;
    assert!(
        view.checkpoints.iter().all(sealed),
        "what it alone refused is sound"
    );
    let resume = world.starts_since(0).pop().unwrap().1.gang.resume.unwrap();
    assert_eq!(resume.step.0, 20);
    assert_eq!(view.generation, Generation(4));
    let labels: Vec<_> = view.incidents.iter().map(|i| i.cause.label()).collect();
    assert!(labels.contains(&"StorageMisread") && labels.contains(&"CheckpointUnsound"));
}

#[test]
fn what_else_is_seen_of_a_generation_that_broke_is_evidence_once() {
    let (mut world, run) = World::running(&[2, 2, 2], spec("bloom", 2, 1, 2));
    world.train(&run, 10);
    world.kill(&run, &[0]);
    let failed = |error: &str| RankEvent::Failed {
        phase: Phase::Step,
        error: error.to_owned(),
        blamed: Blamed::Infrastructure,
    };
    let evidence = |world: &World| -> Vec<_> {
        let incidents = world.view(&run).incidents;
        incidents.iter().map(|i| i.evidence.len()).collect()
    };
    world.event_of(&run, 1, Generation(1), failed("a cable"));
    assert_eq!(evidence(&world), [1]);
    let exited = RankEvent::Exited {
        exit: Exit::Signal(9),
        noticed_after_nanos: None,
    };
    world.event_of(&run, 0, Generation(1), exited);
    assert_eq!(evidence(&world), [1], "that is what it was opened for");
    world.train(&run, 20);
    world.kill(&run, &[0]);
    assert_eq!(evidence(&world), [1, 0]);
    world.event_of(&run, 1, Generation(1), failed("another cable"));
    assert_eq!(evidence(&world), [1, 0], "that incident is over");
}

#[test]
fn in_doubt_a_generation_gets_a_number_that_nobody_can_have_heard_of() {
    let (mut world, run) = World::running(&[2, 2, 2], spec("bloom", 2, 1, 2));
    let journal = world.journal.clone();
    world.go_down(journal);
    let engine = Engine::replay(world.engine.limits().clone(), world.journal.clone());
    world.engine = engine.in_doubt();
    world.engine.handle_timeout(world.now);
    // What the third node was told last nobody knows.
    world.join(&node("n0"));
    world.join(&node("n1"));
    world.submit(spec("new", 1, 1, 1));
    world.ask(Ask::Stop {
        run: run.clone(),
        how: Stop::Now,
    });
    assert_eq!(world.state(&run_id("new")), RunState::Pending);
    world.pass(Duration::from_secs(600));
    assert_eq!(world.state(&run_id("new")), RunState::Running);
    world.ask(Ask::Stop {
        run: run_id("new"),
        how: Stop::Now,
    });
    world.ask(Ask::Resume {
        run: run.clone(),
        layout: None,
    });
    assert_eq!(world.generation(&run), Generation(1 + 16));
    world.join(&node("n2"));
    world.kill(&run, &[0]);
    assert_eq!(world.generation(&run), Generation(1 + 16 + 1));
}

#[test]
fn what_a_life_in_doubt_leaves_out_those_after_it_leave_out_too() {
    let (mut world, run) = World::running(&[2, 2], spec("bloom", 2, 1, 1));
    let how = Stop::Now;
    world.ask(Ask::Stop {
        run: run.clone(),
        how,
    });
    let journal = world.journal.clone();
    world.go_down(journal);
    let engine = Engine::replay(world.engine.limits().clone(), world.journal.clone());
    world.engine = engine.in_doubt();
    world.engine.handle_timeout(world.now);
    assert!(world.engine.is_in_doubt());
    world.join(&node("n0"));
    assert!(world.engine.is_in_doubt());
    world.join(&node("n1"));
    assert!(!world.engine.is_in_doubt(), "it places nothing");
    for _ in 0..2 {
        world.restart(world.journal.clone());
    }
    world.ask(Ask::Resume {
        run: run.clone(),
        layout: None,
    });
    assert_eq!(world.generation(&run), Generation(1 + 16));
    world.submit(spec("new", 1, 1, 1));
    assert_eq!(world.generation(&run_id("new")), Generation(16));
}

#[test]
fn in_doubt_nothing_starts_since_a_newer_generation_may_run_elsewhere() {
    let (mut world, run) = World::running(&[2, 2], spec("bloom", 2, 1, 1));
    let placed = |record: &Record| matches!(record.fact, Fact::Placed { .. });
    let placed = world.journal.iter().position(placed).unwrap();
    let journal = world.journal[..=placed].to_vec();
    let (home, other) = (node("n0"), node("n1"));
    assert_eq!(world.node_of(&run, 0), home);
    world.go_down(journal);
    world.agents.get_mut(&home).unwrap().runs.clear();
    let engine = Engine::replay(world.engine.limits().clone(), world.journal.clone());
    world.engine = engine.in_doubt();
    world.engine.handle_timeout(world.now);
    let mark = world.orders.len();
    world.join(&home);
    assert_eq!(world.starts_since(mark), [], "the other node may run it");
    world.join(&other);
    assert_eq!(world.starts_since(mark).len(), 1, "it does not");
    assert_eq!(world.generation(&run), Generation(1));
}
