//! The same bits: twice in the same layout, and after a save and a load; and shards that lie.

#![allow(clippy::unwrap_used, reason = "a test ends where it goes wrong")]

mod common;

use common::{LAYOUTS, MadeUp, train};
use rebloom_core::cause::Unsound;
use rebloom_core::checkpoint::{CheckpointId, MANIFEST_VERSION, Manifest, Shard};
use rebloom_core::id::{Digest, Generation, Rank, Step};
use rebloom_core::layout::Layout;
use rebloom_core::spec::{Precision, RunSpec};
use rebloom_worker::checkpoint::{self, LoadError, Saver};
use rebloom_worker::data::Samples;
use rebloom_worker::trainer::{Figures, StepError, Trainer};
use std::path::Path;
use std::sync::atomic::Ordering;

const STEPS: u64 = 6;
const SAVED_AT: u64 = 3;
const FULL: Layout = Layout {
    tensor: 2,
    pipeline: 2,
    data: 2,
};

fn spec(layout: Layout, directory: &Path) -> RunSpec {
    let spec = serde_json::json!({
        "name": "training",
        "model": {"layers": 3, "hidden": 48, "heads": 6, "vocab": 128, "sequence": 16},
        "layout": layout,
        "train": {"steps": STEPS, "global_batch": 8, "micro_batch": 2, "seed": 7,
                  "optimizer": {"learning_rate": 3e-3, "warmup_samples": 16}},
        "data": {"prefix": "/made/up"},
        "checkpoint": {"directory": directory, "every_steps": SAVED_AT},
    });
    let spec: RunSpec = serde_json::from_value(spec).unwrap();
    assert_eq!(spec.flaws(), []);
    spec
}

fn made_up() -> Box<dyn Samples> {
    Box::new(MadeUp { vocab: 128 })
}

fn id() -> CheckpointId {
    CheckpointId {
        step: Step(SAVED_AT),
        generation: Generation(1),
    }
}

/// What a rank ends with: its figures, to the bit, and the hash of its state.
type End = (Vec<(u64, u64)>, Digest);

fn bits(figures: Figures) -> (u64, u64) {
    (figures.loss.to_bits(), figures.grad_norm.to_bits())
}

/// Trains to the end; saves at [`SAVED_AT`] where `saves`.
fn from_the_start(spec: &RunSpec, saves: bool) -> Vec<(End, Option<Shard>)> {
    train(spec, made_up, |rank, mut trainer| {
        trainer.begin();
        let mut figures = Vec::new();
        let mut shard = None;
        for step in 1..=STEPS {
            figures.push(bits(trainer.step(false).unwrap()));
            if saves && step == SAVED_AT {
                shard = Some(checkpoint::save(&trainer, rank, id()).unwrap());
            }
        }
        trainer.check_replicas().unwrap();
        trainer.farewell();
        ((figures, checkpoint::state_hash(&trainer)), shard)
    })
}

fn seal(spec: &RunSpec, shards: Vec<Shard>) {
    let manifest = Manifest {
        version: MANIFEST_VERSION,
        run: spec.name.clone(),
        id: id(),
        layout: spec.layout,
        samples: SAVED_AT * u64::from(spec.train.global_batch),
        shards,
    };
    assert!(manifest.is_whole());
    let path = checkpoint::directory(spec, id()).join("manifest.json");
    std::fs::write(path, serde_json::to_vec(&manifest).unwrap()).unwrap();
}

#[test]
fn the_same_layout_gives_the_same_bits_and_every_layout_the_same_losses() {
    let folder = tempfile::tempdir().unwrap();
    let mut losses: Vec<Vec<f64>> = Vec::new();
    for layout in LAYOUTS {
        let spec = spec(layout, folder.path());
        let once = from_the_start(&spec, false);
        let again = from_the_start(&spec, false);
        assert!(once == again, "{layout:?}");
        let figures = &once[0].0.0;
        assert!(
            once.iter().all(|((of_rank, _), _)| of_rank == figures),
            "{layout:?}"
        );
        losses.push(
            figures
                .iter()
                .map(|(loss, _)| f64::from_bits(*loss))
                .collect(),
        );
    }
    let first = &losses[0];
    assert!(
        first[STEPS as usize - 1] < first[0],
        "nothing was learned: {first:?}"
    );
    for (layout, others) in LAYOUTS.iter().zip(&losses) {
        for (a, b) in first.iter().zip(others) {
            let off = (a / b - 1.0).abs();
            assert!(off < 1e-6, "{layout:?}: {b} is not {a}, {off:e}");
        }
    }
}

