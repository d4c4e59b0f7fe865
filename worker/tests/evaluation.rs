//! Held-out text scored by a gang: the same figures in every layout, those of one process alone, and training that
//! goes on as if nothing had been asked.

#![allow(clippy::unwrap_used, reason = "a test ends where it goes wrong")]

mod common;

use common::{LAYOUTS, MadeUp, train};
use rebloom_core::eval::Score;
use rebloom_core::layout::Layout;
use rebloom_core::spec::{Precision, RunSpec};
use rebloom_data::indexed::{Width, Writer};
use rebloom_worker::checkpoint;
use rebloom_worker::data::{Samples, Shelf};
use rebloom_worker::score::Scorer;
use rebloom_worker::weights::Weights;
use std::path::{Path, PathBuf};
use tch::Device;

fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/conformance/bloom-4l-4h")
}

/// A run of that model that is evaluated on two sets in `folder`.
fn spec(layout: Layout, folder: &Path) -> RunSpec {
    rebloom_worker::setup().unwrap();
    let mut shape = Weights::open(&model()).unwrap().model();
    shape.sequence = 16;
    let set = |name: &str, documents: [f64; 2]| serde_json::json!({"name": name, "prefix": folder.join("held"), "documents": documents});
    let spec = serde_json::json!({
        "name": "evaluated",
        "model": shape,
        "init": model(),
        "layout": layout,
        "train": {"steps": 4, "global_batch": 8, "micro_batch": 2, "seed": 3,
                  "numerics": {"hidden_dropout": 0.1}},
        "data": {"prefix": "/made/up"},
        "eval": {"every_steps": 2, "samples": 7, "sets": [set("head", [0.0, 0.5]), set("tail", [0.5, 1.0])]},
        "checkpoint": {"directory": folder, "every_steps": 2},
    });
    let spec: RunSpec = serde_json::from_value(spec).unwrap();
    assert_eq!(spec.flaws(), []);
    spec
}

/// Documents of many lengths: samples that are not whole, and micro-batches that are not full.
fn write(folder: &Path, vocab: u32) {
    let mut writer = Writer::create(&folder.join("held"), Width::U16).unwrap();
    for document in 0..10_u32 {
        let tokens: Vec<u32> = (0..3 + 5 * document)
            .map(|at| (at * at + 7 * document) % vocab)
            .collect();
        writer.push(&tokens).unwrap();
        writer.end_document();
    }
    writer.finish().unwrap();
}

fn made_up(spec: &RunSpec) -> impl Fn() -> Box<dyn Samples> + Sync {
    let vocab = spec.model.vocab;
    move || Box::new(MadeUp { vocab })
}

fn near(found: &[Score], wanted: &[Score], what: &str) {
    for (found, wanted) in found.iter().zip(wanted) {
        let off = (found.nats / wanted.nats - 1.0).abs();
        assert!(off <= 1e-6, "{what}: {found:?} is {off:e} from {wanted:?}");
        assert_eq!((found.tokens, &found.set), (wanted.tokens, &wanted.set));
    }
    assert_eq!(found.len(), wanted.len());
}

