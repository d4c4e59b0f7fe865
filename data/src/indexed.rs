//! Megatron's indexed dataset, format MMIDIDX version 1: tokens in `.bin`, where they begin in `.idx`.
//!
//! ```text
//! .idx, little-endian
//!      0  9    "MMIDIDX\0\0"
//!      9  u64  version, 1
//!     17  u8   token type: 4 is i32, 8 is u16
//!     18  u64  n, sequences
//!     26  u64  m, entries of the document index
//!     34  i32 x n  tokens of each sequence
//!         i64 x n  where it begins in .bin, in bytes
//!         i64 x m  sequence at which each document begins; the first is 0, the last n
//! ```
//!
//! Opening checks every field, so that reading cannot go out of bounds.

mod map;
mod write;

pub use write::Writer;

use crate::aside::with_ending;
use crate::error::{Error, Result};
use map::Map;
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 9] = b"MMIDIDX\0\0";
const VERSION: u64 = 1;
const HEADER: usize = 34;

/// Vocabularies below this take two bytes a token, as in Megatron.
const NARROW_VOCABULARY: u32 = 65_500;

/// How a token is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Width {
    /// Two bytes, unsigned.
    U16,
    /// Four bytes, signed.
    I32,
}

impl Width {
    /// How Megatron stores the tokens of a vocabulary of this size.
    pub const fn of_vocabulary(size: u32) -> Self {
        if size < NARROW_VOCABULARY {
            Self::U16
        } else {
            Self::I32
        }
    }

    const fn code(self) -> u8 {
        match self {
            Self::U16 => 8,
            Self::I32 => 4,
        }
    }

    /// Bytes of a token.
    pub const fn bytes(self) -> usize {
        match self {
            Self::U16 => 2,
            Self::I32 => 4,
        }
    }
}

/// The path of the tokens of a dataset.
pub fn bin_path(prefix: &Path) -> PathBuf {
    with_ending(prefix, ".bin")
}

/// The path of the index of a dataset.
pub fn idx_path(prefix: &Path) -> PathBuf {
    with_ending(prefix, ".idx")
}

/// An open dataset. The files must not be cut short while it is open; this crate only ever
/// replaces them whole, which leaves an open one as it was.
#[derive(Debug)]
pub struct Indexed {
    width: Width,
    sequences: usize,
    tokens: u64,
    idx: Map,
    bin: Map,
}

impl Indexed {
    /// Opens and checks a dataset, given its path without `.bin` and `.idx`.
    pub fn open(prefix: &Path) -> Result<Self> {
        let idx = Map::open(&idx_path(prefix))?;
        let bin = Map::open(&bin_path(prefix))?;
        Self::checked(idx, bin)
    }

    /// Checks a dataset that is in memory; `prefix` is what errors call it.
    pub fn of_bytes(prefix: &Path, idx: Vec<u8>, bin: Vec<u8>) -> Result<Self> {
        Self::checked(
            Map::held(&idx_path(prefix), idx),
            Map::held(&bin_path(prefix), bin),
        )
    }

    fn checked(idx: Map, bin: Map) -> Result<Self> {
        let (width, sequences, documents) = header(&idx)?;
        let mut dataset = Self {
            width,
            sequences,
            tokens: 0,
            idx,
            bin,
        };
        dataset.tokens = dataset.check_sequences()?;
        dataset.check_documents(documents)?;
        Ok(dataset)
    }

    /// How tokens are stored.
    pub const fn width(&self) -> Width {
        self.width
    }

    /// How many sequences there are.
    pub const fn sequences(&self) -> usize {
        self.sequences
    }

