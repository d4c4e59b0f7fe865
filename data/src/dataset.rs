//! The samples of a run: an indexed dataset in the order of its seed.

use crate::error::{Error, Result};
use crate::indexed::Indexed;
use crate::order::{LAST_EPOCH, Order};
use std::path::Path;

/// An open dataset in the order of one run.
#[derive(Debug)]
pub struct Dataset {
    indexed: Indexed,
    order: Order,
    sequence: usize,
}

impl Dataset {
    /// Opens a dataset for a run that will consume `samples` samples in all. The same four
    /// arguments give the same samples, always; `samples` is part of them because it decides how
    /// many epochs are shuffled together.
    pub fn open(prefix: &Path, sequence: u32, seed: u64, samples: u64) -> Result<Self> {
        let indexed = Indexed::open(prefix)?;
        let sizes: Vec<u32> = indexed.sizes().collect();
        let order = Order::new(&sizes, sequence, seed, samples, LAST_EPOCH)?;
        Ok(Self {
            indexed,
            order,
            sequence: sequence as usize,
        })
    }

    /// The samples there are: at least those that were asked for.
    pub fn samples(&self) -> u64 {
        self.order.samples()
    }

    /// The tokens below it.
    pub const fn indexed(&self) -> &Indexed {
        &self.indexed
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
        for (document, offset, tokens) in self.order.pieces(k)? {
            let (piece, rest) = into.split_at_mut(tokens as usize);
            self.indexed.read(document as usize, offset as usize, piece);
            into = rest;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::indexed::{Width, Writer};

    #[test]
    fn a_sample_is_the_tokens_that_the_order_says() {
        let folder = tempfile::tempdir().unwrap();
        let prefix = folder.path().join("data");
        let mut writer = Writer::create(&prefix, Width::U16).unwrap();
        // Document d holds the tokens 100 d, 100 d + 1, ...
        for (document, size) in (0_u32..).zip([5, 3, 9, 1, 7, 12, 4, 6]) {
            writer
                .push(&(100 * document..100 * document + size).collect::<Vec<_>>())
                .unwrap();
            writer.end_document();
        }
        writer.finish().unwrap();
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
}
