//! A reference case: what it is trained with, and the comparison of what ranks hold with its answers.

use super::common::{self, layouts as all_layouts};
use rebloom_core::layout::Layout;
use rebloom_core::spec::RunSpec;
use rebloom_worker::data::Samples;
use rebloom_worker::model::shape::Split;
use safetensors::SafeTensors;
use safetensors::tensor::Dtype;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tch::{Device, Kind, Tensor};

/// What a rank holds of each parameter, and how that is cut.
pub(crate) type Parts = BTreeMap<String, (Split, Tensor)>;

#[derive(serde::Deserialize)]
pub(crate) struct Expected {
    n_layer: u32,
    n_head: u32,
    hidden_size: u32,
    vocab_size: u32,
    seq: u32,
    pub(crate) batch: u32,
    pub(crate) steps: u64,
    lr: f64,
    betas: (f64, f64),
    eps: f64,
    weight_decay: f64,
    clip: f64,
    #[serde(default)]
    residual_after_layernorm: bool,
    pub(crate) losses: Vec<f64>,
    pub(crate) grad_norms: Vec<f64>,
}

pub(crate) struct Case {
    pub(crate) expected: Expected,
    weights: Mutex<BTreeMap<String, Tensor>>,
    pub(crate) answers: Mutex<BTreeMap<String, Tensor>>,
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
    pub(crate) fn load(name: &str) -> Self {
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

    pub(crate) fn spec(&self, layout: Layout, micro_batch: u32) -> RunSpec {
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

    pub(crate) fn weight(&self, name: &str) -> Tensor {
        self.weights.lock().unwrap()[name].copy()
    }

    pub(crate) fn answer(&self, name: &str) -> Tensor {
        self.answers.lock().unwrap()[name].copy()
    }

    pub(crate) fn samples(&self) -> Box<dyn Samples> {
        Box::new(InMemory {
            tokens: Arc::clone(&self.tokens),
        })
    }

    /// Compares what every rank holds of each parameter with the whole of it, which says how far off it may be;
    /// every parameter that the case has must be held by somebody.
    pub(crate) fn compare(
        &self,
        layout: Layout,
        prefix: &str,
        parts: &[Parts],
        most: impl Fn(&Tensor) -> f64,
    ) -> Result<(), String> {
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
                let most = most(whole);
                if difference.is_nan() || difference > most {
                    return Err(format!(
                        "{layout} rank {rank}: {name} is off by {difference:e}, which may be {most:e}"
                    ));
                }
                held.insert(name);
            }
        }
        let answers = self.answers.lock().unwrap();
        let all = answers
            .keys()
            .filter(|name| name.starts_with(&format!("{prefix}.")));
        assert!(held.iter().eq(all), "{layout}: {prefix} of other names");
        Ok(())
    }

    /// The layouts of at most eight ranks that the case has heads, layers and samples for, with the largest
    /// micro-batches of at most so many samples.
    pub(crate) fn layouts(&self, most: u32) -> Vec<RunSpec> {
        let batch = self.expected.batch;
        let fair = layouts().filter(|layout| batch.is_multiple_of(layout.data));
        let all = fair.map(|layout| {
            let each = batch / layout.data;
            let micro = (1..=most.min(each)).rfind(|&micro| each.is_multiple_of(micro));
            self.spec(layout, micro.unwrap())
        });
        all.filter(|spec| spec.flaws().is_empty()).collect()
    }
}

pub(crate) fn slice(whole: &Tensor, dimension: i64, index: u32, of: u32) -> Tensor {
    let all = whole.size()[usize::try_from(dimension).unwrap()];
    let before = |index: u32| all * i64::from(index) / i64::from(of);
    let from = before(index);
    whole.narrow(dimension, from, before(index + 1) - from)
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

/// Every layout of at most eight ranks that this device runs.
pub(crate) fn layouts() -> impl Iterator<Item = Layout> {
    let most = match common::device() {
        Device::Cpu => 8,
        Device::Cuda(_) | Device::Mps | Device::Vulkan => 1,
    };
    all_layouts().filter(move |layout| layout.world() <= most)
}

/// The bound for the device that the test runs on.
pub(crate) fn bound(on_the_cpu: f64) -> f64 {
    match common::device() {
        Device::Cpu => on_the_cpu,
        Device::Cuda(_) | Device::Mps | Device::Vulkan => 5.0 * on_the_cpu,
    }
}