#[test]
fn a_gang_scores_as_one_process_does_and_trains_on_as_before() {
    let folder = tempfile::tempdir().unwrap();
    let alone = spec(LAYOUTS[0], folder.path());
    write(folder.path(), alone.model.vocab);
    let weights = Weights::open(&model()).unwrap();
    let whole = Scorer::load(&weights, &alone.model, Precision::Fp32, Device::Cpu).unwrap();
    let sets = Shelf::default().held_out(&alone).unwrap();
    assert!(
        sets.iter()
            .any(|set| set.samples(alone.model.sequence).len() % 2 == 1)
    );
    let score = |set| whole.score(set, |_, _| ()).unwrap();
    let wanted: Vec<Score> = sets.iter().map(score).collect();
    for layout in LAYOUTS {
        let spec = spec(layout, folder.path());
        let ranks = train(&spec, made_up(&spec), |rank, mut trainer| {
            checkpoint::begin_with(&mut trainer, rank, &weights).unwrap();
            let first = trainer.evaluate(&sets).unwrap();
            let second = trainer.evaluate(&sets).unwrap();
            assert_eq!(first, second, "nothing was changed by it");
            let step = trainer.step(false).unwrap();
            let later = trainer.evaluate(&sets).unwrap();
            assert_eq!((later.step.0, later.samples), (1, 8));
            assert_ne!(later.scores, first.scores);
            (first, step, trainer.step(false).unwrap())
        });
        assert!(ranks.iter().all(|rank| *rank == ranks[0]), "{layout}");
        near(&ranks[0].0.scores, &wanted, &layout.to_string());
        let bare = train(&spec, made_up(&spec), |rank, mut trainer| {
            checkpoint::begin_with(&mut trainer, rank, &weights).unwrap();
            [(); 2].map(|()| trainer.step(false).unwrap())
        });
        assert_eq!(
            bare[0],
            [ranks[0].1.clone(), ranks[0].2.clone()],
            "{layout}"
        );
    }
}

/// `rebloom eval` of a run in bf16 computes as its gang does, which is not how fp32 does.
#[test]
fn a_run_in_bf16_is_scored_in_its_own_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let mut spec = spec(LAYOUTS[0], folder.path());
    spec.train.numerics.precision = Precision::Bf16;
    write(folder.path(), spec.model.vocab);
    let weights = Weights::open(&model()).unwrap();
    let sets = Shelf::default().held_out(&spec).unwrap();
    let [half, full] = [Precision::Bf16, Precision::Fp32].map(|precision| {
        let alone = Scorer::load(&weights, &spec.model, precision, Device::Cpu).unwrap();
        let score = |set| alone.score(set, |_, _| ()).unwrap();
        sets.iter().map(score).collect::<Vec<Score>>()
    });
    let gang = train(&spec, made_up(&spec), |rank, mut trainer| {
        checkpoint::begin_with(&mut trainer, rank, &weights).unwrap();
        trainer.evaluate(&sets).unwrap().scores
    });
    near(&gang[0], &half, "bf16");
    for (half, full) in half.iter().zip(&full) {
        let off = (half.nats / full.nats - 1.0).abs();
        assert!(off > 1e-6 && off < 1e-2, "{off:e}");
    }
}

#[test]
fn held_out_text_that_does_not_fit_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let mut spec = spec(LAYOUTS[0], folder.path());
    let refused = |spec: &RunSpec| Shelf::default().held_out(spec).unwrap_err();
    assert!(refused(&spec).contains("held.idx"), "{}", refused(&spec));
    write(folder.path(), spec.model.vocab + 1000);
    let text = refused(&spec);
    assert!(
        text.contains("holds token") && text.contains("model.vocab is"),
        "{text}"
    );
    spec.eval = None;
    assert!(Shelf::default().held_out(&spec).unwrap().is_empty());
}

/// A rank of a gang whose weights are no numbers has no score, on any rank.
#[test]
fn a_loss_that_is_no_number_is_an_error_and_names_the_set() {
    let folder = tempfile::tempdir().unwrap();
    let spec = spec(LAYOUTS[3], folder.path());
    write(folder.path(), spec.model.vocab);
    let sets = Shelf::default().held_out(&spec).unwrap();
    let found = train(&spec, made_up(&spec), |_, mut trainer| {
        trainer.take_weights(|name| {
            let shape = trainer_shape(&spec, name);
            tch::Tensor::full(shape, f64::NAN, (tch::Kind::Float, Device::Cpu))
        });
        trainer.evaluate(&sets).unwrap_err().to_string()
    });
    let wanted = "after step 0 the loss on the held-out set head is not a number";
    assert_eq!(found, [wanted; 2]);
}

fn trainer_shape(spec: &RunSpec, name: &str) -> Vec<i64> {
    let stage = rebloom_worker::model::shape::Stage::of(&spec.model, 1, 0);
    let parameters = stage.parameters(&spec.model);
    let of_name = parameters.iter().find(|parameter| parameter.name == name);
    of_name.unwrap().shape.clone()
}