#[test]
fn a_resumed_run_goes_on_with_the_same_bits() {
    for layout in LAYOUTS {
        let folder = tempfile::tempdir().unwrap();
        let spec = spec(layout, folder.path());
        let whole = from_the_start(&spec, true);
        seal(
            &spec,
            whole
                .iter()
                .map(|(_, shard)| shard.clone().unwrap())
                .collect(),
        );
        let resumed = train(&spec, made_up, |rank, mut trainer: Trainer| {
            checkpoint::load(&mut trainer, rank, id()).unwrap();
            assert_eq!(trainer.step_done(), Step(SAVED_AT));
            assert_eq!(trainer.samples(), SAVED_AT * 8);
            let steps = SAVED_AT..STEPS;
            let figures: Vec<_> = steps.map(|_| bits(trainer.step(false).unwrap())).collect();
            trainer.farewell();
            (figures, checkpoint::state_hash(&trainer))
        });
        for ((whole, _), resumed) in whole.iter().zip(&resumed) {
            assert!(whole.0[SAVED_AT as usize..] == resumed.0, "{layout:?}");
            assert_eq!(whole.1, resumed.1, "{layout:?}");
        }
    }
}

#[test]
fn a_shard_is_the_same_file_each_time_and_leaves_nothing_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let spec = spec(FULL, folder.path());
    let once = from_the_start(&spec, true);
    let again = from_the_start(&spec, true);
    assert_eq!(once, again);
    let directory = checkpoint::directory(&spec, id());
    let mut names: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let wanted: Vec<_> = (0..8)
        .map(|rank| checkpoint::file_name(Rank(rank)))
        .collect();
    assert_eq!(names, wanted);
}

/// Loads on one rank after `spoil` has changed the checkpoint's directory.
fn refusal(spoil: impl Fn(&Path, &Path)) -> Unsound {
    let folder = tempfile::tempdir().unwrap();
    let spec = spec(
        Layout {
            tensor: 1,
            pipeline: 1,
            data: 1,
        },
        folder.path(),
    );
    let shards = from_the_start(&spec, true)
        .into_iter()
        .map(|(_, shard)| shard.unwrap());
    seal(&spec, shards.collect());
    let directory = checkpoint::directory(&spec, id());
    spoil(&directory, &directory.join(checkpoint::file_name(Rank(0))));
    let outcome = train(&spec, made_up, |rank, mut trainer| {
        checkpoint::load(&mut trainer, rank, id()).map_err(|error| match error {
            LoadError::Unsound(unsound) => unsound,
            LoadError::Step(error) => panic!("{error}"),
        })
    });
    outcome.into_iter().next().unwrap().unwrap_err()
}

#[test]
fn an_unsound_checkpoint_is_refused_with_what_is_wrong() {
    let shard = || checkpoint::file_name(Rank(0));
    let cut = refusal(|_, path| {
        let length = std::fs::metadata(path).unwrap().len();
        let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
        file.set_len(length - 100).unwrap();
    });
    assert!(
        matches!(&cut, Unsound::Length { file, expected, found } if *file == shard() && expected - found == 100),
        "{cut:?}"
    );
    // In the middle of a tensor, and in the length of the header.
    for at in [20_000, 2] {
        let flipped = refusal(|_, path| {
            let mut bytes = std::fs::read(path).unwrap();
            bytes[at] ^= 0x10;
            std::fs::write(path, bytes).unwrap();
        });
        assert_eq!(flipped, Unsound::Hash { file: shard() });
    }
    let gone = refusal(|_, path| std::fs::remove_file(path).unwrap());
    assert_eq!(gone, Unsound::Missing { file: shard() });
    let unsealed =
        refusal(|directory, _| std::fs::remove_file(directory.join("manifest.json")).unwrap());
    assert_eq!(
        unsealed,
        Unsound::Missing {
            file: "manifest.json".to_owned()
        }
    );
    let garbled = refusal(|directory, _| {
        std::fs::write(directory.join("manifest.json"), "{\"version\": 1").unwrap();
    });
    assert!(matches!(garbled, Unsound::Unreadable { .. }), "{garbled:?}");
    let older = refusal(|directory, _| {
        let path = directory.join("manifest.json");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(path, text.replace("\"samples\":24", "\"samples\":16")).unwrap();
    });
    assert!(matches!(older, Unsound::Unreadable { .. }), "{older:?}");
}

