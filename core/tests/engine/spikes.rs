//! Losses that run away: the run goes back before the samples in question, and never trains on them again.

use crate::world::*;
use rebloom_core::cause::Cause;
use rebloom_core::engine::{CheckpointState, RunState};
use rebloom_core::guard::{GuardAction, Samples, Spike};
use rebloom_core::id::{Generation, Step};
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
        assert_eq!(start.generation, Generation(2));
        assert_eq!(start.resume, Some(good));
        assert_eq!(start.spec.guard.skip, [BAD]);
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
            .all(|(_, start)| start.spec.guard.skip == [BAD])
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
            .all(|(_, start)| start.spec.guard.skip == [BAD])
    );
}
