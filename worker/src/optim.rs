//! AdamW with ZeRO-1: each member of a data group updates its own part of every flat buffer.
//!
//! Gradients are summed in fp32 in the order of the data ranks, whatever the number of micro-batches
//! and wherever an element lies, so the same layout gives the same bits. Where the model computes in
//! bf16, each member keeps the fp32 master of its own part; in fp32 that is the weights themselves.

mod flat;
mod schedule;

pub use flat::{Flat, LARGEST, Plan, Run, Slot, TooLarge, overlap};
pub use schedule::learning_rate;

use crate::comm::{CommError, Group, Pending};
use crate::shim::{self, AdamW, Moments, ShimError, cuda};
use rebloom_core::flight::Channel;
use std::ops::Range;
use tch::{Kind, Tensor, no_grad};

/// A run of this rank's own part, and its moments.
#[derive(Debug)]
struct OwnRun {
    moments: Moments,
    decays: bool,
    counts: bool,
}

/// One buffer as this rank's optimizer sees it.
#[derive(Debug)]
struct Buffer {
    weights: Tensor,
    grads: Tensor,
    /// In fp32.
    own_weights: Tensor,
    own_grads: Tensor,
    mean: Tensor,
    square: Tensor,
    /// What the members of the data group sent for the own part.
    arrived: Option<Tensor>,
    runs: Vec<OwnRun>,
}

/// The optimizer of one rank.
#[derive(Debug)]
pub struct Optimizer {
    buffers: Vec<Buffer>,
    data: Option<Group>,
    own: Vec<Range<i64>>,
}

/// One part of one parameter as this rank owns it.
#[derive(Debug)]
pub struct OwnSlice<'a> {
    /// Of which parameter.
    pub slot: &'a Slot,
    /// Which elements of the part that this rank holds, counted from the part's first.
    pub range: Range<i64>,
    /// Weights, first and second moment.
    pub tensors: [Tensor; 3],
}

impl Optimizer {
    /// An optimizer over `flat` with moments of zero.
    pub fn new(flat: &Flat, data: Option<Group>) -> Self {
        let (rank, size) = data
            .as_ref()
            .map_or((0, 1), |group| (group.rank, group.size));
        let own: Vec<_> = (0..flat.weights.len())
            .map(|b| flat.plan.partition(b, rank, size))
            .collect();
        let buffers = own.iter().enumerate().map(|(index, own)| {
            let part = |tensor: &Tensor, range: &Range<i64>| {
                tensor.narrow(0, range.start, range.end - range.start)
            };
            let (weights, grads) = (&flat.weights[index], &flat.grads[index]);
            let own_grads = part(grads, own);
            // The same memory where it is fp32 already.
            let own_weights = part(weights, own).to_kind(Kind::Float);
            let (mean, square) = (own_weights.zeros_like(), own_weights.zeros_like());
            let runs = flat.plan.runs.iter().filter(|run| run.buffer == index);
            let runs = runs.filter_map(|run| Some((run, overlap(&run.range, own)?)));
            let runs = runs.map(|(run, both)| {
                let inside = both.start - own.start..both.end - own.start;
                let moments = Moments {
                    weights: part(&own_weights, &inside),
                    grads: part(grads, &both),
                    mean: part(&mean, &inside),
                    square: part(&square, &inside),
                };
                OwnRun {
                    moments,
                    decays: run.decays,
                    counts: run.counts,
                }
            });
            Buffer {
                runs: runs.collect(),
                weights: weights.shallow_clone(),
                grads: grads.shallow_clone(),
                arrived: data.is_some().then(|| grads.empty_like()),
                own_weights,
                own_grads,
                mean,
                square,
            }
        });
        Self {
            buffers: buffers.collect(),
            data,
            own,
        }
    }

    /// Forgets the gradients of the last step.
    pub fn zero_grads(&mut self) {
        for buffer in &mut self.buffers {
            drop(buffer.grads.zero_());
        }
    }

