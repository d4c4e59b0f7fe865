//! Where each parameter lies in the flat fp32 buffers.
//!
//! Buffers stay below 2^31 elements (32-bit indices and host memory both break above that), and are
//! cut evenly over the data group. Inside a buffer, parameters of one kind lie together, so that the
//! optimizer works on a few long runs; each begins on a cache line, so that no element's arithmetic
//! depends on the layout around it.

use crate::model::shape::{Parameter, Split};
use std::ops::Range;
use tch::{Device, Kind, Tensor};

/// Elements that a buffer may hold at most.
pub const LARGEST: i64 = (1 << 31) - 1;
/// Elements of a cache line.
const LINE: i64 = 16;

/// A parameter's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// Which parameter.
    pub parameter: Parameter,
    /// Shape of the part that this rank holds.
    pub shape: Vec<i64>,
    /// In which buffer.
    pub buffer: usize,
    /// Where in it.
    pub range: Range<i64>,
}

/// Elements that the optimizer treats alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// In which buffer.
    pub buffer: usize,
    /// Where in it.
    pub range: Range<i64>,
    /// Whether their weights decay.
    pub decays: bool,
    /// Whether this rank counts them in the gradient norm: each parameter of the model is counted once.
    pub counts: bool,
}

/// The whole arrangement; depends on shapes only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Every parameter, in the order of the buffers.
    pub slots: Vec<Slot>,
    /// Runs of equal treatment, in order, without gaps inside a run.
    pub runs: Vec<Run>,
    /// Elements of each buffer; a multiple of the data group's size.
    pub buffers: Vec<i64>,
}

/// A parameter does not fit a buffer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{name} has {elements} elements on one rank, a buffer holds {largest}; use more tensor ranks"
)]
pub struct TooLarge {
    name: String,
    elements: i64,
    largest: i64,
}

impl Plan {
    /// Arranges `parameters` for member `index` of a tensor group of `tensor` and a data group of
    /// `data`, in buffers of at most `largest` elements.
    pub fn new(
        mut parameters: Vec<Parameter>,
        (index, tensor): (u32, u32),
        data: u32,
        largest: i64,
    ) -> Result<Self, TooLarge> {
        let kind = |p: &Parameter| (!p.decays, p.is_copy, p.split == Split::Whole);
        parameters.sort_by_key(kind);
        let unit = LINE * i64::from(data);
        let mut plan = Self {
            slots: Vec::new(),
            runs: Vec::new(),
            buffers: vec![0],
        };
        for parameter in parameters {
            let shape = parameter.part_shape(index, tensor);
            let elements: i64 = shape.iter().product();
            let space = round_up(elements, LINE);
            if round_up(space, unit) > largest {
                return Err(TooLarge {
                    name: parameter.name,
                    elements,
                    largest,
                });
            }
            let end = plan.buffers.last().copied().unwrap_or_default();
            if round_up(end + space, unit) > largest {
                plan.buffers.push(0);
            }
            let buffer = plan.buffers.len() - 1;
            let from = plan.buffers[buffer];
            plan.buffers[buffer] = from + space;
            let decays = parameter.decays;
            let is_counted_elsewhere =
                parameter.is_copy || (parameter.split == Split::Whole && index > 0);
            let counts = !is_counted_elsewhere;
            match plan.runs.last_mut() {
                Some(run)
                    if run.buffer == buffer && run.decays == decays && run.counts == counts =>
                {
                    run.range.end = from + space;
                }
                Some(_) | None => {
                    plan.runs.push(Run {
                        buffer,
                        range: from..from + space,
                        decays,
                        counts,
                    });
                }
            }
            plan.slots.push(Slot {
                parameter,
                shape,
                buffer,
                range: from..from + elements,
            });
        }
        for size in &mut plan.buffers {
            *size = round_up(*size, unit);
        }
        Ok(plan)
    }

    /// The part of a buffer that member `rank` of the data group of `data` updates.
    pub fn partition(&self, buffer: usize, rank: u32, data: u32) -> Range<i64> {
        let each = self.buffers[buffer] / i64::from(data);
        each * i64::from(rank)..each * (i64::from(rank) + 1)
    }
}

const fn round_up(value: i64, unit: i64) -> i64 {
    (value + unit - 1) / unit * unit
}

/// What two ranges share.
pub fn overlap(a: &Range<i64>, b: &Range<i64>) -> Option<Range<i64>> {
    let both = a.start.max(b.start)..a.end.min(b.end);
    (both.start < both.end).then_some(both)
}

/// Weights and gradients of one rank. Weights are what the model computes with; gradients are fp32.
#[derive(Debug)]
pub struct Flat {
    /// Where everything lies.
    pub plan: Plan,
    /// Numbers of the weights.
    pub kind: Kind,
    /// Where they lie.
    pub device: Device,
    /// One tensor a buffer.
    pub weights: Vec<Tensor>,
    /// One tensor a buffer.
    pub grads: Vec<Tensor>,
}

impl Flat {
    /// Makes the buffers, all zero.
    pub fn new(plan: Plan, kind: Kind, device: Device) -> Self {
        let zeros = |kind| {
            plan.buffers
                .iter()
                .map(|&size| Tensor::zeros([size], (kind, device)))
                .collect()
        };
        Self {
            weights: zeros(kind),
            grads: zeros(Kind::Float),
            plan,
            kind,
            device,
        }
    }

    /// The place of a parameter.
    pub fn slot(&self, name: &str) -> &Slot {
        let slot = self
            .plan
            .slots
            .iter()
            .find(|slot| slot.parameter.name == name);
        slot.unwrap_or_else(|| panic!("this stage has no parameter {name}"))
    }

