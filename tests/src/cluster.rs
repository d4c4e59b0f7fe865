//! A whole cluster on this machine: one controller, some agents, and wires that can be cut.

mod plan;

pub use plan::Plan;

use crate::process::{Process, binary, processes_of, signal};
use crate::proxy::Proxy;
use crate::{training, wait};
use anyhow::{Context, Result, bail, ensure};
use rebloom_core::engine::{NodeView, RunState, RunView};
use rebloom_core::id::{NodeId, Rank, RunId};
use rebloom_core::spec::RunSpec;
use rebloom_proto::wire;
use rebloom_proto::wire::admin_client::AdminClient;
use rebloom_runtime::tls::{Authority, ClientTls, Role};
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tonic::transport::Channel;

/// How long anything may take here before the test gives up on it.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// A running cluster; dropped, it ends every process it started.
#[derive(Debug)]
pub struct Cluster {
    folder: TempDir,
    /// Where agents keep snapshots: on a file system in memory, as on a real node.
    memory: TempDir,
    plan: Plan,
    runtime: Runtime,
    admin: Channel,
    controller: Option<Process>,
    /// Where the controller listens.
    pub address: SocketAddr,
    /// Where its metrics are.
    pub metrics: SocketAddr,
    agents: BTreeMap<String, Agent>,
    disks: Vec<PathBuf>,
}

#[derive(Debug)]
struct Agent {
    process: Option<Process>,
    wire: Option<Proxy>,
    listen: SocketAddr,
}

impl Cluster {
    /// Starts a controller and `nodes` agents with two slots each, named `node-1` and so on.
    pub fn start(nodes: usize) -> Result<Self> {
        Self::of(Plan::of(nodes))
    }

    /// Starts a controller and agents as `plan` says, and waits until all have joined.
    pub fn of(plan: Plan) -> Result<Self> {
        let nodes = plan.nodes;
        let folder = TempDir::with_prefix("rebloom-test-")?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let tls = folder.path().join("tls");
        let names: Vec<String> = (1..=nodes).map(|n| format!("node-{n}")).collect();
        let authority = Authority::create(&tls)?;
        authority.issue(&Role::Controller)?;
        let admin = Role::Admin("test".to_owned());
        authority.issue(&admin)?;
        for name in &names {
            authority.issue(&Role::Agent(NodeId::new(name)?))?;
        }
        let (address, metrics) = (free_address()?, free_address()?);
        let endpoint =
            ClientTls::load(&tls, &admin)?.endpoint(&address.to_string(), &Role::Controller)?;
        let admin = {
            let _inside = runtime.enter();
            endpoint.connect_lazy()
        };
        let mut agents = BTreeMap::new();
        for name in names {
            let wire = plan.wires.then(|| runtime.block_on(Proxy::to(address)));
            let wire = wire.transpose()?;
            agents.insert(
                name,
                Agent {
                    process: None,
                    wire,
                    listen: free_address()?,
                },
            );
        }
        let disks = Vec::new();
        let mut cluster = Self {
            folder,
            memory: TempDir::with_prefix_in("rebloom-test-", "/dev/shm")?,
            plan,
            runtime,
            admin,
            controller: None,
            address,
            metrics,
            agents,
            disks,
        };
        cluster.start_controller()?;
        for name in cluster.names() {
            cluster.start_agent(&name)?;
        }
        wait::until("every agent joins", PATIENCE, || {
            Ok(cluster.nodes().ok().filter(|seen| seen.len() == nodes))
        })
        .with_context(|| cluster.last_words())?;
        Ok(cluster)
    }

    /// The last lines of every log, for who reads why a cluster did not come up.
    fn last_words(&self) -> String {
        let agents = self.names();
        let names = agents.iter().map(String::as_str);
        let logs = std::iter::once("controller").chain(names).map(|name| {
            let log = std::fs::read_to_string(self.folder().join(format!("{name}.log")));
            let log = log.unwrap_or_else(|error| error.to_string());
            let lines: Vec<_> = log.lines().collect();
            format!(
                "--- {name}\n{}",
                lines[lines.len().saturating_sub(5)..].join("\n")
            )
        });
        logs.collect::<Vec<_>>().join("\n")
    }

