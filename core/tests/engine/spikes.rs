//! Losses that run away: the run goes back before the samples in question, and never trains on them again.

use crate::world::*;
use rebloom_core::cause::Cause;
use rebloom_core::engine::{Ask, CheckpointState, RunState, Rung};
use rebloom_core::guard::{GuardAction, Samples, Spike};
use rebloom_core::id::{Generation, Rank, RunId, Step};
use rebloom_core::replicas::Differs;
use rebloom_core::report::RankEvent;
use rebloom_core::spec::RunSpec;

/// The samples of step 31, of eight samples a step.
const BAD: Samples = Samples {
    from: 240,
    until: 248,
};

fn spiked(goes_on: bool) -> RankEvent {
    RankEvent::Spiked {
        spike: Spike {
            step: Step(31),
            consumed: 240,
            samples: BAD,
            reading: "a loss of 9".to_owned(),
        },
        goes_on,
    }
}

fn guarded() -> RunSpec {
    let mut spec = spec("bloom", 2, 1, 1);
    spec.guard.action = GuardAction::RollBack;
    spec
}

#[test]
fn a_spike_goes_back_before_its_samples_and_every_later_generation_skips_them() {
    let (mut world, run) = World::running(&[2, 2], guarded());
    world.train(&run, 20);
    let good = world.save(&run, 20);
    world.train(&run, 30);
    let mark = world.orders.len();
    world.rank_event(&run, 0, spiked(false));
    world.event_of(&run, 1, Generation(1), spiked(false));
    assert_eq!(world.state(&run), RunState::Running);
    let starts = world.starts_since(mark);
    assert!(!starts.is_empty());
    for (_, start) in &starts {
        assert_eq!(start.gang.generation, Generation(2));
        assert_eq!(start.gang.resume, Some(good));
        assert_eq!(start.gang.spec.guard.skip, [BAD]);
    }
    let view = world.view(&run);
    assert!(
        view.spec.guard.skip.is_empty(),
        "the user's spec stays as it is"
    );
    assert_eq!(view.incidents.len(), 1, "all ranks report the same one");
    assert!(matches!(
        &view.incidents[0].cause,
        Cause::LossSpiked {
            samples: BAD,
            rolls_back: true,
            ..
        }
    ));

    let mark = world.orders.len();
    world.train(&run, 25);
    world.kill(&run, &[1]);
    let starts = world.starts_since(mark);
    assert!(!starts.is_empty());
    assert!(
        starts
            .iter()
            .all(|(_, start)| start.gang.spec.guard.skip == [BAD])
    );
}

#[test]
fn checkpoints_that_were_trained_on_the_samples_are_not_resumed_from() {
    let mut spec = guarded();
    spec.checkpoint.keep = 10;
    let (mut world, run) = World::running(&[2, 2], spec);
    for step in [10, 30, 40] {
        world.train(&run, step);
        world.save(&run, step);
    }
    // The samples in question may lie well before the step that shows it.
    world.rank_event(&run, 0, spiked(false));
    let view = world.view(&run);
    let resumed = view.incidents[0].resumed_from.unwrap();
    assert_eq!(resumed.step, Step(30), "240 samples: right before them");
    let state_of = |step| {
        let found = view
            .checkpoints
            .iter()
            .find(|(id, _)| id.step == Step(step));
        found.map(|(_, state)| *state)
    };
    assert_eq!(state_of(30), Some(CheckpointState::Sealed));
    assert_ne!(state_of(40), Some(CheckpointState::Sealed));
    world.train(&run, 41);
    let later = world.save(&run, 41);
    world.kill(&run, &[0]);
    let resumed = world.view(&run).incidents.last().unwrap().resumed_from;
    assert_eq!(
        resumed,
        Some(later),
        "a later generation's checkpoint is sound"
    );
}

#[test]
fn a_run_whose_only_checkpoint_was_trained_on_the_samples_begins_anew() {
    let (mut world, run) = World::running(&[2, 2], guarded());
    world.train(&run, 40);
    world.save(&run, 40);
    world.rank_event(&run, 0, spiked(false));
    let view = world.view(&run);
    assert_eq!(view.state, RunState::Running, "{}", view.why);
    assert_eq!(view.incidents[0].resumed_from, None);
}

