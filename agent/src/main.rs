//! `rebloom-agent`: keeps the ranks of one node.

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use rebloom_agent::process::close_on_exec;
use rebloom_agent::ranks::Launch;
use rebloom_agent::watch::{Reference, Watch};
use rebloom_agent::{Settings, nccl, probe, run};
use rebloom_core::id::NodeId;
use rebloom_core::ladder::gate::Nccl;
use rebloom_core::supervisor::Config;
use rebloom_runtime::priority;
use rebloom_runtime::shard_hash::ShardHash;
use rebloom_runtime::shutdown::Shutdown;
use rebloom_runtime::telemetry;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// How long a worker that was told to leave may take before it is killed.
const LEAVE_WITHIN: Duration = Duration::from_secs(15);

/// Keeps the ranks of one node: starts, watches, stops and fences them as the controller orders.
///
/// SIGTERM ends the agent and leaves its ranks running; its next life adopts them.
#[derive(Debug, Parser)]
#[command(
    name = "rebloom-agent",
    version,
    args_override_self = true,
    allow_negative_numbers = true
)]
struct Arguments {
    /// Name of this node, as in the agent's certificate.
    #[arg(long, value_parser = NodeId::new)]
    node: NodeId,
    /// Directory for what the agent keeps between two lives; no other agent may use it.
    #[arg(long, value_name = "DIR")]
    state: PathBuf,
    /// Where the controller listens for agents.
    #[arg(long, value_name = "HOST:PORT", value_parser = host_and_port)]
    controller: String,
    /// Directory with ca.pem, agent-NODE.pem and agent-NODE.key.
    #[arg(long, value_name = "DIR")]
    tls: PathBuf,
    /// Ranks this node holds, on its CPU; without it, one for each GPU.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=4096))]
    slots: Option<u32>,
    /// What is to be known of this node; `rack` and `fabric` tell placement what is near.
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
    /// Where other agents reach the rendezvous stores of this one; port 0 takes a free one.
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// The worker's program [default: rebloom-worker beside this one].
    #[arg(long, value_name = "FILE")]
    worker: Option<PathBuf>,
    /// Address or name of the network interface on which workers talk to each other.
    #[arg(long, default_value = "127.0.0.1")]
    interface: String,
    /// Milliseconds between two signs of life.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(50..=10_000))]
    beat_ms: u64,
    /// Milliseconds without a controller after which ranks are fenced; no longer than the
    /// controller waits before it starts a run elsewhere.
    #[arg(
        long,
        default_value_t = 300_000,
        value_parser = clap::value_parser!(u64).range(1_000..=86_400_000)
    )]
    orphan_after_ms: u64,
    /// Library to ask for GPUs [default: libnvidia-ml.so, if the node has one].
    #[arg(long, value_name = "FILE")]
    nvml: Option<OsString>,
    /// Keep no warm worker waiting for the next rank that is needed: saves its memory, costs the
    /// start of a process and of libtorch in every recovery.
    #[arg(long)]
    no_standby: bool,
    /// Version of NCCL that the workers use, as 2.27.5 [default: that of the library which the worker would
    /// load on a GPU]. Where it is not known, asynchronous kernel launches are never turned off after a hang,
    /// since some versions hang by themselves then.
    #[arg(long, value_name = "VERSION")]
    nccl: Option<Nccl>,
    /// Directory, on a file system in memory, for the snapshots of runs that keep some; `none` for no
    /// snapshots [default: a directory of this agent's own below /dev/shm, if the node has one].
    #[arg(long, value_name = "DIR")]
    snapshots: Option<PathBuf>,
    /// Log of the kernel, in which GPU drivers report errors.
    #[arg(long, value_name = "FILE", default_value = "/dev/kmsg")]
    kernel_log: PathBuf,
    /// Do not look at the health of the node.
    #[arg(long)]
    no_probes: bool,
    /// End the ranks with the agent, instead of leaving them to its next life.
    #[arg(long)]
    end_ranks_on_exit: bool,
    /// Write log lines as JSON.
    #[arg(long)]
    log_json: bool,
}

fn host_and_port(text: &str) -> Result<String, String> {
    let (host, port) = text.rsplit_once(':').ok_or("has no `:PORT`")?;
    match port.parse::<u16>() {
        Ok(1..) if !host.is_empty() => Ok(text.to_owned()),
        Ok(_) | Err(_) => Err("needs a host, and a port from 1 to 65535".to_owned()),
    }
}

