//! Where every nanosecond went.

use crate::world::*;
use rebloom_core::cause::Exit;
use rebloom_core::engine::{Ask, Engine, Fact, Limits, RunState, Spend};
use rebloom_core::id::{Generation, Rank, RunId, Step};
use rebloom_core::order::{Order, Stop};
use rebloom_core::report::{Milestone, RankEvent, Report};
use rebloom_core::time::Duration;

fn reach(world: &mut World, run: &RunId, generation: u64, milestone: Milestone, step: u64) {
    for rank in 0..4 {
        let event = RankEvent::Reached {
            milestone,
            step: Step(step),
            pid: 1,
        };
        let (run, rank, generation) = (run.clone(), Rank(rank), Generation(generation));
        let node = world.node_of(&run, rank.0);
        world.report(
            &node,
            Report::Rank {
                run,
                generation,
                rank,
                event,
            },
        );
    }
}

#[test]
fn a_recovery_is_booked_phase_by_phase_and_nothing_is_lost_or_booked_twice() {
    let mut world = World::new(&[2, 2]);
    world.obedient = false;
    let run = run_id("bloom");
    let began = world.now;
    world.submit(spec("bloom", 2, 1, 2));
    let secs = Duration::from_secs;
    world.now = world.now + secs(3);
    reach(&mut world, &run, 1, Milestone::Loaded, 0);
    world.now = world.now + secs(1);
    reach(&mut world, &run, 1, Milestone::Stepped, 1);
    assert_eq!(world.state(&run), RunState::Running);
    for (name, start) in world.starts_since(0) {
        world.obey(&name, Order::Start(start));
    }
    world.train(&run, 40);
    world.pass(secs(99) + millis(900));
    // Productive for 101 s, of which the last 20 ms were after the death of rank 1.
    let event = RankEvent::Exited {
        exit: Exit::Signal(9),
        noticed_after_nanos: Some(20_000_000),
    };
    world.rank_event(&run, 1, event);
    assert_eq!(world.generation(&run), Generation(2));
    world.now = world.now + millis(300);
    reach(&mut world, &run, 2, Milestone::Formed, 0);
    world.now = world.now + millis(200);
    reach(&mut world, &run, 2, Milestone::Loaded, 0);
    world.now = world.now + secs(1);
    reach(&mut world, &run, 2, Milestone::Stepped, 1);
    assert_eq!(world.state(&run), RunState::Running);
    for (name, start) in world.starts_since(2) {
        world.obey(&name, Order::Start(start));
    }
    world.pass(secs(39));
    world.train(&run, 39);
    assert!(
        world.view(&run).incidents[0].closed.is_none(),
        "one step is missing"
    );
    world.train(&run, 40);
    world.pass(secs(10));
    let view = world.view(&run);
    let spent = |spend| view.ledger.spent.get(&spend).copied().unwrap_or_default();
    assert_eq!(spent(Spend::Starting), secs(3));
    assert_eq!(spent(Spend::Productive), secs(101) - millis(20) + secs(10));
    assert_eq!(spent(Spend::Detect), millis(20));
    assert_eq!(spent(Spend::Decide), millis(0));
    assert_eq!(spent(Spend::Reform), millis(300));
    assert_eq!(spent(Spend::Restore), millis(200));
    assert_eq!(spent(Spend::CatchUp), secs(40) + millis(200));
    let all: Duration = view.ledger.spent.values().sum();
    assert_eq!(
        all,
        world.now.since(began),
        "every nanosecond is in one entry"
    );
    let incident = &view.incidents[0];
    let lost: Duration = incident.spent.spent.values().sum();
    assert_eq!(lost, millis(20 + 300 + 200) + secs(40) + millis(200));
    assert_eq!(incident.lost_steps, 40);
    assert_eq!(view.ledger.lost_steps, 40);
    // Each of the four ranks' devices spent it.
    let devices: Duration = incident.spent.devices.values().sum();
    assert_eq!(devices, lost * 4);
    let tariff = rebloom_core::footprint::Tariff {
        watts: Some(400.0),
        ..view.tariff
    };
    let energy = tariff.of(incident.spent.device_time()).unwrap();
    let expected = lost.as_secs_f64() * 4.0 * 400.0 / 3.6e6;
    assert!((energy.kilowatt_hours - expected).abs() < 1e-9);
    let ettr = view.ledger.ettr().unwrap();
    assert!((ettr - 110.98 / 154.7).abs() < 1e-9, "{ettr}");
}

