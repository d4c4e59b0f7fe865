//! What several ranks must hold alike: compared by fingerprints, never averaged.
//!
//! Ranks of a data group hold the same weights, ranks of a tensor group the same layer norms and the biases
//! that are added after a sum, first and last stage the same embedding. The same holds of the fp32 masters and
//! the moments, except over a data group, where each member has its own part of them: a difference that bf16
//! does not show would be saved, and another layout would load one or the other. A fingerprint is taken where
//! the tensor lies and is a few bytes, so that a comparison costs little more than reading everything once.

use super::{StepError, Trainer};
use crate::comm::Group;
use crate::model::shape::{EMBEDDING, Split};
use crate::optim::{OwnSlice, Slot};
use crate::shim::{bytes, cuda};
use rebloom_core::flight::Channel;
use rebloom_core::id::Rank;
use rebloom_core::layout::Coordinates;
use rebloom_core::replicas::{self, Differs};
use rebloom_format::facts::KINDS;
use sha2::{Digest, Sha256};
use tch::{Device, Kind, Tensor};

/// Columns in which the bits of a tensor are added up.
const COLUMNS: i64 = 4096;
/// Rows that are widened at once: with the columns, 8 MiB.
const ROWS: i64 = 256;
/// Bytes of a fingerprint.
const PRINT: usize = 32;
type Print = [u8; PRINT];

impl Trainer {
    /// Compares what several ranks must hold alike.
    ///
    /// # Errors
    /// The first tensor that differs, on every rank of the group in which it does.
    pub fn check_replicas(&self) -> Result<(), StepError> {
        let layout = self.spec.layout;
        let slots = &self.flat.plan.slots;
        if let Some(group) = &self.groups.data {
            let all = slots.iter().map(|slot| self.computed_with(slot));
            let rank = |data| layout.rank(Coordinates { data, ..self.at });
            self.compare(group, Channel::Data, all.collect(), rank)?;
        }
        if let Some(group) = &self.groups.tensor {
            let is_whole = |slot: &&Slot| slot.parameter.split == Split::Whole;
            let weights = slots.iter().filter(is_whole);
            let weights = weights.map(|slot| self.computed_with(slot));
            // Its members own the same slices of what each of them holds whole.
            let own = self.optimizer.own(&self.flat.plan);
            let own = own.filter(|own| is_whole(&own.slot));
            let own = own.flat_map(|own| {
                let names = KINDS.map(|kind| format!("{kind}/{}", own.slot.parameter.name));
                names.into_iter().zip(prints(&sums_of(&own)))
            });
            let rank = |tensor| layout.rank(Coordinates { tensor, ..self.at });
            self.compare(group, Channel::Tensor, weights.chain(own).collect(), rank)?;
        }
        self.compare_tied()
    }

    /// Compares tensors by their names and fingerprints over a group, of which `rank` names the members.
    fn compare(
        &self,
        group: &Group,
        channel: Channel,
        held: Vec<(String, Print)>,
        rank: impl Fn(u32) -> Rank,
    ) -> Result<(), StepError> {
        let mine: Vec<u8> = held.iter().flat_map(|(_, print)| *print).collect();
        let length = mine.len();
        let mine = Tensor::from_slice(&mine);
        let all = Tensor::zeros(
            [i64::from(group.size) * mine.numel() as i64],
            (Kind::Uint8, Device::Cpu),
        );
        group.all_gather(channel, &all, &mine)?;
        let all: Vec<u8> = Vec::try_from(all).expect("bytes are a vector");
        let members: Vec<&[u8]> = all.chunks_exact(length.max(1)).collect();
        for (at, (tensor, _)) in held.into_iter().enumerate() {
            let place = at * PRINT..(at + 1) * PRINT;
            let prints: Vec<_> = members.iter().map(|of| &of[place.clone()]).collect();
            if let Some(odd) = replicas::odd(&prints) {
                let members = (0..group.size).enumerate();
                let odd = members.filter(|(at, _)| odd.contains(at));
                return Err(StepError::ReplicasDiffer(Differs {
                    tensor,
                    ranks: odd.map(|(_, member)| rank(member)).collect(),
                }));
            }
        }
        Ok(())
    }

