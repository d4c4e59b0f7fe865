//! A controller in this process, admins, and agents that say what a test wants them to say.

use rebloom_controller::config::{Args, Config};
use rebloom_controller::{Controller, Error};
use rebloom_core::checkpoint::{CheckpointId, Manifest, Shard};
use rebloom_core::engine::RunView;
use rebloom_core::guard::LossGuard;
use rebloom_core::id::{Digest, Generation, NodeId, Rank, RunId, Step};
use rebloom_core::layout::Layout;
use rebloom_core::order::{Order, Start};
use rebloom_core::report::{Beat, Join, Milestone, NodeFacts, RankEvent, Remembered, Report};
use rebloom_core::spec::{
    Checkpoint, Data, Deadlines, Model, Numerics, Optimizer, Recovery, RunSpec, Train,
};
use rebloom_proto::link::{FromAgent, ToAgent, Welcome};
use rebloom_proto::wire;
use rebloom_proto::wire::admin_client::AdminClient;
use rebloom_proto::wire::agent_link_client::AgentLinkClient;
use rebloom_runtime::journal::{Journal, Sled};
use rebloom_runtime::shutdown::{Shutdown, Trigger};
use rebloom_runtime::tls::{Authority, ClientTls, Role};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{interval, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

/// Longer than anything takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn node(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

pub(crate) fn agent_role(name: &str) -> Role {
    Role::Agent(node(name))
}

pub(crate) fn admin_role() -> Role {
    Role::Admin("root".to_owned())
}

/// Keys of a cluster with three nodes and an admin, and room for a journal.
pub(crate) fn cluster() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::create(&directory.path().join("tls")).unwrap();
    for role in [
        Role::Controller,
        admin_role(),
        agent_role("n1"),
        agent_role("n2"),
        agent_role("n3"),
    ] {
        authority.issue(&role).unwrap();
    }
    directory
}

/// A controller that runs in this process.
pub(crate) struct Server {
    pub(crate) directory: PathBuf,
    pub(crate) address: SocketAddr,
    pub(crate) metrics: SocketAddr,
    trigger: Trigger,
    task: JoinHandle<Result<(), Error>>,
}

impl Server {
    pub(crate) async fn start(directory: &Path) -> Self {
        let journal = Sled::open(&directory.join("journal")).unwrap();
        Self::with_journal(directory, journal).await
    }

    pub(crate) async fn with_journal(directory: &Path, journal: impl Journal) -> Self {
        let tls = directory.join("tls");
        let args = [
            "controller",
            "--listen",
            "127.0.0.1:0",
            "--metrics",
            "127.0.0.1:0",
        ];
        let args = args
            .into_iter()
            .chain(["--state", "unused", "--tls", tls.to_str().unwrap()])
            // Few, so that these tests live on snapshots too.
            .chain(["--snapshot-every", "16"]);
        let config: Config = <Args as clap::Parser>::parse_from(args).try_into().unwrap();
        let controller = Controller::start(&config, journal).await.unwrap();
        let (trigger, shutdown) = Shutdown::manual();
        Self {
            directory: directory.to_owned(),
            address: controller.address().unwrap(),
            metrics: controller.metrics_address().unwrap(),
            trigger,
            task: tokio::spawn(controller.run(shutdown)),
        }
    }

    /// Ends it as a signal would.
    pub(crate) async fn stop(self) {
        self.trigger.fire();
        self.ended().await.unwrap();
    }

    /// Waits for its end.
    pub(crate) async fn ended(self) -> Result<(), Error> {
        timeout(PATIENCE, self.task)
            .await
            .expect("it ends")
            .unwrap()
    }

    pub(crate) async fn channel(&self, role: &Role) -> Channel {
        channel(&self.directory, self.address, role).await
    }

    pub(crate) async fn admin(&self) -> AdminClient<Channel> {
        AdminClient::new(self.channel(&admin_role()).await)
    }

    pub(crate) async fn attach(&self, name: &str) -> Agent {
        Agent::attach(self.channel(&agent_role(name)).await, name)
            .await
            .unwrap()
    }