#[test]
fn waiting_for_room_is_waiting_and_the_clock_stops_at_the_end() {
    let (mut world, first) = World::running(&[2, 2], spec("first", 2, 1, 2));
    let second = run_id("second");
    let began = world.now;
    world.submit(spec("second", 2, 1, 2));
    world.pass(Duration::from_secs(50));
    world.train(&first, 1000);
    world.save(&first, 1000);
    world.finish(&first, rebloom_core::report::Finish::Completed, 1000);
    let ended = world.view(&first).ledger;
    assert_eq!(world.state(&second), RunState::Running);
    let waited = world.now.since(began);
    world.pass(Duration::from_secs(50));
    assert_eq!(world.view(&first).ledger, ended);
    let second = world.view(&second).ledger;
    assert_eq!(second.spent[&Spend::Waiting], waited);
    assert_eq!(second.ettr(), Some(1.0), "the queue is not its fault");
}

#[test]
fn having_nowhere_to_go_on_after_a_fault_is_lost_and_a_stop_by_an_admin_is_not() {
    let (mut world, run) = World::running(&[2, 2], spec("bloom", 2, 1, 2));
    let secs = Duration::from_secs;
    world.train(&run, 10);
    world.save(&run, 10);
    world.pass(secs(100));
    world.destroy(&node("n1"));
    world.pass(secs(400));
    assert_eq!(world.state(&run), RunState::Pending);
    let ledger = world.view(&run).ledger;
    assert!(ledger.spent[&Spend::Stalled] >= secs(380), "{ledger:?}");
    assert!(!ledger.spent.contains_key(&Spend::Waiting), "{ledger:?}");
    assert!(ledger.ran() <= secs(120), "{ledger:?}");
    let ettr = ledger.ettr().unwrap();
    assert!((0.15..0.21).contains(&ettr), "{ettr}");
    world.ask(Ask::Stop {
        run: run.clone(),
        how: Stop::Safely,
    });
    world.pass(secs(1000));
    let later = world.view(&run).ledger;
    assert_eq!(later.ettr(), Some(ettr), "{later:?}");
    assert_eq!(later.spent[&Spend::Waiting], secs(1000));
}

/// Only so many incidents are kept; what they cost is kept of all.
#[test]
fn steps_that_were_lost_are_counted_beyond_the_incidents_that_are_kept() {
    let (mut world, run) = World::running(&[2, 2], spec("bloom", 2, 1, 1));
    world.train(&run, 3);
    world.kill(&run, &[0]);
    world.train(&run, 4);
    let once = world.journal.clone();
    let is_of_one = |fact: &Fact| {
        matches!(
            fact,
            Fact::IncidentOpened { .. } | Fact::Placed { .. } | Fact::IncidentClosed { .. }
        )
    };
    let cycle: Vec<_> = once
        .iter()
        .skip_while(|record| !matches!(record.fact, Fact::IncidentOpened { .. }))
        .filter(|record| is_of_one(&record.fact))
        .collect();
    assert_eq!(cycle.len(), 3, "{cycle:?}");
    let mut journal = once.clone();
    for time in 1..2010 {
        for record in &cycle {
            let mut record = (*record).clone();
            if let Fact::Placed { generation, .. } = &mut record.fact {
                generation.0 += time;
            }
            journal.push(record);
        }
    }
    let engine = Engine::replay(Limits::default(), journal);
    let view = engine.run(&run, world.now).unwrap();
    assert_eq!(view.incidents.len(), 2000);
    let each = world.view(&run).incidents[0].lost_steps;
    assert_eq!(each, 3);
    assert_eq!(view.ledger.lost_steps, 2010 * each);
    assert_eq!(view.lost_steps(), 2010 * each);
}

