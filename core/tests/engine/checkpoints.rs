//! Checkpoints: sealed, refused, failed, removed.

use crate::world::*;
use rebloom_core::cause::{Cause, Unsound};
use rebloom_core::checkpoint::CheckpointId;
use rebloom_core::engine::{Answer, Ask, CheckpointState, Incident, RunState, Rung};
use rebloom_core::id::{Generation, Rank, RunId, Step};
use rebloom_core::order::Order;
use rebloom_core::report::{RankEvent, Report};
use rebloom_core::time::Duration;

fn seals(world: &World) -> usize {
    world
        .orders
        .iter()
        .filter(|(_, order)| matches!(order, Order::Seal { .. }))
        .count()
}

fn steps(world: &World, run: &RunId) -> Vec<(u64, CheckpointState)> {
    let checkpoints = world.view(run).checkpoints;
    checkpoints
        .into_iter()
        .map(|(id, state)| (id.step.0, state))
        .collect()
}

fn refuse(world: &mut World, run: &RunId, checkpoint: CheckpointId) {
    refuse_as(world, run, 1, checkpoint);
}

fn refuse_as(world: &mut World, run: &RunId, rank: u32, checkpoint: CheckpointId) {
    let unsound = Unsound::Hash {
        file: "rank-00001.safetensors".to_owned(),
    };
    world.rank_event(
        run,
        rank,
        RankEvent::LoadRefused {
            checkpoint,
            unsound,
        },
    );
}

#[test]
fn a_checkpoint_is_sealed_when_every_rank_has_saved_and_only_then_resumed_from() {
    let (mut world, run) = World::running(&[2, 2], spec("bloom", 2, 1, 2));
    world.train(&run, 10);
    let id = CheckpointId {
        step: Step(10),
        generation: Generation(1),
    };
    (0..3).for_each(|rank| world.save_shard(&run, rank, id));
    assert_eq!(seals(&world), 0);
    world.kill(&run, &[0]);
    let (_, start) = world.starts_since(0).pop().unwrap();
    assert_eq!(
        start.gang.resume, None,
        "a part of a checkpoint is none (S6)"
    );
    let before = world
        .engine
        .refusals()
        .get("stale_shard")
        .copied()
        .unwrap_or_default();
    world.save_shard(&run, 3, id);
    assert_eq!(
        world.engine.refusals()["stale_shard"],
        before + 1,
        "its generation is over (S10)"
    );
    assert_eq!(seals(&world), 0);

    world.train(&run, 10);
    world.save(&run, 10);
    assert_eq!(seals(&world), 1);
    assert_eq!(steps(&world, &run), [(10, CheckpointState::Sealed)]);
    assert_eq!(world.storage[0].samples, 80);
}

#[test]
fn old_checkpoints_are_removed_but_never_the_newest() {
    let (mut world, run) = World::running(&[2, 2], spec("bloom", 2, 1, 2));
    for step in [10, 20, 30, 40] {
        world.train(&run, step);
        world.save(&run, step);
    }
    assert_eq!(
        steps(&world, &run),
        [(40, CheckpointState::Sealed), (30, CheckpointState::Sealed)]
    );
    // A journal that loses its last moments knows the older ones only.
    assert_eq!(stored(&world), [10, 20, 30, 40], "not yet");
    world.pass(Duration::from_millis(500));
    assert_eq!(stored(&world), [10, 20, 30, 40], "nor now");
    world.pass(Duration::from_millis(500));
    assert_eq!(stored(&world), [30, 40]);
}

#[test]
fn a_removal_that_the_next_controller_finds_undone_is_done() {
    let (mut world, run) = World::running(&[2, 2], spec("bloom", 2, 1, 2));
    for step in [10, 20, 30] {
        world.train(&run, step);
        world.save(&run, step);
    }
    world.restart(world.journal.clone());
    assert_eq!(stored(&world), [10, 20, 30]);
    world.pass(Duration::from_secs(1));
    assert_eq!(stored(&world), [20, 30]);
    assert_eq!(world.generation(&run), Generation(1), "training goes on");
}

/// Steps of the checkpoints whose files are there.
fn stored(world: &World) -> Vec<u64> {
    let stored = world.storage.iter();
    stored.map(|manifest| manifest.id.step.0).collect()
}

