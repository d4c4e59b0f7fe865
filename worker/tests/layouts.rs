//! A checkpoint of one layout, loaded in others: the same bits, and the same training after it.

#![allow(clippy::unwrap_used, reason = "a test ends where it goes wrong")]

mod common;

use common::{MadeUp, Whole, gather, layouts, train};
use rebloom_core::cause::Unsound;
use rebloom_core::checkpoint::{CheckpointId, MANIFEST_VERSION, Manifest, OLDEST_MANIFEST, Shard};
use rebloom_core::id::{Generation, Rank, Step};
use rebloom_core::layout::Layout;
use rebloom_core::spec::{Numerics, Precision, RunSpec};
use rebloom_runtime::shard_hash::ShardHash;
use rebloom_worker::checkpoint::{self, LoadError};
use rebloom_worker::data::Samples;
use rebloom_worker::trainer::Trainer;
use rebloom_worker::weights::Weights;
use serde_json::Value;
use std::path::Path;
use std::sync::Mutex;

const fn layout(tensor: u32, pipeline: u32, data: u32) -> Layout {
    Layout {
        tensor,
        pipeline,
        data,
    }
}

const OTHERS: [Layout; 10] = [
    layout(1, 1, 1),
    layout(2, 1, 1),
    layout(1, 2, 1),
    layout(4, 1, 1),
    layout(1, 2, 4),
    layout(2, 1, 2),
    layout(1, 4, 2),
    layout(2, 4, 1),
    layout(1, 1, 8),
    layout(2, 2, 2),
];
const SAVED_AT: u64 = 3;
const STEPS: u64 = 6;

fn spec(layout: Layout, directory: &Path) -> RunSpec {
    let spec = serde_json::json!({
        "name": "layouts",
        "model": {"layers": 4, "hidden": 32, "heads": 4, "vocab": 65, "sequence": 16},
        "layout": layout,
        "train": {"steps": STEPS, "global_batch": 8, "micro_batch": 1, "seed": 11,
                  "optimizer": {"learning_rate": 3e-3, "warmup_samples": 16}},
        "data": {"prefix": "/made/up"},
        "checkpoint": {"directory": directory, "every_steps": SAVED_AT},
    });
    let spec: RunSpec = serde_json::from_value(spec).unwrap();
    assert_eq!(spec.flaws(), []);
    spec
}

fn made_up() -> Box<dyn Samples> {
    Box::new(MadeUp { vocab: 64 })
}

fn id() -> CheckpointId {
    CheckpointId {
        step: Step(SAVED_AT),
        generation: Generation(1),
    }
}

fn rest(trainer: &mut Trainer) -> Vec<f64> {
    (SAVED_AT..STEPS)
        .map(|_| trainer.step(false).unwrap().loss)
        .collect()
}

