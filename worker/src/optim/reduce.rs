//! How gradients are summed over the data group: bucket by bucket, beside the backward pass that makes them.
//!
//! A bucket goes on its way when the gradients of all its parameters are final, which the last layers' are first. All
//! members of a data group run the same layers in the same order, so they begin the same sums in the same order. At
//! most [`ALIVE`] of them are under way: what arrives takes memory until it is added up, always in rank order.

use super::flat::{LINE, Plan, round_up};
use super::{Optimizer, Owned};
use crate::comm::{CommError, Group, Pending, spent};
use crate::model::shape::EMBEDDING;
use crate::shim;
use rebloom_core::flight::Channel;
use std::collections::VecDeque;
use std::ops::Range;
use tch::{Kind, Tensor};

/// Sums under way, at most.
pub const ALIVE: usize = 2;

/// Whose gradients are final.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Final {
    /// The n-th block of the stage; its first has the embedding's layer norm with it, its last the final one.
    Block(usize),
    /// The embedding.
    Embedding,
}

/// What happened in a step, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// These gradients are final.
    Final(Final),
    /// The sum of this bucket, or of a piece of it, began; as many elements take memory.
    Began {
        /// Which bucket.
        bucket: usize,
        /// Elements that arrive.
        elements: i64,
    },
    /// What arrived of this bucket is added up.
    Summed {
        /// Which bucket.
        bucket: usize,
    },
}

/// A sum under way.
#[derive(Debug)]
struct Arriving {
    bucket: usize,
    /// Of each member's part.
    piece: Range<i64>,
    /// One row a member.
    rows: Tensor,
    pending: Pending,
}

/// How far the sums of a step are.
#[derive(Debug)]
pub(super) struct Reduction {
    /// Parameters in each bucket, by who makes their gradients final.
    parameters: Vec<(Final, usize)>,
    /// Elements that travel at once.
    most: i64,
    /// Parameters of each bucket whose gradients are not final yet.
    missing: Vec<usize>,
    ready: VecDeque<(usize, Range<i64>)>,
    arriving: VecDeque<Arriving>,
    events: Vec<Event>,
}

/// Who makes each parameter's gradient final, and its bucket.
fn parameters(plan: &Plan) -> Vec<(Final, usize)> {
    let block =
        |name: &str| -> Option<usize> { name.strip_prefix("h.")?.split('.').next()?.parse().ok() };
    let blocks = || {
        plan.slots
            .iter()
            .filter_map(|slot| block(&slot.parameter.name))
    };
    let (first, last) = (blocks().min().unwrap_or(0), blocks().max().unwrap_or(0));
    let of = |name: &str| match block(name) {
        Some(block) => Final::Block(block - first),
        None if name == EMBEDDING => Final::Embedding,
        None if name.starts_with("ln_f") => Final::Block(last - first),
        None => Final::Block(0),
    };
    let slots = plan.slots.iter();
    slots
        .map(|slot| (of(&slot.parameter.name), slot.bucket))
        .collect()
}

impl Reduction {
    pub(super) fn new(plan: &Plan) -> Self {
        Self {
            parameters: parameters(plan),
            most: plan.most,
            missing: vec![0; plan.buckets.len()],
            ready: VecDeque::new(),
            arriving: VecDeque::new(),
            events: Vec::new(),
        }
    }

    /// Begins a step: nothing is final.
    pub(super) fn begin(&mut self) {
        self.ready.clear();
        self.arriving.clear();
        self.events.clear();
        self.missing.fill(0);
        for &(_, bucket) in &self.parameters {
            self.missing[bucket] += 1;
        }
    }

    /// Takes gradients as final; the buckets that this makes ready wait for their turn, the last one first.
    fn finish(&mut self, of: Final, owned: &[Owned], size: i64) {
        self.events.push(Event::Final(of));
        let mut finished: Vec<_> = Vec::new();
        for (_, bucket) in self.parameters.iter().filter(|(by, _)| *by == of) {
            let Some(missing) = self.missing[*bucket].checked_sub(1) else {
                continue;
            };
            self.missing[*bucket] = missing;
            if missing == 0 {
                finished.push(*bucket);
            }
        }
        finished.sort_unstable_by(|a, b| b.cmp(a));
        for bucket in finished {
            self.ready.extend(self.pieces(bucket, owned, size));
        }
    }

