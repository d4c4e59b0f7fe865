//! AdamW with ZeRO-1: each member of a data group updates its own part of every bucket.
//!
//! Gradients are summed in fp32 in the order of the data ranks, whatever the number of micro-batches
//! and wherever an element lies, so the same layout gives the same bits. Where the model computes in
//! bf16, each member keeps the fp32 master of its own part; in fp32 that is the weights themselves.

mod flat;
mod reduce;
mod schedule;

pub use flat::{BUCKET, Bucket, Flat, LARGEST, Limits, Plan, Run, Slot, TooLarge, overlap};
pub use reduce::{ALIVE, Event, Final};
pub use schedule::learning_rate;

use crate::comm::{CommError, Group, Pending};
use crate::shim::{self, AdamW, Moments, ShimError, cuda};
use rebloom_core::flight::Channel;
use reduce::Reduction;
use std::ops::Range;
use tch::{Kind, Tensor, no_grad};

/// A run of this rank's own part, and its moments.
#[derive(Debug)]
struct OwnRun {
    moments: Moments,
    decays: bool,
    counts: bool,
}

/// One bucket as this rank's optimizer sees it.
#[derive(Debug)]
struct Owned {
    /// The whole bucket's.
    weights: Tensor,
    /// The whole bucket's.
    grads: Tensor,
    /// The own part's, as a view of the above.
    own_place: Tensor,
    /// In fp32.
    own_weights: Tensor,
    own_grads: Tensor,
    mean: Tensor,
    square: Tensor,
    runs: Vec<OwnRun>,
}

/// The optimizer of one rank.
#[derive(Debug)]
pub struct Optimizer {
    /// One a bucket.
    owned: Vec<Owned>,
    data: Option<Group>,
    /// The own part of each bucket, as a range of its buffer.
    own: Vec<Range<i64>>,
    reduction: Reduction,
}

impl Owned {
    fn begin_gather(&self, data: Option<&Group>) -> Result<Option<Pending>, CommError> {
        let mut place = self.own_place.shallow_clone();
        if place.kind() != Kind::Float {
            no_grad(|| place.copy_(&self.own_weights));
        }
        let gather = |group: &Group| group.begin_all_gather(Channel::Data, &self.weights, &place);
        data.map(gather).transpose()
    }
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
        let own: Vec<_> = (0..flat.plan.buckets.len())
            .map(|b| flat.plan.partition(b, rank, size))
            .collect();
        let owned = flat.plan.buckets.iter().zip(&own).map(|(bucket, own)| {
            let part = |tensor: &Tensor, range: &Range<i64>| {
                tensor.narrow(0, range.start, range.end - range.start)
            };
            let (weights, grads) = (&flat.weights[bucket.buffer], &flat.grads[bucket.buffer]);
            let own_place = part(weights, own);
            // The same memory where it is fp32 already.
            let own_weights = own_place.to_kind(Kind::Float);
            let (mean, square) = (own_weights.zeros_like(), own_weights.zeros_like());
            let runs = flat
                .plan
                .runs
                .iter()
                .filter(|run| run.buffer == bucket.buffer);
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
            Owned {
                runs: runs.collect(),
                weights: part(weights, &bucket.range),
                grads: part(grads, &bucket.range),
                own_place,
                own_weights,
                own_grads: part(grads, own),
                mean,
                square,
            }
        });
        Self {
            owned: owned.collect(),
            reduction: Reduction::new(&flat.plan),
            data,
            own,
        }
    }

    /// Forgets the gradients of the last step.
    pub fn zero_grads(&mut self) {
        self.reduction.begin();
        for owned in &mut self.owned {
            drop(owned.grads.zero_());
        }
    }

    /// Updates this rank's weights and gathers those of the data group; `decay` is of the weights that decay.
    pub fn update(&mut self, decay: f64, how: AdamW) -> Result<(), UpdateError> {
        // A snapshot may still be on its way out of what is written to now.
        if let Some(owned) = self.owned.first() {
            cuda::copies_first(owned.own_weights.device())?;
        }
        let mut leaving = Vec::new();
        for owned in &mut self.owned {
            no_grad(|| {
                for run in &owned.runs {
                    let decay = if run.decays { decay } else { 0.0 };
                    shim::adamw(&run.moments, AdamW { decay, ..how })?;
                }
                Ok::<_, UpdateError>(())
            })?;
            // It travels while the next bucket is updated.
            leaving.extend(owned.begin_gather(self.data.as_ref())?);
        }
        leaving.into_iter().try_for_each(Pending::wait)?;
        Ok(())
    }

    /// Gathers every member's own weights, so that each has all of them.
    pub fn gather(&self) -> Result<(), CommError> {
        let leaving: Vec<_> = self
            .owned
            .iter()
            .map(|owned| owned.begin_gather(self.data.as_ref()))
            .collect::<Result<_, _>>()?;
        leaving.into_iter().flatten().try_for_each(Pending::wait)
    }

    /// Sets what this rank owns of a parameter, of which it holds `part`.
    pub fn set_own(&mut self, slot: &Slot, part: &Tensor) {
        let own = &self.own[slot.bucket];
        if let Some(both) = overlap(&slot.range, own) {
            let length = both.end - both.start;
            let master = &self.owned[slot.bucket].own_weights;
            let mut master = master.narrow(0, both.start - own.start, length);
            let part = part.reshape(-1_i64);
            no_grad(|| master.copy_(&part.narrow(0, both.start - slot.range.start, length)));
        }
    }

    /// This rank's own part of every parameter, in the order of the buffers, as views.
    pub fn own<'a>(&'a self, plan: &'a Plan) -> impl Iterator<Item = OwnSlice<'a>> {
        plan.slots.iter().filter_map(|slot| {
            let own = &self.own[slot.bucket];
            let both = overlap(&slot.range, own)?;
            let owned = &self.owned[slot.bucket];
            let tensors = [&owned.own_weights, &owned.mean, &owned.square]
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