#[test]
fn a_run_that_was_given_up_loses_time_until_somebody_resumes_it() {
    let mut spec = spec("bloom", 2, 1, 2);
    spec.recovery.restarts = 0;
    let (mut world, run) = World::running(&[2, 2], spec);
    let secs = Duration::from_secs;
    world.pass(secs(100));
    let event = RankEvent::Failed {
        phase: rebloom_core::flight::Phase::Step,
        error: "index out of range".to_owned(),
        blamed: rebloom_core::cause::Blamed::Run,
    };
    world.rank_event(&run, 1, event);
    assert_eq!(world.state(&run), RunState::Failed);
    world.pass(secs(100));
    let ledger = world.view(&run).ledger;
    assert_eq!(ledger.spent[&Spend::Stalled], secs(100));
    assert!(ledger.ettr().unwrap() < 0.51, "{ledger:?}");
}

#[test]
fn steps_that_a_hard_stop_cost_are_caught_up_after_a_resume() {
    let (mut world, run) = World::running(&[2, 2], spec("bloom", 2, 1, 2));
    let secs = Duration::from_secs;
    world.train(&run, 10);
    world.save(&run, 10);
    world.pass(secs(60));
    world.train(&run, 30);
    let spent = |world: &World, spend| {
        let spent = world.view(&run).ledger.spent;
        spent.get(&spend).copied().unwrap_or_default()
    };
    world.ask(Ask::Stop {
        run: run.clone(),
        how: Stop::Now,
    });
    let productive = spent(&world, Spend::Productive);
    world.ask(Ask::Resume {
        run: run.clone(),
        layout: None,
    });
    assert_eq!(world.state(&run), RunState::Running);
    world.train(&run, 29);
    world.pass(secs(40));
    assert_eq!(spent(&world, Spend::Productive), productive);
    assert!(spent(&world, Spend::CatchUp) >= secs(40));
    world.train(&run, 30);
    let caught_up = spent(&world, Spend::CatchUp);
    world.pass(secs(7));
    assert_eq!(spent(&world, Spend::CatchUp), caught_up);
    assert!(spent(&world, Spend::Productive) >= productive + secs(7));
    assert!(world.view(&run).incidents.is_empty(), "nothing broke");
}

#[test]
fn a_lost_node_was_lost_since_it_fell_silent() {
    let (mut world, run) = World::running(&[2, 2, 2], spec("bloom", 2, 1, 2));
    world.beat();
    world.destroy(&node("n1"));
    world.pass(millis(3100));
    let view = world.view(&run);
    assert_eq!(view.ledger.spent[&Spend::Detect], Duration::from_secs(3));
}

#[test]
fn a_cluster_that_was_down_did_not_train() {
    let (mut world, run) = World::running(&[2, 2], spec("bloom", 2, 1, 2));
    world.train(&run, 40);
    world.save(&run, 40);
    world.pass(Duration::from_secs(60));
    let trained = world.view(&run).ledger.spent[&Spend::Productive];
    // The power fails, and everything comes back an hour later without its ranks.
    world.agents.values_mut().for_each(|agent| {
        agent
            .runs
            .values_mut()
            .for_each(|local| local.ranks.clear());
    });
    world.now = world.now + Duration::from_secs(3600);
    world.restart(world.journal.clone());
    world.pass(Duration::from_secs(2));
    let view = world.view(&run);
    assert!(view.generation > Generation(1), "{:?}", view.state);
    let productive = view.ledger.spent[&Spend::Productive];
    assert!(productive <= trained, "{productive:?} of {trained:?}");
    let all: Duration = view.ledger.spent.values().sum();
    assert_eq!(all, world.now.since(view.submitted), "nothing is lost");
}