    pub(crate) async fn join(&self, name: &str) -> Agent {
        let mut agent = self.attach(name).await;
        agent.join(vec![]).await.unwrap();
        agent
    }

    /// One run as an admin sees it.
    pub(crate) async fn run(&self, run: &str) -> RunView {
        let request = wire::GetRunRequest {
            run: run.to_owned(),
        };
        let view = self
            .admin()
            .await
            .get_run(request)
            .await
            .unwrap()
            .into_inner();
        view.try_into().unwrap()
    }

    pub(crate) async fn get(&self, path: &str) -> String {
        get(self.metrics, path).await
    }

    /// Reads the metrics until one line is as wanted.
    pub(crate) async fn until_metric(&self, line: &str) {
        let found = timeout(PATIENCE, async {
            let mut looks = interval(Duration::from_millis(20));
            loop {
                looks.tick().await;
                if self
                    .get("/metrics")
                    .await
                    .lines()
                    .any(|shown| shown == line)
                {
                    break;
                }
            }
        });
        if found.await.is_err() {
            panic!("no `{line}` in\n{}", self.get("/metrics").await);
        }
    }
}

pub(crate) async fn channel(directory: &Path, address: SocketAddr, role: &Role) -> Channel {
    let tls = ClientTls::load(&directory.join("tls"), role).unwrap();
    let endpoint = tls
        .endpoint(&address.to_string(), &Role::Controller)
        .unwrap();
    endpoint.connect().await.unwrap()
}

/// One HTTP request.
pub(crate) async fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// An agent that says what the test wants.
pub(crate) struct Agent {
    pub(crate) node: NodeId,
    to: mpsc::Sender<wire::FromAgent>,
    from: Streaming<wire::ToAgent>,
    sequence: u64,
}

impl Agent {
    pub(crate) async fn attach(channel: Channel, name: &str) -> Result<Self, Status> {
        let (to, outgoing) = mpsc::channel(16);
        let from = AgentLinkClient::new(channel)
            .attach(ReceiverStream::new(outgoing))
            .await?;
        Ok(Self {
            node: node(name),
            to,
            from: from.into_inner(),
            sequence: 0,
        })
    }

    pub(crate) fn facts(&self) -> NodeFacts {
        NodeFacts {
            node: self.node.clone(),
            slots: 2,
            gpus: vec![],
            store_address: "127.0.0.1:7250".to_owned(),
            host: "localhost".to_owned(),
            cores: 2,
            memory: 1 << 30,
            nccl: None,
            labels: rebloom_core::labels::Labels::default(),
        }
    }

    pub(crate) async fn join(&mut self, runs: Vec<Remembered>) -> Result<Welcome, Status> {
        let facts = self.facts();
        self.say(FromAgent::Join(Join { facts, runs })).await;
        match self.next().await? {
            ToAgent::Welcome(welcome) => Ok(welcome),
            other => panic!("{other:?} before the welcome"),
        }
    }

    pub(crate) async fn say(&self, message: FromAgent) {
        // (The controller may have closed the link; what it says then is what counts.)
        self.to.send(message.into()).await.ok();
    }

    pub(crate) async fn beat(&self) {
        self.say(FromAgent::Beat(Beat::default())).await;
    }

    pub(crate) async fn report(&mut self, report: Report) -> u64 {
        self.sequence += 1;
        self.say(FromAgent::Report {
            sequence: self.sequence,
            report,
        })
        .await;
        self.sequence
    }

    pub(crate) async fn next(&mut self) -> Result<ToAgent, Status> {
        let message = timeout(PATIENCE, self.from.message())
            .await
            .expect("the controller speaks")?;
        let message = message.ok_or_else(|| Status::cancelled("the stream ended"))?;
        Ok(message.try_into().unwrap())
    }

    /// Reads until something is as wanted.
    pub(crate) async fn until<T>(&mut self, mut pick: impl FnMut(ToAgent) -> Option<T>) -> T {
        loop {
            if let Some(found) = pick(self.next().await.unwrap()) {
                return found;
            }
        }
    }