#[test]
fn a_run_that_spikes_again_and_again_spends_its_own_budget() {
    let mut spec = guarded();
    spec.recovery.restarts = 2;
    let (mut world, run) = World::running(&[2, 2], spec);
    for _ in 0..2 {
        world.rank_event(&run, 0, spiked(false));
        assert_eq!(world.state(&run), RunState::Running);
    }
    world.rank_event(&run, 0, spiked(false));
    assert_eq!(world.state(&run), RunState::Failed);
}

#[test]
fn a_warning_is_recorded_once_and_the_run_goes_on() {
    let (mut world, run) = World::running(&[2, 2], spec("bloom", 2, 1, 1));
    for rank in [0, 1, 0] {
        world.rank_event(&run, rank, spiked(true));
    }
    let view = world.view(&run);
    assert_eq!(view.state, RunState::Running);
    assert_eq!(view.generation, Generation(1));
    assert_eq!(view.incidents.len(), 1);
    assert!(view.incidents[0].closed.is_some());
}

#[test]
fn a_replayed_journal_skips_the_same_samples() {
    let (mut world, run) = World::running(&[2, 2], guarded());
    world.train(&run, 30);
    world.rank_event(&run, 0, spiked(false));
    let journal = world.journal.clone();
    world.restart(journal);
    world.pass(millis(5_000));
    let mark = world.orders.len();
    world.kill(&run, &[0]);
    world.pass(millis(5_000));
    let starts = world.starts_since(mark);
    assert!(!starts.is_empty());
    assert!(
        starts
            .iter()
            .all(|(_, start)| start.gang.spec.guard.skip == [BAD])
    );
}

/// A spike of the run's present generation, in the step after so many.
fn spike_after(world: &mut World, run: &RunId, done: u64) {
    let spike = Spike {
        step: Step(done + 1),
        consumed: done * 8,
        samples: Samples {
            from: done * 8,
            until: done * 8 + 8,
        },
        reading: "a loss of 9".to_owned(),
    };
    let event = RankEvent::Spiked {
        spike,
        goes_on: false,
    };
    let generation = world.view(run).generation;
    world.event_of(run, 0, generation, event);
}

fn with_checkpoints(steps: &[u64]) -> (World, RunId) {
    let mut spec = guarded();
    spec.checkpoint.keep = 10;
    spec.recovery.restarts = 9;
    let (mut world, run) = World::running(&[2, 2], spec);
    for &step in steps {
        world.train(&run, step);
        world.save(&run, step);
    }
    (world, run)
}

fn resumed_from(world: &World, run: &RunId) -> Option<Step> {
    let view = world.view(run);
    let last = view.incidents.last().unwrap();
    last.resumed_from.map(|id| id.step)
}

#[test]
fn a_spike_that_comes_again_from_one_checkpoint_takes_the_one_before_and_then_parks_the_run() {
    let (mut world, run) = with_checkpoints(&[10, 20, 30]);
    for (done, wanted) in [(35, 30), (34, 20)] {
        spike_after(&mut world, &run, done);
        assert_eq!(world.state(&run), RunState::Running);
        assert_eq!(resumed_from(&world, &run), Some(Step(wanted)));
        world.train(&run, wanted + 1);
    }
    // Another fault does not lead back to the one that is doubted.
    world.kill(&run, &[0]);
    assert_eq!(resumed_from(&world, &run), Some(Step(20)));
    spike_after(&mut world, &run, 33);
    let view = world.view(&run);
    assert_eq!(view.state, RunState::Parked, "{}", view.why);
    assert_eq!(view.why, Cause::SpikesRepeat { step: Step(20) });
    let spikes = view.incidents.iter();
    let spikes = spikes.filter(|it| matches!(it.cause, Cause::LossSpiked { .. }));
    assert_eq!(spikes.count(), 3, "its evidence: {:#?}", view.incidents);

    // An admin who has looked gives all of it another chance; what was skipped stays so.
    world.ask(Ask::Resume {
        run: run.clone(),
        layout: None,
    });
    world.pass(millis(5_000));
    assert_eq!(world.state(&run), RunState::Running);
    let mark = world.orders.len();
    world.kill(&run, &[0]);
    let (_, start) = world.starts_since(mark).remove(0);
    assert_eq!(start.gang.resume.map(|id| id.step), Some(Step(30)));
    assert_eq!(start.gang.spec.guard.skip.len(), 3);
}

