//! The controller dies between any two writes of its journal: for every kind of recovery, after every
//! record, and with exactly those orders out that were sent before it. What comes up goes on.

use crate::world::*;
use rebloom_core::engine::{Ask, RunState};
use rebloom_core::flight::{Channel, Phase};
use rebloom_core::id::{Generation, Rank, RunId};
use rebloom_core::order::Stop;
use rebloom_core::report::RankEvent;
use rebloom_core::time::Duration;
use std::collections::BTreeMap;

/// Plays a story once for each record that it makes the engine write; each time the engine dies right
/// after that record, and another one comes up from the journal.
fn dies_everywhere(story: impl Fn(&mut World, &RunId)) {
    let prepare = || World::running(&[2, 2, 2], spec("bloom", 2, 1, 2));
    let (mut whole, run) = prepare();
    let begin = whole.journal.len();
    story(&mut whole, &run);
    let end = whole.journal.len();
    assert!(end >= begin + 3, "a story of {} records", end - begin);
    for at in begin..=end {
        let (mut world, run) = prepare();
        world.dies_at(at);
        story(&mut world, &run);
        assert!(world.journal.len() <= at, "it outlived record {at}");
        world.restart(world.journal.clone());
        world.pass(Duration::from_secs(10));
        if world.state(&run) == RunState::Stopped {
            // Whoever asked was not answered, and asks again.
            world.ask(Ask::Resume {
                run: run.clone(),
                layout: None,
            });
            world.pass(Duration::from_secs(10));
        }
        runs_whole(&world, &run, at);
    }
}

/// Every rank lives once, in the generation in force.
fn runs_whole(world: &World, run: &RunId, at: usize) {
    let view = world.view(run);
    assert_eq!(
        view.state,
        RunState::Running,
        "died at {at}: {:?}",
        view.why
    );
    let locals = world
        .agents
        .values()
        .filter_map(|agent| agent.runs.get(run));
    let mut lives: BTreeMap<Rank, Vec<Generation>> = BTreeMap::new();
    for (rank, process) in locals.flat_map(|local| &local.ranks) {
        if process.alive {
            lives.entry(*rank).or_default().push(process.generation);
        }
    }
    let expected = (0..4).map(|rank| (Rank(rank), vec![view.generation]));
    assert_eq!(lives, expected.collect(), "died at {at}");
}

#[test]
fn the_loss_of_a_rank() {
    dies_everywhere(|world, run| world.kill(run, &[3]));
}

#[test]
fn the_loss_of_two_ranks_at_once() {
    dies_everywhere(|world, run| {
        world.train(run, 10);
        world.save(run, 10);
        world.kill(run, &[0, 2]);
    });
}

fn lose_n1(world: &mut World) {
    world.destroy(&node("n1"));
    world.pass_in_silence(millis(3100));
    world.beat();
}

#[test]
fn the_loss_of_a_node() {
    dies_everywhere(|world, _| lose_n1(world));
}

#[test]
fn a_second_fault_during_the_recovery_from_a_first() {
    dies_everywhere(|world, run| {
        // The orders of the first recovery get lost on their way.
        let obeys = std::mem::replace(&mut world.obedient, false);
        world.kill(run, &[0]);
        world.obedient = obeys;
        lose_n1(world);
    });
}

#[test]
fn a_hang() {
    dies_everywhere(|world, run| {
        world.pass(Duration::from_secs(2));
        world.for_each_process(run, |rank, process| {
            let entered = if rank == Rank(3) { 3 } else { 4 };
            count(&mut process.page, Channel::World, entered, 3);
        });
        world.rank_event(run, 0, RankEvent::Overdue { phase: Phase::Step });
        world.wait(millis(1));
        world.beat();
    });
}

#[test]
fn a_save_that_fails() {
    dies_everywhere(|world, run| {
        world.train(run, 10);
        world.disk_full = true;
        world.save(run, 10);
        world.disk_full = false;
        world.train(run, 20);
        world.save(run, 20);
    });
}

#[test]
fn a_last_save_that_fails() {
    dies_everywhere(|world, run| {
        world.train(run, 1000);
        world.disk_full = true;
        world.save(run, 1000);
        world.disk_full = false;
    });
}

#[test]
fn a_stop_and_a_resume() {
    dies_everywhere(|world, run| {
        for ask in [
            Ask::Stop {
                run: run.clone(),
                how: Stop::Now,
            },
            Ask::Resume {
                run: run.clone(),
                layout: None,
            },
        ] {
            world.ask_in_vain(ask);
        }
    });
}

#[test]
fn a_drain() {
    dies_everywhere(|world, run| {
        let node = world.node_of(run, 3);
        world.ask_in_vain(Ask::Drain {
            node,
            dry_run: false,
        });
        world.pass(Duration::from_secs(400));
    });
}
