//! Model folders in and out, beginning with one, and prediction over its weights.

#![allow(clippy::unwrap_used, reason = "a test ends where it goes wrong")]

mod common;

use common::{MadeUp, train};
use rebloom_core::checkpoint::CheckpointId;
use rebloom_core::id::{Generation, Step};
use rebloom_core::layout::Layout;
use rebloom_core::spec::{Model, Precision, RunSpec};
use rebloom_worker::checkpoint;
use rebloom_worker::data::Samples;
use rebloom_worker::hf::{self, Kind};
use rebloom_worker::infer::Inference;
use rebloom_worker::infer::generate::{End, generate};
use rebloom_worker::infer::sample::Sampling;
use rebloom_worker::model::shape::{Parameter, Stage};
use rebloom_worker::score::Scorer;
use rebloom_worker::weights::Weights;
use safetensors::SafeTensors;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tch::{Device, Tensor};

const CASES: [&str; 3] = ["bloom-4l-4h", "bloom-2l-6h", "bloom-2l-12h-post"];
const ALL: u64 = 1 << 30;

fn case(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/conformance")
        .join(name)
}

fn open(path: &Path) -> Weights {
    rebloom_worker::setup().unwrap();
    Weights::open(path).unwrap()
}

fn parameters(weights: &Weights) -> Vec<Parameter> {
    let model = weights.model();
    Stage::of(&model, 1, 0).parameters(&model)
}

/// Bits of all weights, by name.
fn bits(weights: &Weights) -> BTreeMap<String, Vec<u32>> {
    let all = parameters(weights);
    let tensors = weights.whole(all.iter()).unwrap();
    let named = all.iter().zip(tensors).map(|(parameter, tensor)| {
        let values = Vec::<f32>::try_from(tensor.flatten(0, -1)).unwrap();
        let bits = values.into_iter().map(f32::to_bits).collect();
        (parameter.name.clone(), bits)
    });
    named.collect()
}

#[test]
fn a_folder_is_written_and_read_to_the_bit_in_one_file_or_many() {
    for name in CASES {
        let original = open(&case(name));
        let folder = tempfile::tempdir().unwrap();
        for (most, many) in [(ALL, false), (20_000, true), (1, true)] {
            let to = folder.path().join(format!("fp32-{most}"));
            let written = hf::write(&original, &to, Kind::Float, most, None).unwrap();
            assert_eq!(written.files > 1, many);
            assert_eq!(to.join("model.safetensors.index.json").exists(), many);
            assert_eq!(bits(&open(&to)), bits(&original), "{name} {most}");
            assert!(hf::write(&original, &to, Kind::Float, most, None).is_err());
        }
        // One file has the bytes of its tensors where transformers has them.
        let files = ["fp32-1073741824", ""].map(|at| match at {
            "" => case(name),
            at => folder.path().join(at),
        });
        let [ours, theirs] = files.map(|at| std::fs::read(at.join("model.safetensors")).unwrap());
        let (ours, theirs) = (
            SafeTensors::deserialize(&ours).unwrap(),
            SafeTensors::deserialize(&theirs).unwrap(),
        );
        assert_eq!(ours.len(), theirs.len());
        for (tensor, view) in theirs.iter() {
            assert_eq!(ours.tensor(tensor).unwrap().data(), view.data(), "{tensor}");
        }
        // bf16 loses once and never again.
        let once = folder.path().join("bf16");
        hf::write(&original, &once, Kind::BFloat16, 20_000, None).unwrap();
        let once = open(&once);
        assert!(once.is_bf16() && bits(&once) != bits(&original));
        let again = folder.path().join("bf16-again");
        hf::write(&once, &again, Kind::BFloat16, ALL, None).unwrap();
        assert_eq!(bits(&open(&again)), bits(&once));
    }
}

fn spec(weights: &Weights, layout: Layout, directory: &Path) -> RunSpec {
    let spec = serde_json::json!({
        "name": "models", "model": weights.model(), "init": weights.path(), "layout": layout,
        "train": {"steps": 2, "global_batch": 4, "micro_batch": 1},
        "data": {"prefix": "/made/up"},
        "checkpoint": {"directory": directory, "every_steps": 1},
    });
    let mut spec: RunSpec = serde_json::from_value(spec).unwrap();
    spec.model.sequence = 16;
    assert_eq!(spec.flaws(), []);
    spec
}

