//! Everything that is wrong with the files of a dataset, by file and field.

use crate::aside::sha256_of;
use crate::build::{Meta, tokenizer_path};
use crate::error::{Error, Result};
use crate::indexed::{Indexed, bin_path, idx_path};
use crate::tokenizer::Tokenizer;
use crate::verify::meta_path;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{}: {field} {problem}", file.display())]
pub struct Damage {
    /// In which file.
    pub file: PathBuf,
    /// Which part of it.
    pub field: String,
    /// What is wrong.
    pub problem: String,
}

/// What was found out about a dataset.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Examined {
    /// Its documents; 0 where the index cannot be read.
    pub documents: u64,
    /// Its tokens.
    pub tokens: u64,
    /// The page beside it; none where it has none, as datasets that Megatron made.
    pub page: Option<Meta>,
    /// What is wrong with it.
    pub damage: Vec<Damage>,
}

/// Reads every byte of a dataset and lists what is wrong. `progress` hears of bytes done and all.
pub fn examine(prefix: &Path, mut progress: impl FnMut(u64, u64)) -> Examined {
    let mut found = Examined::default();
    let (bin, idx) = (bin_path(prefix), idx_path(prefix));
    let size = |path: &Path| std::fs::metadata(path).map_or(0, |facts| facts.len());
    let all = size(&bin) + size(&idx);
    let mut done = 0;
    let mut read = |bytes| {
        done += bytes;
        progress(done, all);
    };
    match Meta::read(prefix) {
        Ok(page) => found.page = page,
        Err(error) => found.add(&meta_path(prefix), error),
    }
    let page = found.page.clone();
    if let Some(page) = &page {
        found.sum(&bin, &page.bin_sha256, &mut read);
        found.sum(&idx, &page.idx_sha256, &mut read);
        found.tokenizer(&tokenizer_path(prefix), page);
    }
    match Indexed::open(prefix) {
        Ok(indexed) => found.tokens(&indexed, prefix, page.as_ref()),
        Err(error) => found.add(&idx, error),
    }
    found
}

impl Examined {
    fn note(&mut self, file: &Path, field: &str, problem: String) {
        self.damage.push(Damage {
            file: file.to_owned(),
            field: field.to_owned(),
            problem,
        });
    }

    fn add(&mut self, file: &Path, error: Error) {
        match error {
            Error::Format {
                path,
                field,
                value,
                problem,
            } => self.note(&path, &field, format!("is {value}, {problem}")),
            Error::Io {
                path,
                source,
                action,
            } => {
                self.note(
                    &path,
                    "file",
                    format!("cannot be read ({action}): {source}"),
                );
            }
            Error::Order(_)
            | Error::NoSuchSample { .. }
            | Error::Corpus { .. }
            | Error::Sources { .. }
            | Error::Tokenizer(_) => {
                self.note(file, "content", format!("cannot be used: {error}"));
            }
        }
    }

    /// Compares a file with the SHA-256 that was written down of it, where one was.
    fn sum(&mut self, file: &Path, expected: &str, read: &mut impl FnMut(u64)) {
        if expected.is_empty() {
            return;
        }
        match sha256_of(file, read) {
            Ok(found) if found == expected => {}
            Ok(found) => self.note(
                file,
                "sha256",
                format!("is {found}, and was {expected} when it was built: its bytes have changed"),
            ),
            Err(error) => self.add(file, error),
        }
    }

    fn tokenizer(&mut self, file: &Path, page: &Meta) {
        let tokenizer: Result<Tokenizer> = Tokenizer::load(file);
        match tokenizer {
            Ok(tokenizer) if tokenizer.sha256() == page.tokenizer_sha256 => {}
            Ok(tokenizer) => self.note(
                file,
                "sha256",
                format!(
                    "is {}, and was {} when the dataset was built",
                    tokenizer.sha256(),
                    page.tokenizer_sha256
                ),
            ),
            Err(error) => self.add(file, error),
        }
    }

    fn tokens(&mut self, indexed: &Indexed, prefix: &Path, page: Option<&Meta>) {
        (self.documents, self.tokens) = (indexed.sequences() as u64, indexed.tokens());
        let bin = bin_path(prefix);
        let beyond = indexed.beyond();
        if beyond > 0 {
            self.note(
                &bin,
                "length",
                format!("has {beyond} bytes that belong to no document"),
            );
        }
        let Some(page) = page else {
            return;
        };
        if (page.tokens, page.documents) != (self.tokens, self.documents) {
            let problem = format!(
                "is {} tokens in {} documents, but the index has {} in {}",
                page.tokens, page.documents, self.tokens, self.documents
            );
            self.note(&meta_path(prefix), "tokens", problem);
        }
        let mut outside = indexed.outside_all(page.vocabulary);
        if let Some((document, at, token)) = outside.next() {
            let all = 1 + outside.count();
            let problem = format!(
                "are outside the vocabulary of {} in {all} places; the first is token {token} at {at} of document {document}",
                page.vocabulary
            );
            self.note(&bin, "tokens", problem);
        }
    }
}