#[test]
fn an_unsound_checkpoint_is_left_for_the_next_older_one_and_climbs_no_rung() {
    let mut spec = spec("bloom", 2, 1, 2);
    (
        spec.recovery.reform,
        spec.recovery.restart,
        spec.recovery.replace,
    ) = (1, 0, 0);
    spec.checkpoint.keep = 3;
    let (mut world, run) = World::running(&[2, 2], spec);
    for step in [10, 20, 30] {
        world.train(&run, step);
        world.save(&run, step);
    }
    let id = |step| CheckpointId {
        step: Step(step),
        generation: Generation(1),
    };
    world.obedient = false;
    world.kill(&run, &[0]);
    world.obedient = true;
    obey_newest(&mut world);
    refuse(&mut world, &run, id(30));
    refuse(&mut world, &run, id(20));
    let view = world.view(&run);
    assert_eq!(view.state, RunState::Running);
    assert_eq!(view.generation, Generation(4));
    let (_, start) = world.starts_since(0).pop().unwrap();
    assert_eq!(start.gang.resume, Some(id(10)));
    assert_eq!(
        steps(&world, &run),
        [
            (30, CheckpointState::Rejected),
            (20, CheckpointState::Rejected),
            (10, CheckpointState::Sealed)
        ]
    );
    let causes: Vec<_> = view
        .incidents
        .iter()
        .flat_map(|i| std::iter::once(&i.cause).chain(&i.evidence))
        .collect();
    let unsound = causes
        .iter()
        .filter(|c| matches!(c, Cause::CheckpointUnsound { .. }));
    assert_eq!(unsound.count(), 2, "{causes:?}");
    assert!(view.incidents.iter().all(|i| i.rung == Some(Rung::Reform)));
}

fn obey_newest(world: &mut World) {
    let starts = world.starts_since(0);
    let newest = starts
        .iter()
        .map(|(_, start)| start.gang.generation)
        .max()
        .unwrap();
    for (name, start) in starts
        .into_iter()
        .filter(|(_, start)| start.gang.generation == newest)
    {
        world.obey(&name, Order::Start(start));
    }
}

#[test]
fn without_any_sound_checkpoint_a_run_is_parked_until_an_admin_has_seen_to_the_storage() {
    let mut spec = spec("bloom", 2, 1, 3);
    spec.checkpoint.keep = 3;
    let (mut world, run) = World::running(&[2, 2, 2], spec);
    let mut saved = Vec::new();
    for step in [10, 20, 30] {
        world.train(&run, step);
        saved.push(world.save(&run, step));
    }
    world.kill(&run, &[0]);
    // The share is not mounted, and each node sees that once.
    for (rank, checkpoint) in [0, 2, 4].into_iter().zip(saved.iter().rev()) {
        assert_eq!(world.state(&run), RunState::Running);
        refuse_as(&mut world, &run, rank, *checkpoint);
    }
    let view = world.view(&run);
    assert_eq!(view.state, RunState::Parked);
    assert_eq!(view.why, Cause::NoSoundCheckpoint { step: Step(30) });
    let incident = view.incidents.last().unwrap();
    assert_eq!(incident.rung, Some(Rung::Park), "with its evidence");
    let refused = |it: &&Incident| matches!(it.cause, Cause::CheckpointUnsound { .. });
    assert_eq!(view.incidents.iter().filter(refused).count(), 3);
    assert_eq!(world.storage.len(), 3, "nothing is removed");

    let mark = world.orders.len();
    let run_ = run.clone();
    let answer = world.ask(Ask::Resume {
        run: run_,
        layout: None,
    });
    assert!(
        matches!(&answer, Answer::Done { message, .. } if message.contains("from step 30")),
        "{answer:?}"
    );
    let resume = world.starts_since(mark).pop().unwrap().1.gang.resume;
    assert_eq!(resume, Some(saved[2]), "each gets another chance");
    assert_eq!(world.state(&run), RunState::Running);
}

#[test]
fn a_node_that_is_lost_again_and_again_parks_a_run_that_seals_nothing_in_between() {
    let mut spec = spec("bloom", 2, 1, 2);
    spec.recovery.unsealed = 3;
    let (mut world, run) = World::running(&[2, 2], spec);
    let flap = |world: &mut World| {
        world.destroy(&node("n1"));
        world.pass(Duration::from_secs(10));
        world.join(&node("n1"));
        world.pass(Duration::from_secs(1));
    };
    for step in 1..=4 {
        assert_eq!(world.state(&run), RunState::Running, "step {step}");
        world.train(&run, step);
        if step == 1 {
            // From here on it counts.
            world.save(&run, step);
        }
        flap(&mut world);
    }
    let view = world.view(&run);
    assert_eq!(view.state, RunState::Parked);
    assert_eq!(view.why, Cause::NoProgress { recoveries: 3 });
}

