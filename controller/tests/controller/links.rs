//! What links do to each other: nothing.

use crate::fleet::*;
use rebloom_core::engine::{NodeState, NodeView};
use rebloom_proto::link::FromAgent;
use rebloom_proto::wire;
use rebloom_runtime::tls::{ClientTls, Role};
use tonic::Code;

#[tokio::test]
async fn an_agent_that_does_not_read_holds_nobody_up() {
    let cluster = cluster();
    let server = Server::start(cluster.path()).await;
    let tls = ClientTls::load(&cluster.path().join("tls"), &agent_role("n1")).unwrap();
    // A window this small is full at once, so that what follows piles up on the controller's side.
    let endpoint = tls
        .endpoint(&server.address.to_string(), &Role::Controller)
        .unwrap();
    let channel = endpoint
        .initial_stream_window_size(64)
        .connect()
        .await
        .unwrap();
    let mut slow = Agent::attach(channel, "n1").await.unwrap();
    slow.join(vec![]).await.unwrap();
    let mut other = server.join("n2").await;
    server.until_metric("rebloom_links 2").await;

    // Every report is acknowledged; nobody reads that.
    for _ in 0..3000 {
        slow.report(stale()).await;
    }
    server.until_metric("rebloom_links 1").await;
    server
        .until_metric("rebloom_refusals_total{kind=\"SlowAgent\"} 1")
        .await;
    let sequence = other.report(stale()).await;
    other.acked(sequence).await;
    assert_eq!(slow.closed().await, Code::ResourceExhausted);
    server.stop().await;
}

#[tokio::test]
async fn a_second_link_of_an_agent_replaces_the_first() {
    let cluster = cluster();
    let server = Server::start(cluster.path()).await;
    let mut first = server.attach("n1").await;
    let before = first.join(vec![]).await.unwrap();
    let mut second = server.attach("n1").await;
    let after = second.join(vec![]).await.unwrap();
    assert!(after.session > before.session);
    assert_eq!(first.closed().await, Code::Aborted);
    server.until_metric("rebloom_links 1").await;
    let sequence = second.report(stale()).await;
    second.acked(sequence).await;

    let nodes = server
        .admin()
        .await
        .list_nodes(wire::ListNodesRequest {})
        .await
        .unwrap();
    let nodes: Vec<NodeView> = nodes
        .into_inner()
        .nodes
        .into_iter()
        .map(|node| node.try_into().unwrap())
        .collect();
    assert_eq!(nodes.len(), 1);
    assert_eq!(nodes[0].state, NodeState::Ready);
    server.stop().await;
}

#[tokio::test]
async fn a_link_begins_with_one_join_of_its_own_node() {
    let cluster = cluster();
    let server = Server::start(cluster.path()).await;

    let mut agent = server.attach("n1").await;
    agent.beat().await;
    assert_eq!(agent.closed().await, Code::FailedPrecondition);

    let mut agent = server.attach("n1").await;
    agent.node = node("n2");
    assert_eq!(
        agent.join(vec![]).await.unwrap_err().code(),
        Code::PermissionDenied
    );

    let mut agent = server.join("n1").await;
    let facts = agent.facts();
    let join = rebloom_core::report::Join {
        facts,
        runs: vec![],
    };
    agent.say(FromAgent::Join(join)).await;
    assert_eq!(agent.closed().await, Code::FailedPrecondition);
    server
        .until_metric("rebloom_refusals_total{kind=\"OtherNode\"} 1")
        .await;
    server.until_metric("rebloom_links 0").await;

    let mut silent = server.attach("n1").await;
    assert_eq!(silent.closed().await, Code::DeadlineExceeded);
    server.stop().await;
}
