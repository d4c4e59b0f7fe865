//! What was left out of a corpus, by name and by number.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// Of each source, so many are named; the rest is counted.
const MOST_NAMED: usize = 1000;

/// Why a document was left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// It holds nothing but white space.
    Empty,
    /// It is not UTF-8 from this byte on.
    NotUtf8 {
        /// The first byte that is not.
        at: u64,
    },
    /// It ends in the middle of a character, or of an object in JSON.
    CutOff {
        /// Where its last whole part ends, in bytes.
        at: u64,
    },
    /// It is not JSON.
    NotJson {
        /// What the parser says.
        error: String,
    },
    /// It is JSON, but has no text in its field.
    NoText {
        /// The field.
        field: String,
    },
    /// It is longer than a document may be.
    TooLong {
        /// Its bytes.
        bytes: u64,
    },
    /// It cannot be read.
    Unreadable {
        /// What the system says.
        error: String,
    },
}

impl Reason {
    /// The reason in a word or two, for counting.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::NotUtf8 { .. } => "not UTF-8",
            Self::CutOff { .. } => "cut off",
            Self::NotJson { .. } => "not JSON",
            Self::NoText { .. } => "without text",
            Self::TooLong { .. } => "too long",
            Self::Unreadable { .. } => "unreadable",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("is empty"),
            Self::NotUtf8 { at } => write!(f, "is not UTF-8 from byte {at} on"),
            Self::CutOff { at } => write!(f, "is cut off after byte {at}"),
            Self::NotJson { error } => write!(f, "is not JSON: {error}"),
            Self::NoText { field } => write!(f, "has no text in the field `{field}`"),
            Self::TooLong { bytes } => write!(f, "has {bytes} bytes, too many for one document"),
            Self::Unreadable { error } => write!(f, "cannot be read: {error}"),
        }
    }
}

/// Something that was left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// Of which source.
    #[serde(default)]
    pub source: String,
    /// Its file.
    pub path: PathBuf,
    /// Its line, from 1 on; none where it is the whole file.
    #[serde(default)]
    pub line: Option<u64>,
    /// Why.
    pub reason: Reason,
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        write!(f, " {}", self.reason)
    }
}

/// What was left out of one source: all of it counted, the first of it named.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// How many, by [`Reason::kind`].
    pub counts: BTreeMap<String, u64>,
    /// The first of them.
    pub named: Vec<Skipped>,
}

impl Tally {
    /// Counts one more.
    pub fn add(&mut self, skipped: Skipped) {
        *self
            .counts
            .entry(skipped.reason.kind().to_owned())
            .or_default() += 1;
        if self.named.len() < MOST_NAMED {
            self.named.push(skipped);
        }
    }

    /// How many in all.
    pub fn all(&self) -> u64 {
        self.counts.values().sum()
    }
}
