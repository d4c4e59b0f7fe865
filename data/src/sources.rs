//! The sources file: where text comes from, in which language, under which licence, by whose
//! permission, and whom to ask. A YAML file that people write.
//!
//! A source that does not say all of that is refused, with every reason at once: text is easy to
//! mix and impossible to take out of a model again.

use crate::corpus::{Corpus, Form, Source, gathered};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};

/// The largest file that is taken for a sources file.
const MOST_BYTES: u64 = 4 << 20;

/// The longest name of a source; it becomes part of the names of files.
const LONGEST_NAME: usize = 64;

/// What people write where they do not know.
const NO_ANSWER: [&str; 9] = [
    "no", "none", "not yet", "unknown", "todo", "tbd", "n/a", "?", "-",
];

/// A sources file as it is written.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sources {
    /// Codes of the languages that the corpus shall have; those without text are named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub languages: Vec<String>,
    /// The sources, in the order in which they are built.
    pub sources: Vec<Entry>,
}

/// One source as it is written. All but the last three are required.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// What it is called: letters, digits, `.`, `_` and `-`.
    pub name: String,
    /// A file or a folder; from the folder of the sources file on, unless it begins with `/`.
    pub path: PathBuf,
    /// Code of its language, such as `en`; `mul` for several.
    pub language: Option<String>,
    /// Its licence, best as an SPDX identifier.
    pub licence: Option<String>,
    /// Who permitted its use for training, and where that is recorded.
    pub permission: Option<String>,
    /// Whom to ask, and who can have it taken out.
    pub contact: Option<String>,
    /// How documents lie in its files; by the endings of the files where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Form>,
    /// The field of a line of JSON that holds the text: `text` where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// Its weight in a blend; none where the sizes decide.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<f64>,
}

impl Sources {
    /// Reads a file and looks for everything in it.
    pub fn open(path: &Path) -> Result<Corpus> {
        let size = fs::metadata(path).map_err(Error::io("open", path))?.len();
        if size > MOST_BYTES {
            let problem = format!("more than the {MOST_BYTES} that a sources file may have");
            return Err(Error::format(path, "length", size, problem));
        }
        let bytes = fs::read(path).map_err(Error::io("open", path))?;
        Self::parse(path, &bytes)?.corpus(path)
    }

    /// What the bytes of a file say; nothing is looked for yet.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self> {
        let text = str::from_utf8(bytes).map_err(|e| {
            Error::format(
                path,
                "content",
                format!("byte {}", e.valid_up_to()),
                "not UTF-8",
            )
        })?;
        serde_norway::from_str(text).map_err(|e| {
            Error::format(
                path,
                "content",
                format!("`{e}`"),
                "not a list of sources; docs/data.md shows one",
            )
        })
    }

    /// The file as it is written.
    pub fn to_yaml(&self) -> String {
        serde_norway::to_string(self).expect("it has no maps with odd keys")
    }

    /// Everything that is wrong with the entries by themselves.
    pub fn flaws(&self) -> Vec<String> {
        let mut flaws = Vec::new();
        if self.sources.is_empty() {
            flaws.push("there are no sources; list one under `sources`".to_owned());
        }
        for (at, entry) in self.sources.iter().enumerate() {
            let called = if entry.name.is_empty() {
                format!("source {}", at + 1)
            } else {
                format!("source {} (`{}`)", at + 1, entry.name)
            };
            let again = self.sources[..at].iter().any(|e| e.name == entry.name);
            flaws.extend(
                entry
                    .flaws(again)
                    .into_iter()
                    .map(|flaw| format!("{called} {flaw}")),
            );
        }
        flaws
    }

    /// The corpus of these sources, whose paths are seen from the folder of the file `path`.
    pub fn corpus(&self, path: &Path) -> Result<Corpus> {
        let mut problems = self.flaws();
        let folder = path.parent().unwrap_or(Path::new(""));
        let mut sources = Vec::new();
        for entry in &self.sources {
            let at = folder.join(&entry.path);
            let found = gathered(&at, path);
            match found {
                Ok(files) if files.is_empty() => problems.push(format!(
                    "source `{}` has no files: {} is empty; hidden files are left alone",
                    entry.name,
                    at.display()
                )),
                Ok(files) => sources.push(entry.source(files)),
                Err(error) => problems.push(format!(
                    "source `{}`: cannot read {}: {error}; its `path` is seen from the folder of \
                     the sources file",
                    entry.name,
                    at.display()
                )),
            }
        }
        if !problems.is_empty() {
            let path = path.to_owned();
            return Err(Error::Sources { path, problems });
        }
        let languages = self.languages.clone();
        Ok(Corpus { sources, languages })
    }
}

impl Entry {
    fn flaws(&self, again: bool) -> Vec<String> {
        let mut flaws = Vec::new();
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let odd = self.name.is_empty()
            || self.name.len() > LONGEST_NAME
            || self.name.starts_with('.')
            || !self.name.chars().all(plain);
        if odd {
            flaws.push(format!(
                "cannot be called `{}`; use at most {LONGEST_NAME} letters, digits, `.`, `_` and `-`",
                self.name
            ));
        } else if again {
            flaws.push("has the name of another one; give each its own".to_owned());
        }
        let asked = [
            (
                "language",
                &self.language,
                "write its code, such as `en`, or `mul` for several",
            ),
            (
                "licence",
                &self.licence,
                "write its licence, best as an SPDX identifier such as `CC-BY-4.0`",
            ),
            (
                "permission",
                &self.permission,
                "write who permitted training on it and where that is recorded, or take the source out",
            ),
            ("contact", &self.contact, "write whom to ask about it"),
        ];
        for (field, answer, remedy) in asked {
            let answer = answer.as_deref().unwrap_or_default().trim();
            if answer.is_empty() {
                flaws.push(format!("has no {field}; {remedy}"));
            } else if NO_ANSWER.contains(&answer.to_lowercase().as_str()) {
                flaws.push(format!("has no {field}, `{answer}` is none; {remedy}"));
            }
        }
        if self.path.as_os_str().is_empty() {
            flaws.push("has no path; name its file or folder".to_owned());
        }
        if let Some(weight) = self.weight
            && !(weight.is_finite() && weight > 0.0)
        {
            flaws.push(format!(
                "has the weight {weight}; use a number above 0, or leave it out"
            ));
        }
        if self.field.is_some() && !matches!(self.format, None | Some(Form::Jsonl)) {
            flaws.push(
                "has a field, but only lines of JSON (`format: jsonl`) have fields".to_owned(),
            );
        }
        flaws
    }

    fn source(&self, files: Vec<PathBuf>) -> Source {
        let answer =
            |answer: &Option<String>| answer.as_deref().unwrap_or_default().trim().to_owned();
        Source {
            name: self.name.clone(),
            language: answer(&self.language),
            licence: answer(&self.licence),
            permission: answer(&self.permission),
            contact: answer(&self.contact),
            weight: self.weight,
            files,
            form: self.format,
            field: self.field.clone().unwrap_or_else(|| "text".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests;