    pub(crate) async fn start_order(&mut self) -> Start {
        self.until(|message| match message {
            ToAgent::Order(Order::Start(start)) => Some(start),
            _ => None,
        })
        .await
    }

    pub(crate) async fn seal_order(&mut self) -> Manifest {
        self.until(|message| match message {
            ToAgent::Order(Order::Seal { manifest, .. }) => Some(*manifest),
            _ => None,
        })
        .await
    }

    pub(crate) async fn acked(&mut self, wanted: u64) {
        self.until(|message| (message == ToAgent::Ack(wanted)).then_some(()))
            .await;
    }

    /// Reports that the ranks of an order have come this far, and waits until that is journaled.
    pub(crate) async fn reach(&mut self, start: &Start, milestone: Milestone) {
        for seat in &start.seats {
            let event = RankEvent::Reached {
                milestone,
                step: Step(1),
                pid: 1000 + seat.rank.0,
            };
            let sequence = self.report(rank_report(start, seat.rank, event)).await;
            self.acked(sequence).await;
        }
    }

    /// The controller closes the link; how?
    pub(crate) async fn closed(&mut self) -> Code {
        loop {
            if let Err(status) = self.next().await {
                return status.code();
            }
        }
    }
}

pub(crate) fn rank_report(start: &Start, rank: Rank, event: RankEvent) -> Report {
    Report::Rank {
        run: start.gang.spec.name.clone(),
        generation: start.gang.generation,
        rank,
        event,
    }
}

/// A report of a run that nobody knows.
pub(crate) fn stale() -> Report {
    Report::Stopped {
        run: RunId::new("unknown").unwrap(),
        generation: Generation(1),
    }
}

/// Four ranks, two a node.
pub(crate) fn spec(name: &str) -> RunSpec {
    RunSpec {
        eval: None,
        name: RunId::new(name).unwrap(),
        priority: 0,
        model: Model {
            layers: 4,
            hidden: 32,
            heads: 4,
            vocab: 512,
            sequence: 32,
            residual_after_layernorm: false,
        },
        init: None,
        layout: Layout {
            tensor: 2,
            pipeline: 1,
            data: 2,
        },
        train: Train {
            steps: 30,
            global_batch: 8,
            micro_batch: 2,
            seed: 42,
            optimizer: Optimizer {
                learning_rate: 0.1 + 0.2,
                ..Optimizer::default()
            },
            ramp_up: None,
            numerics: Numerics::default(),
        },
        data: Data {
            prefix: "/data/corpus".to_owned(),
            ..Data::default()
        },
        checkpoint: Checkpoint {
            directory: "/checkpoints".to_owned(),
            every_steps: 5,
            auto: None,
            keep: 3,
            snapshot: None,
        },
        deadlines: Deadlines::default(),
        recovery: Recovery::default(),
        elastic: None,
        guard: LossGuard::default(),
        log_rules: Vec::new(),
    }
}

pub(crate) fn submission(spec: RunSpec) -> wire::SubmitRunRequest {
    wire::SubmitRunRequest {
        spec: Some(spec.into()),
        dry_run: false,
    }
}

pub(crate) fn digest(byte: u8) -> Digest {
    Digest([byte; 32])
}

/// A rank's part of a checkpoint.
pub(crate) fn shard(rank: Rank) -> Shard {
    let file = format!("rank-{:05}.safetensors", rank.0);
    Shard {
        rank,
        file,
        bytes: 1000,
        hash: digest(rank.0 as u8),
    }
}

/// The report that a rank wrote its part.
pub(crate) fn shard_saved(start: &Start, step: u64, rank: Rank) -> Report {
    Report::ShardSaved {
        run: start.gang.spec.name.clone(),
        checkpoint: CheckpointId {
            step: Step(step),
            generation: start.gang.generation,
        },
        samples: step * 8,
        shard: shard(rank),
    }
}
