//! The page that is written beside a dataset: what it is, and where it came from.

use crate::aside::Aside;
use crate::corpus::{Source, Tally};
use crate::error::{Error, Result};
use crate::verify::meta_path;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

/// The largest file that is taken for a page.
const MOST_BYTES: u64 = 1 << 28;

/// What is written down of a dataset. Pages of older versions lack what has a default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// Tokens of the tokenizer.
    pub vocabulary: u32,
    /// SHA-256 of the tokenizer's file.
    pub tokenizer_sha256: String,
    /// Id of the token that ends a document.
    #[serde(default)]
    pub end_of_document: Option<u32>,
    /// Documents of the dataset.
    pub documents: u64,
    /// Tokens of the dataset.
    pub tokens: u64,
    /// SHA-256 of all that went in.
    pub inputs_sha256: String,
    /// SHA-256 of the tokens.
    #[serde(default)]
    pub bin_sha256: String,
    /// SHA-256 of the index.
    #[serde(default)]
    pub idx_sha256: String,
    /// Where the text came from, in the order of the documents.
    pub sources: Vec<Origin>,
    /// Languages that the corpus should have and has not, by code and name.
    pub lacking: Vec<(String, String)>,
}

/// What is written down of a source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// What it is called.
    pub name: String,
    /// Code of its language.
    pub language: Option<String>,
    /// Its licence.
    pub licence: Option<String>,
    /// Who permitted its use.
    #[serde(default)]
    pub permission: Option<String>,
    /// Whom to ask.
    #[serde(default)]
    pub contact: Option<String>,
    /// Its documents.
    pub documents: u64,
    /// Its bytes of text.
    pub bytes: u64,
    /// Its tokens, ends of documents included.
    pub tokens: u64,
    /// What of it was left out.
    #[serde(default)]
    pub left_out: Tally,
}

impl Origin {
    /// A source of which no document was counted yet.
    pub(super) fn of(source: &Source, left_out: Tally) -> Self {
        Self {
            name: source.name.clone(),
            language: Some(source.language.clone()),
            licence: Some(source.licence.clone()),
            permission: Some(source.permission.clone()),
            contact: Some(source.contact.clone()),
            documents: 0,
            bytes: 0,
            tokens: 0,
            left_out,
        }
    }
}

impl Meta {
    /// The page beside a dataset; none where there is none.
    pub fn read(prefix: &Path) -> Result<Option<Self>> {
        let path = meta_path(prefix);
        let file = match File::open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            other => other.map_err(Error::io("open", &path))?,
        };
        let mut bytes = Vec::new();
        let read = file.take(MOST_BYTES).read_to_end(&mut bytes);
        read.map_err(Error::io("read", &path))?;
        Self::parse(&path, &bytes).map(Some)
    }

    /// What the bytes of a page say.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self> {
        let not_a_page = |field: &str, problem: serde_json::Error| {
            let problem = format!("`{problem}`");
            Error::format(path, field, problem, "not a page of a dataset")
        };
        let mut reader = serde_json::Deserializer::from_slice(bytes);
        let meta = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
            let field = error.path().to_string();
            // A dot is the whole of it, and a question mark what has no name yet.
            let field = match field.as_str() {
                "." | "?" => "content",
                field => field,
            };
            not_a_page(field, error.into_inner())
        })?;
        reader.end().map_err(|error| not_a_page("content", error))?;
        Ok(meta)
    }

    /// How many documents and files were left out.
    pub fn left_out(&self) -> u64 {
        self.sources
            .iter()
            .map(|source| source.left_out.all())
            .sum()
    }

    pub(super) fn write(&self, prefix: &Path) -> Result<()> {
        let mut page = serde_json::to_vec_pretty(self).expect("its maps have text as keys");
        page.push(b'\n');
        let mut file = Aside::create(&meta_path(prefix))?;
        file.write(&page)?;
        file.finish()?;
        Ok(())
    }
}