#[test]
fn a_run_begins_with_a_folder_in_any_layout_and_exports_the_same_bits() {
    let original = open(&case("bloom-2l-6h"));
    let samples = || -> Box<dyn Samples> { Box::new(MadeUp { vocab: 160 }) };
    let id = CheckpointId {
        step: Step(0),
        generation: Generation(1),
    };
    let mut losses = Vec::new();
    for (tensor, pipeline, data) in [(1, 1, 1), (2, 2, 2), (1, 2, 4)] {
        let layout = Layout {
            tensor,
            pipeline,
            data,
        };
        let folder = tempfile::tempdir().unwrap();
        let spec = spec(&original, layout, folder.path());
        let done = train(&spec, samples, |rank, mut trainer| {
            checkpoint::begin_with(&mut trainer, rank, &open(original.path())).unwrap();
            trainer.check_replicas().unwrap();
            let shard = checkpoint::save(&trainer, rank, id).unwrap();
            let loss = trainer.step(false).unwrap().loss;
            trainer.farewell();
            (shard, loss)
        });
        losses.push(done[0].1);
        let directory = checkpoint::directory(&spec, id);
        let shards = done.into_iter().map(|(shard, _)| shard).collect();
        common::seal(&spec, id, 0, shards);
        let checkpoint = open(&directory);
        assert_eq!(checkpoint.model(), spec.model);
        let exported = folder.path().join("exported");
        hf::write(&checkpoint, &exported, Kind::Float, 50_000, None).unwrap();
        assert_eq!(bits(&open(&exported)), bits(&original), "{layout}");
        // Another run may begin with this checkpoint, too.
        assert_eq!(bits(&checkpoint), bits(&original));
    }
    assert!(
        losses.iter().all(|loss| (loss - losses[0]).abs() < 1e-6),
        "{losses:?}"
    );
}

#[test]
fn a_model_of_another_shape_is_refused_with_both_shapes() {
    let original = open(&case("bloom-2l-6h"));
    let mut wanted = original.model();
    wanted.sequence = 8;
    assert_eq!(original.suits(&wanted), Ok(()));
    wanted.layers = 3;
    let problem = original.suits(&wanted).unwrap_err();
    assert!(
        problem.contains("layers: 2") && problem.contains("layers: 3"),
        "{problem}"
    );
}

#[test]
fn logits_are_hugging_faces_at_once_and_word_by_word() {
    for name in CASES {
        let model = Inference::load(&open(&case(name)), Device::Cpu).unwrap();
        let bytes = std::fs::read(case(name).join("expected.safetensors")).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let expected: serde_json::Value =
            serde_json::from_slice(&std::fs::read(case(name).join("expected.json")).unwrap())
                .unwrap();
        let view = file.tensor("tokens").unwrap();
        let (samples, room) = (view.shape()[1], view.shape()[2]);
        let (words, _) = view.data().as_chunks::<8>();
        let words: Vec<u32> = words
            .iter()
            .map(|word| u32::try_from(i64::from_le_bytes(*word)).unwrap())
            .collect();
        let view = file.tensor("logits_step0").unwrap();
        let (floats, _) = view.data().as_chunks::<4>();
        let wanted: Vec<f32> = floats.iter().map(|f| f32::from_le_bytes(*f)).collect();
        let vocab = usize::try_from(model.model().vocab).unwrap();
        let mut nats = 0.0;
        for at in 0..samples {
            let sample = &words[at * room..(at + 1) * room];
            let read = &sample[..room - 1];
            let wanted = &wanted[at * (room - 1) * vocab..(at + 1) * (room - 1) * vocab];
            let wanted = Tensor::from_slice(wanted).view([-1, i64::from(model.model().vocab)]);
            let near = |got: &Tensor, what: &str| {
                let off = (got - &wanted).abs().max().double_value(&[]);
                assert!(off <= 1e-5, "{name} {what}: {off:e}");
            };
            let whole = model.read(read, &mut model.cache());
            near(&model.logits(&whole), "at once");
            let mut cache = model.cache();
            let mut pieces = vec![model.read(&read[..3], &mut cache)];
            pieces.extend(
                read[3..]
                    .iter()
                    .map(|&word| model.read(&[word], &mut cache)),
            );
            assert_eq!(cache.tokens(), i64::try_from(read.len()).unwrap());
            near(&model.logits(&Tensor::cat(&pieces, 0)), "word by word");
            let sample: Vec<i32> = sample.iter().map(|word| word.cast_signed()).collect();
            let shape = Model {
                sequence: u32::try_from(read.len()).unwrap(),
                ..*model.model()
            };
            let scorer =
                Scorer::load(&open(&case(name)), &shape, Precision::Fp32, Device::Cpu).unwrap();
            nats += scorer.nats(&[&sample], |_, _| ()).unwrap() / read.len() as f64;
        }
        let loss = nats / samples as f64;
        let first = expected["losses"][0].as_f64().unwrap();
        assert!((loss - first).abs() < 1e-5, "{name}: {loss} is not {first}");
    }
}

