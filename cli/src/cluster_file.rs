//! `cluster.json`: what `rebloom up` leaves for other commands on this machine.
//!
//! It names addresses, certificates and processes. A process is named by pid and kernel start time, so that a
//! pid which the kernel gave to somebody else is never signalled.

use crate::failure::Failure;
use rebloom_runtime::files;
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};

/// Where `up` keeps its state, below a directory that holds it.
pub(crate) const STATE: &str = ".rebloom/cluster";

/// What `up` writes down of its cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ClusterFile {
    /// The run that `up` trains.
    pub(crate) run: String,
    /// `host:port` of the admin API.
    pub(crate) controller: String,
    /// `host:port` of the metrics.
    pub(crate) metrics: String,
    /// The certificates.
    pub(crate) tls: PathBuf,
    /// The controller's process, where it runs.
    pub(crate) controller_process: Option<Process>,
    /// One entry an agent, by node.
    pub(crate) agents: Vec<AgentEntry>,
}

/// One agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AgentEntry {
    /// Name of its node.
    pub(crate) node: String,
    /// Where it listens.
    pub(crate) address: String,
    /// Its process, where it runs.
    pub(crate) process: Option<Process>,
}

impl ClusterFile {
    /// Reads the one in a state directory; none where there is none.
    pub(crate) fn read(state: &Path) -> Result<Option<Self>, Failure> {
        let path = state.join("cluster.json");
        if !path.exists() {
            return Ok(None);
        }
        let bytes = files::read(&path)?;
        serde_json::from_slice(&bytes).map(Some).map_err(|error| {
            Failure::Failed(format!("{} is damaged: {error}; remove it", path.display()))
        })
    }

    /// Finds one below the working directory or a directory above it.
    pub(crate) fn find() -> Result<Option<(PathBuf, Self)>, Failure> {
        let here = std::env::current_dir().map_err(|error| Failure::of(&error))?;
        for above in here.ancestors() {
            let state = above.join(STATE);
            if let Some(file) = Self::read(&state)? {
                return Ok(Some((state, file)));
            }
        }
        Ok(None)
    }

    /// Whether anything of it runs: one of its processes, or the `up` that holds the directory.
    pub(crate) fn lives(&self, state: &Path) -> bool {
        let agents = self.agents.iter().filter_map(|agent| agent.process);
        let holder = fs::read_to_string(state.join("lock")).ok();
        let holder = holder.and_then(|pid| pid.trim().parse().ok());
        let is_ours = |pid| {
            let line = command_line(pid);
            let program = line.first().map(Path::new).and_then(Path::file_name);
            program.is_some_and(|program| program == "rebloom")
        };
        agents.chain(self.controller_process).any(Process::lives) || holder.is_some_and(is_ours)
    }

    /// Replaces the one in a state directory.
    pub(crate) fn write(&self, state: &Path) -> Result<(), Failure> {
        let text = serde_json::to_vec_pretty(self).map_err(|error| Failure::of(&error))?;
        Ok(files::write(&state.join("cluster.json"), &text)?)
    }
}

/// A process that was started, named for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Process {
    /// Its id.
    pub(crate) pid: u32,
    /// When the kernel started it, in its own ticks.
    pub(crate) started: u64,
}

impl Process {
    /// The living process with this id; none where there is none, or only what is left of one.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name, in parentheses, may hold anything.
        let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
        if matches!(fields.next()?, "Z" | "X") {
            return None;
        }
        let started = fields.nth(18)?.parse().ok()?;
        Some(Self { pid, started })
    }

    /// Whether it still lives.
    pub(crate) fn lives(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Sends it a signal, if it still lives; says whether it did.
    pub(crate) fn signal(self, signal: Signal) -> bool {
        self.lives() && signal_pid(self.pid, signal)
    }
}

/// Sends a signal to a process id.
pub(crate) fn signal_pid(pid: u32, signal: Signal) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.is_some_and(|pid| kill_process(pid, signal).is_ok())
}

/// The command line of a process, by arguments; empty where there is none.
pub(crate) fn command_line(pid: u32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let split = bytes
        .split(|byte| *byte == 0)
        .filter(|part| !part.is_empty());
    split
        .map(|part| String::from_utf8_lossy(part).into_owned())
        .collect()
}

/// Every process of one of our binaries that has something below this directory on its command line.
pub(crate) fn processes_below(directory: &Path, binary: &str) -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let ours = |pid: &u32| {
        let line = command_line(*pid);
        let program = line.first().map(Path::new).and_then(Path::file_name);
        program.is_some_and(|program| program == binary)
            && line
                .iter()
                .any(|argument| Path::new(argument).starts_with(directory))
    };
    pids.filter(ours).filter_map(Process::of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_start_as_well() {
        let this = Process::of(std::process::id()).unwrap();
        assert!(this.lives());
        let other = Process {
            started: this.started + 1,
            ..this
        };
        assert!(!other.lives());
        assert!(
            !other.signal(Signal::KILL),
            "somebody else's process is never signalled"
        );
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(ClusterFile::read(folder.path()).unwrap(), None);
        let file = ClusterFile {
            run: "bloom-small".to_owned(),
            controller: "127.0.0.1:1".to_owned(),
            metrics: "127.0.0.1:2".to_owned(),
            tls: folder.path().join("tls"),
            controller_process: Process::of(std::process::id()),
            agents: vec![AgentEntry {
                node: "node-1".to_owned(),
                address: "127.0.0.1:3".to_owned(),
                process: None,
            }],
        };
        file.write(folder.path()).unwrap();
        assert_eq!(
            ClusterFile::read(folder.path()).unwrap(),
            Some(file.clone())
        );
        assert!(file.lives(folder.path()));
        let stopped = ClusterFile {
            controller_process: None,
            ..file
        };
        assert!(!stopped.lives(folder.path()));
        // A lock that was left names a process that is no `up`.
        fs::write(folder.path().join("lock"), std::process::id().to_string()).unwrap();
        assert!(!stopped.lives(folder.path()));
        fs::write(folder.path().join("cluster.json"), "{").unwrap();
        assert!(ClusterFile::read(folder.path()).is_err());
    }
}
