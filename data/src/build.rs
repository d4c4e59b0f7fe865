//! From sources to a dataset: trains the tokenizer, encodes, writes, and writes down what it did.
//!
//! Beside `PREFIX.bin` and `PREFIX.idx` lie `PREFIX.tokenizer.json` and the page `PREFIX.json`
//! ([`Meta`]). The page is removed first and written last: where it is, all four belong together.
//! A dataset that was made of the same text with the same settings is left as it is.

mod encode;
mod meta;

pub use meta::{Meta, Origin};

use crate::aside::{sha256_of, with_ending};
use crate::corpus::{Corpus, Found, Source, Tally};
use crate::error::{Error, Result};
use crate::indexed::{Indexed, Width, Writer, bin_path, idx_path};
use crate::tokenizer::{Tokenizer, hexadecimal};
use crate::verify::meta_path;
use encode::encode;
use sha2::{Digest, Sha256};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Changes when the same text would give other files.
const RECIPE: u32 = 2;

/// How far a build is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// The text is read for the first time.
    Reading {
        /// Bytes done.
        done: u64,
        /// Bytes in all.
        all: u64,
    },
    /// The tokenizer learns from so much text.
    Training {
        /// Bytes of text.
        bytes: u64,
    },
    /// Text becomes tokens.
    Encoding {
        /// Documents done.
        done: u64,
        /// Documents in all.
        all: u64,
    },
    /// The files go to the disk.
    Writing,
}

/// Where the tokenizer comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Vocabulary {
    /// It is trained on the text, with at most so many tokens.
    Train(u32),
    /// It is read from a `tokenizer.json`.
    Given(PathBuf),
}

/// A finished dataset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// What is written down of it.
    pub meta: Meta,
    /// Whether it was made now; otherwise it was there already.
    pub fresh: bool,
}

/// Path of the tokenizer beside a dataset.
pub fn tokenizer_path(prefix: &Path) -> PathBuf {
    with_ending(prefix, ".tokenizer.json")
}

/// Path of the dataset of one source, where each has its own.
pub fn source_prefix(prefix: &Path, source: &str) -> PathBuf {
    with_ending(prefix, &format!("-{source}"))
}

/// Makes the dataset `prefix` of a corpus, unless it is there.
pub fn build(
    corpus: &Corpus,
    prefix: &Path,
    vocabulary: &Vocabulary,
    mut progress: impl FnMut(Progress),
) -> Result<Built> {
    let given = match vocabulary {
        Vocabulary::Train(_) => None,
        Vocabulary::Given(path) => Some(Tokenizer::load(path)?),
    };
    let survey = Survey::of(corpus, vocabulary, given.as_ref(), &mut progress);
    if let Some(meta) = standing(prefix, &survey.sum) {
        return Ok(Built { meta, fresh: false });
    }
    let all: u64 = survey.sources.iter().map(|source| source.documents).sum();
    if all == 0 {
        return Err(nothing(corpus, &survey));
    }
    remove(&meta_path(prefix))?;
    let tokenizer = match (given, vocabulary) {
        (Some(tokenizer), _) => tokenizer,
        (None, Vocabulary::Train(size)) => {
            let bytes = survey.sources.iter().map(|source| source.bytes).sum();
            progress(Progress::Training { bytes });
            let sources = corpus.sources.iter();
            Tokenizer::train(sources.flat_map(Source::documents).flatten(), *size)?
        }
        (None, Vocabulary::Given(path)) => Tokenizer::load(path)?,
    };
    let mut writer = Writer::create(prefix, Width::of_vocabulary(tokenizer.vocabulary()))?;
    let documents: Vec<u64> = survey.sources.iter().map(|s| s.documents).collect();
    let mut meta = Meta {
        vocabulary: tokenizer.vocabulary(),
        tokenizer_sha256: tokenizer.sha256(),
        end_of_document: Some(tokenizer.end_of_document()),
        inputs_sha256: survey.sum,
        lacking: corpus.lacking(&documents),
        ..Meta::default()
    };
    for (source, seen) in corpus.sources.iter().zip(survey.sources) {
        let mut origin = Origin::of(source, seen.left_out);
        encode(source, &tokenizer, |bytes, tokens| {
            writer.push(tokens)?;
            writer.end_document();
            origin.documents += 1;
            origin.bytes += bytes;
            origin.tokens += tokens.len() as u64;
            meta.documents += 1;
            let done = meta.documents;
            progress(Progress::Encoding { done, all });
            Ok(())
        })?;
        if (origin.documents, origin.bytes) != (seen.documents, seen.bytes) {
            return Err(Error::Corpus {
                path: source.files.first().cloned().unwrap_or_default(),
                problem: format!(
                    "source `{}` changed while it was read; build again",
                    source.name
                ),
            });
        }
        meta.tokens += origin.tokens;
        meta.sources.push(origin);
    }
    progress(Progress::Writing);
    tokenizer.save(&tokenizer_path(prefix))?;
    (meta.bin_sha256, meta.idx_sha256) = writer.finish()?;
    meta.write(prefix)?;
    Ok(Built { meta, fresh: true })
}

