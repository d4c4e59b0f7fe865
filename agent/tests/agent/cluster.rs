//! A controller that does as it is told, and agents that are started as users start them.

use rebloom_core::cause::Cause;
use rebloom_core::id::{Generation, NodeId, Rank, RunId, Session, Slot};
use rebloom_core::layout::Layout;
use rebloom_core::order::{GangStart, Order, Seat, Start};
use rebloom_core::report::{Join, Milestone, RankEvent, Report};
use rebloom_core::spec::RunSpec;
use rebloom_core::supervisor::Memory;
use rebloom_proto::link::{FromAgent, ToAgent, Welcome};
use rebloom_proto::wire;
use rebloom_proto::wire::agent_link_server::{AgentLink, AgentLinkServer};
use rebloom_runtime::tls::{self, Authority, Role, ServerTls};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

/// Anything a test waits for comes within this, or not at all.
pub(crate) const LONG: Duration = Duration::from_secs(30);
/// Long enough for a restart of the agent, short enough to end what a failed test leaves.
const ORPHAN_AFTER: Duration = Duration::from_secs(30);

type Links = Arc<Mutex<BTreeMap<NodeId, mpsc::Sender<ToAgent>>>>;

#[derive(Clone)]
struct Service {
    links: Links,
    heard: mpsc::UnboundedSender<(NodeId, FromAgent)>,
    refuses: Arc<AtomicBool>,
    attempts: Arc<AtomicU64>,
}

#[tonic::async_trait]
impl AgentLink for Service {
    type AttachStream = Pin<Box<dyn Stream<Item = Result<wire::ToAgent, Status>> + Send>>;

    async fn attach(
        &self,
        request: Request<Streaming<wire::FromAgent>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        self.attempts.fetch_add(1, Ordering::SeqCst);
        let Role::Agent(node) = tls::peer_role(&request)? else {
            return Err(Status::permission_denied("not an agent"));
        };
        if self.refuses.load(Ordering::SeqCst) {
            return Err(Status::permission_denied(
                "node is known by another identity",
            ));
        }
        let mut incoming = request.into_inner();
        let (outgoing, messages) = mpsc::channel(64);
        let (beat_every, orphan_after) = (Duration::from_millis(500), ORPHAN_AFTER);
        let welcome = Welcome {
            session: Session(1),
            beat_every,
            orphan_after,
            now: rebloom_core::time::Instant::ZERO,
        };
        outgoing.send(ToAgent::Welcome(welcome)).await.unwrap();
        self.links
            .lock()
            .unwrap()
            .insert(node.clone(), outgoing.clone());
        let heard = self.heard.clone();
        tokio::spawn(async move {
            while let Ok(Some(message)) = incoming.message().await {
                let message = FromAgent::try_from(message).unwrap();
                if let FromAgent::Report { sequence, .. } = message {
                    drop(outgoing.send(ToAgent::Ack(sequence)).await);
                }
                drop(heard.send((node.clone(), message)));
            }
        });
        Ok(Response::new(Box::pin(
            ReceiverStream::new(messages).map(|m| Ok(m.into())),
        )))
    }
}

/// A controller, keys for its agents, and a folder for everything.
pub(crate) struct Cluster {
    pub(crate) folder: TempDir,
    pub(crate) controller: String,
    links: Links,
    heard: mpsc::UnboundedReceiver<(NodeId, FromAgent)>,
    refuses: Arc<AtomicBool>,
    attempts: Arc<AtomicU64>,
}

impl Cluster {
    pub(crate) async fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let tls = folder.path().join("tls");
        let authority = Authority::create(&tls).unwrap();
        let agents = ["a", "b"].map(|name| Role::Agent(node(name)));
        let roles = [Role::Controller, Role::Admin("ada".to_owned())]
            .into_iter()
            .chain(agents);
        roles.for_each(|role| authority.issue(&role).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let controller = listener.local_addr().unwrap().to_string();
        let server_tls = ServerTls::load(&tls, &Role::Controller).unwrap();
        let (sender, heard) = mpsc::unbounded_channel();
        let (links, refuses, attempts) = <(Links, Arc<AtomicBool>, Arc<AtomicU64>)>::default();
        let service = Service {
            links: links.clone(),
            heard: sender,
            refuses: refuses.clone(),
            attempts: attempts.clone(),
        };
        let connections = tls::listen(listener, &server_tls, |_, _, _| {});
        let server = tls::server().add_service(AgentLinkServer::new(service));
        tokio::spawn(server.serve_with_incoming(connections));
        Self {
            folder,
            controller,
            links,
            heard,
            refuses,
            attempts,
        }
    }

