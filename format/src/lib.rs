//! Files that came from elsewhere, from bytes to values or an error that names the file and the field: run
//! specs, manifests, what a shard says of itself, and what a model folder of Hugging Face says of its weights.
//!
//! - [`spec_file`]: a run spec in YAML
//! - [`manifest`]: the seal of a checkpoint
//! - [`head`]: the head of a safetensors file, and [`facts`]: what a shard's says of the checkpoint
//! - [`hf`]: `config.json`, the index of weights, and where a file has them
//! - [`shape`]: names and shapes of a model's parameters, and [`slice`](mod@slice): pieces of them
//!
//! Nothing in here has a tensor, so all of it is fuzzed. Whatever the bytes are, it answers; and it never takes
//! memory for what a file claims before it is known that the file has it.

pub mod facts;
pub mod head;
pub mod hf;
mod json;
pub mod manifest;
pub mod shape;
pub mod slice;
pub mod spec_file;

use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Why a file was not read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
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

impl Error {
    /// Something is wrong in a file.
    pub fn odd(path: &Path, problem: impl ToString) -> Self {
        Self::Odd {
            path: path.to_owned(),
            problem: problem.to_string(),
        }
    }

    /// The file system refused a file.
    pub fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        |error| Self::Io {
            path: path.to_owned(),
            error,
        }
    }
}

/// All of a file that has at most so many bytes.
fn read(path: &Path, most: u64) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(most + 1).read_to_end(&mut bytes))
        .map_err(Error::io(path))?;
    if bytes.len() as u64 > most {
        return Err(Error::odd(path, format!("it has more than {most} bytes")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_too_long_is_refused_and_not_cut() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a-file");
        std::fs::write(&path, [7; 10]).unwrap();
        assert_eq!(read(&path, 10).unwrap(), [7; 10]);
        let error = read(&path, 9).unwrap_err().to_string();
        assert!(
            error.ends_with("a-file: it has more than 9 bytes"),
            "{error}"
        );
        let error = read(&folder.path().join("none"), 9).unwrap_err();
        assert!(matches!(error, Error::Io { .. }));
    }
}
