//! How a step computes: every layout, dropout, bf16, recomputation, growing batches, small buffers.

#![allow(clippy::unwrap_used, reason = "a test ends where it goes wrong")]

mod common;

use common::{MadeUp, layouts, train};
use rebloom_core::checkpoint::CheckpointId;
use rebloom_core::id::{Generation, Step};
use rebloom_core::layout::Layout;
use rebloom_core::spec::RunSpec;
use rebloom_worker::checkpoint;
use rebloom_worker::data::Samples;
use rebloom_worker::trainer::{Figures, Trainer};
use serde_json::{Value, json};
use std::path::Path;

const STEPS: u64 = 4;

fn layout(tensor: u32, pipeline: u32, data: u32) -> Layout {
    Layout {
        tensor,
        pipeline,
        data,
    }
}

fn spec(layout: Layout, change: impl FnOnce(&mut Value)) -> RunSpec {
    let mut spec = json!({
        "name": "numerics",
        "model": {"layers": 8, "hidden": 32, "heads": 8, "vocab": 64, "sequence": 8},
        "layout": layout,
        "train": {"steps": STEPS, "global_batch": 8, "micro_batch": 1, "seed": 7,
                  "optimizer": {"learning_rate": 1e-3},
                  "numerics": {}},
        "data": {"prefix": "/made/up"},
        "checkpoint": {"directory": "/nowhere", "every_steps": 1000},
    });
    change(&mut spec);
    let spec: RunSpec = serde_json::from_value(spec).unwrap();
    assert_eq!(spec.flaws(), []);
    spec
}

fn numerics(value: Value) -> impl FnOnce(&mut Value) {
    move |spec| spec["train"]["numerics"] = value
}

fn dropped() -> Value {
    json!({"hidden_dropout": 0.1, "attention_dropout": 0.1})
}

fn made_up() -> Box<dyn Samples> {
    Box::new(MadeUp { vocab: 64 })
}

/// Figures of every step to the bit, and the hash of the state, of every rank.
type Ends = Vec<(Vec<Figures>, [u8; 32])>;

fn run(spec: &RunSpec) -> Ends {
    train(spec, made_up, |_, mut trainer| {
        trainer.begin();
        let figures = (0..spec.train.steps).map(|_| trainer.step(false).unwrap());
        let figures = figures.collect();
        trainer.check_replicas().unwrap();
        trainer.farewell();
        (figures, checkpoint::state_hash(&trainer).0)
    })
}

fn losses(spec: &RunSpec) -> Vec<f64> {
    run(spec)[0].0.iter().map(|figures| figures.loss).collect()
}

fn off(a: &[f64], b: &[f64]) -> f64 {
    a.iter()
        .zip(b)
        .map(|(a, b)| (a / b - 1.0).abs())
        .fold(0.0, f64::max)
}

/// A model and a batch, and how many layouts are first fitted by it.
struct Shape {
    layers: u32,
    heads: u32,
    hidden: u32,
    batch: u32,
    layouts: usize,
}

/// Between them they fit every layout of at most eight ranks.
const SHAPES: [Shape; 4] = [
    Shape {
        layers: 8,
        heads: 8,
        hidden: 32,
        batch: 8,
        layouts: 26,
    },
    // Tensor or data groups of 3 and 6.
    Shape {
        layers: 6,
        heads: 12,
        hidden: 36,
        batch: 6,
        layouts: 8,
    },
    Shape {
        layers: 5,
        heads: 5,
        hidden: 20,
        batch: 5,
        layouts: 2,
    },
    Shape {
        layers: 7,
        heads: 7,
        hidden: 28,
        batch: 7,
        layouts: 2,
    },
];

impl Shape {
    /// Without warm-up, and with gradients that are always clipped.
    fn spec(&self, layout: Layout, after_norm: bool, directory: &Path) -> RunSpec {
        spec(layout, |spec| {
            spec["model"] = json!({"layers": self.layers, "hidden": self.hidden, "heads": self.heads,
                                   "vocab": self.vocab(), "sequence": 8,
                                   "residual_after_layernorm": after_norm});
            spec["train"]["global_batch"] = json!(self.batch);
            // Two micro-batches where there is an even number of samples.
            let each = self.batch / layout.data;
            let micro = if each.is_multiple_of(2) {
                each / 2
            } else {
                each
            };
            spec["train"]["micro_batch"] = json!(micro);
            spec["train"]["steps"] = json!(LONG);
            spec["train"]["optimizer"]["clip"] = json!(CLIP);
            spec["checkpoint"]["directory"] = json!(directory);
        })
    }

    /// A few words, of which no tensor group of several holds equal parts.
    const fn vocab(&self) -> u32 {
        2 * self.heads + 1
    }

    fn fits(&self, layout: Layout) -> bool {
        self.heads.is_multiple_of(layout.tensor)
            && self.batch.is_multiple_of(layout.data)
            && layout.pipeline <= self.layers
    }

    fn samples(&self) -> Box<dyn Samples> {
        Box::new(MadeUp {
            vocab: self.vocab(),
        })
    }

