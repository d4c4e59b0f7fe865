//! The model against Hugging Face's: logits, gradients, losses and final weights, in every layout.
//!
//! With `REBLOOM_TEST_DEVICE=cuda:0` the same in fp32 on a GPU (without TF32), for one rank: NCCL wants a GPU for
//! each. There sums are made in another order and ALiBi rides in the heads, so that bounds are five times wider.

#![allow(clippy::unwrap_used, reason = "a test ends where it goes wrong")]

mod common;

use common::{on_every_rank, train};
use rebloom_core::flight::Channel;
use rebloom_core::id::Rank;
use rebloom_core::layout::Layout;
use rebloom_core::spec::RunSpec;
use rebloom_worker::comm::Groups;
use rebloom_worker::data::{Reader, Samples};
use rebloom_worker::model::shape::{Split, Stage};
use rebloom_worker::model::{Place, StageModel};
use rebloom_worker::optim::{Flat, LARGEST, Plan};
use rebloom_worker::shim::cuda::home;
use rebloom_worker::trainer::Trainer;
use safetensors::SafeTensors;
use safetensors::tensor::Dtype;
use std::collections::{BTreeMap, BTreeSet};
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

    /// Compares what every rank holds of each parameter with the whole of it; every parameter that the case
    /// has must be held by somebody.
    fn compare(&self, layout: Layout, prefix: &str, parts: &[Parts], most: f64) {
        let mut held = BTreeSet::new();
        for (rank, parts) in layout.ranks().zip(parts) {
            let index = layout.coordinates(rank).tensor;
            for (name, (split, part)) in parts {
                let name = format!("{prefix}.{name}");
                let whole = &self.answer(&name);
                let wanted = match split {
                    Split::Whole => whole.shallow_clone(),
                    Split::Rows => slice(whole, 0, index, layout.tensor),
                    Split::Columns => slice(whole, 1, index, layout.tensor),
                };
                let difference = (part - wanted).abs().max().double_value(&[]);
                assert!(
                    difference <= most,
                    "{layout} rank {rank}: {name} is off by {difference:e}"
                );
                held.insert(name);
            }
        }
        let answers = self.answers.lock().unwrap();
        let all = answers
            .keys()
            .filter(|name| name.starts_with(&format!("{prefix}.")));
        assert!(held.iter().eq(all), "{layout}: {prefix} of other names");
    }

    /// The layouts of at most eight ranks that the case has heads, layers and samples for, with micro-batches
    /// of at most so many samples.
    fn layouts(&self, most: u32) -> Vec<RunSpec> {
        let batch = self.expected.batch;
        let fair = layouts().filter(|layout| batch.is_multiple_of(layout.data));
        let all = fair.map(|layout| self.spec(layout, most.min(batch / layout.data)));
        all.filter(|spec| spec.flaws().is_empty()).collect()
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

/// The gradient of the step as each rank's part of the parameters has it: what the members of its data group
/// hold, added up, each of which is a mean over the whole batch already.
fn over_data_groups(layout: Layout, parts: &[Parts]) -> Vec<Parts> {
    let part = |rank: Rank| &parts[usize::try_from(rank.0).unwrap()];
    let of_rank = |rank| {
        let group = layout.data_group(rank);
        let sum = |name: &String| {
            let each = group.iter().map(|&member| &part(member)[name].1);
            each.fold(Tensor::from(0_f32), |sum, part| sum + part)
        };
        let all = part(rank).iter();
        all.map(|(name, (split, _))| (name.clone(), (*split, sum(name))))
            .collect()
    };
    layout.ranks().map(of_rank).collect()
}

/// On a GPU, one rank; elsewhere as many layouts as are named.
fn every_layout_ran(specs: &[RunSpec], wanted: usize) {
    let wanted = match common::device() {
        Device::Cpu => wanted,
        Device::Cuda(_) | Device::Mps | Device::Vulkan => 1,
    };
    let ran: Vec<_> = specs.iter().map(|spec| spec.layout.to_string()).collect();
    assert_eq!(ran.len(), wanted, "{ran:?}");
}

fn trains_as_hugging_face(case: &str, micro_batch: u32, wanted: usize) {
    let case = Case::load(case);
    let specs = case.layouts(micro_batch);
    every_layout_ran(&specs, wanted);
    for spec in &specs {
        let layout = spec.layout;
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
        let ranks = train(spec, || case.samples(), run);
        let mut gradients = Vec::new();
        let mut weights = Vec::new();
        let mut losses = Vec::new();
        for (rank_gradients, steps, rank_weights) in ranks {
            gradients.push(rank_gradients);
            weights.push(rank_weights);
            losses.push(steps);
        }
        let gradients = over_data_groups(layout, &gradients);
        case.compare(layout, "grad", &gradients, bound(1e-4));
        for steps in &losses {
            assert_eq!(steps.len(), case.expected.losses.len());
            for (step, figures) in steps.iter().enumerate() {
                let (loss, norm) = (case.expected.losses[step], case.expected.grad_norms[step]);
                near(
                    figures.loss,
                    loss,
                    bound(1e-4),
                    &format!("{layout} loss of step {step}"),
                );
                near(
                    figures.grad_norm,
                    norm,
                    bound(1e-4),
                    &format!("{layout} norm of step {step}"),
                );
                assert!(!figures.stop);
            }
        }
        case.compare(layout, "final", &weights, bound(1e-4));
    }
}

#[test]
fn four_heads_train_as_hugging_face() {
    trains_as_hugging_face("bloom-4l-4h", 2, 21);
}

#[test]
fn six_heads_train_as_hugging_face() {
    trains_as_hugging_face("bloom-2l-6h", 1, 11);
}

#[test]
fn a_residual_stream_behind_the_norms_trains_as_hugging_face() {
    trains_as_hugging_face("bloom-2l-12h-post", 1, 18);
}

#[test]
fn one_micro_batch_of_all_samples_trains_as_hugging_face() {
    trains_as_hugging_face("bloom-4l-4h", 8, 21);
}

/// The samples that a data rank takes in a step of one micro-batch.
fn samples_of(spec: &RunSpec, data: u32) -> std::ops::Range<u64> {
    let each = u64::from(spec.train.micro_batch);
    let from = u64::from(data) * each;
    from..from + each
}

/// Logits of this rank's words for the samples of its data rank, where it is of the last stage: the blocks of
/// every stage, and what they send each other, as in a step.
fn logits(case: &Case, spec: &RunSpec, rank: Rank, groups: &Groups) -> Option<Tensor> {
    let layout = spec.layout;
    let at = layout.coordinates(rank);
    let stage = Stage::of(&spec.model, layout.pipeline, at.stage);
    let parameters = stage.parameters(&spec.model);
    let place = (at.tensor, layout.tensor);
    let plan = Plan::new(parameters, place, layout.data, LARGEST).unwrap();
    let flat = Flat::new(plan, Kind::Float, groups.device());
    for slot in &flat.plan.slots {
        let whole = case.weight(&slot.parameter.name);
        let part = match slot.parameter.split {
            Split::Whole => whole,
            Split::Rows => slice(&whole, 0, at.tensor, layout.tensor),
            Split::Columns => slice(&whole, 1, at.tensor, layout.tensor),
        };
        flat.views(&slot.parameter.name).0.copy_(&part);
    }
    let place = Place {
        group: groups.tensor.clone(),
        index: at.tensor,
        size: layout.tensor,
        watch: groups.watch(),
    };
    let model = StageModel::new(&spec.model, &spec.train, &stage, &flat, place);
    let input = if stage.is_first {
        let mut reader = Reader::new(spec, case.samples()).onto(groups.device());
        let (words, _) = reader.read(samples_of(spec, at.data)).unwrap();
        model.embed(&words).unwrap()
    } else {
        let arrived = model.activations(spec.train.micro_batch);
        let stages = groups.pipeline.as_ref().unwrap();
        let arriving = stages.recv(&arrived, at.stage - 1, 0).unwrap();
        arriving.wait_in(Channel::ForwardIn).unwrap();
        arrived
    };
    let pass = model.forward(input, None).unwrap();
    if stage.is_last {
        return Some(home(&model.logits(&pass)));
    }
    let stages = groups.pipeline.as_ref().unwrap();
    let leaving = stages.send(Channel::ForwardOut, &pass.output(), at.stage + 1, 0);
    leaving.unwrap().wait().unwrap();
    None
}

#[test]
fn logits_are_hugging_faces_in_every_layout() {
    for (name, wanted) in [
        ("bloom-4l-4h", 21),
        ("bloom-2l-6h", 11),
        ("bloom-2l-12h-post", 18),
    ] {
        let case = Case::load(name);
        // One micro-batch on each data rank.
        let specs = case.layouts(case.expected.batch);
        every_layout_ran(&specs, wanted);
        for spec in &specs {
            let layout = spec.layout;
            let parts = on_every_rank(layout, |rank, groups| {
                let logits = logits(&case, spec, rank, &groups);
                let nothing = Tensor::zeros([1], (Kind::Float, Device::Cpu));
                groups.sum_over_world(&nothing).unwrap();
                logits
            });
            let words = usize::try_from(layout.tensor).unwrap();
            let parts: Vec<_> = parts.into_iter().flatten().collect();
            assert_eq!(parts.len(), words * usize::try_from(layout.data).unwrap());
            let samples = parts.chunks(words).map(|parts| Tensor::cat(parts, -1));
            let logits = Tensor::cat(&samples.collect::<Vec<_>>(), 0);
            let wanted = &case.answer("logits_step0");
            let difference = (logits.view(wanted.size().as_slice()) - wanted).abs().max();
            let difference = difference.double_value(&[]);
            assert!(
                difference <= bound(1e-5),
                "{name} in {layout}: {difference:e}"
            );
        }
    }
}

#[test]
fn a_trainer_that_is_a_whole_model_gives_hugging_faces_logits() {
    let case = Case::load("bloom-2l-6h");
    let alone = Layout {
        tensor: 1,
        pipeline: 1,
        data: 1,
    };
    let batch = case.expected.batch;
    let logits = train(
        &case.spec(alone, batch),
        || case.samples(),
        |_, mut trainer| {
            trainer.take_weights(|name| case.weight(name));
            home(&trainer.logits(0..u64::from(batch)).unwrap())
        },
    );
    let wanted = &case.answer("logits_step0");
    let difference = (logits[0].view(wanted.size().as_slice()) - wanted)
        .abs()
        .max();
    let difference = difference.double_value(&[]);
    assert!(difference <= bound(1e-5), "{difference:e}");
}
