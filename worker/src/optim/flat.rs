//! Where each parameter lies in the flat fp32 buffers.
//!
//! Buffers stay below 2^31 elements (32-bit indices and host memory both break above that). Inside a
//! buffer, parameters of one kind lie together, so that the optimizer works on a few long runs; each
//! begins on a cache line, so that no element's arithmetic depends on the layout around it. Over a data
//! group a buffer is cut into buckets of whole parameters, and each bucket evenly over the group: a
//! bucket can be reduced as soon as the gradients of its parameters are final.

use crate::model::shape::{EMBEDDING, Parameter, Split};
use std::ops::Range;
use tch::{Device, Kind, Tensor};

/// Elements that a buffer may hold at most.
pub const LARGEST: i64 = (1 << 31) - 1;
/// Elements that a bucket holds at most, unless one parameter alone is larger: 100 MB of gradients.
pub const BUCKET: i64 = 25_000_000;
/// Elements of a cache line.
pub(super) const LINE: i64 = 16;

/// A parameter's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// Which parameter.
    pub parameter: Parameter,
    /// Shape of the part that this rank holds.
    pub shape: Vec<i64>,
    /// In which buffer.
    pub buffer: usize,
    /// In which bucket.
    pub bucket: usize,
    /// Where in the buffer.
    pub range: Range<i64>,
}

/// Elements that are reduced together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    /// In which buffer.
    pub buffer: usize,
    /// Where in it; as long as a multiple of the data group's size.
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
    /// What the buffers are cut into, in their order and without gaps. Where there is no data group, and where
    /// everything fits into one bucket, each buffer is one.
    pub buckets: Vec<Bucket>,
    /// Elements that travel at once.
    pub most: i64,
}

/// How much lies together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Elements of a buffer, at most.
    pub buffer: i64,
    /// Elements of a bucket, at most, unless one parameter alone is larger.
    pub bucket: i64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            buffer: LARGEST,
            bucket: BUCKET,
        }
    }
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
    /// `data`.
    pub fn new(
        mut parameters: Vec<Parameter>,
        (index, tensor): (u32, u32),
        data: u32,
        limits: Limits,
    ) -> Result<Self, TooLarge> {
        let largest = limits.buffer;
        let kind = |p: &Parameter| (!p.decays, p.is_copy, p.split == Split::Whole);
        parameters.sort_by_key(kind);
        let unit = LINE * i64::from(data);
        let mut plan = Self {
            slots: Vec::new(),
            runs: Vec::new(),
            buffers: vec![0],
            buckets: Vec::new(),
            most: limits.bucket.min(largest),
        };
        let spaces = parameters.iter().map(|p| {
            let elements = p.part_shape(index, tensor).iter().product();
            round_up(elements, LINE)
        });
        let is_cut = data > 1 && spaces.sum::<i64>() > plan.most;
        let mut last = None;
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
            let end = if is_cut { round_up(end, unit) } else { end };
            if round_up(end + space, unit) > largest {
                plan.buffers.push(0);
            }
            let buffer = plan.buffers.len() - 1;
            // Gradients of one class are final one layer after the other; those of the embedding, and of what lies
            // in every layer, only at the end.
            let class = (parameter.decays, parameter.name == EMBEDDING);
            let is_new = plan.buckets.last().is_none_or(|bucket| {
                let grown = round_up(bucket.range.end + space, unit) - bucket.range.start;
                bucket.buffer != buffer || (is_cut && (last != Some(class) || grown > plan.most))
            });
            last = Some(class);
            if is_new {
                let end = round_up(plan.buffers[buffer], unit);
                plan.buffers[buffer] = end;
                plan.buckets.push(Bucket {
                    buffer,
                    range: end..end,
                });
            }
            let from = plan.buffers[buffer];
            let bucket = plan.buckets.len() - 1;
            plan.buckets[bucket].range.end = from + space;
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
                bucket,
                range: from..from + elements,
            });
        }
        for size in &mut plan.buffers {
            *size = round_up(*size, unit);
        }
        for bucket in &mut plan.buckets {
            bucket.range.end = round_up(bucket.range.end, unit);
        }
        Ok(plan)
    }

    /// The part of a bucket that member `rank` of the data group of `data` updates, as a range of its buffer.
    pub fn partition(&self, bucket: usize, rank: u32, data: u32) -> Range<i64> {
        let range = &self.buckets[bucket].range;
        let each = (range.end - range.start) / i64::from(data);
        let from = range.start + each * i64::from(rank);
        from..from + each
    }
}

