use super::*;
use std::net::{Ipv4Addr, SocketAddr};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tonic::Code;
use tonic::service::InterceptorLayer;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

fn node(name: &str) -> Role {
    Role::Agent(NodeId::new(name).unwrap())
}

fn admin() -> Role {
    Role::Admin("root".to_owned())
}

struct Cluster {
    directory: tempfile::TempDir,
    address: SocketAddr,
    refusals: mpsc::UnboundedReceiver<Refused>,
    callers: mpsc::UnboundedReceiver<(Role, Digest)>,
}

impl Cluster {
    /// A server that takes calls of admins only and writes down who calls.
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::create(directory.path()).unwrap();
        for role in [Role::Controller, node("n1"), admin()] {
            authority.issue(&role).unwrap();
        }
        let tls = ServerTls::load(directory.path(), &Role::Controller).unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (refuse, refusals) = mpsc::unbounded_channel();
        let (call, callers) = mpsc::unbounded_channel();
        let connections = listen(listener, &tls, move |_, why, _| refuse.send(why).unwrap());
        let guard = move |request: Request<()>| {
            let role = peer_role(&request)?;
            call.send((role.clone(), peer_identity(&request)?)).unwrap();
            match role {
                Role::Admin(_) => Ok(request),
                Role::Controller | Role::Agent(_) => Err(Status::permission_denied("admins only")),
            }
        };
        let (_, health) = tonic_health::server::health_reporter();
        let server = server()
            .layer(InterceptorLayer::new(guard))
            .add_service(health);
        tokio::spawn(server.serve_with_incoming(connections));
        Self {
            directory,
            address,
            refusals,
            callers,
        }
    }

    async fn call(&self, tls: &ClientTls) -> Result<(), Code> {
        let endpoint = tls
            .endpoint(&self.address.to_string(), &Role::Controller)
            .unwrap();
        let channel = endpoint.connect().await.map_err(|_| Code::Unavailable)?;
        let check = HealthCheckRequest {
            service: String::new(),
        };
        HealthClient::new(channel)
            .check(check)
            .await
            .map(drop)
            .map_err(|status| status.code())
    }

    fn client(&self, role: &Role) -> ClientTls {
        ClientTls::load(self.directory.path(), role).unwrap()
    }
}

#[tokio::test]
async fn the_role_of_a_certificate_decides() {
    let mut cluster = Cluster::start().await;
    assert_eq!(cluster.call(&cluster.client(&admin())).await, Ok(()));
    assert_eq!(cluster.callers.recv().await.unwrap().0, admin());
    let agent = cluster.client(&node("n1"));
    assert_eq!(cluster.call(&agent).await, Err(Code::PermissionDenied));
    let (role, identity) = cluster.callers.recv().await.unwrap();
    assert_eq!(role, node("n1"));

    // A renewed certificate is the same holder.
    Authority::load(cluster.directory.path())
        .unwrap()
        .issue(&node("n1"))
        .unwrap();
    assert_eq!(
        cluster.call(&cluster.client(&node("n1"))).await,
        Err(Code::PermissionDenied)
    );
    assert_eq!(cluster.callers.recv().await.unwrap(), (role, identity));
}

#[tokio::test]
async fn strangers_are_refused_by_reason() {
    let mut cluster = Cluster::start().await;
    let ca = files::read(&cluster.directory.path().join("ca.pem")).unwrap();

    let bare = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca));
    let bare = ClientTls {
        role: admin(),
        config: bare,
    };
    cluster.call(&bare).await.unwrap_err();
    assert_eq!(cluster.refusals.recv().await, Some(Refused::Certificate));

    let other = tempfile::tempdir().unwrap();
    Authority::create(other.path())
        .unwrap()
        .issue(&admin())
        .unwrap();
    let ca = cluster.directory.path().join("ca.pem");
    std::fs::copy(ca, other.path().join("ca.pem")).unwrap();
    cluster
        .call(&ClientTls::load(other.path(), &admin()).unwrap())
        .await
        .unwrap_err();
    assert_eq!(cluster.refusals.recv().await, Some(Refused::Certificate));

    let authority = Authority::load(cluster.directory.path()).unwrap();
    let late = Role::Admin("late".to_owned());
    authority.issue_for(&late, Duration::from_secs(60)).unwrap();
    cluster.call(&cluster.client(&late)).await.unwrap_err();
    assert_eq!(cluster.refusals.recv().await, Some(Refused::Certificate));

    let mut garbage = TcpStream::connect(cluster.address).await.unwrap();
    garbage.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    assert_eq!(cluster.refusals.recv().await, Some(Refused::Garbage));
    // (What comes back is a TLS alert and the end.)
    drop(garbage.read_to_end(&mut Vec::new()).await);

    drop(TcpStream::connect(cluster.address).await.unwrap());
    assert_eq!(cluster.refusals.recv().await, Some(Refused::Incomplete));

    assert_eq!(cluster.call(&cluster.client(&admin())).await, Ok(()));
    assert!(cluster.refusals.try_recv().is_err());
}

#[tokio::test]
async fn a_client_takes_no_agent_for_the_controller() {
    let cluster = Cluster::start().await;
    let endpoint = cluster
        .client(&admin())
        .endpoint(&cluster.address.to_string(), &node("n1"))
        .unwrap();
    endpoint.connect().await.unwrap_err();
}

#[test]
fn a_uri_names_one_role() {
    for role in [Role::Controller, node("n1"), admin()] {
        assert_eq!(Role::from_uri(&role.uri()), Some(role));
    }
    for uri in [
        "",
        "spiffe://other/controller",
        "spiffe://rebloom/agent/",
        "spiffe://rebloom/agent/a/b",
    ] {
        assert_eq!(Role::from_uri(uri), None, "{uri}");
    }
}

#[test]
fn what_is_missing_or_damaged_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let error = ServerTls::load(directory.path(), &Role::Controller)
        .unwrap_err()
        .to_string();
    assert!(error.contains("ca.pem"), "{error}");
    let authority = Authority::create(directory.path()).unwrap();
    authority.issue(&Role::Controller).unwrap();
    authority.issue(&node("n1")).unwrap();
    let at = |name: &str| directory.path().join(name);
    std::fs::copy(at("agent-n1.key"), at("controller.key")).unwrap();
    let error = ServerTls::load(directory.path(), &Role::Controller)
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("the TLS files of controller do not fit together"),
        "{error}"
    );
    std::fs::write(at("ca.key"), "nothing").unwrap();
    let error = Authority::load(directory.path()).unwrap_err().to_string();
    assert!(
        error.contains("ca.key does not hold a private key"),
        "{error}"
    );
}