    /// Saves the initial weights as one rank has them.
    fn seed(&self, spec: &RunSpec) {
        let shards = train(
            spec,
            || self.samples(),
            |rank, mut trainer| {
                trainer.begin();
                checkpoint::save(&trainer, rank, SEED).unwrap()
            },
        );
        common::seal(spec, SEED, 0, shards);
    }

    /// Training that goes on from the seed checkpoint.
    fn run(&self, spec: &RunSpec, steps: u64) -> Ends {
        let ranks = train(
            spec,
            || self.samples(),
            |rank, mut trainer| {
                checkpoint::load(&mut trainer, rank, SEED).unwrap();
                let steps = (0..steps).map(|_| trainer.step(false).unwrap());
                let figures: Vec<_> = steps.collect();
                trainer.check_replicas().unwrap();
                trainer.farewell();
                (figures, checkpoint::state_hash(&trainer).0)
            },
        );
        assert!(ranks.iter().all(|(figures, _)| *figures == ranks[0].0));
        ranks
    }
}

/// Gradients of every one of those models have a larger norm.
const CLIP: f64 = 0.2;

/// Steps of one rank alone, and of layouts of each kind; and of all others, to be done in minutes.
const LONG: u64 = 20;
const SHORT: u64 = 4;

fn steps(of: Layout) -> u64 {
    let long = [
        (1, 1, 1),
        (2, 1, 1),
        (1, 2, 1),
        (1, 1, 2),
        (2, 2, 2),
        (4, 2, 1),
        (8, 1, 1),
        (1, 1, 8),
    ];
    let is_long = long.contains(&(of.tensor, of.pipeline, of.data));
    if is_long { LONG } else { SHORT }
}

/// Where every layout begins.
const SEED: CheckpointId = CheckpointId {
    step: Step(0),
    generation: Generation(1),
};

/// One of the figures of each step, which are the same on every rank.
fn figures(ends: &Ends, part: impl Fn(&Figures) -> f64) -> Vec<f64> {
    ends[0].0.iter().map(part).collect()
}

fn every_layout_trains_alike(after_norm: bool) {
    let mut left: Vec<_> = layouts().collect();
    assert_eq!(left.len(), 38);
    for shape in &SHAPES {
        let folder = tempfile::tempdir().unwrap();
        let spec = |layout| shape.spec(layout, after_norm, folder.path());
        shape.seed(&spec(layout(1, 1, 1)));
        let alone = shape.run(&spec(layout(1, 1, 1)), LONG);
        let losses = |ends: &Ends| figures(ends, |of| of.loss);
        let norms = |ends: &Ends| figures(ends, |of| of.grad_norm);
        let first = losses(&alone);
        assert!(first.iter().all(|loss| loss.is_finite()));
        assert!(first[19] < first[0], "nothing was learned: {first:?}");
        let least = norms(&alone).into_iter().fold(f64::INFINITY, f64::min);
        assert!(
            least > CLIP,
            "{} heads: {least} is not clipped",
            shape.heads
        );
        let (fitting, others) = left.into_iter().partition(|layout| shape.fits(*layout));
        let fitting: Vec<Layout> = fitting;
        assert_eq!(fitting.len(), shape.layouts, "{} heads", shape.heads);
        for layout in fitting {
            let once = shape.run(&spec(layout), steps(layout));
            let again = shape.run(&spec(layout), steps(layout));
            assert!(once == again, "{layout}: other bits");
            let (loss, norm) = (
                off(&losses(&once), &first),
                off(&norms(&once), &norms(&alone)),
            );
            assert!(loss < 1e-6, "{layout}: losses are off by {loss:e}");
            assert!(norm < 1e-5, "{layout}: norms are off by {norm:e}");
        }
        left = others;
    }
    assert_eq!(left, [], "a layout that no shape fits");
}

#[test]
fn every_layout_up_to_eight_ranks_gives_the_same_losses_and_repeats_its_bits() {
    every_layout_trains_alike(false);
}

#[test]
fn every_layout_does_so_with_the_residual_stream_behind_the_norms() {
    every_layout_trains_alike(true);
}

#[test]
fn dropout_is_the_same_in_every_layout() {
    let alone = losses(&spec(layout(1, 1, 1), numerics(dropped())));
    let without = losses(&spec(layout(1, 1, 1), |_| {}));
    assert!(off(&without, &alone) > 1e-4, "something is dropped");
    for layout in [
        layout(2, 1, 1),
        layout(1, 2, 1),
        layout(1, 1, 2),
        layout(2, 2, 2),
        layout(8, 1, 1),
    ] {
        let others = losses(&spec(layout, numerics(dropped())));
        let off = off(&others, &alone);
        assert!(
            off < 1e-6,
            "{layout:?}: {others:?} is not {alone:?}, {off:e}"
        );
    }
    let larger = spec(layout(1, 1, 1), |spec| {
        spec["train"]["numerics"] = dropped();
        spec["train"]["micro_batch"] = json!(4);
    });
    assert!(
        off(&losses(&larger), &alone) < 1e-6,
        "whatever the micro-batch"
    );
}

