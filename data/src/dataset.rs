//! The samples of a run: indexed datasets in the order of its seed, one alone or several in a blend.

use crate::error::{Error, Result};
use crate::indexed::Indexed;
use crate::order::blend::{Blend, asked, documents_between};
use crate::order::{LAST_EPOCH, Order};
use std::path::{Path, PathBuf};

/// One dataset of a blend.
#[derive(Debug, Clone, PartialEq)]
pub struct Weighted {
    /// Its path without `.bin` and `.idx`.
    pub prefix: PathBuf,
    /// Its weight; weights need not add up to 1.
    pub weight: f64,
    /// The shares of its documents between which it is used: `(0.0, 0.95)` leaves the last
    /// twentieth for evaluation.
    pub documents: (f64, f64),
}

/// Open datasets in the order of one run.
#[derive(Debug)]
pub struct Dataset {
    parts: Vec<Part>,
    blend: Option<Blend>,
    sequence: usize,
}

#[derive(Debug)]
struct Part {
    indexed: Indexed,
    order: Order,
    /// The first document that the order counts from.
    first: usize,
}

impl Dataset {
    /// Opens a dataset for a run that will consume `samples` samples in all. The same four
    /// arguments give the same samples, always; `samples` is part of them because it decides how
    /// many epochs are shuffled together.
    pub fn open(prefix: &Path, sequence: u32, seed: u64, samples: u64) -> Result<Self> {
        Ok(Self {
            parts: vec![Part::open(prefix, (0.0, 1.0), sequence, seed, samples)?],
            blend: None,
            sequence: sequence as usize,
        })
    }

    /// Opens a blend of datasets, as Megatron blends: each is put in the order of the seed by
    /// itself, with half a percent more samples than its share, and they take turns by weight.
    pub fn blended(parts: &[Weighted], sequence: u32, seed: u64, samples: u64) -> Result<Self> {
        let weights: Vec<f64> = parts.iter().map(|part| part.weight).collect();
        let asked = asked(&weights, samples)?;
        let opened = parts.iter().zip(asked).map(|(part, samples)| {
            Part::open(&part.prefix, part.documents, sequence, seed, samples)
        });
        Ok(Self {
            parts: opened.collect::<Result<_>>()?,
            blend: Some(Blend::new(&weights, samples)?),
            sequence: sequence as usize,
        })
    }

    /// The samples there are: at least those that were asked for.
    pub fn samples(&self) -> u64 {
        match &self.blend {
            Some(blend) => blend.samples(),
            None => self.parts[0].order.samples(),
        }
    }

    /// Sample `k`: `sequence + 1` tokens; all but the last are the input, all but the first the
    /// labels.
    pub fn sample(&self, k: u64) -> Result<Vec<i32>> {
        let mut tokens = vec![0; self.sequence + 1];
        self.read(k, &mut tokens)?;
        Ok(tokens)
    }

    /// Sample `k` into a buffer of `sequence + 1` tokens.
    pub fn read(&self, k: u64, mut into: &mut [i32]) -> Result<()> {
        let needed = self.sequence + 1;
        if into.len() != needed {
            return Err(Error::Order(format!(
                "a buffer of {} for a sample of {needed} tokens",
                into.len()
            )));
        }
        let (part, k) = match &self.blend {
            None => (0, k),
            Some(blend) => blend.get(k).ok_or(Error::NoSuchSample {
                sample: k,
                samples: blend.samples(),
            })?,
        };
        let Part {
            indexed,
            order,
            first,
        } = &self.parts[part];
        for (document, offset, tokens) in order.pieces(k)? {
            let (piece, rest) = into.split_at_mut(tokens as usize);
            indexed.read(first + document as usize, offset as usize, piece);
            into = rest;
        }
        Ok(())
    }
}

impl Part {
    fn open(
        prefix: &Path,
        shares: (f64, f64),
        sequence: u32,
        seed: u64,
        samples: u64,
    ) -> Result<Self> {
        let indexed = Indexed::open(prefix)?;
        let (first, end) = documents_between(shares, indexed.sequences());
        let sizes: Vec<u32> = (first..end).map(|at| indexed.size(at)).collect();
        let order = Order::new(&sizes, sequence, seed, samples, LAST_EPOCH)?;
        Ok(Self {
            indexed,
            order,
            first,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::indexed::{Width, Writer};

    const SIZES: [u32; 8] = [5, 3, 9, 1, 7, 12, 4, 6];

    /// Document d holds the tokens from + 100 d, from + 100 d + 1, ...
    fn written(folder: &Path, name: &str, from: u32) -> PathBuf {
        let prefix = folder.join(name);
        let mut writer = Writer::create(&prefix, Width::U16).unwrap();
        for (document, size) in (0_u32..).zip(SIZES) {
            let first = from + 100 * document;
            writer
                .push(&(first..first + size).collect::<Vec<_>>())
                .unwrap();
            writer.end_document();
        }
        writer.finish().unwrap();
        prefix
    }

    #[test]
    fn a_sample_is_the_tokens_that_the_order_says() {
        let folder = tempfile::tempdir().unwrap();
        let prefix = written(folder.path(), "data", 0);
        let dataset = Dataset::open(&prefix, 8, 42, 5).unwrap();
        // shuffle[1] is laid-out sample 0: document 1, then the head of document 5.
        assert_eq!(
            dataset.sample(1).unwrap(),
            [100, 101, 102, 500, 501, 502, 503, 504, 505]
        );
        // shuffle[4] is laid-out sample 1: it begins with the token that sample 0 ended with.
        assert_eq!(
            dataset.sample(4).unwrap(),
            [505, 506, 507, 508, 509, 510, 511, 0, 1]
        );
        assert!(dataset.sample(5).is_err());
        assert!(dataset.read(0, &mut [0; 8]).is_err());
    }

    #[test]
    fn a_blend_takes_turns_between_datasets_in_their_own_orders() {
        let folder = tempfile::tempdir().unwrap();
        let part = |name: &str, from, weight, documents| Weighted {
            prefix: written(folder.path(), name, from),
            weight,
            documents,
        };
        let parts = [
            part("a", 0, 3.0, (0.0, 1.0)),
            part("b", 1000, 1.0, (0.5, 1.0)),
        ];
        let blended = Dataset::blended(&parts, 8, 42, 20).unwrap();
        assert_eq!(blended.samples(), 20);
        // 20 samples at 3 : 1: a is asked for ceil(15.075), b for ceil(5.025).
        let a = Dataset::open(&parts[0].prefix, 8, 42, 16).unwrap();
        let turns = Blend::new(&[3.0, 1.0], 20).unwrap();
        for k in 0..20 {
            let sample = blended.sample(k).unwrap();
            match turns.get(k).unwrap() {
                (0, number) => assert_eq!(sample, a.sample(number).unwrap(), "{k}"),
                // The second half of the documents: tokens from 1400 on.
                _ => assert!(sample.iter().all(|token| *token >= 1400), "{k}: {sample:?}"),
            }
        }
        assert!(blended.sample(20).is_err());
        let none = part("c", 0, 1.0, (0.5, 0.5));
        assert!(
            Dataset::blended(&[none], 8, 42, 20).is_err(),
            "no documents are left"
        );
    }
}