#[test]
fn a_newer_checkpoint_shows_that_the_one_before_was_sound() {
    let (mut world, run) = with_checkpoints(&[10, 20]);
    spike_after(&mut world, &run, 25);
    assert_eq!(resumed_from(&world, &run), Some(Step(20)));
    world.train(&run, 30);
    world.save(&run, 30);
    for wanted in [30, 20] {
        spike_after(&mut world, &run, 35);
        assert_eq!(resumed_from(&world, &run), Some(Step(wanted)));
        world.train(&run, wanted + 1);
    }
    assert_eq!(world.state(&run), RunState::Running);
}

#[test]
fn a_run_whose_only_checkpoint_leads_to_spikes_is_not_begun_anew() {
    let (mut world, run) = with_checkpoints(&[10]);
    spike_after(&mut world, &run, 15);
    world.train(&run, 12);
    spike_after(&mut world, &run, 15);
    let view = world.view(&run);
    assert_eq!(view.state, RunState::Parked, "{}", view.why);
    assert_eq!(view.why, Cause::SpikesRepeat { step: Step(10) });
}

#[test]
fn what_was_doubted_is_known_after_a_replay() {
    let (mut world, run) = with_checkpoints(&[10, 20]);
    for step in [21, 11] {
        spike_after(&mut world, &run, 25);
        world.train(&run, step);
    }
    let journal = world.journal.clone();
    world.restart(journal);
    world.pass(millis(5_000));
    spike_after(&mut world, &run, 24);
    assert_eq!(world.state(&run), RunState::Parked);
}

fn differ(ranks: &[u32]) -> RankEvent {
    RankEvent::ReplicasDiffer(Differs {
        tensor: "ln_f.weight".to_owned(),
        ranks: ranks.iter().copied().map(Rank).collect(),
    })
}

/// Four copies of the model on two nodes.
fn replicated() -> (World, RunId) {
    let (mut world, run) = World::running(&[2, 2], spec("bloom", 1, 1, 4));
    world.train(&run, 20);
    world.save(&run, 20);
    world.train(&run, 25);
    (world, run)
}

#[test]
fn replicas_that_differ_go_back_to_the_newest_checkpoint_and_blame_the_odd_rank() {
    let (mut world, run) = replicated();
    let odd = world.node_of(&run, 3);
    // Whoever is like most of them says the same as the odd one.
    for rank in [0, 3, 1] {
        world.event_of(&run, rank, Generation(1), differ(&[3]));
    }
    let view = world.view(&run);
    assert_eq!(view.state, RunState::Running, "{}", view.why);
    assert_eq!(view.generation, Generation(2), "one recovery");
    let incident = &view.incidents[0];
    assert_eq!(view.incidents.len(), 1, "{:#?}", view.incidents);
    assert_eq!(incident.resumed_from.map(|id| id.step), Some(Step(20)));
    assert_eq!(incident.rung, Some(Rung::Restart));
    let starts = world.starts_since(0);
    let fresh = starts.last().map(|(_, start)| start.gang.fresh_processes);
    assert_eq!(fresh, Some(true), "memory that went wrong is left behind");
    assert!(incident.evidence.is_empty(), "{:#?}", incident.evidence);
    let Cause::ReplicasDiffer { differs, node } = &incident.cause else {
        panic!("{:?}", incident.cause);
    };
    assert_eq!(differs.ranks, [Rank(3)]);
    assert_eq!(node.as_ref(), Some(&odd));
    assert!(!incident.cause.spends_budget());
}

#[test]
fn without_a_majority_or_with_odd_ranks_on_several_nodes_no_node_is_blamed() {
    for ranks in [&[][..], &[0, 3]] {
        let (mut world, run) = replicated();
        world.event_of(&run, 0, Generation(1), differ(ranks));
        let view = world.view(&run);
        assert_eq!(view.state, RunState::Running, "{}", view.why);
        assert_eq!(view.incidents[0].cause.node(), None, "{ranks:?}");
    }
}
