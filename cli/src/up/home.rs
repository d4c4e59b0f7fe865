//! The state directory of `up`: where everything is, whose it is, and what an earlier life left running.

use crate::args;
use crate::cluster_file::{AgentEntry, ClusterFile, Process, STATE, processes_below};
use crate::failure::Failure;
use rebloom_core::id::NodeId;
use rebloom_runtime::clock::monotonic;
use rebloom_runtime::files::{self, Lock};
use rustix::process::Signal;
use std::collections::BTreeSet;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Nodes of the cluster: four that a run of eight ranks needs, and a spare.
pub(super) const NODES: u8 = 5;
/// Ranks that each can hold.
pub(super) const SLOTS: u8 = 2;
/// What an earlier life left gets this long to end by itself.
const LEAVE_WITHIN: Duration = Duration::from_secs(5);
/// Lines of a log that are shown where something failed.
const LOG_LINES: usize = 12;

/// The directory, held for this process.
pub(super) struct Home {
    state: PathBuf,
    _lock: Lock,
}

impl Home {
    /// Creates it where it is missing and takes its lock, or says who has it.
    pub(super) fn open(args: &args::Up) -> Result<Self, Failure> {
        let state = match &args.state {
            Some(state) => state.clone(),
            None => default_state()?,
        };
        files::create_directory(&state)?;
        let state =
            fs::canonicalize(&state).map_err(|error| Failure::file("find", &state, &error))?;
        let lock = Lock::take(&state).map_err(|error| match error {
            files::Error::InUse { holder, .. } => Failure::Failed(format!(
                "another `rebloom up` (process {holder}) runs on {}; stop that one first, or use \
                 another directory with --state",
                state.display()
            )),
            files::Error::Io { .. } => error.into(),
        })?;
        Ok(Self { state, _lock: lock })
    }

