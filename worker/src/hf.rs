//! Model folders as Hugging Face writes them: `config.json`, weights as safetensors (one file, or several
//! with an index), a tokenizer beside them.
//!
//! Reading believes nothing that it has not checked: names, shapes and lengths are those of the model, or the
//! error names the file and the field. Whole files are never held in memory.

mod config;
mod read;
mod write;

pub use config::Config;
pub use read::Folder;
pub use write::{Kind, Written, write};

use std::io;
use std::path::{Path, PathBuf};

/// File of the shape.
pub const CONFIG: &str = "config.json";
/// File of the tokenizer.
pub const TOKENIZER: &str = "tokenizer.json";
/// What else belongs to a tokenizer and is taken along.
pub const TOKENIZER_ALONGSIDE: [&str; 2] = ["tokenizer_config.json", "special_tokens_map.json"];

const INDEX: &str = "model.safetensors.index.json";
const SINGLE: &str = "model.safetensors";
/// What stands before most names in the files.
const PREFIX: &str = "transformer.";
/// The output projection, where a file holds the tied embedding a second time.
const HEAD: &str = "lm_head.weight";
/// As safetensors bounds a header; an index or a config has less.
const LARGEST_JSON: u64 = 100_000_000;

/// Why a model folder was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum HfError {
    /// The file system refused.
    #[error("{}: {error}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A file is not what it should be.
    #[error("{}: {problem}", path.display())]
    Odd {
        /// Which file.
        path: PathBuf,
        /// The field and what is wrong with it.
        problem: String,
    },
}

impl HfError {
    fn odd(path: &Path, problem: impl ToString) -> Self {
        Self::Odd {
            path: path.to_owned(),
            problem: problem.to_string(),
        }
    }

    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        |error| Self::Io {
            path: path.to_owned(),
            error,
        }
    }
}

/// A bounded text file.
fn read_json(path: &Path) -> Result<Vec<u8>, HfError> {
    use std::io::Read;
    let mut text = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(LARGEST_JSON).read_to_end(&mut text))
        .map_err(HfError::io(path))?;
    Ok(text)
}
