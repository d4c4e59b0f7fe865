//! The optimizer against its definition in fp64: moments, bias correction, decay, and clipping by a factor that
//! differs between steps, on one rank and over every kind of group.
//!
//! Moments show what weights do not: Adam forgets the scale of its gradients, its moments do not.

#![allow(clippy::unwrap_used, reason = "a test ends where it goes wrong")]

mod common;

use common::{MadeUp, Whole, gather, train};
use rebloom_core::layout::Layout;
use rebloom_core::spec::RunSpec;
use rebloom_worker::data::Samples;
use rebloom_worker::shim::{AdamW, Moments, adamw};
use rebloom_worker::trainer::Trainer;
use std::collections::BTreeMap;
use std::sync::Mutex;
use tch::{Kind, Tensor};

const STEPS: u64 = 5;
const RATE: f64 = 1e-2;
const DECAY: f64 = 1.0;
const CLIP: f64 = 0.3;

/// Weights and both moments of a parameter.
struct Reference([Vec<f64>; 3]);

impl Reference {
    fn new(weights: Vec<f64>) -> Self {
        let zeros = vec![0.0; weights.len()];
        Self([weights, zeros.clone(), zeros])
    }

    /// Decoupled decay, then Adam with both moments corrected for where they began (Loshchilov & Hutter,
    /// algorithm 2).
    fn update(&mut self, grads: &[f64], how: AdamW) {
        let [weights, mean, square] = &mut self.0;
        let step = i32::try_from(how.step).unwrap();
        let corrections = [how.beta1, how.beta2].map(|beta| 1.0 - beta.powi(step));
        for (at, grad) in grads.iter().enumerate() {
            mean[at] = how.beta1 * mean[at] + (1.0 - how.beta1) * grad;
            square[at] = how.beta2 * square[at] + (1.0 - how.beta2) * grad * grad;
            let (mean, square) = (mean[at] / corrections[0], square[at] / corrections[1]);
            weights[at] -= how.rate * how.decay * weights[at];
            weights[at] -= how.rate * mean / (square.sqrt() + how.epsilon);
        }
    }

    /// How far what is held is off, as a share of each one's largest.
    fn off(&self, held: [&[f64]; 3]) -> [f64; 3] {
        [0, 1, 2].map(|kind| off(held[kind], &self.0[kind]))
    }
}

fn off(held: &[f64], wanted: &[f64]) -> f64 {
    assert_eq!(held.len(), wanted.len());
    let largest = wanted.iter().fold(1e-12, |most: f64, x| most.max(x.abs()));
    let each = held.iter().zip(wanted).map(|(a, b)| (a - b).abs());
    each.fold(0.0, f64::max) / largest
}

fn values(of: &Tensor) -> Vec<f64> {
    Vec::try_from(of.to_kind(Kind::Double).flatten(0, -1)).unwrap()
}

#[test]
fn the_fused_update_is_adamw() {
    tch::manual_seed(5);
    let random = || Tensor::randn([999], (Kind::Float, tch::Device::Cpu));
    for decay in [0.0, 0.5] {
        let weights = random();
        let mut reference = Reference::new(values(&weights));
        let of = Moments {
            grads: weights.empty_like(),
            mean: weights.zeros_like(),
            square: weights.zeros_like(),
            weights,
        };
        for step in 1..=5 {
            // Some as large as epsilon, some larger, and another scale in every step.
            let sizes = Tensor::logspace(-6.0, 0.0, 999, 10.0, (Kind::Float, tch::Device::Cpu));
            let mut grads = of.grads.shallow_clone();
            grads.copy_(&(random() * sizes * (step as f64)));
            let how = AdamW {
                step,
                scale: if step % 2 == 0 { 0.3 } else { 1.0 },
                rate: RATE,
                beta1: 0.9,
                beta2: 0.95,
                decay,
                epsilon: 1e-5,
            };
            let scaled: Vec<f64> = values(&grads).iter().map(|g| g * how.scale).collect();
            adamw(&of, how).unwrap();
            reference.update(&scaled, how);
            let held = [&of.weights, &of.mean, &of.square].map(values);
            let off = reference.off(held.each_ref().map(Vec::as_slice));
            assert!(
                off.iter().all(|&off| off < 1e-6),
                "step {step}, decay {decay}: {off:?}"
            );
        }
    }
}

/// Steps of very different words, so that the norms of their gradients differ.
struct Uneven(MadeUp);

impl Samples for Uneven {
    fn read(&self, k: u64, into: &mut [i32]) -> Result<(), String> {
        self.0.read(k, into)?;
        let words = [64, 8, 2][usize::try_from(k / 8 % 3).unwrap()];
        into.iter_mut().for_each(|word| *word %= words);
        Ok(())
    }
}

fn uneven() -> Box<dyn Samples> {
    Box::new(Uneven(MadeUp { vocab: 64 }))
}