#[test]
fn a_save_that_fails_says_why_and_training_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let not_a_folder = folder.path().join("file");
    std::fs::write(&not_a_folder, "").unwrap();
    let spec = spec(
        Layout {
            tensor: 1,
            pipeline: 1,
            data: 1,
        },
        &not_a_folder,
    );
    let done = train(&spec, made_up, |rank, mut trainer| {
        trainer.begin();
        trainer.step(false).unwrap();
        let error = checkpoint::save(&trainer, rank, id()).unwrap_err();
        assert!(error.contains("rank-00000.safetensors"), "{error}");
        trainer.step(false).unwrap();
        trainer.step_done()
    });
    assert_eq!(done, [Step(2)]);
}

/// One rank whose state is in several sub-groups.
fn in_groups(directory: &Path) -> RunSpec {
    let alone = Layout {
        tensor: 1,
        pipeline: 1,
        data: 1,
    };
    let mut spec = spec(alone, directory);
    spec.train.numerics.group_elements = 10_000;
    spec
}

#[test]
fn a_save_in_sub_groups_is_the_whole_state() {
    let folder = tempfile::tempdir().unwrap();
    let spec = in_groups(folder.path());
    let groups = train(&spec, made_up, |_, trainer| {
        trainer.flat().plan.buffers.len()
    });
    assert!(groups[0] > 3, "{groups:?}");
    let whole = from_the_start(&spec, true);
    seal(&spec, vec![whole[0].1.clone().unwrap()]);
    let resumed = train(&spec, made_up, |rank, mut trainer| {
        checkpoint::load(&mut trainer, rank, id()).unwrap();
        for _ in SAVED_AT..STEPS {
            trainer.step(false).unwrap();
        }
        checkpoint::state_hash(&trainer)
    });
    assert_eq!(resumed[0], whole[0].0.1);
}

#[test]
fn a_save_in_sub_groups_that_fails_holds_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let not_a_folder = folder.path().join("file");
    std::fs::write(&not_a_folder, "").unwrap();
    train(&in_groups(&not_a_folder), made_up, |rank, mut trainer| {
        trainer.begin();
        let (tell, told) = std::sync::mpsc::channel();
        let saver = Saver::start(move |saved| tell.send(saved).unwrap()).unwrap();
        for _ in 0..3 {
            trainer.step(false).unwrap();
            saver.save(&trainer, rank, id()).unwrap();
            let error = told.recv().unwrap().outcome().unwrap_err();
            assert!(error.contains("rank-00000.safetensors"), "{error}");
        }
    });
}

#[test]
fn a_fence_ends_the_wait_for_a_disk_that_hangs() {
    let folder = tempfile::tempdir().unwrap();
    let spec = in_groups(folder.path());
    let directory = checkpoint::directory(&spec, id());
    std::fs::create_dir_all(&directory).unwrap();
    // Opened for writing, a pipe without a reader hangs, as a file on a dead server does.
    let pipe = directory.join("rank-00000.safetensors.tmp");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, mode).unwrap();
    train(&spec, made_up, |rank, mut trainer| {
        trainer.begin();
        let (tell, told) = std::sync::mpsc::channel();
        let saver = Saver::start(move |saved| tell.send(saved).unwrap()).unwrap();
        let fence = trainer.watch().recorder.fence_word();
        let agent = std::thread::spawn(|| fence.store(2, Ordering::Release));
        saver.save(&trainer, rank, id()).unwrap();
        agent.join().unwrap();
        assert!(told.try_recv().is_err(), "the disk hangs still");
        let mut reader = std::fs::File::open(&pipe).unwrap();
        std::io::copy(&mut reader, &mut std::io::sink()).unwrap();
        let error = told.recv().unwrap().outcome().unwrap_err();
        assert!(error.contains("gave up"), "{error}");
        assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 0);
    });
}

#[test]
fn one_rank_that_asks_to_stop_stops_all_after_the_same_step() {
    let folder = tempfile::tempdir().unwrap();
    let spec = spec(FULL, folder.path());
    let stops = train(&spec, made_up, |rank, mut trainer| {
        trainer.begin();
        let stops =
            [false, true, false].map(|asked| trainer.step(asked && rank.0 == 5).unwrap().stop);
        trainer.farewell();
        stops
    });
    assert_eq!(stops, [[false, true, false]; 8]);
}

