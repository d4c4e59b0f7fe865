//! Snapshots: resumed from where they are newer than every checkpoint, sealed, and still there.

use crate::world::*;
use rebloom_core::cause::{Cause, Unsound};
use rebloom_core::checkpoint::CheckpointId;
use rebloom_core::chronicle::Chronicle;
use rebloom_core::engine::{Fact, Incident, Record, RunState};
use rebloom_core::eval::Evaluation;
use rebloom_core::guard::{Samples, Spike};
use rebloom_core::id::{Generation, RunId, Step};
use rebloom_core::order::Start;
use rebloom_core::report::RankEvent;
use rebloom_core::snapshot::Tier;
use rebloom_core::spec::{RunSpec, Snapshots};
use rebloom_core::time::Duration;

/// Two ranks, each on a node of its own; a checkpoint every 10 steps, a snapshot every 2.
fn snapping() -> RunSpec {
    let mut spec = spec("bloom", 1, 1, 2);
    spec.checkpoint.snapshot = Some(Snapshots { every_steps: 2 });
    spec
}

/// Two nodes of one slot, and a spare, with a checkpoint at step 10.
fn saved() -> (World, RunId, CheckpointId) {
    let (mut world, run) = World::running(&[1, 1, 1], snapping());
    world.train(&run, 10);
    let id = world.save(&run, 10);
    assert_eq!(world.view(&run).checkpoints.len(), 1);
    (world, run, id)
}

fn last_start(world: &World) -> Start {
    world.starts_since(0).pop().unwrap().1
}

fn last_incident(world: &World, run: &RunId) -> Incident {
    world.view(run).incidents.pop().unwrap()
}

#[test]
fn a_rank_that_dies_costs_the_steps_since_the_newest_sealed_snapshot() {
    let (mut world, run, saved) = saved();
    world.train(&run, 14);
    let whole = world.snap(&run, 14);
    world.train(&run, 17);
    let part = CheckpointId {
        step: Step(16),
        ..whole
    };
    world.snap_shard(&run, 0, part);
    let view = world.view(&run).snapshot.unwrap();
    assert_eq!((view.newest, view.copies), (Some(whole), 2));
    assert!(view.note.contains("label `rack`"), "{}", view.note);

    world.kill(&run, &[1]);
    let start = last_start(&world);
    assert_eq!(
        start.gang.resume,
        Some(whole),
        "not {saved:?}, and not {part:?} (S6)"
    );
    let [recall] = start.snapshot.as_slice() else {
        panic!("{:?}", start.snapshot);
    };
    assert_eq!((recall.piece.checkpoint, &recall.from), (whole, &None));
    let incident = last_incident(&world, &run);
    assert_eq!(incident.resumed_from, Some(whole));
    assert_eq!((incident.tier, incident.lost_steps), (Tier::Memory, 3));
    world.train(&run, 18);
    let told = Chronicle::of(&world.view(&run), world.now).diary;
    let told = told.iter().flat_map(|entry| &entry.lines);
    let said = "went on from the snapshot in memory at step 14; 3 steps were done again";
    assert!(
        told.clone().any(|line| line.contains(said)),
        "{:?}",
        told.collect::<Vec<_>>()
    );
    assert!(
        !world.journal.iter().any(|Record { fact, .. }| {
            let text = serde_json::to_string(fact).unwrap();
            !matches!(fact, Fact::Placed { .. })
                && text.contains("\"step\":14")
                && text.contains("hash")
        }),
        "snapshots are not journaled"
    );
}

#[test]
fn a_node_that_dies_is_replaced_and_its_replica_is_fetched() {
    let (mut world, run, _) = saved();
    world.train(&run, 14);
    let whole = world.snap(&run, 14);
    let gone = world.node_of(&run, 1);
    let keeper = world.node_of(&run, 0);
    world.destroy(&gone);
    world.pass(Duration::from_secs(10));
    assert_eq!(world.state(&run), RunState::Running);
    let spare = world.node_of(&run, 1);
    assert_ne!(spare, gone);
    let starts = world.starts_since(0);
    let (_, start) = starts.iter().rfind(|(at, _)| *at == spare).unwrap();
    assert_eq!(start.gang.resume, Some(whole));
    let from = start.snapshot[0].from.clone().unwrap();
    assert_eq!(
        (&from.node, from.address),
        (&keeper, world.facts(&keeper).store_address)
    );
    let incident = last_incident(&world, &run);
    assert_eq!(incident.tier, Tier::Replica);
    // From now on the two that are left keep each other's.
    assert_eq!(start.replica.as_ref().map(|peer| &peer.node), Some(&keeper));
}

