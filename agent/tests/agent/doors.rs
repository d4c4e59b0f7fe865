//! Who may come in: at start, on the unix socket, on the TCP port, and at the controller.

use crate::cluster::{Cluster, LONG, node, stat, until};
use rebloom_core::id::{Generation, Rank};
use rebloom_core::order::Order;
use rebloom_core::report::Milestone;
use rebloom_core::word::{FromWorker, Hello};
use rebloom_proto::rank::FromRank;
use rebloom_proto::wire::rank_link_client::RankLinkClient;
use rebloom_proto::wire::store_client::StoreClient;
use rebloom_proto::wire::{StoreCountRequest, StorePlace, StoreSetRequest};
use rebloom_runtime::tls::{ClientTls, Role};
use rustix::process::Signal;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Output;
use tokio_stream::StreamExt;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

async fn unix_channel(socket: PathBuf) -> Channel {
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move {
            let stream = tokio::net::UnixStream::connect(socket).await?;
            Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(stream))
        }
    });
    Endpoint::from_static("http://agent")
        .connect_with_connector(connector)
        .await
        .unwrap()
}

fn place(run: &str, generation: u64) -> Option<StorePlace> {
    Some(StorePlace {
        run: run.to_owned(),
        generation,
    })
}

async fn hello(channel: Channel, run: &str, rank: u32, pid: u32) -> Status {
    let hello = FromWorker::Hello(Hello {
        run: crate::cluster::run_id(run),
        rank: Rank(rank),
        pid,
        generation: Generation(0),
        milestone: Milestone::Going,
    });
    let words = tokio_stream::iter([FromRank {
        sequence: 1,
        word: hello,
    }
    .into()])
    .chain(tokio_stream::pending());
    match RankLinkClient::new(channel).attach(words).await {
        Err(status) => status,
        Ok(stream) => stream.into_inner().message().await.expect_err("refused"),
    }
}

#[tokio::test]
async fn a_process_that_is_no_rank_gets_nothing_from_the_socket() {
    let mut cluster = Cluster::new().await;
    let (agent, join) = cluster.joined("a").await;
    let [rank, _] = cluster.train("a", "demo", &join).await;
    let socket = agent.state.join("agent.sock");
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&agent.state), mode(&socket)), (0o700, 0o600));

    let channel = unix_channel(socket).await;
    for pid in [rank, std::process::id()] {
        let status = hello(channel.clone(), "demo", 0, pid).await;
        assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    }
    let mut store = StoreClient::new(channel);
    let status = store
        .count(StoreCountRequest {
            place: place("demo", 1),
        })
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    assert!(stat(rank).is_some());
    let refusals = agent.log().matches("refused a worker").count();
    assert_eq!(refusals, 1, "each stranger is told of once");
}

#[tokio::test]
async fn garbage_on_any_door_changes_nothing() {
    let mut cluster = Cluster::new().await;
    let (agent, join) = cluster.joined("a").await;
    let garbage: Vec<u8> = (0..100_000_u32).map(|i| (i * 31 % 251) as u8).collect();
    for _ in 0..20 {
        let mut stream = std::os::unix::net::UnixStream::connect(agent.state.join("agent.sock"));
        send(stream.as_mut().unwrap(), &garbage);
        let mut stream = std::net::TcpStream::connect(&join.facts.store_address);
        send(stream.as_mut().unwrap(), &garbage);
    }
    cluster.train("a", "demo", &join).await;
    let log = agent.log();
    assert_eq!(log.matches("refused a connection").count(), 1, "{log}");
}

/// The other side may close before it has taken everything.
fn send(stream: &mut (impl Read + Write), bytes: &[u8]) {
    drop(stream.write_all(bytes));
    drop(stream.read(&mut [0; 64]));
}