/// Makes one dataset of each source, `PREFIX-NAME`, all with the tokenizer of the whole corpus,
/// `PREFIX.tokenizer.json`: the parts of a blend.
pub fn build_separate(
    corpus: &Corpus,
    prefix: &Path,
    vocabulary: &Vocabulary,
    mut progress: impl FnMut(Progress),
) -> Result<Vec<(PathBuf, Built)>> {
    let path = match vocabulary {
        Vocabulary::Given(path) => path.clone(),
        Vocabulary::Train(size) => {
            let bytes = corpus.sources.iter().map(Source::bytes).sum();
            progress(Progress::Training { bytes });
            let documents = corpus.sources.iter().flat_map(Source::documents).flatten();
            let path = tokenizer_path(prefix);
            Tokenizer::train(documents, *size)?.save(&path)?;
            path
        }
    };
    let given = Vocabulary::Given(path);
    let each = corpus.sources.iter().map(|source| {
        let part = Corpus {
            sources: vec![source.clone()],
            languages: Vec::new(),
        };
        let prefix = source_prefix(prefix, &source.name);
        let built = build(&part, &prefix, &given, &mut progress)?;
        Ok((prefix, built))
    });
    each.collect()
}

/// What the first reading of a corpus found.
struct Survey {
    /// SHA-256 of all that decides what the files will hold.
    sum: String,
    sources: Vec<Seen>,
}

/// One source of it.
struct Seen {
    documents: u64,
    bytes: u64,
    left_out: Tally,
}

impl Survey {
    /// Lengths go in before texts, so that no two corpora look alike.
    fn of(
        corpus: &Corpus,
        vocabulary: &Vocabulary,
        given: Option<&Tokenizer>,
        progress: &mut impl FnMut(Progress),
    ) -> Self {
        let mut hash = Sha256::new();
        let mut put = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        put(&RECIPE.to_le_bytes());
        match (vocabulary, given) {
            (Vocabulary::Train(size), _) => put(&size.to_le_bytes()),
            (Vocabulary::Given(_), tokenizer) => {
                put(tokenizer
                    .map(Tokenizer::sha256)
                    .unwrap_or_default()
                    .as_bytes());
            }
        }
        let all = corpus.sources.iter().map(Source::bytes).sum();
        let mut done = 0;
        let mut sources = Vec::new();
        for language in &corpus.languages {
            put(language.as_bytes());
        }
        for source in &corpus.sources {
            for said in [
                &source.name,
                &source.language,
                &source.licence,
                &source.permission,
                &source.contact,
            ] {
                put(said.as_bytes());
            }
            let mut seen = Seen {
                documents: 0,
                bytes: 0,
                left_out: Tally::default(),
            };
            for found in source.documents() {
                match found {
                    Found::Ok(text) => {
                        put(b"document");
                        put(text.as_bytes());
                        seen.documents += 1;
                        seen.bytes += text.len() as u64;
                        done += text.len() as u64;
                        progress(Progress::Reading { done, all });
                    }
                    Found::Err(skipped) => {
                        put(skipped.to_string().as_bytes());
                        seen.left_out.add(skipped);
                    }
                }
            }
            sources.push(seen);
        }
        let sum = hexadecimal(&hash.finalize());
        Self { sum, sources }
    }
}

/// Why there is nothing to build.
fn nothing(corpus: &Corpus, survey: &Survey) -> Error {
    let files: usize = corpus.sources.iter().map(|source| source.files.len()).sum();
    let first = survey
        .sources
        .iter()
        .find_map(|seen| seen.left_out.named.first());
    let why = first
        .map(|skipped| format!("; {skipped}"))
        .unwrap_or_default();
    let path = corpus
        .sources
        .iter()
        .find_map(|source| source.files.first());
    Error::Corpus {
        path: path
            .and_then(|path| path.parent())
            .unwrap_or(Path::new("."))
            .to_owned(),
        problem: format!("none of its {files} files can be used{why}"),
    }
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io("remove", path)(error)),
        _ => Ok(()),
    }
}

/// The page of a dataset that was made of the same inputs and is whole.
fn standing(prefix: &Path, inputs: &str) -> Option<Meta> {
    let meta = Meta::read(prefix).ok()??;
    if meta.inputs_sha256 != inputs {
        return None;
    }
    let indexed = Indexed::open(prefix).ok()?;
    let tokenizer = Tokenizer::load(&tokenizer_path(prefix)).ok()?;
    let same = meta.tokens == indexed.tokens()
        && meta.documents == indexed.sequences() as u64
        && meta.tokenizer_sha256 == tokenizer.sha256()
        && sha256_of(&idx_path(prefix), |_| ()).ok()? == meta.idx_sha256
        && sha256_of(&bin_path(prefix), |_| ()).ok()? == meta.bin_sha256;
    same.then_some(meta)
}

#[cfg(test)]
mod tests;