fn spec(tensor: u32, pipeline: u32, data: u32) -> RunSpec {
    let layout = Layout {
        tensor,
        pipeline,
        data,
    };
    let spec = serde_json::json!({
        "name": "optimizer",
        "model": {"layers": 2, "hidden": 32, "heads": 4, "vocab": 64, "sequence": 8},
        "layout": layout,
        "train": {"steps": STEPS, "global_batch": 8, "micro_batch": 1, "seed": 3,
                  "optimizer": {"learning_rate": RATE, "min_learning_rate": RATE, "epsilon": 1e-4,
                                "weight_decay": DECAY, "clip": CLIP}},
        "data": {"prefix": "/made/up"},
        "checkpoint": {"directory": "/nowhere", "every_steps": 1000},
    });
    let spec: RunSpec = serde_json::from_value(spec).unwrap();
    assert_eq!(spec.flaws(), []);
    spec
}

/// Weights of one rank, by name.
fn weights(trainer: &Trainer, gradients: bool) -> BTreeMap<String, Tensor> {
    let slots = trainer.flat().plan.slots.iter();
    let named = slots.map(|slot| {
        let name = &slot.parameter.name;
        let (weight, gradient) = trainer.flat().views(name);
        let of = if gradients { gradient } else { weight };
        (name.clone(), of.copy())
    });
    named.collect()
}

/// What each step leaves behind, in this layout.
fn states(spec: &RunSpec, begin: &Mutex<BTreeMap<String, Tensor>>) -> Vec<Whole> {
    let states: Vec<_> = (0..STEPS).map(|_| Mutex::new(Whole::new())).collect();
    train(spec, uneven, |rank, mut trainer| {
        trainer.take_weights(|name| begin.lock().unwrap()[name].copy());
        for state in &states {
            trainer.step(false).unwrap();
            // Also that both ends of a pipeline hold the same of the tied embedding.
            gather(state, &trainer, rank);
        }
        trainer.farewell();
    });
    let states = states.into_iter().map(|state| state.into_inner().unwrap());
    states.collect()
}

#[test]
fn clipping_and_decay_are_adamws_on_one_rank_and_on_eight() {
    let alone = spec(1, 1, 1);
    let settings = alone.train.optimizer;
    let mut ranks = train(&alone, uneven, |_, mut trainer| {
        trainer.begin();
        let begin = weights(&trainer, false);
        let mut references: BTreeMap<_, _> = begin
            .iter()
            .map(|(name, weight)| (name.clone(), Reference::new(values(weight))))
            .collect();
        let mut scales = Vec::new();
        for step in 1..=STEPS {
            drop(trainer.gradients().unwrap());
            let gradients = weights(&trainer, true);
            let norm = gradients.values().flat_map(values).map(|x| x * x);
            let norm = norm.sum::<f64>().sqrt();
            let figures = trainer.step(false).unwrap();
            assert!((figures.grad_norm / norm - 1.0).abs() < 1e-5);
            let scale = CLIP / (norm + 1e-6);
            scales.push(scale);
            for own in trainer.optimizer().own(&trainer.flat().plan) {
                let parameter = &own.slot.parameter;
                let name = &parameter.name;
                let is_matrix = parameter.shape.len() == 2;
                let how = AdamW {
                    step: i64::try_from(step).unwrap(),
                    scale: 1.0,
                    rate: RATE,
                    beta1: settings.beta1,
                    beta2: settings.beta2,
                    decay: if is_matrix { DECAY } else { 0.0 },
                    epsilon: settings.epsilon,
                };
                let clipped: Vec<_> = values(&gradients[name]).iter().map(|x| x * scale).collect();
                let reference = references.get_mut(name).unwrap();
                reference.update(&clipped, how);
                let held = own.tensors.each_ref().map(values);
                let off = reference.off(held.each_ref().map(Vec::as_slice));
                assert!(
                    off.iter().all(|&off| off < 1e-5),
                    "{name} after step {step}: {off:?}"
                );
            }
        }
        let [least, most] =
            [f64::min, f64::max].map(|of| scales.iter().copied().reduce(of).unwrap());
        assert!(most < 0.9 && most > 1.2 * least, "{scales:?}");
        begin
    });
    let begin = Mutex::new(ranks.remove(0));
    let one = states(&alone, &begin);
    let eight = states(&spec(2, 2, 2), &begin);
    for (step, (one, eight)) in one.iter().zip(&eight).enumerate() {
        assert!(one.keys().eq(eight.keys()));
        for (name, held) in eight {
            for (kind, held) in held.iter().enumerate() {
                let [held, wanted] = [held, &one[name][kind]].map(|bits| {
                    let bits = bits.iter().map(|bits| f32::from_bits(bits.unwrap()));
                    bits.map(f64::from).collect::<Vec<_>>()
                });
                let off = off(&held, &wanted);
                assert!(off < 1e-4, "{name} after step {step}, {kind}: {off:e}");
            }
        }
    }
}
