//! What is in a corpus or a dataset, source by source: sizes, languages, samples, duplicates.
//!
//! A document is a duplicate when the same text came before it, in its own source or in another.
//! It is a near duplicate when its MinHash signature says that it shares four fifths of its pieces
//! with one that came before. Nothing is judged and nothing is changed here.

mod minhash;
mod page;

pub use page::page;

use crate::build::{Meta, tokenizer_path};
use crate::corpus::{Corpus, Found, Tally};
use crate::error::{Error, Result};
use crate::indexed::Indexed;
use crate::tokenizer::Tokenizer;
use minhash::{Near, Signature};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// Documents that are compared for likeness; a signature takes 512 bytes and a place in 16 tables.
const MOST_NEAR: usize = 200_000;

/// Documents with tokens that have no text are named up to this many.
const MOST_ODD: usize = 20;

/// Characters shown of a sample.
const SHOWN: usize = 600;

/// Powers of two up to the longest document.
const POWERS: usize = 32;

/// Documents and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Amount {
    /// Documents.
    pub documents: u64,
    /// Bytes of their text.
    pub bytes: u64,
}

impl Amount {
    fn add(&mut self, bytes: u64) {
        self.documents += 1;
        self.bytes += bytes;
    }
}

/// What is known of one source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Inspected {
    /// What it is called.
    pub name: String,
    /// Code of its language.
    pub language: String,
    /// Its licence.
    pub licence: String,
    /// Who permitted its use.
    pub permission: String,
    /// Whom to ask.
    pub contact: String,
    /// All of it.
    pub all: Amount,
    /// Its characters.
    pub characters: u64,
    /// Its tokens, where it was built.
    pub tokens: Option<u64>,
    /// Bytes of its longest document.
    pub longest: u64,
    /// Documents by size: entry `n` counts those of 2^n to 2^(n+1) - 1 bytes.
    pub sizes: Vec<u64>,
    /// Documents that came before in the same source.
    pub repeated: Amount,
    /// Documents that came before in another source.
    pub elsewhere: Amount,
    /// Documents that are much like one that came before.
    pub near: Amount,
    /// What was left out.
    pub left_out: Tally,
    /// Texts from it, picked by chance but always the same, and cut.
    pub samples: Vec<String>,
}

/// What is known of all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Each source.
    pub sources: Vec<Inspected>,
    /// Languages that should be there and are not, by code and name.
    pub lacking: Vec<(String, String)>,
    /// Documents that were compared for likeness; the first so many, where there are more.
    pub compared: u64,
    /// Documents of a dataset after those that its page counts: no source has them, and they are not inspected.
    pub unlisted: u64,
    /// Tokens of a dataset that its tokenizer has no text for.
    pub outside: u64,
    /// The first documents that have such tokens, each with how many and which.
    pub odd: Vec<String>,
}

impl Report {
    /// Documents and bytes of each language.
    pub fn languages(&self) -> BTreeMap<&str, Amount> {
        let mut languages: BTreeMap<&str, Amount> = BTreeMap::new();
        for source in &self.sources {
            let amount = languages.entry(&source.language).or_default();
            amount.documents += source.all.documents;
            amount.bytes += source.all.bytes;
        }
        languages
    }

    /// What of a dataset is not in the figures, each in a line.
    pub fn left_aside(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if self.unlisted > 0 {
            lines.push(format!(
                "{} documents at the end belong to no source of the page and were not inspected",
                self.unlisted
            ));
        }
        if self.outside > 0 {
            lines.push(format!("{} tokens have no text:", self.outside));
            lines.extend(self.odd.iter().cloned());
        }
        lines
    }

    /// Documents of all sources.
    pub fn documents(&self) -> u64 {
        self.sources.iter().map(|source| source.all.documents).sum()
    }
}

/// Inspects a corpus before it is built. `progress` hears of the bytes of text done.
pub fn corpus(corpus: &Corpus, samples: usize, mut progress: impl FnMut(u64)) -> Report {
    let mut inspector = Inspector::new(samples);
    for source in &corpus.sources {
        inspector.begin(Inspected {
            name: source.name.clone(),
            language: source.language.clone(),
            licence: source.licence.clone(),
            permission: source.permission.clone(),
            contact: source.contact.clone(),
            ..Inspected::default()
        });
        for found in source.documents() {
            inspector.found(found);
            progress(inspector.bytes);
        }
    }
    let mut report = inspector.finish();
    let documents: Vec<u64> = report.sources.iter().map(|s| s.all.documents).collect();
    report.lacking = corpus.lacking(&documents);
    report
}

