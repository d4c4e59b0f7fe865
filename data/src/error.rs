//! What goes wrong with data, each with the file and the field that it went wrong in.

use std::io;
use std::path::{Path, PathBuf};

/// Everything that can go wrong with data.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file does not hold what its format says.
    #[error("{}: {field} is {value}, {problem}", path.display())]
    Format {
        /// Which file.
        path: PathBuf,
        /// Which part of it.
        field: String,
        /// What it holds.
        value: String,
        /// Why that cannot be.
        problem: String,
    },
    /// No order of samples can be made.
    #[error("no order of samples: {0}")]
    Order(String),
    /// A sample was asked for that the order does not have.
    #[error("sample {sample} is not one of the {samples} of this order")]
    NoSuchSample {
        /// Which was asked for.
        sample: u64,
        /// How many there are.
        samples: u64,
    },
    /// The corpus cannot be used.
    #[error("the corpus in {}: {problem}", path.display())]
    Corpus {
        /// Its folder.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A sources file names what cannot be used.
    #[error("{}:\n  {}", path.display(), problems.join("\n  "))]
    Sources {
        /// The file.
        path: PathBuf,
        /// Everything that is wrong with it.
        problems: Vec<String>,
    },
    /// The tokenizer cannot be trained or used.
    #[error("the tokenizer: {0}")]
    Tokenizer(String),
}

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Makes an [`Error::Io`] of an error of the operating system.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }

    pub(crate) fn format(
        path: &Path,
        field: impl Into<String>,
        value: impl ToString,
        problem: impl Into<String>,
    ) -> Self {
        Self::Format {
            path: path.to_owned(),
            field: field.into(),
            value: value.to_string(),
            problem: problem.into(),
        }
    }
}