#[test]
fn replicas_that_differ_are_found_by_name_and_not_averaged() {
    let folder = tempfile::tempdir().unwrap();
    let layout = |tensor, pipeline, data| Layout {
        tensor,
        pipeline,
        data,
    };
    for (name, layout, odd) in [
        ("h.0.input_layernorm.weight", layout(2, 1, 1), vec![]),
        ("word_embeddings.weight", layout(1, 2, 1), vec![]),
        (
            "h.1.mlp.dense_h_to_4h.weight",
            layout(1, 1, 4),
            vec![Rank(1)],
        ),
        ("h.2.mlp.dense_4h_to_h.bias", layout(1, 1, 2), vec![]),
    ] {
        let spec = spec(layout, folder.path());
        let found = train(&spec, made_up, |rank, mut trainer| {
            trainer.begin();
            trainer.step(false).unwrap();
            trainer.check_replicas().unwrap();
            if rank.0 == 1 {
                let (weight, _) = trainer.flat().views(name);
                let mut first = weight.flatten(0, -1).narrow(0, 0, 1);
                drop(tch::no_grad(|| first.f_add_scalar_(1e-7).unwrap()));
            }
            trainer.check_replicas()
        });
        for outcome in found {
            let Err(StepError::ReplicasDiffer(differs)) = outcome else {
                panic!("{name}: {outcome:?}");
            };
            assert_eq!((differs.tensor.as_str(), &differs.ranks), (name, &odd));
        }
    }
}

/// The lowest bit of one value of what a rank owns: bf16 weights do not show it, nor does a norm.
#[test]
fn replicas_that_differ_by_less_than_is_computed_with_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let layout = |tensor, pipeline, data| Layout {
        tensor,
        pipeline,
        data,
    };
    for (at, name) in [
        (layout(2, 1, 1), "h.0.input_layernorm.weight"),
        (layout(2, 1, 2), "h.2.mlp.dense_4h_to_h.bias"),
        (layout(1, 2, 1), "word_embeddings.weight"),
        (layout(2, 2, 2), "word_embeddings.weight"),
    ] {
        for (kind, part) in ["weight", "exp_avg", "exp_avg_sq"].into_iter().enumerate() {
            let mut spec = spec(at, folder.path());
            spec.train.numerics.precision = Precision::Bf16;
            let found = train(&spec, made_up, |rank, mut trainer| {
                trainer.begin();
                for _ in 0..3 {
                    trainer.step(false).unwrap();
                }
                trainer.check_replicas().unwrap();
                let mut own = trainer.optimizer().own(&trainer.flat().plan);
                let own = own.find(|own| own.slot.parameter.name == name);
                if let Some(own) = own.filter(|_| rank == Rank(at.world() - 1)) {
                    let mut last = own.tensors[kind]
                        .view_dtype(tch::Kind::Int)
                        .narrow(0, -1, 1);
                    drop(tch::no_grad(|| last.f_bitwise_xor_(1_i64).unwrap()));
                }
                let checked = trainer.check_replicas();
                trainer.farewell();
                checked
            });
            let differing: Vec<_> = found.into_iter().filter_map(Result::err).collect();
            // Its group, or both ends of its pipeline with their data groups.
            assert!(!differing.is_empty(), "{at}: {part}/{name} is not found");
            for error in differing {
                let StepError::ReplicasDiffer(differs) = error else {
                    panic!("{error}");
                };
                assert_eq!(differs.tensor, format!("{part}/{name}"));
            }
        }
    }
}

#[test]
fn numbers_that_run_away_end_the_step_on_every_rank() {
    let folder = tempfile::tempdir().unwrap();
    let spec = spec(FULL, folder.path());
    let outcomes = train(&spec, made_up, |rank, mut trainer| {
        trainer.begin();
        if rank.0 == 6 {
            let (mut weight, _) = trainer.flat().views("ln_f.weight");
            drop(tch::no_grad(|| weight.fill_(f64::NAN)));
        }
        trainer.step(false)
    });
    for outcome in outcomes {
        assert!(
            matches!(outcome, Err(StepError::NotFinite { step: 1, .. })),
            "{outcome:?}"
        );
    }
}