/// Inspects a dataset that was built here, by its page and its tokenizer.
pub fn dataset(prefix: &Path, samples: usize, mut progress: impl FnMut(u64)) -> Result<Report> {
    let indexed = Indexed::open(prefix)?;
    let Some(meta) = Meta::read(prefix)? else {
        return Err(Error::Corpus {
            path: prefix.to_owned(),
            problem: "it has no page beside it, so that its sources are not known; inspect its \
                      sources file instead"
                .to_owned(),
        });
    };
    let tokenizer = Tokenizer::load(&tokenizer_path(prefix))?;
    let mut inspector = Inspector::new(samples);
    let mut next = 0;
    for origin in &meta.sources {
        let said = |said: &Option<String>| said.clone().unwrap_or_default();
        inspector.begin(Inspected {
            name: origin.name.clone(),
            language: said(&origin.language),
            licence: said(&origin.licence),
            permission: said(&origin.permission),
            contact: said(&origin.contact),
            tokens: Some(origin.tokens),
            left_out: origin.left_out.clone(),
            ..Inspected::default()
        });
        for _ in 0..origin.documents {
            if next >= indexed.sequences() {
                return Err(Error::format(
                    &crate::verify::meta_path(prefix),
                    "documents",
                    meta.documents,
                    format!("but the index has {}", indexed.sequences()),
                ));
            }
            let mut tokens = vec![0; indexed.size(next) as usize];
            indexed.read(next, 0, &mut tokens);
            let id = |token: &i32| {
                let id = u32::try_from(*token).ok();
                id.filter(|id| *id < tokenizer.vocabulary())
            };
            let known: Vec<u32> = tokens.iter().filter_map(id).collect();
            if let Some(first) = tokens.iter().find(|token| id(token).is_none()) {
                let many = tokens.len() - known.len();
                inspector.report.outside += many as u64;
                if inspector.report.odd.len() < MOST_ODD {
                    inspector.report.odd.push(format!(
                        "document {next} of {} has {many} tokens without text, the first of them {first}",
                        origin.name
                    ));
                }
            }
            inspector.found(Ok(tokenizer.decode(&known)?));
            progress(inspector.bytes);
            next += 1;
        }
    }
    let mut report = inspector.finish();
    report.lacking = meta.lacking;
    report.unlisted = (indexed.sequences() - next) as u64;
    Ok(report)
}

struct Inspector {
    report: Report,
    samples: usize,
    bytes: u64,
    /// The source in which each text came first.
    seen: HashMap<[u8; 16], usize>,
    near: Near,
    /// Hash and text of the samples of the present source.
    picked: Vec<([u8; 16], String)>,
}

impl Inspector {
    fn new(samples: usize) -> Self {
        Self {
            report: Report::default(),
            samples,
            bytes: 0,
            seen: HashMap::new(),
            near: Near::default(),
            picked: Vec::new(),
        }
    }

    fn begin(&mut self, source: Inspected) {
        self.end();
        self.report.sources.push(Inspected {
            sizes: vec![0; POWERS],
            ..source
        });
    }

    fn end(&mut self) {
        if let Some(source) = self.report.sources.last_mut() {
            source.samples = self.picked.drain(..).map(|(_, text)| text).collect();
        }
    }

    fn found(&mut self, found: Found) {
        let at = self.report.sources.len() - 1;
        let source = &mut self.report.sources[at];
        let text = match found {
            Ok(text) => text,
            Err(skipped) => return source.left_out.add(skipped),
        };
        let bytes = text.len() as u64;
        self.bytes += bytes;
        source.all.add(bytes);
        source.characters += text.chars().count() as u64;
        source.longest = source.longest.max(bytes);
        source.sizes[(bytes.max(1).ilog2() as usize).min(POWERS - 1)] += 1;
        let sum = Sha256::digest(&text);
        let mut hash = [0; 16];
        hash.copy_from_slice(&sum[..16]);
        match self.seen.get(&hash) {
            Some(first) if *first == at => return source.repeated.add(bytes),
            Some(_) => return source.elsewhere.add(bytes),
            None => {
                self.seen.insert(hash, at);
            }
        }
        if self.near.len() < MOST_NEAR
            && let Some(signature) = Signature::of(&text)
        {
            self.report.compared += 1;
            if self.near.add(signature) {
                source.near.add(bytes);
            }
        }
        let place = self.picked.partition_point(|(other, _)| *other < hash);
        if place < self.samples {
            self.picked.truncate(self.samples - 1);
            self.picked.insert(place, (hash, cut(&text)));
        }
    }

    fn finish(mut self) -> Report {
        self.end();
        self.report
    }
}

/// The beginning of a text.
fn cut(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests;
