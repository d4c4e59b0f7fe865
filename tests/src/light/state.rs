//! The state of a light rank: a little of everything that a resume could get wrong.

use rebloom_core::id::{Digest, Rank, Step};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors, serialize};
use sha2::{Digest as _, Sha256};

/// Words of it.
const WORDS: usize = 256;

/// What a light rank keeps. Every word depends on every step that was done, in order, and on the rank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// Whose it is.
    pub rank: Rank,
    /// Steps done.
    pub step: Step,
    /// Samples consumed.
    pub samples: u64,
    words: Vec<u64>,
}

/// A bijection that leaves no bit where it was (the finalizer of SplitMix64).
const fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

impl State {
    /// The state of a rank before its first step.
    pub fn begin(seed: u64, rank: Rank) -> Self {
        let first = mix(seed ^ mix(u64::from(rank.0)));
        let words = (0..WORDS as u64).map(|at| mix(first.wrapping_add(at)));
        Self {
            rank,
            step: Step(0),
            samples: 0,
            words: words.collect(),
        }
    }

    /// Does a step of `batch` samples, of which the last has number `last`.
    pub fn advance(&mut self, batch: u32, last: u64) {
        self.step = Step(self.step.0 + 1);
        self.samples += u64::from(batch);
        let salt = mix(self.step.0) ^ mix(self.samples) ^ last;
        for word in &mut self.words {
            *word = mix(*word ^ salt);
        }
    }

    /// SHA-256 over all of it.
    pub fn digest(&self) -> Digest {
        Digest(Sha256::digest(self.to_bytes()).into())
    }

    /// The state as a safetensors file.
    pub fn to_bytes(&self) -> Vec<u8> {
        let le =
            |words: &[u64]| -> Vec<u8> { words.iter().flat_map(|w| w.to_le_bytes()).collect() };
        let stand = le(&[u64::from(self.rank.0), self.step.0, self.samples]);
        let words = le(&self.words);
        let views = [("stand", &stand), ("words", &words)].map(|(name, bytes)| {
            let view = TensorView::new(Dtype::U64, vec![bytes.len() / 8], bytes);
            (name, view.expect("whole words"))
        });
        serialize(views, None).expect("two plain tensors")
    }

    /// The reverse.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        let file = SafeTensors::deserialize(bytes).map_err(|error| error.to_string())?;
        let words = |name: &str| -> Result<Vec<u64>, String> {
            let tensor = file.tensor(name).map_err(|error| error.to_string())?;
            let (words, []) = tensor.data().as_chunks::<8>() else {
                return Err(format!("{name} is not of whole words"));
            };
            Ok(words.iter().copied().map(u64::from_le_bytes).collect())
        };
        let &[rank, step, samples] = words("stand")?.as_slice() else {
            return Err("does not say where it stands".to_owned());
        };
        let words = words("words")?;
        if words.len() != WORDS {
            return Err(format!("has {} words", words.len()));
        }
        Ok(Self {
            rank: Rank(u32::try_from(rank).map_err(|error| error.to_string())?),
            step: Step(step),
            samples,
            words,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_every_step_and_rank_shows() {
        let mut state = State::begin(42, Rank(3));
        let mut seen = vec![state.digest(), State::begin(42, Rank(4)).digest()];
        for _ in 0..5 {
            state.advance(16, state.samples + 15);
            seen.push(state.digest());
        }
        assert_eq!((state.step, state.samples), (Step(5), 80));
        let back = State::from_bytes(&state.to_bytes()).unwrap();
        assert_eq!(back, state);
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 7);
        assert!(State::from_bytes(&state.to_bytes()[..100]).is_err());
    }

    #[test]
    fn a_step_that_was_done_twice_or_left_out_shows_in_what_comes_after() {
        let after = |batches: &[u32]| {
            let mut state = State::begin(1, Rank(0));
            for batch in batches {
                state.advance(*batch, state.samples);
            }
            state.words
        };
        assert_ne!(after(&[8, 8, 8]), after(&[8, 8]));
        assert_ne!(after(&[8, 16]), after(&[16, 8]));
    }
}
