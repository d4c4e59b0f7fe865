//! The model against Hugging Face's: logits, gradients, losses and final weights, in every layout.
//!
//! With `REBLOOM_TEST_DEVICE=cuda:0` the same in fp32 on a GPU (without TF32), for one rank: NCCL wants a GPU for
//! each. There sums are made in another order and ALiBi rides in the heads, so that bounds are five times wider.

#![allow(clippy::unwrap_used, reason = "a test ends where it goes wrong")]

mod common;

use common::train;
use rebloom_core::layout::Layout;
use rebloom_core::spec::RunSpec;
use rebloom_worker::data::Samples;
use rebloom_worker::model::shape::Split;
use rebloom_worker::shim::cuda::home;
use rebloom_worker::trainer::Trainer;
use safetensors::SafeTensors;
use safetensors::tensor::Dtype;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tch::{Device, Kind, Tensor};

#[derive(serde::Deserialize)]
struct Expected {
    n_layer: u32,
    n_head: u32,
    hidden_size: u32,
    vocab_size: u32,
    seq: u32,
    batch: u32,
    steps: u64,
    lr: f64,
    betas: (f64, f64),
    eps: f64,
    weight_decay: f64,
    clip: f64,
    #[serde(default)]
    residual_after_layernorm: bool,
    losses: Vec<f64>,
    grad_norms: Vec<f64>,
}

struct Case {
    expected: Expected,
    weights: Mutex<BTreeMap<String, Tensor>>,
    answers: Mutex<BTreeMap<String, Tensor>>,
    tokens: Arc<Vec<i32>>,
}

fn read(path: &Path) -> BTreeMap<String, Tensor> {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensors = file.tensors().into_iter().map(|(name, view)| {
        let shape: Vec<i64> = view
            .shape()
            .iter()
            .map(|&n| i64::try_from(n).unwrap())
            .collect();
        let kind = if view.dtype() == Dtype::I64 {
            Kind::Int64
        } else {
            assert_eq!(view.dtype(), Dtype::F32, "{name}");
            Kind::Float
        };
        (
            name.replace("transformer.", ""),
            Tensor::from_data_size(view.data(), &shape, kind),
        )
    });
    tensors.collect()
}

impl Case {
    fn load(name: &str) -> Self {
        let cases = std::env::var_os("REBLOOM_TEST_CASES").map(PathBuf::from);
        let here = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/conformance");
        let folder = cases.unwrap_or_else(here).join(name);
        let text = std::fs::read_to_string(folder.join("expected.json")).unwrap();
        let answers = read(&folder.join("expected.safetensors"));
        let tokens = Vec::<i64>::try_from(answers["tokens"].flatten(0, -1)).unwrap();
        Self {
            expected: serde_json::from_str(&text).unwrap(),
            weights: Mutex::new(read(&folder.join("model.safetensors"))),
            answers: Mutex::new(answers),
            tokens: Arc::new(
                tokens
                    .into_iter()
                    .map(|t| i32::try_from(t).unwrap())
                    .collect(),
            ),
        }
    }

    fn spec(&self, layout: Layout, micro_batch: u32) -> RunSpec {
        let e = &self.expected;
        let spec = serde_json::json!({
            "name": "conformance",
            "model": {"layers": e.n_layer, "hidden": e.hidden_size, "heads": e.n_head,
                      "vocab": e.vocab_size, "sequence": e.seq,
                      "residual_after_layernorm": e.residual_after_layernorm},
            "layout": layout,
            "train": {"steps": e.steps, "global_batch": e.batch, "micro_batch": micro_batch,
                      "optimizer": {"learning_rate": e.lr, "min_learning_rate": e.lr,
                                    "beta1": e.betas.0, "beta2": e.betas.1, "epsilon": e.eps,
                                    "weight_decay": e.weight_decay, "clip": e.clip}},
            "data": {"prefix": "/in/memory"},
            "checkpoint": {"directory": "/nowhere", "every_steps": 1000},
        });
        serde_json::from_value(spec).unwrap()
    }

    fn weight(&self, name: &str) -> Tensor {
        self.weights.lock().unwrap()[name].copy()
    }

    fn answer(&self, name: &str) -> Tensor {
        self.answers.lock().unwrap()[name].copy()
    }

    fn samples(&self) -> Box<dyn Samples> {
        Box::new(InMemory {
            tokens: Arc::clone(&self.tokens),
        })
    }

    /// Compares what every rank holds of each parameter with the whole of it.
    fn compare(&self, layout: Layout, prefix: &str, parts: &[Parts], most: f64) {
        for (rank, parts) in layout.ranks().zip(parts) {
            let index = layout.coordinates(rank).tensor;
            for (name, (split, part)) in parts {
                let whole = &self.answer(&format!("{prefix}.{name}"));
                let wanted = match split {
                    Split::Whole => whole.shallow_clone(),
                    Split::Rows => slice(whole, 0, index, layout.tensor),
                    Split::Columns => slice(whole, 1, index, layout.tensor),
                };
                let difference = (part - wanted).abs().max().double_value(&[]);
                assert!(
                    difference <= most,
                    "{layout:?} rank {rank}: {prefix}.{name} is off by {difference:e}"
                );
            }
        }
    }
}

fn slice(whole: &Tensor, dimension: i64, index: u32, of: u32) -> Tensor {
    let each = whole.size()[usize::try_from(dimension).unwrap()] / i64::from(of);
    whole.narrow(dimension, each * i64::from(index), each)
}