    /// How many tokens there are.
    pub const fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Tokens of each sequence.
    pub fn sizes(&self) -> impl ExactSizeIterator<Item = u32> + '_ {
        (0..self.sequences).map(|sequence| self.size(sequence))
    }

    /// Tokens of one sequence, which must be there.
    pub fn size(&self, sequence: usize) -> u32 {
        assert!(
            sequence < self.sequences,
            "sequence {sequence} of {}",
            self.sequences
        );
        u32::try_from(self.raw_size(sequence)).expect("sizes were checked on opening")
    }

    /// Copies tokens of a sequence, from one on, until `into` is full. They must be there.
    pub fn read(&self, sequence: usize, from: usize, into: &mut [i32]) {
        let size = self.size(sequence) as usize;
        assert!(
            from + into.len() <= size,
            "tokens {from}..{} of {size}",
            from + into.len()
        );
        let bytes = self.width.bytes();
        let offset = usize::try_from(self.raw_offset(sequence)).expect("checked on opening");
        let start = offset + from * bytes;
        let raw = &self.bin.bytes()[start..start + into.len() * bytes];
        match self.width {
            Width::U16 => {
                for (token, raw) in into.iter_mut().zip(raw.chunks_exact(2)) {
                    *token = i32::from(u16::from_le_bytes([raw[0], raw[1]]));
                }
            }
            Width::I32 => {
                for (token, raw) in into.iter_mut().zip(raw.chunks_exact(4)) {
                    *token = i32::from_le_bytes([raw[0], raw[1], raw[2], raw[3]]);
                }
            }
        }
    }

    /// The first token that is not in `0..vocabulary`: its sequence, its place in it, itself.
    pub fn outside(&self, vocabulary: u32) -> Option<(usize, usize, i32)> {
        self.outside_all(vocabulary).next()
    }

    /// All tokens in pieces of bounded length: a sequence, the place of the first token in it, the tokens.
    pub fn pieces(&self) -> impl Iterator<Item = (usize, usize, Vec<i32>)> + '_ {
        const PIECE: usize = 1 << 16;
        (0..self.sequences).flat_map(move |sequence| {
            let size = self.size(sequence) as usize;
            (0..size).step_by(PIECE).map(move |from| {
                let mut tokens = vec![0; PIECE.min(size - from)];
                self.read(sequence, from, &mut tokens);
                (sequence, from, tokens)
            })
        })
    }

    /// Every token that is not in `0..vocabulary`, as [`Indexed::outside`] has the first.
    pub fn outside_all(&self, vocabulary: u32) -> impl Iterator<Item = (usize, usize, i32)> + '_ {
        let fits = move |token: i32| u32::try_from(token).is_ok_and(|token| token < vocabulary);
        self.pieces().flat_map(move |(sequence, from, tokens)| {
            let odd = tokens
                .into_iter()
                .enumerate()
                .filter(move |(_, token)| !fits(*token));
            odd.map(move |(at, token)| (sequence, from + at, token))
        })
    }

    /// Bytes at the end of the tokens file that belong to no sequence.
    pub fn beyond(&self) -> u64 {
        let bytes = self.width.bytes() as i64;
        let ends = (0..self.sequences)
            .map(|sequence| self.raw_offset(sequence) + i64::from(self.raw_size(sequence)) * bytes);
        let end = u64::try_from(ends.max().unwrap_or(0)).expect("offsets were checked on opening");
        self.bin.bytes().len() as u64 - end
    }

    fn raw_size(&self, sequence: usize) -> i32 {
        i32::from_le_bytes(self.idx.take(HEADER + 4 * sequence))
    }

    fn raw_offset(&self, sequence: usize) -> i64 {
        i64::from_le_bytes(self.idx.take(HEADER + 4 * self.sequences + 8 * sequence))
    }

    /// Every sequence lies inside the tokens file; returns how many tokens there are.
    fn check_sequences(&self) -> Result<u64> {
        let bytes = self.width.bytes();
        let length = self.bin.bytes().len();
        let mut tokens = 0;
        for sequence in 0..self.sequences {
            let size = self.raw_size(sequence);
            let Ok(count) = usize::try_from(size) else {
                return Err(self.flaw(format!("sizes[{sequence}]"), size, "which is negative"));
            };
            let offset = self.raw_offset(sequence);
            let field = format!("pointers[{sequence}]");
            let end = usize::try_from(offset)
                .ok()
                .and_then(|start| start.checked_add(count * bytes));
            if end.is_none_or(|end| end > length) {
                let problem = format!(
                    "so sequence {sequence} of {count} tokens does not lie in {}, which has {length} bytes",
                    self.bin.path().display()
                );
                return Err(self.flaw(field, offset, problem));
            }
            if offset % bytes as i64 != 0 {
                let problem = format!("which is not a multiple of the {bytes} bytes of a token");
                return Err(self.flaw(field, offset, problem));
            }
            tokens += count as u64;
        }
        Ok(tokens)
    }

    /// The document index goes from 0 to n and never down.
    fn check_documents(&self, documents: usize) -> Result<()> {
        let start = HEADER + 12 * self.sequences;
        let document = |at: usize| i64::from_le_bytes(self.idx.take(start + 8 * at));
        if documents == 0 || document(0) != 0 {
            let found = if documents == 0 {
                "absent".to_owned()
            } else {
                document(0).to_string()
            };
            return Err(self.flaw("doc_idx[0]", found, "it must be 0"));
        }
        let mut last = 0;
        for at in 0..documents {
            let found = document(at);
            if found < last {
                let problem = format!("below the {last} before it");
                return Err(self.flaw(format!("doc_idx[{at}]"), found, problem));
            }
            last = found;
        }
        if usize::try_from(last) != Ok(self.sequences) {
            let problem = format!(
                "the last must be the number of sequences, {}",
                self.sequences
            );
            return Err(self.flaw(format!("doc_idx[{}]", documents - 1), last, problem));
        }
        Ok(())
    }

    fn flaw(
        &self,
        field: impl Into<String>,
        value: impl ToString,
        problem: impl Into<String>,
    ) -> Error {
        Error::format(self.idx.path(), field, value, problem)
    }
}

/// Token type, sequences, and entries of the document index; the file has the length they imply.
fn header(idx: &Map) -> Result<(Width, usize, usize)> {
    let flaw = |field: &str, value: &dyn ToString, problem: &str| {
        Error::format(idx.path(), field, value.to_string(), problem)
    };
    let length = idx.bytes().len();
    if length < HEADER {
        return Err(flaw(
            "length",
            &length,
            "too short for a header of 34 bytes",
        ));
    }
    let magic: [u8; 9] = idx.take(0);
    if magic != *MAGIC {
        let shown = magic.escape_ascii();
        return Err(flaw(
            "magic",
            &format!("\"{shown}\""),
            "it must be \"MMIDIDX\\x00\\x00\"",
        ));
    }
    let version = u64::from_le_bytes(idx.take(9));
    if version != VERSION {
        return Err(flaw("version", &version, "only 1 is known"));
    }
    let [code] = idx.take(17);
    let Some(width) = [Width::U16, Width::I32]
        .into_iter()
        .find(|width| width.code() == code)
    else {
        return Err(flaw("dtype", &code, "only 4 (i32) and 8 (u16) are known"));
    };
    let sequences = u64::from_le_bytes(idx.take(18));
    let documents = u64::from_le_bytes(idx.take(26));
    let implied = u128::from(sequences) * 12 + u128::from(documents) * 8 + HEADER as u128;
    if implied != length as u128 {
        let problem =
            format!("but {sequences} sequences and {documents} documents take {implied} bytes");
        return Err(flaw("length", &length, &problem));
    }
    let count = |number: u64| usize::try_from(number).expect("both fit into the file's length");
    Ok((width, count(sequences), count(documents)))
}

#[cfg(test)]
mod tests;
