//! A checkpoint of one layout, loaded in others: the same bits, and the same training after it.

#![allow(clippy::unwrap_used, reason = "a test ends where it goes wrong")]

mod common;

use common::{MadeUp, train};
use rebloom_core::cause::Unsound;
use rebloom_core::checkpoint::{CheckpointId, MANIFEST_VERSION, Manifest, OLDEST_MANIFEST, Shard};
use rebloom_core::id::{Digest, Generation, Rank, Step};
use rebloom_core::layout::Layout;
use rebloom_core::spec::{Numerics, Precision, RunSpec};
use rebloom_runtime::shard_hash::ShardHash;
use rebloom_worker::checkpoint::slice::Slice;
use rebloom_worker::checkpoint::{self, LoadError};
use rebloom_worker::data::Samples;
use rebloom_worker::trainer::Trainer;
use rebloom_worker::weights::Weights;
use serde_json::Value;
use sha2::Digest as _;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;

const fn layout(tensor: u32, pipeline: u32, data: u32) -> Layout {
    Layout {
        tensor,
        pipeline,
        data,
    }
}

const OTHERS: [Layout; 8] = [
    layout(1, 1, 1),
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
        "model": {"layers": 4, "hidden": 32, "heads": 4, "vocab": 64, "sequence": 16},
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

/// Bits of weights and moments of every parameter, element by element.
type Whole = BTreeMap<String, [Vec<Option<u32>>; 3]>;

/// Adds what a rank owns; what two ranks hold must be the same.
fn gather(into: &Mutex<Whole>, trainer: &Trainer, rank: Rank) {
    let layout = trainer.spec().layout;
    let place = (layout.coordinates(rank).tensor, layout.tensor);
    let mut whole = into.lock().unwrap();
    for own in trainer.optimizer().own(&trainer.flat().plan) {
        let parameter = &own.slot.parameter;
        let all = usize::try_from(parameter.shape.iter().product::<i64>()).unwrap();
        let entry = whole.entry(parameter.name.clone());
        let held = entry.or_insert_with(|| [0; 3].map(|_| vec![None; all]));
        let slice = Slice::of(parameter, place, own.range);
        for (held, tensor) in held.iter_mut().zip(&own.tensors) {
            let values = Vec::<f32>::try_from(tensor).unwrap();
            for stretch in slice.stretches() {
                for i in 0..stretch.length {
                    let [from, to] =
                        [stretch.local + i, stretch.whole + i].map(|n| usize::try_from(n).unwrap());
                    let bits = values[from].to_bits();
                    assert_eq!(*held[to].get_or_insert(bits), bits, "{}", parameter.name);
                }
            }
        }
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

fn same(layout: Layout, saved: &(Whole, Vec<f64>), loaded: &(Whole, Vec<f64>)) {
    assert!(saved.0 == loaded.0, "{layout}: other bits");
    for (a, b) in saved.1.iter().zip(&loaded.1) {
        assert!(((a - b) / a).abs() < 1e-6, "{layout}: {b} is not {a}");
    }
}

#[test]
fn any_layout_goes_on_from_the_same_bits_with_the_same_losses() {
    for from in [layout(2, 2, 2), layout(1, 1, 1), layout(1, 4, 2)] {
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

/// The shards with other facts, as `change` makes them, hashed by `digest`.
fn rewritten(
    spec: &RunSpec,
    shards: Vec<Shard>,
    change: impl Fn(&mut Value),
    digest: impl Fn(&[u8]) -> Digest,
) -> Vec<Shard> {
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
            hash: digest(&new),
            ..shard
        }
    });
    rewritten.collect()
}

/// The checkpoint as the version before wrote it: slices counted in the part of a tensor rank.
fn as_before(spec: &RunSpec, shards: Vec<Shard>) {
    let change = |page: &mut Value| {
        page["version"] = 1.into();
        for slice in page["slices"].as_object_mut().unwrap().values_mut() {
            *slice = slice["range"].take();
        }
    };
    let sha256 = |bytes: &[u8]| Digest(sha2::Sha256::digest(bytes).into());
    let rewritten = rewritten(spec, shards, change, sha256);
    seal(spec, OLDEST_MANIFEST, rewritten);
}

#[test]
fn the_version_before_is_still_read_in_any_layout() {
    let folder = tempfile::tempdir().unwrap();
    let from = layout(2, 2, 2);
    let (whole, losses, shards) = saved(&spec(from, folder.path()));
    as_before(&spec(from, folder.path()), shards);
    let saved = (whole, losses);
    for to in [from, layout(1, 2, 1), layout(4, 1, 2)] {
        same(to, &saved, &loaded(&spec(to, folder.path())));
    }
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
    let newer = |page: &mut Value| page["version"] = 3.into();
    let shards = rewritten(&spec, shards, newer, ShardHash::of);
    seal(&spec, MANIFEST_VERSION, shards);
    for (rank, refused) in spec.layout.ranks().zip(untouched(&spec)) {
        let Unsound::Unreadable { file, error } = refused else {
            panic!("{refused:?}");
        };
        assert_eq!(file, checkpoint::file_name(rank), "its own comes first");
        let wanted = "version: 3 is not known; this build reads 1 to 2";
        assert!(error.ends_with(wanted), "{error}");
    }
}

#[test]
fn a_model_that_the_shards_have_no_room_for_is_refused_before_memory_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let spec = spec(layout(1, 1, 1), folder.path());
    let (_, _, shards) = saved(&spec);
    let larger = |page: &mut Value| page["model"]["vocab"] = (1_u32 << 22).into();
    let shards = rewritten(&spec, shards, larger, ShardHash::of);
    seal(&spec, MANIFEST_VERSION, shards);
    let error = Weights::open(&checkpoint::directory(&spec, id())).unwrap_err();
    let error = error.to_string();
    assert!(error.contains("rank-00000.safetensors"), "{error}");
    assert!(error.contains("model: it takes"), "{error}");
}