#[test]
fn computing_again_changes_no_bit() {
    for precision in ["fp32", "bf16"] {
        for layout in [layout(1, 1, 1), layout(2, 2, 1)] {
            for dropout in [0.0, 0.1] {
                let of = |recompute: bool| {
                    run(&spec(
                        layout,
                        numerics(json!({
                            "precision": precision, "recompute": recompute,
                            "hidden_dropout": dropout, "attention_dropout": dropout,
                        })),
                    ))
                };
                assert!(of(false) == of(true), "{precision} {layout:?} {dropout}");
            }
        }
    }
}

#[test]
fn bf16_follows_fp32_and_repeats_its_bits() {
    let reference = losses(&spec(layout(1, 1, 1), |_| {}));
    for layout in layouts().filter(|layout| steps(*layout) == LONG) {
        let spec = spec(layout, numerics(json!({"precision": "bf16"})));
        let once = run(&spec);
        assert!(once == run(&spec), "{layout:?}");
        let losses: Vec<_> = once[0].0.iter().map(|figures| figures.loss).collect();
        let off = off(&losses, &reference);
        assert!(off < 5e-3, "{layout:?}: {off:e}");
        assert!(off > 0.0, "it is not fp32");
    }
}

/// With a learning rate that bf16 weights alone would round away.
#[test]
fn bf16_has_master_weights_in_fp32() {
    let spec = spec(layout(1, 1, 1), |spec| {
        spec["train"]["numerics"] = json!({"precision": "bf16"});
        spec["train"]["optimizer"] = json!({"learning_rate": 1e-6, "min_learning_rate": 1e-6});
    });
    let moved = train(&spec, made_up, |_, mut trainer| {
        trainer.begin();
        let own = |trainer: &Trainer| -> Vec<tch::Tensor> {
            let slices = trainer.optimizer().own(&trainer.flat().plan);
            slices.map(|slice| slice.tensors[0].copy()).collect()
        };
        let before = own(&trainer);
        assert!(before.iter().all(|part| part.kind() == tch::Kind::Float));
        trainer.step(false).unwrap();
        let after = own(&trainer);
        let moved = before.iter().zip(&after).map(|(a, b)| {
            let moved = (a - b).abs().gt(0.0).to_kind(tch::Kind::Double);
            moved.mean(tch::Kind::Double).double_value(&[])
        });
        moved.fold(0.0, f64::max)
    });
    assert!(moved[0] > 0.9, "{moved:?}");
}

#[test]
fn any_number_of_micro_batches_goes_through_any_pipeline() {
    let reference = losses(&spec(layout(1, 1, 1), |_| {}));
    for pipeline in [2, 4, 7] {
        for micro_batch in [1, 2, 4, 8] {
            let spec = spec(layout(1, pipeline, 1), |spec| {
                spec["train"]["micro_batch"] = json!(micro_batch);
            });
            let off = off(&losses(&spec), &reference);
            assert!(off < 1e-6, "{pipeline} stages, {micro_batch}: {off:e}");
        }
    }
}

#[test]
fn buffers_of_any_size_give_the_same_losses() {
    let reference = losses(&spec(layout(1, 1, 1), |_| {}));
    for layout in [layout(1, 1, 1), layout(1, 1, 4), layout(2, 2, 2)] {
        for elements in [4096, 5000, 20_000] {
            let spec = spec(layout, numerics(json!({"group_elements": elements})));
            let off = off(&losses(&spec), &reference);
            assert!(off < 1e-6, "{layout:?} {elements}: {off:e}");
        }
    }
}

#[test]
fn a_batch_that_grows_takes_each_sample_once() {
    let grows = |layout| {
        spec(layout, |spec| {
            spec["train"]["ramp_up"] = json!({"start": 2, "increment": 2, "samples": 12});
            spec["train"]["steps"] = json!(8);
        })
    };
    let seen = |layout| {
        train(&grows(layout), made_up, |_, mut trainer| {
            trainer.begin();
            let mut seen = Vec::new();
            for step in 0..8 {
                assert_eq!(trainer.samples(), grows(layout).train.samples_after(step));
                let batch = trainer.batch();
                seen.push((batch, trainer.step(false).unwrap().loss));
            }
            trainer.farewell();
            seen
        })
        .swap_remove(0)
    };
    let alone = seen(layout(1, 1, 1));
    let batches: Vec<_> = alone.iter().map(|(batch, _)| *batch).collect();
    assert_eq!(batches[0], 2);
    assert_eq!(*batches.last().unwrap(), 8);
    assert!(batches.is_sorted());
    let figures = |of: &[(u32, f64)]| -> Vec<f64> { of.iter().map(|(_, loss)| *loss).collect() };
    for layout in [layout(1, 2, 1), layout(1, 1, 2), layout(2, 2, 2)] {
        let others = seen(layout);
        assert!(
            off(&figures(&others), &figures(&alone)) < 1e-6,
            "{layout:?}"
        );
    }
}