#[test]
fn the_same_seed_writes_the_same_text() {
    let model = Inference::load(&open(&case("bloom-4l-4h")), Device::Cpu).unwrap();
    let greedy = Sampling {
        temperature: 0.0,
        top_k: 0,
        top_p: 1.0,
        seed: 1,
    };
    let drawn = Sampling {
        temperature: 1.5,
        ..greedy
    };
    let write = |how, prompt: &[u32]| {
        let mut heard = Vec::new();
        let text = generate(&model, prompt, (2, u32::MAX), 20, how, |word| {
            heard.push(word)
        });
        assert_eq!(heard, text.tokens);
        assert!(text.end == End::Document || text.tokens.len() == 20);
        text.tokens
    };
    assert_eq!(write(greedy, &[5, 9, 11]), write(greedy, &[5, 9, 11]));
    assert_eq!(write(drawn, &[5, 9, 11]), write(drawn, &[5, 9, 11]));
    assert_ne!(
        write(drawn, &[5, 9, 11]),
        write(Sampling { seed: 2, ..drawn }, &[5, 9, 11])
    );
    write(greedy, &[]);
}

/// What opening a copy of a case says after `spoil` changed it.
fn refusal(spoil: impl Fn(&Path)) -> String {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().join("model");
    hf::write(&open(&case("bloom-2l-6h")), &at, Kind::Float, 40_000, None).unwrap();
    open(&at);
    spoil(&at);
    Weights::open(&at).unwrap_err().to_string()
}

fn edit(path: &Path, from: &str, to: &str) {
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{text}");
    std::fs::write(path, text.replacen(from, to, 1)).unwrap();
}

#[test]
fn a_folder_that_is_not_whole_is_refused_by_file_and_field() {
    const INDEX: &str = "model.safetensors.index.json";
    let first = |folder: &Path| {
        let mut names: Vec<_> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|e| e == "safetensors"))
            .collect();
        names.sort();
        names.remove(0)
    };
    type Damage<'a> = &'a dyn Fn(&Path);
    let table: [(Damage<'_>, &str); 8] = [
        (
            &|at| std::fs::remove_file(first(at)).unwrap(),
            "model-00001-of-",
        ),
        (
            &|at| {
                let file = std::fs::OpenOptions::new()
                    .write(true)
                    .open(first(at))
                    .unwrap();
                file.set_len(file.metadata().unwrap().len() - 4).unwrap();
            },
            "has offsets",
        ),
        (
            &|at| std::fs::write(first(at), [9; 8]).unwrap(),
            "head: it claims",
        ),
        (
            &|at| std::fs::write(first(at), [0; 4]).unwrap(),
            "model-00001-of-",
        ),
        (
            &|at| edit(&at.join(INDEX), "model-00001-of-", "../model-00001-of-"),
            "is not a file beside it",
        ),
        (
            &|at| edit(&at.join(INDEX), "\"weight_map\"", "\"map\""),
            "weight_map",
        ),
        (
            &|at| edit(&at.join("config.json"), "\"n_layer\": 2", "\"n_layer\": 3"),
            "the weights lack h.2.",
        ),
        (
            &|at| {
                edit(
                    &at.join("config.json"),
                    "\"hidden_size\": 48",
                    "\"hidden_size\": 96",
                )
            },
            "has shape",
        ),
    ];
    for (spoil, wanted) in table {
        let error = refusal(spoil);
        assert!(error.contains(wanted), "{wanted}: {error}");
        assert!(error.contains("/model/"), "{error}");
    }
    let error = Weights::open(Path::new("/")).unwrap_err().to_string();
    assert!(error.contains("neither a model folder"), "{error}");
}