fn seal(spec: &RunSpec, version: u32, shards: Vec<Shard>) {
    let manifest = Manifest {
        version,
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

/// Saves in this layout; what was saved, and the losses of the steps after it.
fn saved(spec: &RunSpec) -> (Whole, Vec<f64>, Vec<Shard>) {
    let whole = Mutex::new(Whole::new());
    let ranks = train(spec, made_up, |rank, mut trainer| {
        trainer.begin();
        for _ in 0..SAVED_AT {
            trainer.step(false).unwrap();
        }
        gather(&whole, &trainer, rank);
        let shard = checkpoint::save(&trainer, rank, id()).unwrap();
        let losses = rest(&mut trainer);
        trainer.farewell();
        (losses, shard)
    });
    let (losses, shards): (Vec<_>, Vec<_>) = ranks.into_iter().unzip();
    seal(spec, MANIFEST_VERSION, shards.clone());
    (
        whole.into_inner().unwrap(),
        losses.into_iter().next().unwrap(),
        shards,
    )
}

fn loaded(spec: &RunSpec) -> (Whole, Vec<f64>) {
    let whole = Mutex::new(Whole::new());
    let losses = train(spec, made_up, |rank, mut trainer| {
        checkpoint::load(&mut trainer, rank, id()).unwrap();
        assert_eq!(trainer.step_done(), Step(SAVED_AT));
        let known = trainer.guard().recent().count();
        assert_eq!(known as u64, SAVED_AT, "the guard goes on as well");
        gather(&whole, &trainer, rank);
        trainer.check_replicas().unwrap();
        let losses = rest(&mut trainer);
        trainer.farewell();
        losses
    });
    (
        whole.into_inner().unwrap(),
        losses.into_iter().next().unwrap(),
    )
}

/// What is loaded, and no step after it.
fn bits(spec: &RunSpec) -> Whole {
    let whole = Mutex::new(Whole::new());
    train(spec, made_up, |rank, mut trainer| {
        checkpoint::load(&mut trainer, rank, id()).unwrap();
        gather(&whole, &trainer, rank);
        trainer.check_replicas().unwrap();
        trainer.farewell();
    });
    whole.into_inner().unwrap()
}

fn same(layout: Layout, saved: &(Whole, Vec<f64>), loaded: &(Whole, Vec<f64>)) {
    assert!(saved.0 == loaded.0, "{layout}: other bits");
    for (a, b) in saved.1.iter().zip(&loaded.1) {
        assert!(((a - b) / a).abs() < 1e-6, "{layout}: {b} is not {a}");
    }
}

#[test]
fn any_layout_goes_on_from_the_same_bits_with_the_same_losses() {
    for from in [
        layout(2, 2, 2),
        layout(1, 1, 1),
        layout(1, 4, 2),
        layout(1, 1, 8),
        layout(1, 1, 2),
        layout(2, 1, 1),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let (whole, losses, _) = saved(&spec(from, folder.path()));
        let held = whole.values().flatten().flatten();
        assert!(held.clone().count() > 0 && held.clone().all(Option::is_some));
        let saved = (whole, losses);
        for to in OTHERS {
            same(to, &saved, &loaded(&spec(to, folder.path())));
        }
    }
}

/// A model that is saved by 2 x 2 x 2 ranks, and how many layouts are first fitted by it.
struct Shape {
    layers: u32,
    heads: u32,
    hidden: u32,
    batch: u32,
    /// Elements of a sub-group, of which some layouts then have several.
    group: u64,
    layouts: usize,
}

/// Between them they fit every layout of at most eight ranks.
const SHAPES: [Shape; 2] = [
    Shape {
        layers: 8,
        heads: 24,
        hidden: 24,
        batch: 24,
        group: 2600,
        layouts: 34,
    },
    // Tensor or data groups of 5 and 7.
    Shape {
        layers: 2,
        heads: 70,
        hidden: 70,
        batch: 70,
        group: 20_000,
        layouts: 4,
    },
];

impl Shape {
    fn spec(&self, at: Layout, directory: &Path, precision: Precision, group: u64) -> RunSpec {
        let mut spec = spec(layout(1, 1, 1), directory);
        spec.layout = at;
        spec.model.layers = self.layers;
        spec.model.heads = self.heads;
        spec.model.hidden = self.hidden;
        // No tensor group of several holds equal parts of it.
        spec.model.vocab = 67;
        spec.model.sequence = 4;
        spec.train.global_batch = self.batch;
        spec.train.micro_batch = self.batch / at.data;
        spec.train.numerics.precision = precision;
        spec.train.numerics.group_elements = group;
        spec
    }
}

#[test]
fn every_layout_goes_on_from_the_bits_of_2_x_2_x_2_in_other_numbers_and_groups() {
    let mut left: Vec<_> = layouts().collect();
    for shape in &SHAPES {
        let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let kinds = [Precision::Fp32, Precision::Bf16];
        let saved = [0, 1].map(|at| {
            let from = layout(2, 2, 2);
            let spec = shape.spec(from, folders[at].path(), kinds[at], shape.group);
            let (whole, losses, _) = saved(&spec);
            assert!(whole.values().flatten().flatten().all(Option::is_some));
            (whole, losses)
        });
        assert!(saved[0].0 != saved[1].0, "bf16 trains as fp32 does");
        let fits = |layout: &Layout| {
            let spec = shape.spec(*layout, Path::new("/"), Precision::Fp32, shape.group);
            spec.flaws().is_empty()
        };
        let (fitting, others) = left.into_iter().partition(fits);
        let fitting: Vec<Layout> = fitting;
        assert_eq!(fitting.len(), shape.layouts);
        for to in fitting {
            let spec =
                |at: usize, precision, group| shape.spec(to, folders[at].path(), precision, group);
            let wide = bits(&spec(0, Precision::Bf16, 2 * shape.group));
            assert!(wide == saved[0].0, "{to}: other bits in bf16");
            let narrow = bits(&spec(1, Precision::Fp32, 2 * shape.group));
            assert!(narrow == saved[1].0, "{to}: other bits from bf16");
        }
        left = others;
    }
    assert_eq!(left, [], "a layout that no shape fits");
}

#[test]
fn dropout_and_bf16_go_on_to_the_bit_in_their_layout() {
    for precision in [Precision::Fp32, Precision::Bf16] {
        for at in [layout(1, 1, 1), layout(2, 2, 2)] {
            let folder = tempfile::tempdir().unwrap();
            let by_chance = |layout| {
                let mut spec = spec(layout, folder.path());
                spec.train.numerics = Numerics {
                    precision,
                    recompute: true,
                    hidden_dropout: 0.1,
                    attention_dropout: 0.1,
                    group_elements: 8192,
                };
                spec
            };
            let (whole, losses, _) = saved(&by_chance(at));
            let (again, later) = loaded(&by_chance(at));
            assert!(whole == again, "{at} {precision:?}");
            assert_eq!(losses, later, "{at} {precision:?}");
            if precision == Precision::Fp32 {
                let elsewhere = loaded(&by_chance(layout(1, 2, 1)));
                same(at, &(whole, losses), &elsewhere);
            }
        }
    }
}

/// The shards with other facts, as `change` makes them.
fn rewritten(spec: &RunSpec, shards: Vec<Shard>, change: impl Fn(&mut Value)) -> Vec<Shard> {
    let directory = checkpoint::directory(spec, id());
    let rewritten = shards.into_iter().map(|shard| {
        let path = directory.join(&shard.file);
        let old = std::fs::read(&path).unwrap();
        let length = usize::try_from(u64::from_le_bytes(old[..8].try_into().unwrap())).unwrap();
        let mut header: Value = serde_json::from_slice(&old[8..8 + length]).unwrap();
        let facts = &mut header["__metadata__"]["rebloom"];
        let mut page: Value = serde_json::from_str(facts.as_str().unwrap()).unwrap();
        change(&mut page);
        *facts = page.to_string().into();
        let mut json = header.to_string().into_bytes();
        json.resize(json.len().next_multiple_of(8), b' ');
        let mut new = (json.len() as u64).to_le_bytes().to_vec();
        new.extend(json);
        new.extend(&old[8 + length..]);
        std::fs::write(&path, &new).unwrap();
        Shard {
            bytes: new.len() as u64,
            hash: ShardHash::of(&new),
            ..shard
        }
    });
    rewritten.collect()
}

/// What `checkpoints/v1/write.py` put into an element of a whole parameter.
fn of_v1(kind: usize, name: &str, element: usize) -> f32 {
    let name: usize = name.bytes().map(usize::from).sum();
    let value = (1000 * (kind + 1) + name % 512) as f64 + element as f64 / 4096.0;
    (value / 65536.0) as f32
}

#[test]
fn the_version_before_is_still_read_in_any_layout() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/checkpoints/v1");
    let mut losses = Vec::new();
    for at in [
        layout(2, 2, 2),
        layout(1, 1, 1),
        layout(1, 2, 1),
        layout(2, 1, 4),
    ] {
        let mut spec = spec(at, &directory);
        (spec.model.layers, spec.model.hidden, spec.model.heads) = (2, 8, 2);
        (spec.model.vocab, spec.model.sequence) = (16, 8);
        let whole = Mutex::new(Whole::new());
        let samples = || Box::new(MadeUp { vocab: 16 }) as Box<_>;
        let ranks = train(&spec, samples, |rank, mut trainer| {
            checkpoint::load(&mut trainer, rank, id()).unwrap();
            assert_eq!((trainer.step_done(), trainer.samples()), (Step(3), 24));
            gather(&whole, &trainer, rank);
            trainer.check_replicas().unwrap();
            let loss = trainer.step(false).unwrap().loss;
            trainer.farewell();
            loss
        });
        losses.push(ranks[0]);
        let whole = whole.into_inner().unwrap();
        assert_eq!(whole.len(), 1 + 2 + 2 * 12 + 2);
        for (name, held) in &whole {
            for (kind, held) in held.iter().enumerate() {
                for (element, held) in held.iter().enumerate() {
                    let wanted = of_v1(kind, name, element).to_bits();
                    assert_eq!(*held, Some(wanted), "{at}: {kind} of {name}, {element}");
                }
            }
        }
    }
    let alike = |loss: &f64| (loss / losses[0] - 1.0).abs() < 1e-6;
    assert!(losses.iter().all(alike), "{losses:?}");
}

/// What loading in another layout says after `spoil` changed a shard.
fn refusal(spoil: impl Fn(&Path)) -> Unsound {
    let folder = tempfile::tempdir().unwrap();
    saved(&spec(layout(2, 2, 2), folder.path()));
    let spec = spec(layout(1, 1, 1), folder.path());
    let shard = checkpoint::file_name(Rank(5));
    spoil(&checkpoint::directory(&spec, id()).join(shard));
    let outcome = train(&spec, made_up, |rank, mut trainer| {
        match checkpoint::load(&mut trainer, rank, id()) {
            Err(LoadError::Unsound(unsound)) => unsound,
            other => panic!("{other:?}"),
        }
    });
    outcome.into_iter().next().unwrap()
}

#[test]
fn a_damaged_shard_is_refused_whichever_rank_wrote_it() {
    let file = || checkpoint::file_name(Rank(5));
    for at in [40, 9000] {
        let flipped = refusal(|path| {
            let mut bytes = std::fs::read(path).unwrap();
            bytes[at] ^= 0x10;
            std::fs::write(path, bytes).unwrap();
        });
        assert_eq!(flipped, Unsound::Hash { file: file() });
    }
    let gone = refusal(|path| std::fs::remove_file(path).unwrap());
    assert_eq!(gone, Unsound::Missing { file: file() });
}

/// What a load says on each rank, and that it left everything as it was.
fn untouched(spec: &RunSpec) -> Vec<Unsound> {
    train(spec, made_up, |rank, mut trainer| {
        trainer.begin();
        let before = checkpoint::state_hash(&trainer);
        let outcome = checkpoint::load(&mut trainer, rank, id());
        assert_eq!(
            checkpoint::state_hash(&trainer),
            before,
            "something was loaded"
        );
        assert_eq!(trainer.step_done(), Step(0));
        assert_eq!(trainer.guard().recent().count(), 0);
        trainer.farewell();
        match outcome {
            Err(LoadError::Unsound(unsound)) => unsound,
            other => panic!("{other:?}"),
        }
    })
}

#[test]
fn another_version_is_refused_by_file_and_number_and_nothing_of_it_is_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let spec = spec(layout(2, 1, 1), folder.path());
    let (_, _, shards) = saved(&spec);
    let directory = checkpoint::directory(&spec, id());
    for version in [OLDEST_MANIFEST - 1, MANIFEST_VERSION + 1, u32::MAX] {
        seal(&spec, version, shards.clone());
        let error = format!("version: {version} is not known; this build reads 1 to 2");
        let refused = Unsound::Unreadable {
            file: "manifest.json".to_owned(),
            error: error.clone(),
        };
        assert_eq!(untouched(&spec), [refused.clone(), refused]);
        let opened = Weights::open(&directory).unwrap_err().to_string();
        assert!(opened.contains(&error), "{opened}");
        assert!(opened.contains("manifest.json"), "{opened}");
        assert!(
            opened.contains(&directory.display().to_string()),
            "{opened}"
        );
    }
    // The manifest may be of a version that is read, and a shard of another.
    let newer = |page: &mut Value| page["version"] = 4.into();
    let shards = rewritten(&spec, shards, newer);
    seal(&spec, MANIFEST_VERSION, shards);
    for (rank, refused) in spec.layout.ranks().zip(untouched(&spec)) {
        let Unsound::Unreadable { file, error } = refused else {
            panic!("{refused:?}");
        };
        assert_eq!(file, checkpoint::file_name(rank), "its own comes first");
        let wanted = "version: 4 is not known; this build reads 1 to 3";
        assert!(error.ends_with(wanted), "{error}");
    }
}

#[test]
fn a_model_that_the_shards_have_no_room_for_is_refused_before_memory_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let spec = spec(layout(1, 1, 1), folder.path());
    let (_, _, shards) = saved(&spec);
    let larger = |page: &mut Value| page["model"]["vocab"] = (1_u32 << 22).into();
    let shards = rewritten(&spec, shards, larger);
    seal(&spec, MANIFEST_VERSION, shards);
    let error = Weights::open(&checkpoint::directory(&spec, id())).unwrap_err();
    let error = error.to_string();
    assert!(error.contains("rank-00000.safetensors"), "{error}");
    assert!(error.contains("model: it takes"), "{error}");
}