#[test]
fn without_a_replica_a_lost_node_costs_the_steps_since_the_checkpoint() {
    let (mut world, run, saved) = saved();
    world.train(&run, 14);
    world.snap(&run, 14);
    let (one, other) = (world.node_of(&run, 0), world.node_of(&run, 1));
    // Both nodes lose their memory, one after the other, and with it their ranks.
    for name in [&one, &other] {
        world.agents.get_mut(name).unwrap().runs.clear();
        world.cut(name);
        world.join(name);
    }
    world.pass(Duration::from_secs(1));
    let start = last_start(&world);
    assert_eq!((start.gang.resume, start.snapshot.len()), (Some(saved), 0));
}

#[test]
fn a_controller_that_comes_back_learns_from_the_joins_what_lies_in_memory() {
    for forgets in [false, true] {
        let (mut world, run, saved) = saved();
        world.train(&run, 14);
        let whole = world.snap(&run, 14);
        if forgets {
            for agent in world.agents.values_mut() {
                agent
                    .runs
                    .values_mut()
                    .for_each(|local| local.snapshots.clear());
            }
        }
        let journal = world.journal.clone();
        world.restart(journal);
        world.kill(&run, &[1]);
        let wanted = if forgets { saved } else { whole };
        assert_eq!(last_start(&world).gang.resume, Some(wanted), "{forgets}");
    }
}

#[test]
fn a_controller_that_dies_after_deciding_sends_the_same_order() {
    let (mut world, run, _) = saved();
    world.train(&run, 14);
    let whole = world.snap(&run, 14);
    world.kill(&run, &[1]);
    let start = last_start(&world);
    assert_eq!(start.gang.resume, Some(whole));
    for agent in world.agents.values_mut() {
        // (The agents never got it, and their memories say nothing.)
        for local in agent.runs.values_mut() {
            local.generation = Generation(1);
            local.snapshots.clear();
            for process in local.ranks.values_mut() {
                process.generation = Generation(1);
            }
        }
    }
    let mark = world.orders.len();
    let journal = world.journal.clone();
    world.restart(journal);
    let again = world.starts_since(mark);
    let again = again.iter().map(|(_, start)| start);
    let again: Vec<_> = again
        .filter(|it| it.gang.generation == start.gang.generation)
        .collect();
    assert!(!again.is_empty());
    for again in again {
        assert_eq!(again.gang.resume, Some(whole));
        assert_eq!(again.snapshot[0].piece.checkpoint, whole);
    }
}

#[test]
fn a_snapshot_that_cannot_be_restored_is_not_tried_again_whoever_lists_it() {
    let (mut world, run, saved) = saved();
    world.train(&run, 14);
    let older = world.snap(&run, 12);
    let newer = world.snap(&run, 14);
    let unsound = Unsound::Missing {
        file: "rank-00000.safetensors".to_owned(),
    };
    world.rots = Some((world.node_of(&run, 0), unsound));
    let mark = world.orders.len();
    world.kill(&run, &[1]);
    let starts = world.starts_since(mark).into_iter();
    let mut tried: Vec<_> = starts.map(|(_, start)| start.gang.resume).collect();
    tried.dedup();
    assert_eq!(tried[..3], [newer, older, saved].map(Some));
    let causes = world.view(&run).incidents;
    let steps = causes.iter().filter_map(|it| match it.cause {
        Cause::SnapshotUnsound { step, .. } => Some(step.0),
        _ => None,
    });
    assert_eq!(steps.collect::<Vec<_>>(), [14, 12], "{causes:#?}");

    // A controller that dies before it decides anew remembers it, though the memories still list it.
    let is_refusal = |Record { fact, .. }: &Record| {
        matches!(
            fact,
            Fact::IncidentOpened {
                cause: Cause::SnapshotUnsound { .. },
                ..
            }
        )
    };
    let until = world.journal.iter().position(is_refusal).unwrap();
    let journal = world.journal[..=until].to_vec();
    world.rots = None;
    let mark = world.orders.len();
    world.restart(journal);
    world.pass(Duration::from_secs(1));
    let again = world.starts_since(mark);
    assert!(
        again
            .iter()
            .all(|(_, start)| start.gang.resume == Some(older)),
        "{again:#?}"
    );
    assert!(!again.is_empty());
}

/// Rank 0 finds that it cannot load this.
fn refuse(world: &mut World, run: &RunId, checkpoint: CheckpointId) {
    let unsound = Unsound::Missing {
        file: "rank-00000.safetensors".to_owned(),
    };
    let refused = RankEvent::LoadRefused {
        checkpoint,
        unsound,
    };
    world.rank_event(run, 0, refused);
}

