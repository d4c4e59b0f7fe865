//! Megatron's index maps: which tokens are sample k.
//!
//! The documents of E epochs are shuffled and laid end to end; sample j is the `sequence + 1`
//! tokens from `j * sequence` on (one token overlaps, as input and label are shifted by one); the
//! samples are shuffled in turn. Where only a part of the last epoch is needed, that epoch is
//! shuffled apart, so that the earlier ones are seen whole.
//!
//! The order is a function of the sizes of the documents, the sequence length, the seed and the
//! number of samples a run asks for. Ranks and batches have no say in it: a run that goes on
//! needs to know only how many samples it consumed.

pub mod blend;
mod mt19937;
pub mod passes;

pub use mt19937::Mt19937;

use crate::error::{Error, Result};

/// BLOOM's share of the last epoch below which it is shuffled apart (Megatron-Core uses 0.80).
pub const LAST_EPOCH: f64 = 0.95;

/// More samples or documents than this are taken for a mistake: the maps would not fit memory.
const MOST: u64 = 1 << 31;

/// An order of samples.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    sequence: u64,
    epochs: u64,
    apart: bool,
    documents: Vec<u32>,
    /// Where each entry of `documents` ends in the laid-out tokens.
    ends: Vec<u64>,
    shuffle: Vec<u32>,
}

impl Order {
    /// Lays out at least `samples` samples of `sequence + 1` tokens.
    ///
    /// `last_epoch` is the share of samples of the last epoch below which it is shuffled apart.
    pub fn new(
        sizes: &[u32],
        sequence: u32,
        seed: u64,
        samples: u64,
        last_epoch: f64,
    ) -> Result<Self> {
        let tokens: u64 = sizes.iter().map(|size| u64::from(*size)).sum();
        if tokens == 0 {
            return Err(Error::Order("the dataset has no tokens".to_owned()));
        }
        if sequence == 0 {
            return Err(Error::Order("a sample of no tokens".to_owned()));
        }
        let sequence = u64::from(sequence);
        let needed = samples
            .checked_mul(sequence)
            .and_then(|needed| needed.checked_add(1));
        let epochs = needed
            .map(|needed| needed.div_ceil(tokens))
            .filter(|epochs| {
                let held = epochs.checked_mul(tokens).map(|all| (all - 1) / sequence);
                held.is_some_and(|held| held <= MOST)
                    && epochs
                        .checked_mul(sizes.len() as u64)
                        .is_some_and(|documents| documents <= MOST)
            });
        let Some(epochs) = epochs else {
            return Err(Error::Order(format!(
                "{samples} samples of {sequence} tokens from documents of {tokens} tokens in all \
                 take more than the {MOST} samples or documents that the maps can hold"
            )));
        };
        let apart = epochs > 1 && {
            let before = ((epochs - 1) * tokens - 1) / sequence;
            let whole = (tokens - 1) / sequence;
            samples - before < (last_epoch * whole as f64) as u64
        };
        let mut random = Mt19937::new(seed);
        let documents = documents(sizes.len(), epochs, apart, &mut random);
        let mut end = 0;
        let ends = documents.iter().map(|document| {
            end += u64::from(sizes[*document as usize]);
            end
        });
        let ends = ends.collect();
        let all = (epochs * tokens - 1) / sequence;
        let first = if apart {
            ((epochs - 1) * tokens - 1) / sequence
        } else {
            all
        };
        let mut shuffle: Vec<u32> = (0..u32::try_from(all).expect("bounded by MOST")).collect();
        let (first, last) = shuffle.split_at_mut(usize::try_from(first).expect("bounded by MOST"));
        random.shuffle(first);
        random.shuffle(last);
        Ok(Self {
            sequence,
            epochs,
            apart,
            documents,
            ends,
            shuffle,
        })
    }

    /// How many samples there are: those that were asked for, and what else the epochs hold.
    pub fn samples(&self) -> u64 {
        self.shuffle.len() as u64
    }

    /// How often each document is laid out.
    pub const fn epochs(&self) -> u64 {
        self.epochs
    }

    /// Whether the last epoch was shuffled apart.
    pub const fn last_epoch_apart(&self) -> bool {
        self.apart
    }

    /// Megatron's `doc_idx`: documents as they are laid out.
    pub fn documents(&self) -> &[u32] {
        &self.documents
    }

    /// Megatron's `shuffle_idx`: which laid-out sample each sample is.
    pub fn shuffle(&self) -> &[u32] {
        &self.shuffle
    }

    /// A row of Megatron's `sample_idx`: place in [`Order::documents`], and offset in that
    /// document, of the first token of a laid-out sample.
    pub fn start(&self, sample: u32) -> (usize, u32) {
        let token = u64::from(sample) * self.sequence;
        if token == 0 {
            return (0, 0);
        }
        let at = self.ends.partition_point(|end| *end <= token);
        let begin = if at == 0 { 0 } else { self.ends[at - 1] };
        (
            at,
            u32::try_from(token - begin).expect("an offset in a document"),
        )
    }

    /// The pieces of sample `k`, one after the other: document, offset, tokens.
    pub fn pieces(&self, k: u64) -> Result<impl Iterator<Item = (u32, u32, u32)> + '_> {
        let sample = usize::try_from(k).ok().and_then(|k| self.shuffle.get(k));
        let none = Error::NoSuchSample {
            sample: k,
            samples: self.samples(),
        };
        let (mut at, mut offset) = self.start(*sample.ok_or(none)?);
        let mut left = self.sequence + 1;
        Ok(std::iter::from_fn(move || {
            if left == 0 {
                return None;
            }
            let begin = if at == 0 { 0 } else { self.ends[at - 1] };
            let size = self.ends[at] - begin;
            let tokens = left.min(size - u64::from(offset));
            let piece = (
                self.documents[at],
                offset,
                u32::try_from(tokens).expect("below a size"),
            );
            left -= tokens;
            (at, offset) = (at + 1, 0);
            Some(piece)
        }))
    }
}

/// Copies of all documents, shuffled together; the last copy apart where it has to be.
fn documents(count: usize, epochs: u64, apart: bool, random: &mut Mt19937) -> Vec<u32> {
    let once = 0..u32::try_from(count).expect("bounded by MOST");
    let mut all: Vec<u32> = (0..epochs).flat_map(|_| once.clone()).collect();
    let last = if apart { all.len() - count } else { all.len() };
    let (first, last) = all.split_at_mut(last);
    random.shuffle(first);
    random.shuffle(last);
    all
}

#[cfg(test)]
mod tests;