struct InMemory {
    tokens: Arc<Vec<i32>>,
}

impl Samples for InMemory {
    fn read(&self, k: u64, into: &mut [i32]) -> Result<(), String> {
        let from = usize::try_from(k).unwrap() * into.len();
        into.copy_from_slice(&self.tokens[from..from + into.len()]);
        Ok(())
    }
}

type Parts = BTreeMap<String, (Split, Tensor)>;

fn parts(trainer: &Trainer, gradients: bool) -> Parts {
    let slots = trainer.flat().plan.slots.iter();
    slots
        .map(|slot| {
            let (weight, grad) = trainer.flat().views(&slot.parameter.name);
            let tensor = home(&if gradients { grad } else { weight }).copy();
            (slot.parameter.name.clone(), (slot.parameter.split, tensor))
        })
        .collect()
}

fn near(got: f64, wanted: f64, most: f64, what: &str) {
    assert!(
        (got - wanted).abs() <= most,
        "{what}: {got} is not {wanted}"
    );
}

/// Every layout of at most eight ranks.
fn layouts() -> impl Iterator<Item = Layout> {
    let all = (1..=8).flat_map(|tensor| {
        (1..=8).flat_map(move |pipeline| {
            (1..=8).map(move |data| Layout {
                tensor,
                pipeline,
                data,
            })
        })
    });
    let most = match common::device() {
        Device::Cpu => 8,
        Device::Cuda(_) | Device::Mps | Device::Vulkan => 1,
    };
    all.filter(move |layout| layout.world() <= most)
}

/// The bound for the device that the test runs on.
fn bound(on_the_cpu: f64) -> f64 {
    match common::device() {
        Device::Cpu => on_the_cpu,
        Device::Cuda(_) | Device::Mps | Device::Vulkan => 5.0 * on_the_cpu,
    }
}

fn trains_as_hugging_face(case: &str, micro_batch: u32) {
    let case = Case::load(case);
    for layout in layouts() {
        let spec = case.spec(layout, micro_batch);
        if !spec.flaws().is_empty() {
            // The case has too few heads, layers or samples for it.
            assert_ne!(layout.world(), 1);
            continue;
        }
        let run = |_, mut trainer: Trainer| {
            trainer.take_weights(|name| case.weight(name));
            drop(trainer.gradients().unwrap());
            let gradients = parts(&trainer, true);
            let steps: Vec<_> = (0..case.expected.steps)
                .map(|_| trainer.step(false).unwrap())
                .collect();
            trainer.check_replicas().unwrap();
            let weights = parts(&trainer, false);
            trainer.farewell();
            (gradients, steps, weights)
        };
        let ranks = train(&spec, || case.samples(), run);
        let mut gradients = Vec::new();
        let mut weights = Vec::new();
        let mut losses = Vec::new();
        for (rank_gradients, steps, rank_weights) in ranks {
            gradients.push(rank_gradients);
            weights.push(rank_weights);
            losses.push(steps);
        }
        // With more data ranks each holds a part of the sum; the norm below sees the whole of it.
        if layout.data == 1 {
            case.compare(layout, "grad", &gradients, bound(1e-4));
        }
        for steps in &losses {
            for (step, figures) in steps.iter().enumerate() {
                let (loss, norm) = (case.expected.losses[step], case.expected.grad_norms[step]);
                near(
                    figures.loss,
                    loss,
                    bound(1e-4),
                    &format!("{layout:?} loss of step {step}"),
                );
                near(
                    figures.grad_norm,
                    norm,
                    bound(1e-4),
                    &format!("{layout:?} norm of step {step}"),
                );
                assert!(!figures.stop);
            }
        }
        case.compare(layout, "final", &weights, bound(1e-4));
    }
}

#[test]
fn four_heads_train_as_hugging_face() {
    trains_as_hugging_face("bloom-4l-4h", 2);
}

#[test]
fn six_heads_train_as_hugging_face() {
    trains_as_hugging_face("bloom-2l-6h", 1);
}

#[test]
fn a_residual_stream_behind_the_norms_trains_as_hugging_face() {
    trains_as_hugging_face("bloom-2l-12h-post", 1);
}

#[test]
fn one_micro_batch_of_all_samples_trains_as_hugging_face() {
    trains_as_hugging_face("bloom-4l-4h", 8);
}

#[test]
fn logits_are_hugging_faces() {
    for name in ["bloom-4l-4h", "bloom-2l-6h", "bloom-2l-12h-post"] {
        let case = Case::load(name);
        let most = layouts().map(|layout| layout.tensor).max();
        for tensor in [1, 2].into_iter().filter(|&tensor| Some(tensor) <= most) {
            let layout = Layout {
                tensor,
                pipeline: 1,
                data: 1,
            };
            let spec = case.spec(layout, case.expected.batch);
            let ranks = train(
                &spec,
                || case.samples(),
                |_, mut trainer| {
                    trainer.take_weights(|name| case.weight(name));
                    home(&trainer.logits(0..u64::from(case.expected.batch)).unwrap())
                },
            );
            let logits = Tensor::cat(&ranks, -1);
            let wanted = &case.answer("logits_step0");
            let difference = (logits.view(wanted.size().as_slice()) - wanted).abs().max();
            let difference = difference.double_value(&[]);
            assert!(
                difference <= bound(1e-5),
                "{name} with {tensor} ranks: {difference:e}"
            );
        }
    }
}
