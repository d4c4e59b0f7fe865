//! The model against Hugging Face's: logits, gradients, losses and final weights, in every layout.
//!
//! With `REBLOOM_TEST_DEVICE=cuda:0` the same in fp32 on a GPU (without TF32), for one rank: NCCL wants a GPU for
//! each. There sums are made in another order, so that bounds are five times wider. ALiBi rides in the heads there;
//! some tests let it do so on the CPU, too.

#![allow(clippy::unwrap_used, reason = "a test ends where it goes wrong")]

mod case;
#[path = "../common/mod.rs"]
mod common;

use case::{Case, Parts, bound, layouts, slice};
use common::{layouts as all_layouts, on_every_rank, train, train_in};
use rebloom_core::flight::Channel;
use rebloom_core::id::Rank;
use rebloom_core::layout::Layout;
use rebloom_core::spec::RunSpec;
use rebloom_worker::comm::Groups;
use rebloom_worker::data::Reader;
use rebloom_worker::model::shape::{Split, Stage};
use rebloom_worker::model::{Place, StageModel, Way};
use rebloom_worker::optim::{Flat, Limits, Plan};
use rebloom_worker::shim::cuda::home;
use rebloom_worker::trainer::{How, Trainer};
use tch::{Device, Kind, Tensor};

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

