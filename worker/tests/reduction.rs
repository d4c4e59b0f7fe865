//! Gradients are summed over the data group in buckets, beside the backward pass, in little memory and to the same bits.

#![allow(clippy::unwrap_used, reason = "a test ends where it goes wrong")]

mod common;

use common::{MadeUp, Whole, gather, train_in};
use rebloom_core::layout::Layout;
use rebloom_core::spec::RunSpec;
use rebloom_worker::data::Samples;
use rebloom_worker::optim::{Event, Final, Plan};
use rebloom_worker::trainer::{How, Trainer};
use std::sync::Mutex;

const STEPS: u64 = 3;

fn layout(tensor: u32, pipeline: u32, data: u32) -> Layout {
    Layout {
        tensor,
        pipeline,
        data,
    }
}

/// Six blocks and two micro-batches.
fn spec(layout: Layout, recompute: bool) -> RunSpec {
    let spec = serde_json::json!({
        "name": "reduction",
        "model": {"layers": 6, "hidden": 48, "heads": 6, "vocab": 128, "sequence": 16},
        "layout": layout,
        "train": {"steps": STEPS, "global_batch": 8, "micro_batch": 4 / layout.data, "seed": 7,
                  "optimizer": {"learning_rate": 3e-3},
                  "numerics": {"recompute": recompute}},
        "data": {"prefix": "/made/up"},
        "checkpoint": {"directory": "/nowhere", "every_steps": 1000},
    });
    let spec: RunSpec = serde_json::from_value(spec).unwrap();
    assert_eq!(spec.flaws(), []);
    spec
}

fn made_up() -> Box<dyn Samples> {
    Box::new(MadeUp { vocab: 128 })
}

fn how(bucket: i64, overlaps: bool) -> How {
    How {
        bucket,
        overlaps,
        ..How::of(common::device())
    }
}

/// What happened on each rank in a second step, and its plan.
fn events(spec: &RunSpec, how: How) -> Vec<(Vec<Event>, Plan)> {
    train_in(how, spec, made_up, |_, mut trainer: Trainer| {
        trainer.begin();
        trainer.step(false).unwrap();
        trainer.step(false).unwrap();
        trainer.farewell();
        let events = trainer.optimizer().events().to_vec();
        (events, trainer.flat().plan.clone())
    })
}

fn place(events: &[Event], of: impl Fn(&Event) -> bool) -> usize {
    events.iter().position(of).unwrap()
}

fn began(events: &[Event], bucket: usize) -> usize {
    place(
        events,
        |event| matches!(event, Event::Began { bucket: of, .. } if *of == bucket),
    )
}

/// The parameters of a bucket.
fn names(plan: &Plan, bucket: usize) -> Vec<&str> {
    let slots = plan.slots.iter().filter(|slot| slot.bucket == bucket);
    slots.map(|slot| slot.parameter.name.as_str()).collect()
}

fn block(name: &str) -> Option<usize> {
    name.strip_prefix("h.")?.split('.').next()?.parse().ok()
}

#[test]
fn the_last_layers_gradients_are_on_their_way_before_the_backward_pass_ends() {
    for (layout, recompute) in [
        (layout(1, 1, 2), false),
        (layout(1, 1, 2), true),
        (layout(1, 1, 4), false),
        (layout(2, 2, 2), false),
    ] {
        for (events, plan) in events(&spec(layout, recompute), how(10_000, true)) {
            let ended = place(&events, |event| *event == Event::Final(Final::Block(0)));
            let first = place(&events, |event| matches!(event, Event::Began { .. }));
            assert!(first < ended, "{layout}: {events:?}");
            for bucket in 0..plan.buckets.len() {
                let names = names(&plan, bucket);
                let began = began(&events, bucket);
                if names.contains(&"word_embeddings.weight") {
                    let last = |event: &Event| *event == Event::Final(Final::Embedding);
                    assert!(place(&events, last) < began, "{layout}: {events:?}");
                    assert_eq!(names.len(), 1);
                    continue;
                }
                // Of its blocks and of the stage's, the first one gets its gradients last.
                let all = plan.slots.iter().map(|slot| slot.parameter.name.as_str());
                let [first, of_stage] = [
                    names.into_iter().filter_map(block).min(),
                    all.filter_map(block).min(),
                ];
                let block = first.unwrap() - of_stage.unwrap();
                let last = |event: &Event| *event == Event::Final(Final::Block(block));
                assert!(place(&events, last) < began, "{layout}: {events:?}");
            }
        }
    }
}

