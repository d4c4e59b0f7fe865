//! Text that was kept from training, as the samples that a model is scored on.
//!
//! The documents of a set follow each other as in training, each with its end, and are cut into samples with
//! one token of overlap, so that the loss of a sample is the one that training shows.

use crate::error::{Error, Result};
use crate::indexed::{Indexed, idx_path};
use crate::order::blend::documents_between;
use crate::tokenizer::Tokenizer;
use std::path::Path;

/// The documents of one set, held in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldOut {
    /// What it is called: a language, or a source.
    pub name: String,
    /// Its documents, the last one perhaps in part.
    pub documents: u64,
    /// Bytes of their text, where that is known.
    pub bytes: Option<u64>,
    tokens: Vec<i32>,
}

impl HeldOut {
    /// The documents of a language, as text.
    ///
    /// # Errors
    /// Where the tokenizer refuses one.
    pub fn of_text(name: &str, texts: &[String], tokenizer: &Tokenizer) -> Result<Self> {
        let mut tokens = Vec::new();
        for text in texts {
            let encoded = tokenizer.encode(text)?;
            tokens.extend(encoded.into_iter().map(u32::cast_signed));
        }
        Ok(Self {
            name: name.to_owned(),
            documents: texts.len() as u64,
            bytes: Some(texts.iter().map(|text| text.len() as u64).sum()),
            tokens,
        })
    }

    /// The first documents of an indexed dataset between two shares of them, as many as `samples` samples of
    /// `sequence` tokens need.
    ///
    /// # Errors
    /// Where the dataset cannot be read, or has less than two tokens between the shares.
    pub fn of_dataset(
        name: &str,
        prefix: &Path,
        shares: (f64, f64),
        (sequence, samples): (u32, u32),
    ) -> Result<Self> {
        let indexed = Indexed::open(prefix)?;
        let (first, end) = documents_between(shares, indexed.sequences());
        let most = sequence as usize * samples as usize + 1;
        let (mut tokens, mut documents) = (Vec::new(), 0);
        for at in first..end {
            let room = most - tokens.len();
            if room == 0 {
                break;
            }
            let from = tokens.len();
            tokens.resize(from + room.min(indexed.size(at) as usize), 0);
            indexed.read(at, 0, &mut tokens[from..]);
            documents += 1;
        }
        if tokens.len() < 2 {
            let (from, to) = shares;
            return Err(Error::format(
                &idx_path(prefix),
                format!("documents {from} to {to}"),
                format!("{} tokens", tokens.len()),
                "too few to predict any",
            ));
        }
        Ok(Self {
            name: name.to_owned(),
            documents,
            bytes: None,
            tokens,
        })
    }

    /// Tokens that are predicted: all but the first.
    pub const fn predicted(&self) -> u64 {
        (self.tokens.len() as u64).saturating_sub(1)
    }

    /// The first token that is not below `vocabulary`.
    pub fn outside(&self, vocabulary: u32) -> Option<i32> {
        let fits = |token: &i32| u32::try_from(*token).is_ok_and(|token| token < vocabulary);
        self.tokens.iter().copied().find(|token| !fits(token))
    }

    /// Its samples: at most `sequence + 1` tokens each, of which all but the last are read and all but the first
    /// are predicted; the first token of one is the last of the one before.
    pub fn samples(&self, sequence: u32) -> impl ExactSizeIterator<Item = &[i32]> {
        let sequence = sequence as usize;
        let count = self.tokens.len().saturating_sub(1).div_ceil(sequence);
        (0..count).map(move |k| {
            let end = self.tokens.len().min((k + 1) * sequence + 1);
            &self.tokens[k * sequence..end]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::indexed::{Width, Writer};

    fn written(folder: &Path, sizes: &[u32]) -> std::path::PathBuf {
        let prefix = folder.join("held");
        let mut writer = Writer::create(&prefix, Width::U16).unwrap();
        for (document, size) in (0_u32..).zip(sizes) {
            let first = 100 * document;
            let tokens: Vec<_> = (first..first + size).collect();
            writer.push(&tokens).unwrap();
            writer.end_document();
        }
        writer.finish().unwrap();
        prefix
    }

    #[test]
    fn every_token_but_the_first_is_predicted_once() {
        let folder = tempfile::tempdir().unwrap();
        let prefix = written(folder.path(), &[3, 4, 2, 5]);
        let held = HeldOut::of_dataset("a", &prefix, (0.25, 1.0), (4, 9)).unwrap();
        assert_eq!(
            (held.documents, held.predicted(), held.bytes),
            (3, 10, None)
        );
        let samples: Vec<_> = held.samples(4).collect();
        assert_eq!(
            samples,
            [
                &[100, 101, 102, 103, 200][..],
                &[200, 201, 300, 301, 302],
                &[302, 303, 304],
            ]
        );
        let predicted: usize = samples.iter().map(|sample| sample.len() - 1).sum();
        assert_eq!(predicted as u64, held.predicted());
        assert_eq!((held.outside(305), held.outside(304)), (None, Some(304)));
    }

    #[test]
    fn no_more_is_held_than_is_scored() {
        let folder = tempfile::tempdir().unwrap();
        let prefix = written(folder.path(), &[3, 4, 2, 5]);
        let held = HeldOut::of_dataset("a", &prefix, (0.0, 1.0), (2, 2)).unwrap();
        assert_eq!((held.documents, held.predicted()), (2, 4));
        assert_eq!(held.samples(2).len(), 2);
    }

    #[test]
    fn shares_without_text_are_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let prefix = written(folder.path(), &[3, 1]);
        let error = HeldOut::of_dataset("a", &prefix, (0.5, 1.0), (4, 1)).unwrap_err();
        let text = error.to_string();
        assert!(
            text.ends_with("held.idx: documents 0.5 to 1 is 1 tokens, too few to predict any"),
            "{text}"
        );
        assert!(HeldOut::of_dataset("a", &folder.path().join("no"), (0.0, 1.0), (4, 1)).is_err());
    }
}
