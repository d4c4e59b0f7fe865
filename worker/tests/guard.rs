//! The loss guard in the worker: a spike on every rank, what a gang that goes back comes to, and which checkpoints go with
//! which skipped samples.

#![allow(clippy::unwrap_used, reason = "a test ends where it goes wrong")]

mod common;

use common::{Whole, gather, seal, train};
use rebloom_core::checkpoint::CheckpointId;
use rebloom_core::guard::{Samples as Skipped, Spike};
use rebloom_core::id::{Generation, Step};
use rebloom_core::layout::Layout;
use rebloom_core::spec::RunSpec;
use rebloom_worker::checkpoint::{self, LoadError};
use rebloom_worker::data::Samples;
use rebloom_worker::trainer::{StepError, Trainer};
use serde_json::json;
use std::path::Path;
use std::sync::Mutex;

const STEPS: u64 = 40;
const BATCH: u64 = 8;
/// Some of the samples of step 31.
const BAD: Skipped = Skipped {
    from: 30 * BATCH + 3,
    until: 30 * BATCH + 6,
};
/// The checkpoint before them.
const SAVED: u64 = 24;

const LAYOUTS: [Layout; 2] = [
    Layout {
        tensor: 1,
        pipeline: 1,
        data: 1,
    },
    Layout {
        tensor: 2,
        pipeline: 2,
        data: 2,
    },
];

fn spec(layout: Layout, directory: &Path, skip: &[Skipped]) -> RunSpec {
    let spec = json!({
        "name": "guarded",
        "model": {"layers": 4, "hidden": 32, "heads": 8, "vocab": 64, "sequence": 8},
        "layout": layout,
        "train": {"steps": STEPS, "global_batch": BATCH, "micro_batch": 1, "seed": 7,
                  "optimizer": {"learning_rate": 1e-2}},
        "data": {"prefix": "/made/up"},
        "checkpoint": {"directory": directory, "every_steps": 1000},
        "guard": {"action": "roll_back", "least": 10, "window": 16, "skip": skip},
    });
    let spec: RunSpec = serde_json::from_value(spec).unwrap();
    assert_eq!(spec.flaws(), []);
    spec
}

/// Text that is easy to learn, and samples that are anything but.
struct Poisoned;

impl Samples for Poisoned {
    fn read(&self, k: u64, into: &mut [i32]) -> Result<(), String> {
        let is_bad = (BAD.from..BAD.until).contains(&k);
        for (at, token) in (0_i32..).zip(into) {
            *token = if is_bad { 63 - at } else { (at + k as i32) % 2 };
        }
        Ok(())
    }
}

fn poisoned() -> Box<dyn Samples> {
    Box::new(Poisoned)
}

fn id(step: u64) -> CheckpointId {
    CheckpointId {
        step: Step(step),
        generation: Generation(1),
    }
}

fn steps_to(trainer: &mut Trainer, step: u64) {
    while trainer.step_done() < Step(step) {
        trainer.step(false).unwrap();
    }
}

/// Trains from the start to the spike and saves on the way.
fn until_it_spikes(spec: &RunSpec) -> Spike {
    let ranks = train(spec, poisoned, |rank, mut trainer| {
        trainer.begin();
        steps_to(&mut trainer, SAVED);
        let shard = checkpoint::save(&trainer, rank, id(SAVED)).unwrap();
        let spike = loop {
            match trainer.step(false) {
                Ok(_) => {}
                Err(StepError::Spiked(spike)) => break spike,
                Err(error) => panic!("{error}"),
            }
        };
        assert_eq!(trainer.samples(), 30 * BATCH);
        (shard, spike)
    });
    let (shards, spikes): (Vec<_>, Vec<_>) = ranks.into_iter().unzip();
    seal(spec, id(SAVED), SAVED * BATCH, shards);
    assert!(spikes.iter().all(|other| *other == spikes[0]));
    spikes.into_iter().next().unwrap()
}

/// Weights, moments and the loss guard's memory at the end of the run.
fn end(spec: &RunSpec, from: Option<CheckpointId>) -> (Whole, Vec<(f64, f64)>) {
    let whole = Mutex::new(Whole::new());
    let ranks = train(spec, poisoned, |rank, mut trainer| {
        match from {
            Some(id) => checkpoint::load(&mut trainer, rank, id).unwrap(),
            None => trainer.begin(),
        }
        steps_to(&mut trainer, STEPS);
        trainer.check_replicas().unwrap();
        assert_eq!(trainer.samples(), STEPS * BATCH, "no step is lost");
        gather(&whole, &trainer, rank);
        trainer.farewell();
        trainer.guard().recent().collect::<Vec<_>>()
    });
    let recent = ranks.into_iter().next().unwrap();
    (whole.into_inner().unwrap(), recent)
}

#[test]
fn going_back_and_skipping_ends_with_the_bits_of_a_run_that_never_saw_the_samples() {
    for layout in LAYOUTS {
        let folder = tempfile::tempdir().unwrap();
        let spike = until_it_spikes(&spec(layout, folder.path(), &[]));
        assert_eq!((spike.step, spike.consumed), (Step(31), 240));
        let wanted = Skipped {
            from: 240,
            until: 248,
        };
        assert_eq!(spike.samples, wanted);

        let skips = spec(layout, folder.path(), &[spike.samples]);
        let recovered = end(&skips, Some(id(SAVED)));
        let (whole, recent) = end(&skips, None);
        assert!(recovered.0 == whole, "{layout}: other bits");
        assert_eq!(recovered.1, recent, "{layout}");
        assert!(recent.iter().all(|(loss, _)| *loss < 1.0), "{recent:?}");
    }
}

#[test]
fn a_checkpoint_of_other_skipped_samples_is_refused_and_later_ones_are_no_matter() {
    let folder = tempfile::tempdir().unwrap();
    let trained = Skipped { from: 8, until: 16 };
    let later = Skipped {
        from: 400,
        until: 500,
    };
    let layout = LAYOUTS[0];
    let with = |skip: &[Skipped]| spec(layout, folder.path(), skip);
    let shards = train(&with(&[trained, later]), poisoned, |rank, mut trainer| {
        trainer.begin();
        steps_to(&mut trainer, 4);
        checkpoint::save(&trainer, rank, id(4)).unwrap()
    });
    seal(&with(&[]), id(4), 4 * BATCH, shards);
    let load = |skip: &[Skipped]| {
        let mut outcomes = train(&with(skip), poisoned, |rank, mut trainer| {
            trainer.begin();
            let before = checkpoint::state_hash(&trainer);
            let outcome = checkpoint::load(&mut trainer, rank, id(4));
            let is_same = checkpoint::state_hash(&trainer) == before;
            assert_eq!(is_same, outcome.is_err(), "all of it is loaded, or nothing");
            outcome
        });
        outcomes.remove(0)
    };
    load(&[trained]).unwrap();
    let next = Skipped {
        from: 41,
        until: 48,
    };
    load(&[next, trained]).unwrap();
    for (skip, ours) in [
        (&[][..], "none"),
        (
            &[
                trained,
                later,
                Skipped {
                    from: 39,
                    until: 40,
                },
            ],
            "8 to 15 and 39",
        ),
    ] {
        let refused = load(skip).unwrap_err();
        assert!(matches!(refused, LoadError::Step(StepError::Data(_))));
        let wanted = format!(
            "data: the checkpoint at step 4 was trained passing over samples 8 to 15, this run passes over {ours} up to \
             there; resume from an older one, or with the same guard.skip"
        );
        assert_eq!(refused.to_string(), wanted);
    }
}