#[test]
fn a_failed_save_is_an_incident_and_training_goes_on() {
    let (mut world, run) = World::running(&[2, 2], spec("bloom", 2, 1, 2));
    world.train(&run, 10);
    let id = CheckpointId {
        step: Step(10),
        generation: Generation(1),
    };
    world.save_shard(&run, 0, id);
    for rank in [1, 2] {
        let error = "no space left on device".to_owned();
        let node = world.node_of(&run, rank);
        let (run, checkpoint, rank) = (run.clone(), id, Rank(rank));
        world.report(
            &node,
            Report::ShardFailed {
                run,
                checkpoint,
                rank,
                error,
            },
        );
    }
    world.save_shard(&run, 3, id);
    let view = world.view(&run);
    assert_eq!(
        (view.state, view.generation),
        (RunState::Running, Generation(1))
    );
    assert_eq!(view.incidents.len(), 1, "one incident a checkpoint");
    assert_eq!(view.incidents[0].closed, Some(view.incidents[0].opened));
    assert_eq!(view.incidents[0].rung, None);
    assert_eq!(seals(&world), 0);
    world.train(&run, 20);
    let next = world.save(&run, 20);
    assert_eq!(steps(&world, &run), [(20, CheckpointState::Sealed)]);
    world.pass(Duration::from_secs(1));
    let pruned = world.orders.iter().any(
        |(_, order)| matches!(order, Order::Prune { checkpoints, .. } if checkpoints == &[id]),
    );
    assert!(pruned, "its files are removed");
    world.kill(&run, &[0]);
    assert_eq!(
        world.starts_since(0).pop().unwrap().1.gang.resume,
        Some(next)
    );
}

#[test]
fn a_seal_that_was_lost_is_asked_for_again_also_by_the_next_controller() {
    for restart in [false, true] {
        let (mut world, run) = World::running(&[2, 2], spec("bloom", 2, 1, 2));
        world.train(&run, 10);
        world.obedient = false;
        world.save(&run, 10);
        assert_eq!((seals(&world), steps(&world, &run).len()), (1, 0));
        world.obedient = true;
        if restart {
            world.restart(world.journal.clone());
        } else {
            world.cut(&node("n0"));
            world.join(&node("n0"));
        }
        assert!(seals(&world) >= 2);
        assert_eq!(steps(&world, &run), [(10, CheckpointState::Sealed)]);
        assert_eq!(world.generation(&run), Generation(1));
    }
}

#[test]
fn a_whole_checkpoint_is_sealed_even_when_its_generation_has_ended() {
    let (mut world, run) = World::running(&[2, 2], spec("bloom", 2, 1, 2));
    world.train(&run, 10);
    world.obedient = false;
    let id = world.save(&run, 10);
    world.kill(&run, &[0]);
    world.obedient = true;
    let run_ = run.clone();
    world.report(
        &node("n0"),
        Report::Sealed {
            run: run_,
            checkpoint: id,
            error: None,
        },
    );
    assert_eq!(steps(&world, &run), [(10, CheckpointState::Sealed)]);
}

#[test]
fn sealed_checkpoints_that_the_journal_lost_are_learned_from_the_agents() {
    let (mut world, run) = World::running(&[2, 2], spec("bloom", 2, 1, 2));
    let early = world.journal.clone();
    for step in [10, 20] {
        world.train(&run, step);
        world.save(&run, step);
    }
    let mut foreign = world.storage[0].clone();
    foreign.layout.data = 7;
    foreign.id.step = Step(30);
    world.storage.push(foreign);
    world.restart(early);
    assert_eq!(
        steps(&world, &run),
        [(20, CheckpointState::Sealed), (10, CheckpointState::Sealed)]
    );
    assert!(world.engine.refusals()["foreign_manifest"] > 0);
    world.kill(&run, &[0]);
    assert_eq!(
        world
            .starts_since(0)
            .pop()
            .unwrap()
            .1
            .gang
            .resume
            .unwrap()
            .step,
        Step(20)
    );
}
