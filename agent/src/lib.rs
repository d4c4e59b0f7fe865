//! The agent: thin drivers around [`rebloom_core::supervisor::Supervisor`], one process per node.
//!
//! - [`driver`]: the loop that calls the supervisor and carries out its commands
//! - [`ranks`], [`process`], [`standby`], [`logs`]: worker processes, their flight pages and their output
//! - [`rank_link`], [`roster`]: words with the workers over a unix socket
//! - [`snapshots`]: snapshots in memory, of its own ranks and of other nodes
//! - [`store`], [`store_service`]: the rendezvous stores, for workers and other agents
//! - [`link`]: the connection to the controller
//! - [`storage`]: manifests; [`probe`]: facts about the node; [`state`]: the state directory
//! - [`watch`]: probes of GPUs, kernel log, host and storage
//!
//! Nothing here decides what happens to a run.

pub mod driver;
pub mod link;
pub mod logs;
pub mod nccl;
pub mod probe;
pub mod process;
pub mod rank_link;
pub mod ranks;
pub mod reader;
pub mod roster;
pub mod snapshots;
pub mod standby;
pub mod state;
pub mod storage;
pub mod store;
pub mod store_service;
pub mod watch;

use driver::{Driver, Input, MOST_WAITING};
use link::{Connector, Link};
use rank_link::RankLinkService;
use ranks::{Launch, Ranks};
use rebloom_core::id::NodeId;
use rebloom_core::labels::Labels;
use rebloom_core::ladder::gate::Nccl;
use rebloom_core::report::NodeFacts;
use rebloom_core::supervisor::{Config, Supervisor};
use rebloom_proto::MAX_MESSAGE;
use rebloom_proto::wire::rank_link_server::RankLinkServer;
use rebloom_proto::wire::snapshots_server::SnapshotsServer;
use rebloom_proto::wire::store_server::StoreServer;
use rebloom_runtime::shutdown::Shutdown;
use rebloom_runtime::snapshots::Memory;
use rebloom_runtime::telemetry::Seldom;
use rebloom_runtime::tls::{self, ClientTls, Role, ServerTls};
use roster::Roster;
use snapshots::{Shelves, SnapshotService};
use state::State;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use store::Stores;
use store_service::{Door, Routes, StoreService};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tonic::transport::Server;
use watch::{Reference, Watch};

/// How an agent is set up.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The node it keeps.
    pub node: NodeId,
    /// Its state directory.
    pub state: PathBuf,
    /// `host:port` of the controller.
    pub controller: String,
    /// Where its key and certificate lie.
    pub tls: PathBuf,
    /// Ranks the node can hold.
    pub slots: u32,
    /// Names of its GPUs, by slot.
    pub gpus: Vec<String>,
    /// The version of NCCL that its workers use, where it is known.
    pub nccl: Option<Nccl>,
    /// What its admin says of it: `rack`, `fabric`, ...
    pub labels: Labels,
    /// Where other agents reach its rendezvous stores.
    pub listen: SocketAddr,
    /// How workers are started.
    pub launch: Launch,
    /// The supervisor's times.
    pub config: Config,
    /// What its probes look at; none for no probes.
    pub watch: Option<Watch>,
    /// Whether its ranks end with it; otherwise they go on and its next life adopts them.
    pub end_ranks: bool,
}

