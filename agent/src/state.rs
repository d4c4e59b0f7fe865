//! The agent's state directory: where everything lies, and what it wrote down for its next life.
//!
//! `agent.json` (the supervisor's memory), `agent.sock`, `flight/<run>/rank-NNN.page`,
//! `logs/<run>/rank-NNN.log`, `lock`. Only its own user may look inside.

use rebloom_core::id::{Rank, RunId};
use rebloom_core::supervisor::Memory;
use rebloom_runtime::files::{self, Lock};
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A state directory, held for this process.
#[derive(Debug)]
pub struct State {
    directory: PathBuf,
    _lock: Lock,
}

impl State {
    /// Makes the directory where it is missing and takes its lock.
    pub fn open(directory: &Path) -> Result<Self, files::Error> {
        files::create_directory(directory)?;
        let refused = |doing| {
            let path = directory.to_owned();
            move |source: io::Error| files::Error::Io {
                doing,
                path,
                source,
            }
        };
        // Absolute, since workers are given paths below it.
        let directory = fs::canonicalize(directory).map_err(refused("find"))?;
        fs::set_permissions(&directory, Permissions::from_mode(0o700))
            .map_err(refused("set the mode of"))?;
        let lock = Lock::take(&directory)?;
        Ok(Self {
            directory,
            _lock: lock,
        })
    }

    /// The unix socket for the workers.
    pub fn socket(&self) -> PathBuf {
        self.directory.join("agent.sock")
    }

    /// The flight page of a rank.
    pub fn page(&self, run: &RunId, rank: Rank) -> PathBuf {
        self.directory
            .join("flight")
            .join(run.as_str())
            .join(format!("rank-{:03}.page", rank.0))
    }

    /// The output of a rank.
    pub fn log(&self, run: &RunId, rank: Rank) -> PathBuf {
        self.directory
            .join("logs")
            .join(run.as_str())
            .join(format!("rank-{:03}.log", rank.0))
    }

    /// The output of a process that waits to become a rank.
    pub fn standby_log(&self) -> PathBuf {
        self.directory.join("logs/standby.log")
    }

    /// The file of [`Self::remember`].
    pub fn memory(&self) -> PathBuf {
        self.directory.join("agent.json")
    }

    /// What the last life wrote down. A file that cannot be understood is set aside: an agent that
    /// forgot its ranks is of more use than none, and the controller knows what it should run.
    pub fn recall(&self) -> Result<Memory, files::Error> {
        let path = self.memory();
        let text = match files::read(&path) {
            Ok(text) => text,
            Err(files::Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Ok(Memory::default());
            }
            Err(error) => return Err(error),
        };
        match serde_json::from_slice(&text) {
            Ok(memory) => Ok(memory),
            Err(error) => {
                let aside = self.directory.join("agent.json.bad");
                tracing::error!(
                    path = %path.display(), aside = %aside.display(), %error,
                    "what the last life wrote down cannot be understood; set aside"
                );
                let refused = |source| files::Error::Io {
                    doing: "set aside",
                    path,
                    source,
                };
                fs::rename(self.memory(), aside).map_err(refused)?;
                Ok(Memory::default())
            }
        }
    }
}

/// Writes down what the next life must know; on disk when this returns.
pub fn remember(path: &Path, memory: &Memory) -> Result<(), files::Error> {
    let text = serde_json::to_vec(memory).map_err(|error| files::Error::Io {
        doing: "serialise",
        path: path.to_owned(),
        source: error.into(),
    })?;
    files::write_secret(path, &text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rebloom_core::time::Instant;

    #[test]
    fn memory_comes_back_and_a_broken_one_is_set_aside() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::open(&folder.path().join("state")).unwrap();
        assert_eq!(state.recall().unwrap(), Memory::default());
        let memory = Memory {
            heard: Instant::from_nanos(7),
            runs: Vec::new(),
        };
        remember(&state.memory(), &memory).unwrap();
        assert_eq!(state.recall().unwrap(), memory);
        fs::write(state.memory(), "{\"heard\":").unwrap();
        assert_eq!(state.recall().unwrap(), Memory::default());
        assert!(!state.memory().exists());
    }

    #[test]
    fn one_agent_holds_a_directory() {
        let folder = tempfile::tempdir().unwrap();
        let held = State::open(folder.path()).unwrap();
        assert_eq!(
            folder.path().metadata().unwrap().permissions().mode() & 0o777,
            0o700
        );
        let error = State::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("is in use by process"), "{error}");
        drop(held);
        State::open(folder.path()).unwrap();
    }
}
