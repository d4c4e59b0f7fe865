//! From text to a dataset: trains the tokenizer, encodes, writes, and writes down what it did.
//!
//! Beside `PREFIX.bin` and `PREFIX.idx` lie `PREFIX.tokenizer.json` and the page `PREFIX.json`
//! ([`Meta`]). The page is removed first and written last: where it is, all four belong together.
//! A dataset that was made of the same text with the same settings is left as it is.

use crate::aside::{Aside, with_ending};
use crate::corpus::{Corpus, Skipped};
use crate::error::{Error, Result};
use crate::indexed::{Indexed, Width, Writer};
use crate::tokenizer::{Tokenizer, hexadecimal};
use crate::verify::meta_path;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Changes when the same text would give other files.
const RECIPE: u32 = 1;

/// What is written down of a dataset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// Tokens of the tokenizer.
    pub vocabulary: u32,
    /// SHA-256 of the tokenizer's file.
    pub tokenizer_sha256: String,
    /// Documents of the dataset.
    pub documents: u64,
    /// Tokens of the dataset.
    pub tokens: u64,
    /// SHA-256 of all that went in.
    pub inputs_sha256: String,
    /// Where the text came from.
    pub sources: Vec<Origin>,
    /// Languages of ROOTS without text, by code and name.
    pub lacking: Vec<(String, String)>,
    /// Files that were left out.
    pub skipped: Vec<Skipped>,
}

/// What is written down of a source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// What it is called.
    pub name: String,
    /// Code of its language, where known.
    pub language: Option<String>,
    /// Its licence, where known.
    pub licence: Option<String>,
    /// Its documents.
    pub documents: u64,
    /// Its bytes of text.
    pub bytes: u64,
    /// Its tokens, ends of documents included.
    pub tokens: u64,
}

impl Meta {
    /// The page beside a dataset; none where there is none.
    pub fn read(prefix: &Path) -> Result<Option<Self>> {
        let path = meta_path(prefix);
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            other => other.map_err(Error::io("open", &path))?,
        };
        let page = serde_json::from_str(&text);
        page.map(Some).map_err(|e| {
            Error::format(
                &path,
                "content",
                format!("`{e}`"),
                "not a page of a dataset",
            )
        })
    }

    fn write(&self, prefix: &Path) -> Result<()> {
        let mut page = serde_json::to_vec_pretty(self).expect("it has no maps and no floats");
        page.push(b'\n');
        let mut file = Aside::create(&meta_path(prefix))?;
        file.write(&page)?;
        file.finish()
    }
}

/// How far a build is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
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

/// Makes the dataset `prefix` of a corpus, unless it is there.
pub fn build(
    corpus: &Corpus,
    prefix: &Path,
    vocabulary: u32,
    mut progress: impl FnMut(Progress),
) -> Result<Built> {
    let inputs = inputs(corpus, vocabulary);
    if let Some(meta) = standing(prefix, &inputs) {
        return Ok(Built { meta, fresh: false });
    }
    let page = meta_path(prefix);
    match fs::remove_file(&page) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(Error::io("remove", &page)(error));
        }
        _ => {}
    }
    let documents = || {
        corpus
            .sources
            .iter()
            .flat_map(|source| &source.documents)
            .map(String::as_str)
    };
    progress(Progress::Training {
        bytes: documents().map(|document| document.len() as u64).sum(),
    });
    let tokenizer = Tokenizer::train(documents(), vocabulary)?;
    let all = documents().count() as u64;
    let mut writer = Writer::create(prefix, Width::of_vocabulary(tokenizer.vocabulary()))?;
    let mut meta = Meta {
        vocabulary: tokenizer.vocabulary(),
        tokenizer_sha256: tokenizer.sha256(),
        documents: 0,
        tokens: 0,
        inputs_sha256: inputs,
        sources: Vec::new(),
        lacking: corpus
            .lacking
            .iter()
            .map(|l| (l.code.to_owned(), l.name.to_owned()))
            .collect(),
        skipped: corpus.skipped.clone(),
    };
    for source in &corpus.sources {
        let mut origin = Origin {
            name: source.name.clone(),
            language: source.language.clone(),
            licence: source.licence.clone(),
            documents: source.documents.len() as u64,
            bytes: 0,
            tokens: 0,
        };
        for document in &source.documents {
            let tokens = tokenizer.encode(document)?;
            writer.push(&tokens)?;
            writer.end_document();
            origin.bytes += document.len() as u64;
            origin.tokens += tokens.len() as u64;
            meta.documents += 1;
            progress(Progress::Encoding {
                done: meta.documents,
                all,
            });
        }
        meta.tokens += origin.tokens;
        meta.sources.push(origin);
    }
    progress(Progress::Writing);
    tokenizer.save(&tokenizer_path(prefix))?;
    writer.finish()?;
    meta.write(prefix)?;
    Ok(Built { meta, fresh: true })
}

/// The page of a dataset that was made of the same inputs and is whole.
fn standing(prefix: &Path, inputs: &str) -> Option<Meta> {
    let meta = Meta::read(prefix).ok()??;
    let indexed = Indexed::open(prefix).ok()?;
    let tokenizer = Tokenizer::load(&tokenizer_path(prefix)).ok()?;
    let same = meta.inputs_sha256 == inputs
        && meta.tokens == indexed.tokens()
        && meta.documents == indexed.sequences() as u64
        && meta.tokenizer_sha256 == tokenizer.sha256()
        && indexed.outside(meta.vocabulary).is_none();
    same.then_some(meta)
}

/// SHA-256 of all that decides what the files will hold. Lengths go in before texts, so that no
/// two corpora look alike.
fn inputs(corpus: &Corpus, vocabulary: u32) -> String {
    let mut hash = Sha256::new();
    let mut put = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    put(&RECIPE.to_le_bytes());
    put(&vocabulary.to_le_bytes());
    for source in &corpus.sources {
        put(source.name.as_bytes());
        put(source.language.as_deref().unwrap_or_default().as_bytes());
        put(source.licence.as_deref().unwrap_or_default().as_bytes());
        put(&(source.documents.len() as u64).to_le_bytes());
        source
            .documents
            .iter()
            .for_each(|document| put(document.as_bytes()));
    }
    for language in &corpus.lacking {
        put(language.code.as_bytes());
    }
    for skipped in &corpus.skipped {
        put(skipped.path.as_os_str().as_encoded_bytes());
        put(skipped.reason.to_string().as_bytes());
    }
    hexadecimal(&hash.finalize())
}

#[cfg(test)]
mod tests;