#[tokio::test]
async fn ranks_on_two_nodes_meet_in_the_store_of_one_and_only_agents_may_come() {
    let mut cluster = Cluster::new().await;
    let (_a, host) = cluster.joined("a").await;
    let (_b, _) = cluster.joined("b").await;
    for (name, rank) in [("b", 1), ("a", 0)] {
        let start = cluster.a_start("demo", 1, &[rank], &host);
        cluster.order(name, Order::Start(start)).await;
    }
    cluster.steps("b", 1, 1).await;

    let endpoint = |role: Role| {
        let tls = ClientTls::load(&cluster.tls(), &role).unwrap();
        tls.endpoint(&host.facts.store_address, &Role::Agent(node("a")))
            .unwrap()
    };
    let peer = endpoint(Role::Agent(node("b"))).connect().await.unwrap();
    let mut store = StoreClient::new(peer);
    let request = StoreCountRequest {
        place: place("demo", 1),
    };
    let keys = store
        .count(request.clone())
        .await
        .unwrap()
        .into_inner()
        .keys;
    assert_eq!(keys, 3, "two names and the number of those that formed");

    let mut ruled_out = StoreClient::new(
        endpoint(Role::Admin("ada".to_owned()))
            .connect()
            .await
            .unwrap(),
    );
    let status = ruled_out.count(request).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    let plain = Endpoint::from_shared(format!("http://{}", host.facts.store_address)).unwrap();
    let outcome = match plain.connect().await {
        Ok(channel) => StoreClient::new(channel)
            .count(StoreCountRequest {
                place: place("demo", 1),
            })
            .await
            .map(drop),
        Err(_) => Err(Status::unavailable("closed")),
    };
    assert!(outcome.is_err());

    // A newer generation closes the old store.
    let start = cluster.a_start("demo", 2, &[0], &host);
    cluster.order("a", Order::Start(start)).await;
    let request = StoreSetRequest {
        place: place("demo", 1),
        key: "k".into(),
        value: vec![1],
    };
    let wait = async {
        while store.set(request.clone()).await.is_ok() {
            tokio::task::yield_now().await;
        }
        store.set(request.clone()).await.unwrap_err()
    };
    let status = tokio::time::timeout(LONG, wait).await.unwrap();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
}

#[tokio::test]
async fn an_agent_that_is_refused_says_so_once_and_asks_again() {
    let mut cluster = Cluster::new().await;
    cluster.refuse(true);
    let mut agent = cluster.start("a", &[]);
    until("a second attempt", || cluster.attempts() >= 2).await;
    assert_eq!(agent.log().matches("known by another identity").count(), 1);
    assert!(agent.child.try_wait().unwrap().is_none());
    cluster.refuse(false);
    cluster.join_of("a").await;
    agent.signal(Signal::TERM);
    assert!(agent.end().await.success());
}

fn outcome(cluster: &Cluster, more: &[&str]) -> (Option<i32>, String) {
    let Output { status, stderr, .. } = cluster.command("a").args(more).output().unwrap();
    (status.code(), String::from_utf8(stderr).unwrap())
}

#[tokio::test]
async fn absurd_arguments_are_named_and_nothing_is_started() {
    let cluster = Cluster::new().await;
    for (argument, value, says) in [
        ("--beat-ms", "0", "--beat-ms"),
        ("--orphan-after-ms", "-5", "--orphan-after-ms"),
        (
            "--listen",
            "0.0.0.0:0",
            "no address that others can connect to",
        ),
        ("--listen", "nonsense", "--listen"),
        ("--controller", "nowhere", "--controller"),
        ("--worker", "/nowhere/worker", "/nowhere/worker"),
        ("--worker", "/tmp", "is not a file"),
        ("--interface", "", "--interface"),
        ("--snapshots", "shm", "not an absolute path"),
        ("--no-such-thing", "1", "--no-such-thing"),
    ] {
        let (code, stderr) = outcome(&cluster, &[argument, value]);
        assert_eq!(code, Some(2), "{argument} {value}: {stderr}");
        assert!(stderr.contains(says), "{argument} {value}: {stderr}");
    }
    assert!(!cluster.state("a").exists());
}

#[tokio::test]
async fn a_state_directory_and_a_certificate_belong_to_one_agent() {
    let mut cluster = Cluster::new().await;
    let (_agent, _) = cluster.joined("a").await;
    let (code, says) = outcome(&cluster, &[]);
    assert_eq!(code, Some(1), "{says}");
    assert!(says.contains("in use by process"), "{says}");
    let output = cluster.command("nobody").output().unwrap();
    let says = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{says}");
    assert!(says.contains("agent-nobody.pem"), "{says}");
}