fn label(text: &str) -> Result<(String, String), String> {
    let fits = |part: &str| (1..=63).contains(&part.len()) && part.is_ascii();
    match text.split_once('=') {
        Some((key, value)) if fits(key) && fits(value) => Ok((key.to_owned(), value.to_owned())),
        Some(_) => Err("needs a key and a value of 1 to 63 ASCII characters".to_owned()),
        None => Err("has no `=`".to_owned()),
    }
}

/// Where snapshots go: where it was said, or below the shared memory of the node, under a name that this
/// agent's next life comes to as well and no other agent does.
fn memory(given: Option<PathBuf>, state: &Path) -> Result<Option<PathBuf>, String> {
    match given {
        Some(none) if none.as_os_str() == "none" => Ok(None),
        Some(path) if path.is_absolute() => Ok(Some(path)),
        Some(path) => Err(format!(
            "--snapshots {} is not an absolute path; give one, or `none`",
            path.display()
        )),
        None => {
            let state = std::path::absolute(state)
                .map_err(|error| format!("--state {}: {error}", state.display()))?;
            let shared = Path::new("/dev/shm");
            let name = ShardHash::of(state.as_os_str().as_bytes()).to_string();
            let own = shared.join(format!("rebloom-{}", &name[..16]));
            Ok(shared.is_dir().then_some(own))
        }
    }
}

impl Arguments {
    /// The settings, or which value does not do and what would.
    fn settings(self) -> Result<Settings, String> {
        if self.listen.ip().is_unspecified() {
            return Err(format!(
                "--listen {} is no address that others can connect to; give one of this node's own",
                self.listen
            ));
        }
        if self.interface.is_empty() {
            return Err("--interface is empty; give an address or a name, as 127.0.0.1".to_owned());
        }
        let gpus = if self.slots.is_none() {
            probe::gpus(self.nvml.as_deref(), Path::new("/"))?
        } else {
            Vec::new()
        };
        let has_gpus = !gpus.is_empty();
        let slots = self
            .slots
            .unwrap_or(u32::try_from(gpus.len()).unwrap_or(u32::MAX));
        if slots == 0 {
            return Err(
                "this node has no GPU; give --slots N to run N ranks on its CPU".to_owned(),
            );
        }
        let worker = match self.worker {
            Some(worker) => worker,
            None => std::env::current_exe()
                .map_err(|error| format!("cannot find my own program: {error}"))?
                .with_file_name("rebloom-worker"),
        };
        let worker = match worker.canonicalize() {
            Ok(path) if path.is_file() => path,
            Ok(_) => return Err(format!("--worker {} is not a file", worker.display())),
            Err(error) => return Err(format!("--worker {}: {error}", worker.display())),
        };
        let look_up = || has_gpus.then(|| nccl::of(&worker)).flatten();
        let nccl = self.nccl.or_else(look_up);
        let snapshots = memory(self.snapshots, &self.state)?;
        let orphan_after = Duration::from_millis(self.orphan_after_ms);
        Ok(Settings {
            config: Config {
                node: self.node.clone(),
                beat_every: Duration::from_millis(self.beat_ms),
                orphan_after,
                leave_within: LEAVE_WITHIN,
            },
            node: self.node,
            state: self.state,
            controller: self.controller,
            tls: self.tls,
            slots,
            gpus,
            nccl,
            labels: self.labels.into_iter().collect(),
            listen: self.listen,
            launch: Launch {
                worker,
                interface: self.interface,
                orphan_after,
                on_gpus: has_gpus,
                standby: !self.no_standby,
                snapshots,
            },
            watch: (!self.no_probes).then(|| Watch {
                nvml: self.nvml,
                has_gpus,
                kernel_log: self.kernel_log,
                reference: Reference::default(),
            }),
            end_ranks: self.end_ranks_on_exit,
        })
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Err(error) = telemetry::start(arguments.log_json) {
        eprintln!("error: {error}");
        return ExitCode::from(2);
    }
    let settings = match arguments.settings() {
        Ok(settings) => settings,
        Err(problem) => Arguments::command()
            .error(ErrorKind::ValueValidation, problem)
            .exit(),
    };
    if let Err(error) = close_on_exec() {
        eprintln!("error: cannot look at the open files: {error}");
        return ExitCode::FAILURE;
    }
    priority::raise();
    // One thread: the agent shall cost the ranks nothing.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let outcome = runtime.map_err(anyhow::Error::from).and_then(|runtime| {
        let outcome = runtime.block_on(async {
            let (_trigger, shutdown) = Shutdown::on_signals()?;
            run(settings, shutdown).await
        });
        // Work on slow storage is not waited for.
        runtime.shutdown_background();
        outcome
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