    /// What of each member's part of a bucket travels at once.
    fn pieces(
        &self,
        bucket: usize,
        owned: &[Owned],
        size: i64,
    ) -> impl Iterator<Item = (usize, Range<i64>)> + use<> {
        let each = length(&owned[bucket].own_grads);
        let step = round_up((self.most / size).max(1), LINE);
        (0..each)
            .step_by(usize::try_from(step).unwrap_or(usize::MAX))
            .map(move |from| (bucket, from..(from + step).min(each)))
    }

    /// Begins the next sum, if one is ready.
    fn send(&mut self, owned: &[Owned], group: &Group) -> Result<bool, CommError> {
        let Some((bucket, piece)) = self.ready.pop_front() else {
            return Ok(false);
        };
        let of = &owned[bucket];
        let (size, each) = (i64::from(group.size), length(&of.own_grads));
        let width = piece.end - piece.start;
        let input = if width == each {
            of.grads.shallow_clone()
        } else {
            let rows = of.grads.view([size, each]);
            rows.narrow(1, piece.start, width)
                .contiguous()
                .flatten(0, -1)
        };
        let elements = size * width;
        let rows = Tensor::empty([elements], (Kind::Float, input.device()));
        let pending = group.begin_all_to_all(&rows, &input)?;
        self.events.push(Event::Began { bucket, elements });
        self.arriving.push_back(Arriving {
            bucket,
            piece,
            rows,
            pending,
        });
        Ok(true)
    }

    /// Adds up what arrived first, once `wait` says that it is there.
    fn sum(
        &mut self,
        owned: &[Owned],
        wait: impl FnOnce(Pending) -> Result<(), CommError>,
    ) -> Result<(), CommError> {
        let Some(arrived) = self.arriving.pop_front() else {
            return Ok(());
        };
        wait(arrived.pending)?;
        let width = arrived.piece.end - arrived.piece.start;
        let own = owned[arrived.bucket]
            .own_grads
            .narrow(0, arrived.piece.start, width);
        let rows = arrived.rows.view([-1, width]);
        drop(rows.sum_intlist_out(&own, 0_i64, false, Kind::Float));
        self.events.push(Event::Summed {
            bucket: arrived.bucket,
        });
        Ok(())
    }
}

impl Optimizer {
    /// Says that these gradients are final, so that the sums of full buckets can begin; waits for nobody.
    pub fn finish(&mut self, of: Final) -> Result<(), CommError> {
        let Self {
            owned,
            data: Some(group),
            reduction,
            ..
        } = self
        else {
            return Ok(());
        };
        reduction.finish(of, owned, i64::from(group.size));
        loop {
            if reduction.arriving.len() >= ALIVE {
                // On the host whoever is not done is looked at again later; on a GPU the sum is put behind it.
                if !reduction.arriving[0].pending.is_ready() {
                    return Ok(());
                }
                reduction.sum(owned, Pending::follow)?;
            }
            if !reduction.send(owned, group)? {
                return Ok(());
            }
        }
    }

    /// Adds up what is left of the gradients of this rank's part over the data group. Every gradient is final.
    pub fn reduce(&mut self) -> Result<(), CommError> {
        if let Some(group) = &self.data {
            let (owned, reduction) = (&self.owned, &mut self.reduction);
            let mut left: Vec<_> = (0..owned.len())
                .filter(|&b| reduction.missing[b] > 0)
                .collect();
            left.reverse();
            for bucket in left {
                reduction.missing[bucket] = 0;
                let pieces = reduction.pieces(bucket, owned, i64::from(group.size));
                reduction.ready.extend(pieces);
            }
            let recorder = group.watch().recorder;
            // Once for all of them: how many are under way by now differs between members.
            recorder.entered(Channel::Data);
            loop {
                while reduction.arriving.len() < ALIVE && reduction.send(owned, group)? {}
                if reduction.arriving.is_empty() {
                    break;
                }
                reduction.sum(owned, |pending| {
                    spent::waiting(Some(Channel::Data), || pending.wait())
                })?;
            }
            recorder.done(Channel::Data);
        }
        Ok(())
    }

    /// The sum of squares of the gradients that this rank counts.
    pub fn squares(&self) -> shim::Result<f64> {
        let runs = self.owned.iter().flat_map(|owned| &owned.runs);
        let counted = runs.filter(|run| run.counts);
        counted
            .map(|run| shim::sum_of_squares(&run.moments.grads))
            .sum()
    }

    /// What happened to the gradients of the last step where there is a data group, in order.
    pub fn events(&self) -> &[Event] {
        &self.reduction.events
    }
}

fn length(of: &Tensor) -> i64 {
    i64::try_from(of.numel()).unwrap_or(i64::MAX)
}