    /// A path in it.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.state.join(name)
    }

    /// Itself.
    pub(super) fn state(&self) -> &Path {
        &self.state
    }

    /// The spec, which the user may edit.
    pub(super) fn spec(&self) -> PathBuf {
        self.path("run.yaml")
    }

    /// The story of the run as it was last told.
    pub(super) fn report(&self) -> PathBuf {
        self.path("report.txt")
    }

    /// Logs of controller and agents.
    pub(super) fn logs(&self) -> PathBuf {
        self.path("logs")
    }

    /// Where an agent keeps what it remembers.
    pub(super) fn agent(&self, node: &NodeId) -> PathBuf {
        self.path("agents").join(node.as_str())
    }

    /// Names of the nodes.
    pub(super) fn nodes() -> Vec<NodeId> {
        let name = |number| NodeId::new(&format!("node-{number}")).expect("it is a name");
        (1..=NODES).map(name).collect()
    }

    /// The addresses of an earlier life as far as they are free, else new ones.
    pub(super) fn cluster(&self, run: &str) -> Result<ClusterFile, Failure> {
        // (A file of another version is of no use, and is written anew.)
        let before = ClusterFile::read(&self.state).ok().flatten();
        let mut taken = BTreeSet::new();
        let mut address = |wish: Option<&str>| free(wish, &mut taken);
        let agent = |node: &NodeId| {
            let agents = before
                .as_ref()
                .map(|before| before.agents.as_slice())
                .unwrap_or_default();
            agents
                .iter()
                .find(|agent| agent.node == node.as_str())
                .map(|agent| &*agent.address)
        };
        Ok(ClusterFile {
            run: run.to_owned(),
            controller: address(before.as_ref().map(|before| &*before.controller))?,
            metrics: address(before.as_ref().map(|before| &*before.metrics))?,
            tls: self.path("tls"),
            controller_process: None,
            agents: Self::nodes()
                .iter()
                .map(|node| {
                    let address = address(agent(node))?;
                    Ok(AgentEntry {
                        node: node.to_string(),
                        address,
                        process: None,
                    })
                })
                .collect::<Result<_, Failure>>()?,
        })
    }

    /// Ends the controller and the agents that an earlier life left running, when `up` itself was
    /// killed. Their ranks train on, and the next agents find them again.
    pub(super) fn end_servers(&self) {
        let find = |binary: &str| processes_below(&self.state, binary);
        let (controllers, agents) = (find("rebloom-controller"), find("rebloom-agent"));
        end(&controllers.into_iter().chain(agents).collect::<Vec<_>>());
    }

    /// Ends everything that still runs here.
    pub(super) fn end_all(&self) {
        self.end_servers();
        // Only now can nobody start another worker.
        let workers = || processes_below(&self.state, "rebloom-worker");
        let began = monotonic();
        while !workers().is_empty() && monotonic().since(began) < LEAVE_WITHIN {
            for worker in workers() {
                worker.signal(Signal::KILL);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Throws away everything but the certificates and the lock.
    pub(super) fn clear(&self) -> Result<(), Failure> {
        let failed = |error| Failure::file("clear", &self.state, &error);
        for entry in fs::read_dir(&self.state).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            if name == "lock" || name == "tls" {
                continue;
            }
            let path = entry.path();
            let removed = match entry.file_type() {
                Ok(kind) if kind.is_dir() => fs::remove_dir_all(&path),
                Ok(_) => fs::remove_file(&path),
                Err(error) => Err(error),
            };
            removed.map_err(|error| Failure::file("remove", &path, &error))?;
        }
        Ok(())
    }

    /// A failure, with the ends of the logs that may explain it.
    pub(super) fn with_logs(&self, failure: Failure) -> Failure {
        let mut text = failure.to_string();
        let logs = fs::read_dir(self.logs()).into_iter().flatten().flatten();
        let mut logs: Vec<PathBuf> = logs.map(|entry| entry.path()).collect();
        logs.retain(|path| path.extension().is_some_and(|ending| ending == "log"));
        logs.sort();
        for path in logs {
            let log = fs::read(&path).unwrap_or_default();
            let log = String::from_utf8_lossy(&log);
            let complaints: Vec<&str> = log
                .lines()
                .filter(|line| {
                    ["ERROR", "error", "panic"]
                        .iter()
                        .any(|word| line.contains(word))
                })
                .collect();
            if !complaints.is_empty() {
                text += &format!("\n--- {}\n", path.display());
                text += &complaints[complaints.len().saturating_sub(LOG_LINES)..].join("\n");
            }
        }
        Failure::Failed(text)
    }
}

/// Below the directory above this one that has a `.rebloom`, else here.
fn default_state() -> Result<PathBuf, Failure> {
    let here = std::env::current_dir().map_err(|error| Failure::of(&error))?;
    let home = here
        .ancestors()
        .find(|above| above.join(".rebloom").is_dir())
        .unwrap_or(&here);
    Ok(home.join(STATE))
}

/// An address on loopback that nobody listens on: the one wished for, if it is free.
fn free(wish: Option<&str>, taken: &mut BTreeSet<SocketAddr>) -> Result<String, Failure> {
    let wish: Option<SocketAddr> = wish.and_then(|wish| wish.parse().ok());
    if let Some(wish) = wish
        && wish.ip().is_loopback()
        && TcpListener::bind(wish).is_ok()
        && taken.insert(wish)
    {
        return Ok(wish.to_string());
    }
    loop {
        let address = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let address = address.map_err(|error| Failure::of(&error))?;
        if taken.insert(address) {
            return Ok(address.to_string());
        }
    }
}

/// Ends processes that are not this one's children: asks, waits, kills.
fn end(processes: &[Process]) {
    for process in processes {
        process.signal(Signal::TERM);
    }
    let began = monotonic();
    while processes.iter().any(|process| process.lives()) {
        if monotonic().since(began) > LEAVE_WITHIN {
            for process in processes {
                process.signal(Signal::KILL);
            }
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(state: &Path) -> args::Up {
        let state = Some(state.to_owned());
        args::Up {
            text: None,
            said: args::Permission::default(),
            steps: None,
            state,
            keep: false,
            fresh: false,
            plain: true,
        }
    }

    #[test]
    fn two_at_once_are_one_too_many() {
        let folder = tempfile::tempdir().unwrap();
        let first = Home::open(&args(folder.path())).unwrap();
        let Err(failure) = Home::open(&args(folder.path())) else {
            panic!("it was taken twice")
        };
        let holder = format!("process {}", std::process::id());
        assert!(failure.to_string().contains(&holder), "{failure}");
        drop(first);
        assert!(Home::open(&args(folder.path())).is_ok());
    }

    #[test]
    fn addresses_are_kept_while_they_are_free() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open(&args(folder.path())).unwrap();
        let first = home.cluster("r").unwrap();
        first.write(home.state()).unwrap();
        assert_eq!(home.cluster("r").unwrap(), first);
        let _busy = TcpListener::bind(&first.controller).unwrap();
        let second = home.cluster("r").unwrap();
        assert_ne!(second.controller, first.controller);
        assert_eq!(second.agents, first.agents);
    }

    #[test]
    fn fresh_keeps_certificates_only() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open(&args(folder.path())).unwrap();
        fs::create_dir_all(home.path("checkpoints/r")).unwrap();
        fs::create_dir_all(home.path("tls")).unwrap();
        fs::write(home.spec(), "x").unwrap();
        home.clear().unwrap();
        let left = fs::read_dir(home.state())
            .unwrap()
            .map(|entry| entry.unwrap().file_name());
        let left: BTreeSet<String> = left.map(|name| name.into_string().unwrap()).collect();
        assert_eq!(left, ["lock", "tls"].map(String::from).into());
    }
}