    /// Adds up the gradients of this rank's part over the data group; answers the sum of squares of
    /// what this rank counts.
    pub fn reduce(&mut self) -> Result<f64, CommError> {
        let mut squares = 0.0;
        let mut arriving = Vec::new();
        for buffer in &self.buffers {
            if let (Some(group), Some(arrived)) = (&self.data, &buffer.arrived) {
                arriving.push(group.begin_all_to_all(Channel::Data, arrived, &buffer.grads)?);
            }
        }
        let mut arriving = arriving.into_iter();
        for buffer in &self.buffers {
            if let (Some(arrived), Some(pending)) = (&buffer.arrived, arriving.next()) {
                pending.wait()?;
                let rows = arrived.view([-1, buffer.own_grads.numel() as i64]);
                drop(rows.sum_intlist_out(&buffer.own_grads, 0_i64, false, Kind::Float));
            }
            for run in buffer.runs.iter().filter(|run| run.counts) {
                let norm = run.moments.grads.norm().double_value(&[]);
                squares += norm * norm;
            }
        }
        Ok(squares)
    }

    /// Scales this rank's gradients, updates its weights and gathers those of the data group.
    pub fn update(&mut self, scale: f64, decay: f64, how: AdamW) -> Result<(), UpdateError> {
        // A snapshot may still be on its way out of what is written to now.
        if let Some(buffer) = self.buffers.first() {
            cuda::copies_first(buffer.own_weights.device())?;
        }
        let mut leaving = Vec::new();
        for at in 0..self.buffers.len() {
            let buffer = &mut self.buffers[at];
            no_grad(|| {
                if scale != 1.0 {
                    drop(buffer.own_grads.g_mul_scalar_(scale));
                }
                for run in &buffer.runs {
                    let decay = if run.decays { decay } else { 0.0 };
                    shim::adamw(&run.moments, AdamW { decay, ..how })?;
                }
                Ok::<_, UpdateError>(())
            })?;
            // It travels while the next buffer is updated.
            leaving.extend(self.begin_gather(at)?);
        }
        leaving.into_iter().try_for_each(Pending::wait)?;
        Ok(())
    }

    /// Gathers every member's own weights, so that each has all of them.
    pub fn gather(&self) -> Result<(), CommError> {
        let all = 0..self.buffers.len();
        let leaving: Vec<_> = all
            .map(|at| self.begin_gather(at))
            .collect::<Result<_, _>>()?;
        leaving.into_iter().flatten().try_for_each(Pending::wait)
    }

    fn begin_gather(&self, at: usize) -> Result<Option<Pending>, CommError> {
        let (buffer, own) = (&self.buffers[at], &self.own[at]);
        let mut part = buffer.weights.narrow(0, own.start, own.end - own.start);
        if buffer.weights.kind() != Kind::Float {
            no_grad(|| part.copy_(&buffer.own_weights));
        }
        let gather = |group: &Group| group.begin_all_gather(Channel::Data, &buffer.weights, &part);
        self.data.as_ref().map(gather).transpose()
    }

    /// Sets what this rank owns of a parameter, of which it holds `part`.
    pub fn set_own(&mut self, slot: &Slot, part: &Tensor) {
        let own = &self.own[slot.buffer];
        if let Some(both) = overlap(&slot.range, own) {
            let length = both.end - both.start;
            let master = &self.buffers[slot.buffer].own_weights;
            let mut master = master.narrow(0, both.start - own.start, length);
            let part = part.reshape(-1_i64);
            no_grad(|| master.copy_(&part.narrow(0, both.start - slot.range.start, length)));
        }
    }

    /// This rank's own part of every parameter, in the order of the buffers, as views.
    pub fn own<'a>(&'a self, plan: &'a Plan) -> impl Iterator<Item = OwnSlice<'a>> {
        plan.slots.iter().filter_map(|slot| {
            let own = &self.own[slot.buffer];
            let both = overlap(&slot.range, own)?;
            let buffer = &self.buffers[slot.buffer];
            let tensors = [&buffer.own_weights, &buffer.mean, &buffer.square]
                .map(|tensor| tensor.narrow(0, both.start - own.start, both.end - both.start));
            let range = both.start - slot.range.start..both.end - slot.range.start;
            Some(OwnSlice {
                slot,
                range,
                tensors,
            })
        })
    }
}

/// Why an update came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    /// Another rank.
    #[error(transparent)]
    Comm(#[from] CommError),
    /// libtorch.
    #[error(transparent)]
    Torch(#[from] ShimError),
}