    /// The folder in which all of it lies.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Where checkpoints go.
    pub fn checkpoints(&self) -> PathBuf {
        self.folder().join("checkpoints")
    }

    /// Where an agent keeps snapshots.
    pub fn memory(&self, name: &str) -> PathBuf {
        self.memory.path().join(name)
    }

    /// Names of all nodes.
    pub fn names(&self) -> Vec<String> {
        self.agents.keys().cloned().collect()
    }

    /// The spec that these tests train, under this cluster's folder.
    pub fn spec(&self, name: &str) -> Result<RunSpec> {
        training::spec(name, training::dataset()?, &self.checkpoints())
    }

    /// Starts the controller, or starts it again on the journal it has.
    pub fn start_controller(&mut self) -> Result<()> {
        let mut command = Command::new(binary("rebloom-controller")?);
        command
            .args(["--listen", &self.address.to_string()])
            .args(["--metrics", &self.metrics.to_string()])
            .args(["--beat-ms", &millis(self.plan.beat)])
            .args(["--silent-after-ms", &millis(self.plan.silent_after)])
            .args(["--rejoin-within-ms", &millis(self.plan.rejoin_within)])
            .arg("--state")
            .arg(self.folder().join("controller"))
            .arg("--tls")
            .arg(self.folder().join("tls"));
        self.controller = Some(Process::start(
            command,
            &self.folder().join("controller.log"),
        )?);
        Ok(())
    }

    /// Kills the controller as a crash would.
    pub fn kill_controller(&mut self) {
        self.controller = None;
    }

    /// The controller's process id.
    pub fn controller_pid(&self) -> Option<u32> {
        self.controller.as_ref().map(Process::pid)
    }

    /// Starts an agent, or starts it again on the state it has.
    pub fn start_agent(&mut self, name: &str) -> Result<()> {
        let (folder, memory) = (self.folder().to_owned(), self.memory(name));
        let agent = self
            .agents
            .get_mut(name)
            .with_context(|| format!("no agent {name}"))?;
        let controller = agent
            .wire
            .as_ref()
            .map_or(self.address, |wire| wire.address);
        let mut command = Command::new(binary("rebloom-agent")?);
        command
            .args(["--node", name, "--slots", &self.plan.slots.to_string()])
            .args(["--controller", &controller.to_string()])
            .envs(self.plan.variables.iter().cloned())
            .args(["--listen", &agent.listen.to_string()])
            .arg("--state")
            .arg(folder.join(name))
            .arg("--snapshots")
            .arg(memory)
            .arg("--tls")
            .arg(folder.join("tls"))
            .arg("--worker")
            .arg(binary(self.plan.worker)?);
        agent.process = Some(Process::start(
            command,
            &folder.join(format!("{name}.log")),
        )?);
        Ok(())
    }

    /// Kills an agent as a crash would; its ranks live on.
    pub fn kill_agent(&mut self, name: &str) -> Result<()> {
        self.agents
            .get_mut(name)
            .with_context(|| format!("no agent {name}"))?
            .process = None;
        Ok(())
    }

    /// The process id of an agent that runs.
    pub fn agent_pid(&self, name: &str) -> Option<u32> {
        self.agents.get(name)?.process.as_ref().map(Process::pid)
    }

    /// Where an agent's rendezvous store listens.
    pub fn store_of(&self, name: &str) -> Option<SocketAddr> {
        self.agents.get(name).map(|agent| agent.listen)
    }

    /// The wire between an agent and the controller.
    pub fn wire(&self, name: &str) -> Result<&Proxy> {
        self.agents
            .get(name)
            .and_then(|agent| agent.wire.as_ref())
            .with_context(|| format!("no wire of {name}"))
    }

    /// The admin API.
    pub fn admin(&self) -> AdminClient<Channel> {
        AdminClient::new(self.admin.clone())
    }

    /// Runs one request to its end.
    pub fn wait<T>(&self, request: impl Future<Output = T>) -> T {
        self.runtime.block_on(request)
    }

    /// Submits a run.
    pub fn submit(&self, spec: &RunSpec) -> Result<RunId> {
        let request = wire::SubmitRunRequest {
            spec: Some(spec.clone().into()),
            dry_run: false,
        };
        self.wait(self.admin().submit_run(request))?;
        Ok(spec.name.clone())
    }

