//! What several ranks must hold alike: compared by fingerprints, never averaged.
//!
//! Ranks of a data group hold the same weights, ranks of a tensor group the same layer norms and the biases
//! that are added after a sum, first and last stage the same embedding. A fingerprint is taken where the tensor
//! lies and is a few bytes, so that a comparison costs little more than reading the weights once.

use super::{StepError, Trainer};
use crate::comm::Group;
use crate::model::shape::{EMBEDDING, Split};
use crate::shim::{bytes, cuda};
use rebloom_core::flight::Channel;
use rebloom_core::id::Rank;
use rebloom_core::layout::Coordinates;
use sha2::{Digest, Sha256};
use std::fmt;
use tch::{Device, Kind, Tensor};

/// Columns in which the bits of a tensor are added up.
const COLUMNS: i64 = 4096;
/// Rows that are widened at once: with the columns, 8 MiB.
const ROWS: i64 = 256;
/// Bytes of a fingerprint.
const PRINT: usize = 32;

/// A parameter that is not the same on ranks that must hold the same.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Differs {
    /// Its name.
    pub parameter: String,
    /// The ranks that are not like most of them; empty where there is no majority.
    pub ranks: Vec<Rank>,
}

impl Differs {
    /// Whether it is known which ranks are odd, and `rank` is none of them.
    pub fn is_elsewhere(&self, rank: Rank) -> bool {
        !self.ranks.is_empty() && !self.ranks.contains(&rank)
    }
}

impl fmt::Display for Differs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { parameter, ranks } = self;
        write!(
            f,
            "{parameter} differs between ranks that must hold the same"
        )?;
        let ranks: Vec<_> = ranks.iter().map(ToString::to_string).collect();
        match ranks.len() {
            0 => Ok(()),
            1 => write!(f, ": rank {} is unlike the others", ranks[0]),
            _ => write!(f, ": ranks {} are unlike the others", ranks.join(", ")),
        }
    }
}

impl Trainer {
    /// Compares what several ranks must hold alike.
    ///
    /// # Errors
    /// The first parameter that differs, on every rank of the group in which it does.
    pub fn check_replicas(&self) -> Result<(), StepError> {
        let layout = self.spec.layout;
        let slots = &self.flat.plan.slots;
        let name = |parameter: &str| parameter.to_owned();
        if let Some(group) = &self.groups.data {
            let all = slots.iter().map(|slot| name(&slot.parameter.name));
            let rank = |data| layout.rank(Coordinates { data, ..self.at });
            self.compare(group, Channel::Data, &all.collect::<Vec<_>>(), rank)?;
        }
        if let Some(group) = &self.groups.tensor {
            let whole = slots.iter().filter(|s| s.parameter.split == Split::Whole);
            let whole = whole.map(|slot| name(&slot.parameter.name));
            let rank = |tensor| layout.rank(Coordinates { tensor, ..self.at });
            self.compare(group, Channel::Tensor, &whole.collect::<Vec<_>>(), rank)?;
        }
        self.compare_tied()
    }

    /// Compares these parameters over a group, of which `rank` names the members.
    fn compare(
        &self,
        group: &Group,
        channel: Channel,
        parameters: &[String],
        rank: impl Fn(u32) -> Rank,
    ) -> Result<(), StepError> {
        let prints = parameters.iter().flat_map(|name| self.fingerprint(name));
        let mine: Vec<u8> = prints.collect();
        let length = mine.len();
        let mine = Tensor::from_slice(&mine);
        let all = Tensor::zeros(
            [i64::from(group.size) * mine.numel() as i64],
            (Kind::Uint8, Device::Cpu),
        );
        group.all_gather(channel, &all, &mine)?;
        let all: Vec<u8> = Vec::try_from(all).expect("bytes are a vector");
        let members: Vec<&[u8]> = all.chunks_exact(length.max(1)).collect();
        for (at, parameter) in parameters.iter().enumerate() {
            let place = at * PRINT..(at + 1) * PRINT;
            let prints: Vec<_> = members.iter().map(|of| &of[place.clone()]).collect();
            if prints.iter().all(|print| *print == prints[0]) {
                continue;
            }
            let alike = |print: &&[u8]| prints.iter().filter(|other| *other == print).count();
            let most = prints.iter().find(|print| alike(print) * 2 > prints.len());
            let odd = (0..group.size).zip(&prints);
            let odd = odd.filter(|(_, print)| most.is_some_and(|most| most != *print));
            return Err(StepError::ReplicasDiffer(Differs {
                parameter: parameter.clone(),
                ranks: odd.map(|(member, _)| rank(member)).collect(),
            }));
        }
        Ok(())
    }

    /// Compares both copies of the tied embedding.
    fn compare_tied(&self) -> Result<(), StepError> {
        let (Some(_), Some(group)) = (&self.tied, &self.groups.pipeline) else {
            return Ok(());
        };
        let mine = Tensor::from_slice(&self.fingerprint(EMBEDDING));
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
        if theirs.equal(&mine) {
            return Ok(());
        }
        Err(StepError::ReplicasDiffer(Differs {
            parameter: EMBEDDING.to_owned(),
            ranks: Vec::new(),
        }))
    }

    /// A few bytes that any change of a parameter changes, but by rare chance one of many elements at once.
    fn fingerprint(&self, parameter: &str) -> [u8; PRINT] {
        let (weights, _) = self.flat.views(parameter);
        // Bits as whole numbers: their sums are the same in any order.
        let bits = if weights.kind() == Kind::BFloat16 {
            Kind::Int16
        } else {
            Kind::Int
        };
        let flat = weights.detach().flatten(0, -1).view_dtype(bits);
        let count = flat.size()[0];
        let (rows, rest) = (count / COLUMNS, count % COLUMNS);
        let table = flat.narrow(0, 0, rows * COLUMNS).view([-1, COLUMNS]);
        let mut sums = Tensor::zeros([COLUMNS], (Kind::Int64, flat.device()));
        let mut row = 0;
        while row < rows {
            let some = ROWS.min(rows - row);
            let place = Tensor::arange_start(row, row + some, (Kind::Int64, flat.device()));
            // Odd factors: no change of one element is lost, and rows in another order have another sum.
            let odd = (place * 2 + 1).unsqueeze(1);
            let wide = table.narrow(0, row, some).to_kind(Kind::Int64) * odd;
            sums += wide.sum_dim_intlist(0_i64, false, Kind::Int64);
            row += some;
        }
        let rest = flat.narrow(0, rows * COLUMNS, rest).to_kind(Kind::Int64);
        let mut hash = Sha256::new();
        for part in [sums, rest] {
            hash.update(bytes(&cuda::home(&part)));
        }
        hash.finalize().into()
    }
}
