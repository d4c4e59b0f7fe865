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
    /// The largest of them; none where there are none that are 0 or above.
    pub largest: Option<u32>,
    /// The page beside it; none where it has none, as datasets that Megatron made.
    pub page: Option<Meta>,
    /// What is wrong with it.
    pub damage: Vec<Damage>,
}

/// Tokens that cannot be, by where they are.
#[derive(Debug, Default)]
struct Odd {
    /// How many there are.
    all: u64,
    /// The first: itself, its place, its document.
    first: Option<(i32, usize, usize)>,
    /// The first documents that have some, and how many do.
    named: Vec<usize>,
    documents: u64,
    last: Option<usize>,
}

impl Odd {
    /// So many documents are named.
    const MOST: usize = 10;

    fn add(&mut self, token: i32, at: usize, document: usize) {
        self.all += 1;
        self.first.get_or_insert((token, at, document));
        if self.last.replace(document) != Some(document) {
            self.documents += 1;
            if self.named.len() < Self::MOST {
                self.named.push(document);
            }
        }
    }

    fn places(&self) -> Option<String> {
        let (token, at, document) = self.first?;
        let named: Vec<String> = self.named.iter().map(ToString::to_string).collect();
        let more = self.documents - named.len() as u64;
        let more = if more > 0 {
            format!(" and {more} more")
        } else {
            String::new()
        };
        let (all, named) = (self.all, named.join(", "));
        Some(format!(
            "in {all} places of documents {named}{more}; the first is token {token} at {at} of document {document}"
        ))
    }
}

/// Reads every byte of a dataset and lists what is wrong. Tokens have to be below `vocabulary` where it is given,
/// and below that of the page where there is one. `progress` hears of bytes done and all.
pub fn examine(
    prefix: &Path,
    vocabulary: Option<u32>,
    mut progress: impl FnMut(u64, u64),
) -> Examined {
    let mut found = Examined::default();
    let (bin, idx) = (bin_path(prefix), idx_path(prefix));
    let size = |path: &Path| std::fs::metadata(path).map_or(0, |facts| facts.len());
    match Meta::read(prefix) {
        Ok(page) => found.page = page,
        Err(error) => found.add(&meta_path(prefix), error),
    }
    let page = found.page.clone();
    let sums: Vec<(&Path, &str)> = page.as_ref().map_or_else(Vec::new, |page| {
        let sums = [(&*bin, &*page.bin_sha256), (&*idx, &*page.idx_sha256)];
        // Pages of older versions have none.
        sums.into_iter()
            .filter(|(_, sum)| !sum.is_empty())
            .collect()
    });
    // Tokens are read once more, after the sums.
    let all = sums.iter().map(|(file, _)| size(file)).sum::<u64>() + size(&bin);
    let mut done = 0;
    let mut read = |bytes| {
        done += bytes;
        progress(done, all);
    };
    for (file, expected) in sums {
        found.sum(file, expected, &mut read);
    }
    if let Some(page) = &page {
        found.tokenizer(&tokenizer_path(prefix), page);
    }
    match Indexed::open(prefix) {
        Ok(indexed) => {
            found.counts(&indexed, prefix);
            let vocabulary = vocabulary
                .into_iter()
                .chain(page.map(|page| page.vocabulary));
            found.tokens(&indexed, &bin, vocabulary.min(), &mut read);
        }
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

    /// Compares a file with the SHA-256 that was written down of it.
    fn sum(&mut self, file: &Path, expected: &str, read: &mut impl FnMut(u64)) {
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

    /// Counts documents and tokens, and compares them with those of the page.
    fn counts(&mut self, indexed: &Indexed, prefix: &Path) {
        (self.documents, self.tokens) = (indexed.sequences() as u64, indexed.tokens());
        let beyond = indexed.beyond();
        if beyond > 0 {
            self.note(
                &bin_path(prefix),
                "length",
                format!("has {beyond} bytes that belong to no document"),
            );
        }
        let Some(page) = &self.page else {
            return;
        };
        if (page.tokens, page.documents) != (self.tokens, self.documents) {
            let problem = format!(
                "is {} tokens in {} documents, but the index has {} in {}",
                page.tokens, page.documents, self.tokens, self.documents
            );
            self.note(&meta_path(prefix), "tokens", problem);
        }
    }

    /// Reads every token.
    fn tokens(
        &mut self,
        indexed: &Indexed,
        bin: &Path,
        vocabulary: Option<u32>,
        read: &mut impl FnMut(u64),
    ) {
        let (mut negative, mut outside) = (Odd::default(), Odd::default());
        let mut largest = None;
        for (document, from, tokens) in indexed.pieces() {
            for (at, &token) in (from..).zip(&tokens) {
                let Ok(id) = u32::try_from(token) else {
                    negative.add(token, at, document);
                    continue;
                };
                largest = largest.max(Some(id));
                if vocabulary.is_some_and(|vocabulary| id >= vocabulary) {
                    outside.add(token, at, document);
                }
            }
            read((tokens.len() * indexed.width().bytes()) as u64);
        }
        self.largest = largest;
        if let Some(places) = negative.places() {
            self.note(bin, "tokens", format!("are negative {places}"));
        }
        if let (Some(places), Some(vocabulary)) = (outside.places(), vocabulary) {
            let problem = format!("are outside the vocabulary of {vocabulary} {places}");
            self.note(bin, "tokens", problem);
        }
    }
}