/// The most sums that were under way at once, and the most elements that they took.
fn most(events: &[Event]) -> (usize, i64) {
    let mut alive = std::collections::VecDeque::new();
    let (mut sums, mut memory) = (0, 0);
    for event in events {
        match event {
            Event::Began { elements, .. } => alive.push_back(*elements),
            Event::Summed { .. } => drop(alive.pop_front().unwrap()),
            Event::Final(_) => {}
        }
        sums = sums.max(alive.len());
        memory = memory.max(alive.iter().sum());
    }
    assert!(alive.is_empty(), "all are added up");
    (sums, memory)
}

#[test]
fn what_arrives_takes_the_memory_of_two_buckets_whatever_the_model_takes() {
    for overlaps in [false, true] {
        // Whole parameters of 9,216 elements are above the second.
        for bucket in [10_000, 4_000] {
            for layout in [layout(1, 1, 2), layout(1, 1, 4), layout(2, 2, 2)] {
                for (events, plan) in events(&spec(layout, false), how(bucket, overlaps)) {
                    let (sums, memory) = most(&events);
                    assert_eq!(sums, 2, "{layout} {bucket}");
                    // The last cache line of each member.
                    let rounded = bucket + 16 * i64::from(layout.data);
                    let largest = 2 * rounded;
                    assert!(memory <= largest, "{layout} {bucket}: {memory}");
                    assert!(plan.buffers.iter().sum::<i64>() > 2 * largest);
                    let all = events.iter().map(|event| match event {
                        Event::Began { elements, .. } => *elements,
                        Event::Summed { .. } | Event::Final(_) => 0,
                    });
                    assert_eq!(all.sum::<i64>(), plan.buffers.iter().sum::<i64>());
                }
            }
        }
    }
}

/// Losses and norms to the bit, and weights and moments.
fn run(spec: &RunSpec, how: How) -> (Vec<(u64, u64)>, Whole) {
    let whole = Mutex::new(Whole::new());
    let figures = train_in(how, spec, made_up, |rank, mut trainer| {
        trainer.begin();
        let steps = (0..STEPS).map(|_| {
            let figures = trainer.step(false).unwrap();
            (figures.loss.to_bits(), figures.grad_norm.to_bits())
        });
        let steps: Vec<_> = steps.collect();
        trainer.check_replicas().unwrap();
        gather(&whole, &trainer, rank);
        trainer.farewell();
        steps
    });
    (figures[0].clone(), whole.into_inner().unwrap())
}

#[test]
fn overlap_changes_no_bit_and_buckets_change_no_more_than_the_order_of_the_norm() {
    for layout in [layout(1, 1, 2), layout(1, 1, 4), layout(2, 2, 2)] {
        let spec = spec(layout, false);
        let whole = run(&spec, how(1 << 30, false));
        for bucket in [1 << 30, 10_000, 4_000] {
            let after = run(&spec, how(bucket, false));
            assert!(after == run(&spec, how(bucket, true)), "{layout} {bucket}");
            assert_eq!(whole.0[0].0, after.0[0].0, "{layout} {bucket}");
            for (a, b) in whole.0.iter().zip(&after.0) {
                let [loss, norm] = [(a.0, b.0), (a.1, b.1)]
                    .map(|(a, b)| (f64::from_bits(a) / f64::from_bits(b) - 1.0).abs());
                assert!(loss < 1e-6, "{layout} {bucket}: {loss:e}");
                assert!(norm < 1e-5, "{layout} {bucket}: {norm:e}");
            }
        }
    }
}