    pub(crate) fn tls(&self) -> PathBuf {
        self.folder.path().join("tls")
    }

    pub(crate) fn checkpoints(&self) -> PathBuf {
        self.folder.path().join("checkpoints")
    }

    pub(crate) fn refuse(&self, refuse: bool) {
        self.refuses.store(refuse, Ordering::SeqCst);
    }

    pub(crate) fn attempts(&self) -> u64 {
        self.attempts.load(Ordering::SeqCst)
    }

    /// The agent's usual arguments.
    pub(crate) fn command(&self, name: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rebloom-agent"));
        command
            .args(["--node", name, "--slots", "2", "--beat-ms", "50"])
            .args(["--controller", &self.controller])
            .args(["--worker", env!("CARGO_BIN_EXE_rebloom-agent-test-worker")])
            .args(["--orphan-after-ms", &ORPHAN_AFTER.as_millis().to_string()])
            .arg("--state")
            .arg(self.state(name))
            .arg("--tls")
            .arg(self.tls())
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn state(&self, name: &str) -> PathBuf {
        self.folder.path().join("agents").join(name)
    }

    pub(crate) fn start(&self, name: &str, more: &[&str]) -> Agent {
        let state = self.state(name);
        std::fs::create_dir_all(&state).unwrap();
        let errors = state.join("stderr");
        let file = File::options()
            .create(true)
            .append(true)
            .open(&errors)
            .unwrap();
        let child = self.command(name).args(more).stderr(file).spawn().unwrap();
        Agent {
            child,
            state,
            errors,
        }
    }

    /// Starts an agent and waits for its join.
    pub(crate) async fn joined(&mut self, name: &str) -> (Agent, Join) {
        let agent = self.start(name, &[]);
        let join = self.join_of(name).await;
        (agent, join)
    }

    pub(crate) async fn join_of(&mut self, name: &str) -> Join {
        self.hear(name, "a join", |message| match message {
            FromAgent::Join(join) => Some(join),
            _ => None,
        })
        .await
    }

    /// The next message of an agent that fits; others are passed over.
    pub(crate) async fn hear<T>(
        &mut self,
        name: &str,
        what: &str,
        mut fits: impl FnMut(FromAgent) -> Option<T>,
    ) -> T {
        let wait = async {
            loop {
                let (node, message) = self.heard.recv().await.expect("the controller serves");
                if node.as_str() == name
                    && let Some(found) = fits(message)
                {
                    return found;
                }
            }
        };
        tokio::time::timeout(LONG, wait)
            .await
            .unwrap_or_else(|_| panic!("never came: {what}"))
    }

    /// What is reported of a rank next, of the kind that fits.
    pub(crate) async fn report<T>(
        &mut self,
        name: &str,
        rank: u32,
        mut fits: impl FnMut(Generation, RankEvent) -> Option<T>,
    ) -> T {
        self.hear(
            name,
            &format!("a report of rank {rank}"),
            |message| match message {
                FromAgent::Report {
                    report:
                        Report::Rank {
                            generation,
                            rank: of,
                            event,
                            ..
                        },
                    ..
                } if of == Rank(rank) => fits(generation, event),
                _ => None,
            },
        )
        .await
    }

    /// Waits until a rank has done a step and returns the pid it did it in.
    pub(crate) async fn steps(&mut self, name: &str, rank: u32, generation: u64) -> u32 {
        self.report(name, rank, |of, event| match event {
            RankEvent::Reached {
                milestone: Milestone::Stepped,
                pid,
                ..
            } => (of == Generation(generation)).then_some(pid),
            _ => None,
        })
        .await
    }

    pub(crate) async fn say(&self, name: &str, message: ToAgent) {
        let link = self.links.lock().unwrap().get(&node(name)).cloned();
        link.expect("the agent is linked")
            .send(message)
            .await
            .unwrap();
    }

    pub(crate) async fn order(&self, name: &str, order: Order) {
        self.say(name, ToAgent::Order(order)).await;
    }

    /// A start of a run of two ranks, `seats` of which are on the node.
    pub(crate) fn a_start(&self, run: &str, generation: u64, seats: &[u32], store: &Join) -> Start {
        let layout = Layout {
            tensor: 1,
            pipeline: 2,
            data: 1,
        };
        let gang = GangStart {
            evaluated: None,
            spec: spec(run, layout, &self.checkpoints()).into(),
            generation: Generation(generation),
            store_node: store.facts.node.clone(),
            store_address: store.facts.store_address.clone(),
            resume: None,
            fresh_processes: false,
            async_off: false,
            cause: Cause::Submitted,
        };
        let seats = seats.iter().enumerate();
        Start {
            gang: gang.into(),
            seats: seats
                .map(|(slot, rank)| Seat {
                    rank: Rank(*rank),
                    slot: Slot(slot as u32),
                })
                .collect(),
            snapshot: Vec::new(),
            replica: None,
        }
    }

    /// Starts a run of two ranks on one agent and returns their pids once they train.
    pub(crate) async fn train(&mut self, name: &str, run: &str, join: &Join) -> [u32; 2] {
        let start = self.a_start(run, 1, &[0, 1], join);
        self.order(name, Order::Start(start)).await;
        // Reports of the two ranks come in any order.
        let mut pids = BTreeMap::new();
        while pids.len() < 2 {
            let (rank, pid) = self
                .hear(name, "a first step", |message| match message {
                    FromAgent::Report {
                        report:
                            Report::Rank {
                                rank,
                                event:
                                    RankEvent::Reached {
                                        milestone: Milestone::Stepped,
                                        pid,
                                        ..
                                    },
                                ..
                            },
                        ..
                    } => Some((rank, pid)),
                    _ => None,
                })
                .await;
            pids.insert(rank, pid);
        }
        [pids[&Rank(0)], pids[&Rank(1)]]
    }
}

pub(crate) fn node(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

pub(crate) fn run_id(name: &str) -> RunId {
    RunId::new(name).unwrap()
}

fn spec(run: &str, layout: Layout, checkpoints: &Path) -> RunSpec {
    let spec = serde_json::json!({
        "name": run,
        "model": {"layers": 2, "hidden": 8, "heads": 2, "vocab": 16, "sequence": 8},
        "layout": layout,
        "train": {"steps": 100, "global_batch": 4, "micro_batch": 1},
        "data": {"prefix": "/data/text"},
        "checkpoint": {"directory": checkpoints, "every_steps": 10},
    });
    serde_json::from_value(spec).unwrap()
}

/// One agent's process; what it leaves behind ends with the test.
pub(crate) struct Agent {
    pub(crate) child: Child,
    pub(crate) state: PathBuf,
    errors: PathBuf,
}

impl Agent {
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(to_pid(self.child.id()), signal).unwrap();
    }

    pub(crate) fn kill(&mut self) {
        self.signal(Signal::KILL);
        assert_eq!(self.child.wait().unwrap().signal(), Some(9));
    }

    pub(crate) async fn end(&mut self) -> ExitStatus {
        let mut status = None;
        until("the end of the agent", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        })
        .await;
        status.expect("it ended")
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.errors).unwrap()
    }

    /// What it wrote down.
    pub(crate) fn memory(&self) -> Memory {
        let text = std::fs::read(self.state.join("agent.json")).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
        drop(self.child.kill());
        drop(self.child.wait());
        for rank in self.memory().runs.iter().flat_map(|run| &run.ranks) {
            if let Some(process) = rank.process
                && stat(process.pid).is_some_and(|stat| stat.started == process.started)
            {
                // (It may end by itself meanwhile.)
                kill_process_group(to_pid(process.pid), Signal::KILL).ok();
            }
        }
    }
}

pub(crate) fn to_pid(pid: u32) -> Pid {
    Pid::from_raw(pid.try_into().unwrap()).unwrap()
}

pub(crate) fn stat(pid: u32) -> Option<rebloom_agent::process::Stat> {
    rebloom_agent::process::Stat::read(pid).unwrap()
}

/// Waits until a condition holds.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(LONG, wait)
        .await
        .unwrap_or_else(|_| panic!("never came: {what}"));
}