pub(super) const fn round_up(value: i64, unit: i64) -> i64 {
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

    /// The same without room for gradients: nothing can be learned.
    pub fn frozen(plan: Plan, kind: Kind, device: Device) -> Self {
        let none = Tensor::zeros([1], (Kind::Float, device));
        let buffers = || plan.buffers.iter();
        let weights = buffers().map(|&size| Tensor::zeros([size], (kind, device)));
        let grads = buffers().map(|&size| none.expand([size], false));
        Self {
            weights: weights.collect(),
            grads: grads.collect(),
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

    fn limits(most: i64) -> Limits {
        Limits {
            buffer: most,
            bucket: most,
        }
    }

    fn check(plan: &Plan, data: u32, largest: i64) {
        let mut ends = vec![0; plan.buffers.len()];
        for bucket in &plan.buckets {
            assert_eq!(bucket.range.start, ends[bucket.buffer], "no gaps");
            let length = bucket.range.end - bucket.range.start;
            assert_eq!(length % (LINE * i64::from(data)), 0);
            ends[bucket.buffer] = bucket.range.end;
        }
        assert_eq!(ends, plan.buffers);
        for slot in &plan.slots {
            let bucket = &plan.buckets[slot.bucket];
            assert_eq!(bucket.buffer, slot.buffer);
            assert_eq!(
                overlap(&bucket.range, &slot.range),
                Some(slot.range.clone())
            );
        }
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
            let plan = Plan::new(parameters, (0, 4), 8, Limits::default()).unwrap();
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
                let plan = Plan::new(parameters.clone(), (index, tensor), data, Limits::default())
                    .unwrap();
                shards.extend((0..data).map(|rank| {
                    let own = |slot: &Slot| {
                        let own = plan.partition(slot.bucket, rank, data);
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
        let error = Plan::new(parameters, (0, 1), 8, Limits::default()).unwrap_err();
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
                let plan = Plan::new(parameters, (index, tensor), 2, limits(4000)).unwrap();
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
    fn partitions_cover_the_buckets() {
        let parameters = Stage::of(&BLOOM, 12, 3).parameters(&BLOOM);
        let plan = Plan::new(parameters, (1, 4), 8, Limits::default()).unwrap();
        for (at, bucket) in plan.buckets.iter().enumerate() {
            let mut next = bucket.range.start;
            for rank in 0..8 {
                let part = plan.partition(at, rank, 8);
                assert_eq!((part.start, part.start % LINE), (next, 0));
                next = part.end;
            }
            assert_eq!(next, bucket.range.end);
        }
    }

    fn bloom_560m(data: u32, bucket: i64) -> Plan {
        let model = Model {
            layers: 24,
            hidden: 1024,
            heads: 16,
            ..BLOOM
        };
        let parameters = Stage::of(&model, 1, 0).parameters(&model);
        let limits = Limits {
            bucket,
            ..Limits::default()
        };
        Plan::new(parameters, (0, 1), data, limits).unwrap()
    }

    #[test]
    fn buckets_are_a_few_layers_each_and_none_waits_for_the_embedding_but_its_own() {
        let plan = bloom_560m(4, BUCKET);
        check(&plan, 4, LARGEST);
        let in_bucket = |at: usize| plan.slots.iter().filter(move |slot| slot.bucket == at);
        for (at, bucket) in plan.buckets.iter().enumerate() {
            let length = bucket.range.end - bucket.range.start;
            let classes = in_bucket(at).map(|slot| {
                let parameter = &slot.parameter;
                (parameter.decays, parameter.name == EMBEDDING)
            });
            let classes: Vec<_> = classes.collect();
            assert!(classes.iter().all(|class| *class == classes[0]), "{at}");
            assert!(length <= BUCKET || classes.len() == 1, "{at}: {length}");
        }
        // Of 24 layers with 12.6 M elements of matrices each, fourteen; the embedding; and the vectors.
        assert_eq!(plan.buckets.len(), 16);
    }

    #[test]
    fn what_fits_into_one_bucket_or_has_no_data_group_is_not_cut() {
        assert_eq!(bloom_560m(4, LARGEST).buckets.len(), 1);
        assert_eq!(bloom_560m(1, BUCKET).buckets.len(), 1);
    }
}