/// How far a gradient may be off: a share of the parameter's largest, since most gradients are smaller than any
/// bound that suits the large ones. What is no more than rounding (such as of a gradient that is zero) may differ.
fn of_largest(gradient: &Tensor) -> f64 {
    let largest = gradient.abs().max().double_value(&[]);
    (bound(1e-4) * largest).clamp(1e-8, bound(1e-4))
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

/// The cases, how many layouts each has heads, layers and samples for, and the most samples of a micro-batch.
const CASES: [(&str, usize, u32); 6] = [
    ("bloom-4l-4h", 21, 2),
    ("bloom-2l-6h", 15, 1),
    ("bloom-2l-12h-post", 18, 1),
    ("bloom-8l-8h-clip", 30, 12),
    ("bloom-1l-35h-clip", 5, 35),
    ("bloom-2l-12h-post-clip", 19, 1),
];

fn trains_as_hugging_face(name: &str) {
    let (_, wanted, micro_batch) = CASES.into_iter().find(|case| case.0 == name).unwrap();
    let case = Case::load(name);
    let specs = case.layouts(micro_batch);
    every_layout_ran(&specs, wanted);
    train_as_hugging_face(&case, &specs, Way::of(common::device()));
}

fn train_as_hugging_face(case: &Case, specs: &[RunSpec], way: Way) {
    for spec in specs {
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
        let how = How {
            positions: way,
            ..How::of(common::device())
        };
        let ranks = train_in(how, spec, || case.samples(), run);
        let mut gradients = Vec::new();
        let mut weights = Vec::new();
        let mut losses = Vec::new();
        for (rank_gradients, steps, rank_weights) in ranks {
            gradients.push(rank_gradients);
            weights.push(rank_weights);
            losses.push(steps);
        }
        let gradients = over_data_groups(layout, &gradients);
        case.compare(layout, "grad", &gradients, of_largest)
            .unwrap();
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
        let final_weights = case.compare(layout, "final", &weights, |_| bound(1e-4));
        final_weights.unwrap();
    }
}

#[test]
fn four_heads_train_as_hugging_face() {
    trains_as_hugging_face("bloom-4l-4h");
}

#[test]
fn six_heads_train_as_hugging_face() {
    trains_as_hugging_face("bloom-2l-6h");
}

#[test]
fn a_residual_stream_behind_the_norms_trains_as_hugging_face() {
    trains_as_hugging_face("bloom-2l-12h-post");
}

#[test]
fn eight_layers_train_as_hugging_face_with_clipping_and_decay() {
    trains_as_hugging_face("bloom-8l-8h-clip");
}

#[test]
fn groups_of_five_and_seven_train_as_hugging_face_with_clipping_and_decay() {
    trains_as_hugging_face("bloom-1l-35h-clip");
}

#[test]
fn groups_of_three_and_six_train_as_hugging_face_with_clipping_and_decay() {
    trains_as_hugging_face("bloom-2l-12h-post-clip");
}

#[test]
fn one_micro_batch_of_all_samples_trains_as_hugging_face() {
    let case = Case::load("bloom-4l-4h");
    let specs = case.layouts(8);
    every_layout_ran(&specs, 21);
    train_as_hugging_face(&case, &specs, Way::of(common::device()));
}

/// What flash attention computes, in fp32.
#[test]
fn positions_in_the_heads_train_as_hugging_face() {
    for (name, _, micro_batch) in CASES {
        let case = Case::load(name);
        let specs = case.layouts(micro_batch).into_iter();
        let few = specs.filter(|spec| spec.layout.world() == spec.layout.tensor.min(2));
        train_as_hugging_face(&case, &few.collect::<Vec<_>>(), Way::InHeads);
    }
}

#[test]
fn the_cases_have_every_layout_between_them() {
    let specs = CASES.map(|(name, _, micro_batch)| Case::load(name).layouts(micro_batch));
    let left = layouts().filter(|layout| {
        let mut compared = specs.iter().flatten();
        !compared.any(|spec| spec.layout == *layout)
    });
    assert_eq!(left.collect::<Vec<_>>(), []);
    let many = all_layouts().count();
    assert_eq!(many, 38);
}

/// The comparison of gradients can fail for every parameter of every case.
#[test]
fn a_gradient_that_is_one_percent_too_large_is_seen() {
    let alone = Layout {
        tensor: 1,
        pipeline: 1,
        data: 1,
    };
    for (name, ..) in CASES {
        let case = Case::load(name);
        let gradients = || -> Parts {
            let answers = case.answers.lock().unwrap();
            let all = answers.iter().filter_map(|(name, gradient)| {
                let name = name.strip_prefix("grad.")?.to_owned();
                Some((name, (Split::Whole, gradient.copy())))
            });
            all.collect()
        };
        let compared = |gradients| case.compare(alone, "grad", &[gradients], of_largest);
        assert_eq!(compared(gradients()), Ok(()));
        for parameter in gradients().keys() {
            let mut wrong = gradients();
            let (_, gradient) = wrong.get_mut(parameter).unwrap();
            *gradient = &*gradient * 1.01;
            let error = compared(wrong).unwrap_err();
            assert!(error.contains(parameter), "{name} {parameter}: {error}");
        }
    }
}

/// The samples that a data rank takes in a step of one micro-batch.
fn samples_of(spec: &RunSpec, data: u32) -> std::ops::Range<u64> {
    let each = u64::from(spec.train.micro_batch);
    let from = u64::from(data) * each;
    from..from + each
}

/// Logits of this rank's words for the samples of its data rank, where it is of the last stage: the blocks of
/// every stage, and what they send each other, as in a step.
fn logits(case: &Case, way: Way, spec: &RunSpec, rank: Rank, groups: &Groups) -> Option<Tensor> {
    let layout = spec.layout;
    let at = layout.coordinates(rank);
    let stage = Stage::of(&spec.model, layout.pipeline, at.stage);
    let parameters = stage.parameters(&spec.model);
    let place = (at.tensor, layout.tensor);
    let plan = Plan::new(parameters, place, layout.data, Limits::default()).unwrap();
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
    let model = StageModel::new(&spec.model, Some(&spec.train), &stage, &flat, (place, way));
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

fn gives_logits(case: &Case, specs: &[RunSpec], way: Way) {
    for spec in specs {
        let layout = spec.layout;
        let parts = on_every_rank(layout, |rank, groups| {
            let logits = logits(case, way, spec, rank, &groups);
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
            "{layout}, {way:?}: {difference:e}"
        );
    }
}

#[test]
fn logits_are_hugging_faces_in_every_layout() {
    for (name, wanted, _) in CASES {
        let case = Case::load(name);
        // One micro-batch on each data rank.
        let specs = case.layouts(case.expected.batch);
        every_layout_ran(&specs, wanted);
        gives_logits(&case, &specs, Way::of(common::device()));
        let (few, _): (Vec<_>, Vec<_>) = specs
            .into_iter()
            .partition(|spec| spec.layout.world() == spec.layout.tensor.min(2));
        gives_logits(&case, &few, Way::InHeads);
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