    /// One run as it is now.
    pub fn run(&self, run: &RunId) -> Result<RunView> {
        let request = wire::GetRunRequest {
            run: run.to_string(),
        };
        Ok(self
            .wait(self.admin().get_run(request))?
            .into_inner()
            .try_into()?)
    }

    /// All nodes as they are now.
    pub fn nodes(&self) -> Result<Vec<NodeView>> {
        let reply = self
            .wait(self.admin().list_nodes(wire::ListNodesRequest {}))?
            .into_inner();
        reply
            .nodes
            .into_iter()
            .map(|node| Ok(node.try_into()?))
            .collect()
    }

    /// Waits until a run looks as it should. The controller may be down meanwhile; a run that ended
    /// otherwise fails at once, with its story.
    pub fn until(
        &self,
        run: &RunId,
        what: &str,
        mut good: impl FnMut(&RunView) -> bool,
    ) -> Result<RunView> {
        let mut last = None;
        let found = wait::until(what, PATIENCE, || {
            let Ok(view) = self.run(run) else {
                return Ok(None);
            };
            if good(&view) {
                return Ok(Some(view));
            }
            ensure!(
                !matches!(view.state, RunState::Failed | RunState::Parked),
                "the run is {}: {}\n{:#?}",
                view.state,
                view.why,
                view.incidents
            );
            last = Some(view);
            Ok(None)
        });
        found.with_context(|| format!("last seen: {last:#?}\n{}", self.logs()))
    }

    /// Waits until the run trains in its present generation and has come to `step`.
    pub fn until_step(&self, run: &RunId, step: u64) -> Result<RunView> {
        self.until(run, &format!("training at step {step}"), |view| {
            view.state == RunState::Running && view.step.0 >= step
        })
    }

    /// Waits until the run is done.
    pub fn until_completed(&self, run: &RunId) -> Result<RunView> {
        self.until(run, "the run is completed", |view| {
            view.state == RunState::Completed
        })
    }

    /// Mounts a small file system of its own below the cluster's folder.
    pub fn small_disk(&mut self, size: &str) -> Result<PathBuf> {
        let disk = self.folder().join("disk");
        std::fs::create_dir(&disk)?;
        let options = format!("size={size},mode=700");
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "rebloom-test"])
            .arg(&disk)
            .output()?;
        ensure!(
            mount.status.success(),
            "a small disk needs the right to mount (run under `unshare -rm`): {}",
            String::from_utf8_lossy(&mount.stderr)
        );
        self.disks.push(disk.clone());
        Ok(disk)
    }

    /// The end of every log, for a failed test.
    pub fn logs(&self) -> String {
        let mut names = vec!["controller".to_owned()];
        names.extend(self.names());
        let mut text = String::new();
        for name in names {
            let log = std::fs::read_to_string(self.folder().join(format!("{name}.log")));
            let log = log.unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(25)..].join("\n");
            text += &format!("--- {name}\n{tail}\n");
        }
        text
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.controller = None;
        for agent in self.agents.values_mut() {
            agent.process = None;
        }
        // Workers have sessions of their own and outlive their agents.
        for pid in processes_of(self.folder.path()) {
            drop(signal(pid, Signal::KILL));
        }
        for disk in &self.disks {
            // Lazily: a process that was killed just now may still hold it.
            drop(Command::new("umount").arg("-l").arg(disk).status());
        }
    }
}

fn millis(span: Duration) -> String {
    span.as_millis().to_string()
}

/// The process of a rank, once it is known.
pub fn pid_of(view: &RunView, rank: u32) -> Result<u32> {
    let rank = view
        .ranks
        .iter()
        .find(|seen| seen.seating.rank == Rank(rank))
        .context("no such rank")?;
    rank.pid.context("the rank has no process yet")
}

/// An address on 127.0.0.1 that nobody listens on, and that no connection is given by chance: below the
/// ports that the kernel hands out, and never the same twice.
pub fn free_address() -> Result<SocketAddr> {
    const FIRST: u32 = 10_000;
    const PORTS: u32 = 20_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    for _ in 0..PORTS {
        let nth = std::process::id()
            .wrapping_mul(97)
            .wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = u16::try_from(FIRST + nth % PORTS)?;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    bail!("no port of 127.0.0.1 from {FIRST} on is free");
}