    /// Weight and gradient of a parameter.
    pub fn views(&self, name: &str) -> (Tensor, Tensor) {
        let slot = self.slot(name);
        let view = |buffers: &[Tensor]| {
            let length = slot.range.end - slot.range.start;
            buffers[slot.buffer]
                .narrow(0, slot.range.start, length)
                .view(slot.shape.as_slice())
        };
        (view(&self.weights), view(&self.grads))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::shape::Stage;
    use rebloom_core::spec::Model;

    const BLOOM: Model = Model {
        layers: 70,
        hidden: 14336,
        heads: 112,
        vocab: 250_880,
        sequence: 2048,
        residual_after_layernorm: false,
    };

    fn check(plan: &Plan, data: u32, largest: i64) {
        for (slot, next) in plan.slots.iter().zip(plan.slots.iter().skip(1)) {
            assert_eq!(slot.range.start % LINE, 0);
            assert!(slot.buffer < next.buffer || slot.range.end <= next.range.start);
        }
        for &size in &plan.buffers {
            assert!(
                size <= largest && size % (LINE * i64::from(data)) == 0,
                "{size}"
            );
        }
        for slot in &plan.slots {
            let runs = plan.runs.iter().filter(|run| {
                run.buffer == slot.buffer && overlap(&run.range, &slot.range).is_some()
            });
            let runs: Vec<_> = runs.collect();
            assert_eq!(runs.len(), 1, "{}", slot.parameter.name);
            assert_eq!(runs[0].decays, slot.parameter.decays);
        }
    }

    #[test]
    fn bloom_fits_buffers_below_two_to_the_31() {
        for index in [0, 5, 11] {
            let parameters = Stage::of(&BLOOM, 12, index).parameters(&BLOOM);
            let plan = Plan::new(parameters, (0, 4), 8, LARGEST).unwrap();
            check(&plan, 8, LARGEST);
            assert_eq!(plan.buffers.len(), 2);
        }
    }

    /// BLOOM's checkpoint by its shapes alone, TP 4 x PP 12 x DP 8: what each of 384 shards would hold.
    #[test]
    fn blooms_checkpoint_holds_every_element_and_its_shards_are_alike() {
        let (tensor, stages, data) = (4, 12, 8);
        let mut shards = Vec::new();
        for stage in 0..stages {
            let parameters = Stage::of(&BLOOM, stages, stage).parameters(&BLOOM);
            for index in 0..tensor {
                let plan = Plan::new(parameters.clone(), (index, tensor), data, LARGEST).unwrap();
                shards.extend((0..data).map(|rank| {
                    let own = |slot: &Slot| {
                        let own = plan.partition(slot.buffer, rank, data);
                        overlap(&slot.range, &own).map_or(0, |both| both.end - both.start)
                    };
                    plan.slots.iter().map(own).sum::<i64>()
                }));
            }
        }
        let (v, h, l) = (250_880, 14_336, 70);
        let parameters = v * h + l * (12 * h * h + 13 * h) + 4 * h;
        assert_eq!(parameters, 176_247_271_424);
        // The last stage has the tied embedding again; layer norms and biases that are added after a sum
        // over the tensor group are on each of its ranks.
        let again = v * h + 3 * (6 * l * h + 4 * h);
        let all: i64 = shards.iter().sum();
        assert_eq!((shards.len(), all), (384, parameters + again));
        let most = *shards.iter().max().unwrap() as f64;
        let mean = all as f64 / 384.0;
        assert!(most / mean < 1.08, "{most} of {mean}");
    }

    #[test]
    fn one_parameter_that_is_too_large_is_refused_by_name() {
        let parameters = Stage::of(&BLOOM, 12, 0).parameters(&BLOOM);
        let error = Plan::new(parameters, (0, 1), 8, LARGEST).unwrap_err();
        assert_eq!(error.name, "word_embeddings.weight");
        assert_eq!(error.elements, 3_596_615_680);
    }

    #[test]
    fn each_parameter_is_counted_once_in_the_norm() {
        let model = Model {
            layers: 3,
            hidden: 24,
            heads: 6,
            vocab: 96,
            sequence: 8,
            residual_after_layernorm: false,
        };
        let (tensor, stages) = (3, 2);
        let mut counted = 0;
        for stage in 0..stages {
            for index in 0..tensor {
                let parameters = Stage::of(&model, stages, stage).parameters(&model);
                let plan = Plan::new(parameters, (index, tensor), 2, 4000).unwrap();
                check(&plan, 2, 4000);
                for slot in &plan.slots {
                    let run = plan.runs.iter().find(|run| {
                        run.buffer == slot.buffer && overlap(&run.range, &slot.range).is_some()
                    });
                    if run.unwrap().counts {
                        counted += slot.range.end - slot.range.start;
                    }
                }
            }
        }
        let (v, h, l) = (96, 24, 3);
        assert_eq!(counted, v * h + l * (12 * h * h + 13 * h) + 4 * h);
    }

    #[test]
    fn partitions_cover_a_buffer() {
        let parameters = Stage::of(&BLOOM, 12, 3).parameters(&BLOOM);
        let plan = Plan::new(parameters, (1, 4), 8, LARGEST).unwrap();
        let mut next = 0;
        for rank in 0..8 {
            let part = plan.partition(0, rank, 8);
            assert_eq!((part.start, part.start % LINE), (next, 0));
            next = part.end;
        }
        assert_eq!(next, plan.buffers[0]);
    }
}
