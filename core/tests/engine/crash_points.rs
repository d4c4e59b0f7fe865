//! The controller dies between any two writes of its journal: for every kind of recovery, after every
//! record, and with exactly those orders out that were sent before it. What comes up goes on.

use crate::world::*;
use rebloom_core::cause::Cause;
use rebloom_core::engine::{Ask, Fact, RunState};
use rebloom_core::flight::{Channel, Phase};
use rebloom_core::guard::{GuardAction, Samples, Spike};
use rebloom_core::id::{Generation, Rank, RunId, Step};
use rebloom_core::ladder::gate::Nccl;
use rebloom_core::order::Stop;
use rebloom_core::report::{Finish, RankEvent};
use rebloom_core::spec::Elastic;
use rebloom_core::time::Duration;
use std::collections::BTreeMap;

/// Plays a story of a run on two of three nodes once for each record that it makes the engine write.
fn dies_everywhere(story: impl Fn(&mut World, &RunId)) {
    let prepare = || World::running(&[2, 2, 2], spec("bloom", 2, 1, 2));
    dies_everywhere_in(prepare, story, |_, _| {});
}

/// Plays a story once for each record that it makes the engine write; each time the engine dies right
/// after that record, and another one comes up from the journal. Then comes what others do who were not heard.
fn dies_everywhere_in(
    prepare: impl Fn() -> (World, RunId),
    story: impl Fn(&mut World, &RunId),
    again: impl Fn(&mut World, &RunId),
) {
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
        again(&mut world, &run);
        if world.state(&run) == RunState::Stopped {
            // Whoever asked was not answered, and asks again.
            world.ask(Ask::Resume {
                run: run.clone(),
                layout: None,
            });
            world.pass(Duration::from_secs(10));
        }
        runs_whole(&world, &run, at);
        keeps_account(&mut world, &run, at);
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
    let ranks = view.spec.layout.ranks();
    let expected = ranks.map(|rank| (rank, vec![view.generation]));
    assert_eq!(lives, expected.collect(), "died at {at}");
}