/// Runs an agent until `shutdown` is asked for.
pub async fn run(settings: Settings, shutdown: Shutdown) -> anyhow::Result<()> {
    let state = Arc::new(State::open(&settings.state)?);
    let role = Role::Agent(settings.node.clone());
    let client_tls = ClientTls::load(&settings.tls, &role)?;
    let server_tls = ServerTls::load(&settings.tls, &role)?;
    let memory = state.recall()?;
    let listener = TcpListener::bind(settings.listen)
        .await
        .map_err(|error| anyhow::anyhow!("cannot listen on {}: {error}", settings.listen))?;
    let store_address = listener.local_addr()?.to_string();
    let facts = probe::facts(
        settings.node.clone(),
        settings.slots,
        (settings.gpus, settings.nccl),
        store_address,
        settings.labels,
    );
    tell(&facts);

    let (back, inputs) = mpsc::channel(MOST_WAITING);
    let (roster, stores) = (Arc::new(Roster::default()), Arc::new(Stores::default()));
    let routes = Arc::new(Routes::new(client_tls.clone(), settings.node.clone()));
    let shelves = settings.launch.snapshots.as_deref().map(Memory::at);
    let shelves = shelves.map(|memory| Arc::new(Shelves::new(memory, client_tls.clone())));
    serve_agents(listener, &server_tls, Arc::clone(&stores), shelves.clone());
    let orphan_after = settings.config.orphan_after;
    let reference = settings
        .watch
        .as_ref()
        .map_or_else(Reference::default, |watch| watch.reference.clone());
    let connector = Connector {
        controller: settings.controller,
        tls: client_tls,
        facts,
        state: Arc::clone(&state),
        orphan_after,
        reference,
        inputs: back.clone(),
    };
    tokio::spawn(connector.run());
    if let Some(watch) = settings.watch {
        tokio::spawn(watch::run(watch, back.clone()));
    }
    let mut driver = Driver {
        supervisor: Supervisor::new(settings.config, memory),
        ranks: Ranks::new(
            Arc::clone(&state),
            settings.launch,
            Arc::clone(&roster),
            back.clone(),
        ),
        stores: Arc::clone(&stores),
        routes: Arc::clone(&routes),
        memory: state.memory(),
        inputs,
        back: back.clone(),
        link: Link::default(),
        shelves: shelves.clone(),
        unwritten: None,
    };
    driver.adopt().await;
    let door = Door::Workers {
        roster: Arc::clone(&roster),
        routes,
    };
    let store = StoreService::new(stores, door);
    serve_workers(&state, store, shelves, &back, &roster)?;
    driver.run(shutdown, settings.end_ranks).await;
    Ok(())
}

fn tell(facts: &NodeFacts) {
    let NodeFacts {
        node,
        slots,
        gpus,
        store_address,
        host,
        cores,
        memory,
        nccl,
        labels,
    } = facts;
    let gpus = gpus.len();
    let nccl = nccl.map(|version| version.to_string());
    tracing::info!(
        %node, slots, gpus, nccl, store_address, host, cores, memory, ?labels,
        "agent starts"
    );
}

/// The unix socket: words, rendezvous and snapshots of this node's workers.
fn serve_workers(
    state: &State,
    store: StoreService,
    shelves: Option<Arc<Shelves>>,
    inputs: &mpsc::Sender<Input>,
    roster: &Arc<Roster>,
) -> Result<(), rank_link::CannotListen> {
    let connections = rank_link::listen(&state.socket())?;
    let words = RankLinkService::new(inputs.clone(), Arc::clone(roster));
    let server = Server::builder()
        .add_service(RankLinkServer::new(words))
        .add_service(StoreServer::new(store))
        .add_optional_service(shelves.map(|shelves| {
            let door = snapshots::Door::Workers(Arc::clone(roster));
            SnapshotsServer::new(SnapshotService::new(shelves, door))
        }))
        .serve_with_incoming(connections);
    tokio::spawn(async move {
        if let Err(error) = server.await {
            tracing::error!(%error, "the workers' socket is closed");
        }
    });
    Ok(())
}

/// The TCP port: rendezvous of other agents' workers, and snapshots.
fn serve_agents(
    listener: TcpListener,
    tls: &ServerTls,
    stores: Arc<Stores>,
    shelves: Option<Arc<Shelves>>,
) {
    let seldom = Seldom::new(Duration::from_secs(60));
    let connections = tls::listen(listener, tls, move |from, why, error| {
        if let Some(held) = seldom.admit((from, why)) {
            tracing::warn!(?from, %why, %error, held, "refused a connection");
        }
    });
    let server = tls::server()
        .add_service(StoreServer::new(StoreService::new(stores, Door::Agents)))
        .add_optional_service(shelves.map(|shelves| {
            SnapshotsServer::new(SnapshotService::new(shelves, snapshots::Door::Agents))
                .max_decoding_message_size(MAX_MESSAGE)
        }))
        .serve_with_incoming(connections);
    tokio::spawn(async move {
        if let Err(error) = server.await {
            tracing::error!(%error, "the agents' port is closed");
        }
    });
}
