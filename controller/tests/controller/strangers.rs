//! Whoever does not belong, or not there, is refused, and harms nobody.

use crate::fleet::*;
use rebloom_proto::wire;
use rebloom_proto::wire::admin_client::AdminClient;
use rebloom_runtime::tls::Authority;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

#[tokio::test]
async fn each_role_has_its_own_calls() {
    let cluster = cluster();
    let server = Server::start(cluster.path()).await;
    let mut agent = AdminClient::new(server.channel(&agent_role("n1")).await);
    let refused = agent.list_runs(wire::ListRunsRequest {}).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let refused = agent
        .submit_run(submission(spec("bloom")))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let refused = Agent::attach(server.channel(&admin_role()).await, "n1")
        .await
        .err()
        .unwrap();
    assert_eq!(refused.code(), Code::PermissionDenied);
    server
        .until_metric("rebloom_refusals_total{kind=\"WrongRole\"} 3")
        .await;
    let runs = server
        .admin()
        .await
        .list_runs(wire::ListRunsRequest {})
        .await
        .unwrap();
    assert!(runs.into_inner().runs.is_empty());
    server.stop().await;
}

#[tokio::test]
async fn a_known_name_with_another_key_is_refused() {
    let cluster = cluster();
    let server = Server::start(cluster.path()).await;
    let mut owner = server.join("n1").await;
    // Someone with access to the authority makes a second certificate for the same name.
    let key = cluster.path().join("tls/agent-n1.key");
    std::fs::remove_file(key).unwrap();
    let authority = Authority::load(&cluster.path().join("tls")).unwrap();
    authority.issue(&agent_role("n1")).unwrap();
    let mut impostor = server.attach("n1").await;
    let refused = impostor.join(vec![]).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(
        refused.message().contains("another identity"),
        "{}",
        refused.message()
    );
    // The one it posed as goes on over its link.
    let sequence = owner.report(stale()).await;
    owner.acked(sequence).await;
    server.stop().await;
}

#[tokio::test]
async fn garbage_on_any_port_does_no_harm() {
    let cluster = cluster();
    let server = Server::start(cluster.path()).await;
    let mut agent = server.join("n1").await;
    let garbage: Vec<u8> = (0..70_000_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    for address in [server.address, server.metrics] {
        for bytes in [
            &garbage[..],
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01",
            b"",
        ] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            // (It may be cut off before it has said everything.)
            stream.write_all(bytes).await.ok();
            stream.shutdown().await.ok();
            stream.read_to_end(&mut Vec::new()).await.ok();
        }
    }
    server
        .until_metric("rebloom_refusals_total{kind=\"Garbage\"} 2")
        .await;
    server
        .until_metric("rebloom_refusals_total{kind=\"Incomplete\"} 2")
        .await;
    let sequence = agent.report(stale()).await;
    agent.acked(sequence).await;
    assert!(server.get("/healthz").await.starts_with("HTTP/1.1 200"));
    assert!(server.get("/other").await.starts_with("HTTP/1.1 404"));
    server.stop().await;
}

#[tokio::test]
async fn health_and_reflection_are_served() {
    let cluster = cluster();
    let server = Server::start(cluster.path()).await;
    let channel = server.channel(&admin_role()).await;
    for service in ["", "rebloom.v1.Admin", "rebloom.v1.AgentLink"] {
        let check = HealthCheckRequest {
            service: service.to_owned(),
        };
        let health = HealthClient::new(channel.clone())
            .check(check)
            .await
            .unwrap()
            .into_inner();
        assert_eq!(health.status, 1, "{service}");
    }
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut client = ServerReflectionClient::new(channel);
    let answers = client
        .server_reflection_info(tokio_stream::iter([request]))
        .await
        .unwrap();
    let answer = answers
        .into_inner()
        .message()
        .await
        .unwrap()
        .unwrap()
        .message_response
        .unwrap();
    let MessageResponse::ListServicesResponse(list) = answer else {
        panic!("{answer:?}")
    };
    let names: Vec<_> = list
        .service
        .into_iter()
        .map(|service| service.name)
        .collect();
    for name in [
        "rebloom.v1.Admin",
        "rebloom.v1.AgentLink",
        "grpc.health.v1.Health",
    ] {
        assert!(names.iter().any(|known| known == name), "{names:?}");
    }
    server.stop().await;
}