/// Every generation began with the newest checkpoint that was sealed by then, everything that broke is in an
/// incident, which is closed once the run has caught up, and every nanosecond is in one entry of the ledger.
fn keeps_account(world: &mut World, run: &RunId, at: usize) {
    let mut sealed = BTreeMap::new();
    let (mut broke, mut furthest) = (Vec::new(), world.view(run).step.0.max(50));
    for record in &world.journal {
        match &record.fact {
            Fact::CheckpointSealed {
                run: of,
                checkpoint,
                samples,
            } if of == run => {
                sealed.insert(*checkpoint, *samples);
            }
            Fact::SamplesSkipped {
                run: of, consumed, ..
            } if of == run => {
                sealed.retain(|_, samples| *samples <= *consumed);
            }
            Fact::Placed {
                run: of, resume, ..
            } if of == run => {
                let newest = sealed.last_key_value().map(|(id, _)| *id);
                assert_eq!(*resume, newest, "died at {at}");
            }
            Fact::IncidentOpened {
                run: of,
                cause,
                step,
                ..
            } if of == run => {
                broke.push(cause.clone());
                furthest = furthest.max(step.0);
            }
            _ => {}
        }
    }
    let end = world.view(run).spec.train.steps;
    world.train(run, (furthest + 5).min(end));
    world.pass(Duration::from_secs(1));
    let view = world.view(run);
    let told = |cause: &Cause| {
        let mut incidents = view.incidents.iter();
        incidents.any(|it| it.cause == *cause || it.evidence.contains(cause))
    };
    let untold: Vec<_> = broke.iter().filter(|cause| !told(cause)).collect();
    assert!(untold.is_empty(), "died at {at}: {untold:?}");
    let mut incidents = view.incidents.iter();
    let open = incidents.find(|incident| incident.closed.is_none());
    assert!(open.is_none(), "died at {at}: {open:?}");
    let spent: Duration = view.ledger.spent.values().sum();
    assert_eq!(spent, world.now.since(view.submitted), "died at {at}");
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

/// Rank 3 does not arrive where the others wait for it.
fn hang(world: &mut World, run: &RunId) {
    world.pass(Duration::from_secs(2));
    world.for_each_process(run, |rank, process| {
        let entered = if rank == Rank(3) { 3 } else { 4 };
        count(&mut process.page, Channel::World, entered, 3);
    });
    let overdue = RankEvent::Overdue {
        phase: Phase::Step,
        step: None,
    };
    world.rank_event(run, 0, overdue);
    world.wait(millis(1));
    world.beat();
}

#[test]
fn a_hang() {
    dies_everywhere(hang);
}

#[test]
fn a_hang_after_which_launches_block() {
    let prepare = || {
        let mut spec = spec("bloom", 2, 1, 2);
        spec.recovery.hangs = 0;
        let (mut world, run) = World::running(&[2, 2, 2], spec);
        crate::rungs::equip(&mut world, Some(Nccl(2, 10, 3)));
        (world, run)
    };
    dies_everywhere_in(prepare, hang, |_, _| {});
}

#[test]
fn a_withdrawal_of_a_node() {
    let prepare = || World::running(&[2, 2, 2], spec("bloom", 2, 1, 2));
    let falls_ill = |world: &mut World, _: &RunId| {
        crate::health::say(world, "n1", &crate::health::xid(79));
    };
    let story = |world: &mut World, run: &RunId| {
        world.train(run, 10);
        world.save(run, 10);
        falls_ill(world, run);
    };
    // An agent says again what was not acknowledged.
    let again = |world: &mut World, run: &RunId| {
        falls_ill(world, run);
        world.pass(Duration::from_secs(1));
        assert_ne!(world.node_of(run, 3), node("n1"));
    };
    dies_everywhere_in(prepare, story, again);
}

#[test]
fn a_shrink() {
    let prepare = || {
        let mut spec = spec("bloom", 2, 1, 4);
        let (min_data, wait) = (2, 30.0);
        spec.elastic = Some(Elastic { min_data, wait });
        World::running(&[2, 2, 2, 2], spec)
    };
    let story = |world: &mut World, run: &RunId| {
        world.train(run, 10);
        world.save(run, 10);
        world.destroy(&node("n3"));
        world.pass(Duration::from_secs(45));
    };
    let again = |world: &mut World, run: &RunId| {
        // Every agent has joined the new engine; that node is still gone.
        world.destroy(&node("n3"));
        world.pass(Duration::from_secs(45));
        assert_eq!(world.view(run).spec.layout.data, 2);
    };
    dies_everywhere_in(prepare, story, again);
}

#[test]
fn a_roll_back() {
    let spiked = |world: &mut World, run: &RunId| {
        let (from, until) = (240, 248);
        let spike = Spike {
            step: Step(31),
            consumed: from,
            samples: Samples { from, until },
            reading: "a loss of 9".to_owned(),
        };
        let goes_on = false;
        world.event_of(run, 0, Generation(1), RankEvent::Spiked { spike, goes_on });
    };
    let prepare = || {
        let mut spec = spec("bloom", 2, 1, 2);
        spec.guard.action = GuardAction::RollBack;
        World::running(&[2, 2, 2], spec)
    };
    let story = |world: &mut World, run: &RunId| {
        world.train(run, 20);
        world.save(run, 20);
        world.train(run, 30);
        spiked(world, run);
    };
    let again = |world: &mut World, run: &RunId| {
        spiked(world, run);
        world.pass(Duration::from_secs(10));
        let (_, start) = world.starts_since(0).pop().unwrap();
        assert_eq!(start.gang.spec.guard.skip.len(), 1);
    };
    dies_everywhere_in(prepare, story, again);
}

#[test]
fn a_run_that_is_parked_and_resumed() {
    let prepare = || {
        let mut spec = spec("bloom", 2, 1, 2);
        spec.recovery.unsealed = 1;
        World::running(&[2, 2, 2], spec)
    };
    let story = |world: &mut World, run: &RunId| {
        world.kill(run, &[3]);
        world.kill(run, &[2]);
    };
    let again = |world: &mut World, run: &RunId| {
        for _ in 0..3 {
            if world.state(run) == RunState::Running {
                world.kill(run, &[0]);
                world.pass(Duration::from_secs(10));
            }
        }
        assert_eq!(world.state(run), RunState::Parked);
        world.ask(Ask::Resume {
            run: run.clone(),
            layout: None,
        });
        world.pass(Duration::from_secs(10));
    };
    dies_everywhere_in(prepare, story, again);
}

#[test]
fn a_run_that_makes_way_for_another() {
    let prepare = || World::running(&[2, 2], spec("bloom", 2, 1, 2));
    let submit = || {
        let mut spec = spec("urgent", 2, 1, 1);
        spec.priority = 5;
        Ask::Submit {
            spec: Box::new(spec),
            dry_run: false,
        }
    };
    let steps_down = |world: &mut World, run: &RunId| {
        world.save(run, 7);
        world.finish(run, Finish::Stopped, 7);
    };
    let story = |world: &mut World, run: &RunId| {
        world.ask_in_vain(submit());
        steps_down(world, run);
    };
    let again = |world: &mut World, run: &RunId| {
        let urgent = run_id("urgent");
        world.ask_in_vain(submit());
        world.pass(Duration::from_secs(1));
        if world.state(&urgent) == RunState::Pending {
            steps_down(world, run);
            world.pass(Duration::from_secs(10));
        }
        assert_eq!(world.state(&urgent), RunState::Running);
        world.ask(Ask::Stop {
            run: urgent,
            how: Stop::Now,
        });
        world.pass(Duration::from_secs(10));
    };
    dies_everywhere_in(prepare, story, again);
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