    /// Compares both copies of the tied embedding: what is computed with, the masters and the moments.
    fn compare_tied(&self) -> Result<(), StepError> {
        let (Some(_), Some(group)) = (&self.tied, &self.groups.pipeline) else {
            return Ok(());
        };
        let (name, weight) = self.computed_with(self.flat.slot(EMBEDDING));
        // The two ends cut it over their data groups at different places, so that only the whole compares.
        let mut own = self.optimizer.own(&self.flat.plan);
        let own = own.find(|own| own.slot.parameter.name == EMBEDDING);
        let sums = own.map_or_else(
            || Tensor::zeros([KINDS.len() as i64, COLUMNS], (Kind::Int64, Device::Cpu)),
            |own| cuda::home(&sums_of(&own)),
        );
        if let Some(group) = &self.groups.data {
            group.sum(Channel::Data, &sums)?;
        }
        let names = KINDS.map(|kind| format!("{kind}/{name}"));
        let prints = [weight].into_iter().chain(prints(&sums));
        let mine: Vec<u8> = prints.flatten().collect();
        let mine = Tensor::from_slice(&mine);
        let theirs = mine.zeros_like();
        let other = if self.stage.is_first {
            group.size - 1
        } else {
            0
        };
        let arriving = group.recv(&theirs, other, super::stage::TIED)?;
        group
            .send(Channel::Embedding, &mine, other, super::stage::TIED)?
            .wait()?;
        arriving.wait_in(Channel::Embedding)?;
        for (at, tensor) in (0..).zip([name].into_iter().chain(names)) {
            let print = |all: &Tensor| all.narrow(0, at * PRINT as i64, PRINT as i64);
            if !print(&theirs).equal(&print(&mine)) {
                return Err(StepError::ReplicasDiffer(Differs {
                    tensor,
                    ranks: Vec::new(),
                }));
            }
        }
        Ok(())
    }

    /// Name and fingerprint of the weights that the model computes with.
    fn computed_with(&self, slot: &Slot) -> (String, Print) {
        let name = &slot.parameter.name;
        let (weights, _) = self.flat.views(name);
        let sums = sums(&weights.detach().flatten(0, -1), 0);
        (name.clone(), print(&sums))
    }
}

/// What any change of a tensor changes, but by rare chance one of many elements at once: its bits, of which the
/// first is element `from` of the whole, added up in columns. Those of its pieces add up to those of the whole.
fn sums(flat: &Tensor, from: i64) -> Tensor {
    // Bits as whole numbers: their sums are the same in any order.
    let bits = if flat.kind() == Kind::BFloat16 {
        Kind::Int16
    } else {
        Kind::Int
    };
    let flat = flat.view_dtype(bits);
    let end = from + flat.size()[0];
    let sums = Tensor::zeros([COLUMNS], (Kind::Int64, flat.device()));
    let mut at = from;
    while at < end {
        let (row, column) = (at / COLUMNS, at % COLUMNS);
        // The rest of a row that is not whole, or some rows that are.
        let rows = ((end - at) / COLUMNS).min(ROWS);
        let (rows, columns) = if column > 0 || rows == 0 {
            (1, (COLUMNS - column).min(end - at))
        } else {
            (rows, COLUMNS)
        };
        let table = flat.narrow(0, at - from, rows * columns);
        let place = Tensor::arange_start(row, row + rows, (Kind::Int64, flat.device()));
        // Odd factors: no change of one element is lost, and rows in another order have another sum.
        let odd = (place * 2 + 1).unsqueeze(1);
        let wide = table.view([rows, columns]).to_kind(Kind::Int64) * odd;
        let mut into = sums.narrow(0, column, columns);
        into += wide.sum_dim_intlist(0_i64, false, Kind::Int64);
        at += rows * columns;
    }
    sums
}

/// The sums of what a rank owns of a parameter, a row for each of [`KINDS`].
fn sums_of(own: &OwnSlice<'_>) -> Tensor {
    let each = own.tensors.each_ref();
    let each = each.map(|tensor| sums(tensor, own.range.start));
    Tensor::stack(&each, 0)
}

/// The fingerprint of each row.
fn prints(sums: &Tensor) -> impl Iterator<Item = Print> + use<> {
    sums.unbind(0).into_iter().map(|row| print(&row))
}

fn print(sums: &Tensor) -> Print {
    Sha256::digest(bytes(&cuda::home(&sums.contiguous()))).into()
}