/// The storage is damaged, and all that is left is older and in memory.
#[test]
fn a_run_whose_only_checkpoint_is_unsound_goes_on_from_memory_and_else_is_parked() {
    for has_memory in [true, false] {
        let (mut world, run) = World::running(&[1, 1, 1], snapping());
        world.train(&run, 8);
        let older = has_memory.then(|| world.snap(&run, 8));
        world.train(&run, 10);
        let checkpoint = world.save(&run, 10);
        world.train(&run, 11);
        world.kill(&run, &[1]);
        assert_eq!(last_start(&world).gang.resume, Some(checkpoint));
        refuse(&mut world, &run, checkpoint);
        let view = world.view(&run);
        if has_memory {
            assert_eq!(last_start(&world).gang.resume, older, "{view:#?}");
            assert_eq!(view.state, RunState::Running);
            assert_eq!(last_incident(&world, &run).tier, Tier::Memory);
        } else {
            assert_eq!(view.state, RunState::Parked);
            assert_eq!(view.why, Cause::NoSoundCheckpoint { step: Step(10) });
        }
    }
}

/// A snapshot is known, but who has it is gone: the run is parked, and does not begin anew.
#[test]
fn a_run_without_a_sound_state_that_can_be_reached_does_not_begin_anew() {
    let (mut world, run) = World::running(&[1, 1, 1], snapping());
    world.train(&run, 8);
    let part = world.snap(&run, 8);
    world.train(&run, 10);
    let checkpoint = world.save(&run, 10);
    world.train(&run, 11);
    world.kill(&run, &[1]);
    assert_eq!(last_start(&world).gang.resume, Some(checkpoint));
    // What lies in memory is refused too, on the way.
    for checkpoint in [checkpoint, part] {
        refuse(&mut world, &run, checkpoint);
    }
    let view = world.view(&run);
    assert_eq!(view.state, RunState::Parked, "{view:#?}");
    assert_eq!(view.why, Cause::NoSoundCheckpoint { step: Step(10) });
}

#[test]
fn what_a_spike_tainted_is_not_resumed_from() {
    let (mut world, run, saved) = saved();
    world.train(&run, 16);
    let before = world.snap(&run, 12);
    world.snap(&run, 14);
    let spike = Spike {
        step: Step(15),
        samples: Samples {
            from: 13 * 8,
            until: 15 * 8,
        },
        reading: "loss 9".to_owned(),
        consumed: 13 * 8,
    };
    let event = RankEvent::Spiked {
        spike: spike.clone(),
        goes_on: false,
    };
    world.rank_event(&run, 0, event);
    assert_eq!(last_start(&world).gang.resume, Some(before));
    // And where all of memory is tainted, the checkpoint.
    let event = RankEvent::Spiked {
        spike: Spike {
            consumed: 11 * 8,
            ..spike
        },
        goes_on: false,
    };
    world.rank_event(&run, 0, event);
    assert_eq!(last_start(&world).gang.resume, Some(saved));
}

#[test]
fn a_snapshot_is_not_resumed_from_before_the_evaluations_on_the_way_to_it_are_known() {
    for is_known in [false, true] {
        let mut spec = snapping();
        let eval = serde_json::json!({
            "every_steps": 3, "samples": 1, "sets": [{ "name": "fr", "prefix": "/data/fr" }],
        });
        spec.eval = Some(serde_json::from_value(eval).unwrap());
        let (mut world, run) = World::running(&[1, 1], spec);
        world.train(&run, 5);
        let whole = world.snap(&run, 4);
        if is_known {
            let evaluation = Evaluation {
                step: Step(3),
                samples: 24,
                scores: Vec::new(),
            };
            world.rank_event(&run, 0, RankEvent::Evaluated(evaluation));
        }
        world.kill(&run, &[1]);
        assert_eq!(last_start(&world).gang.resume, is_known.then_some(whole));
    }
}

#[test]
fn memory_is_left_alone_after_two_recoveries_without_progress() {
    let (mut world, run, saved) = saved();
    world.train(&run, 14);
    let whole = world.snap(&run, 14);
    world.train(&run, 15);
    for wanted in [whole, whole, saved] {
        world.kill(&run, &[1]);
        assert_eq!(last_start(&world).gang.resume, Some(wanted));
    }
}

#[test]
fn what_nobody_asked_for_or_is_late_is_dropped() {
    let (mut world, run) = World::running(&[1, 1, 1], spec("bloom", 1, 1, 2));
    world.train(&run, 14);
    world.snap(&run, 14);
    assert_eq!(world.view(&run).snapshot, None);
    assert_eq!(world.engine.refusals()["stale_snapshot"], 2);
    assert_eq!(last_start(&world).replica, None);

    let (mut world, run, _) = saved();
    world.train(&run, 14);
    let old = world.snap(&run, 14);
    world.kill(&run, &[1]);
    let counted = |world: &World| world.engine.refusals().get("stale_snapshot").copied();
    assert_eq!(counted(&world), None);
    let late = CheckpointId {
        step: Step(16),
        ..old
    };
    world.snap_shard(&run, 0, late);
    assert_eq!(counted(&world), Some(2));
    assert_eq!(world.view(&run).snapshot.unwrap().newest, Some(old));
}
