//! Who speaks to whom: mutual TLS from a local authority, and the role that a certificate gives.
//!
//! A certificate names exactly one role by a URI (`spiffe://rebloom/agent/node-1`). rustls checks that
//! the cluster's own authority signed it and that it is in date; what a role may do is decided at
//! every call, from [`peer_role`]. Nothing here trusts an address or a host name.

mod authority;
mod listen;

pub use authority::Authority;
pub use listen::{Connections, Refused, listen};

use crate::files;
use rebloom_core::id::{Digest, NodeId};
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{self, RootCertStore, ServerConfig, version};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity, Server};
use tonic::{Request, Status};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// How often an idle link is asked for a sign of life.
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(2);
/// How long that sign may take before the link counts as cut. A busy node needs a second at times.
const KEEP_ALIVE_WITHIN: Duration = Duration::from_secs(3);
const CONNECT_WITHIN: Duration = Duration::from_secs(3);

/// Something wrong with keys or certificates.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file.
    #[error(transparent)]
    File(#[from] files::Error),
    /// A file does not hold what it should.
    #[error("{file} does not hold {what}: {error}")]
    Content {
        /// Which file.
        file: String,
        /// What was looked for.
        what: &'static str,
        /// Why it is not that.
        error: String,
    },
    /// A certificate could not be made.
    #[error("cannot make a certificate for {role}: {error}")]
    Make {
        /// For whom.
        role: String,
        /// What went wrong.
        error: String,
    },
    /// rustls or tonic refuse the key material.
    #[error("the TLS files of {role} do not fit together: {error}")]
    Unfit {
        /// Whose.
        role: String,
        /// What went wrong.
        error: String,
    },
}

/// What the holder of a certificate is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// The controller.
    Controller,
    /// The agent of one node; it may speak for that node only.
    Agent(NodeId),
    /// Someone who may use the admin API.
    Admin(String),
}

impl Role {
    /// Name of its files without their ending: `controller`, `agent-<node>`, `admin-<name>`.
    pub fn file_stem(&self) -> String {
        self.to_string().replace('/', "-")
    }

    /// The name that a client expects of the server it calls.
    pub const fn server_name(&self) -> &'static str {
        match self {
            Self::Controller => "controller.rebloom",
            Self::Agent(_) => "agent.rebloom",
            Self::Admin(_) => "admin.rebloom",
        }
    }

    fn uri(&self) -> String {
        format!("{URI_PREFIX}{self}")
    }

    fn from_uri(uri: &str) -> Option<Self> {
        let path = uri.strip_prefix(URI_PREFIX)?;
        match path.split_once('/') {
            None if path == "controller" => Some(Self::Controller),
            Some(("agent", node)) => NodeId::new(node).ok().map(Self::Agent),
            // Admins are named by the same rule as nodes.
            Some(("admin", name)) => NodeId::new(name).ok().map(|name| Self::Admin(name.into())),
            Some(_) | None => None,
        }
    }
}

const URI_PREFIX: &str = "spiffe://rebloom/";

/// As in its URI: `controller`, `agent/<node>`, `admin/<name>`.
impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Controller => f.write_str("controller"),
            Self::Agent(node) => write!(f, "agent/{node}"),
            Self::Admin(name) => write!(f, "admin/{name}"),
        }
    }
}

/// The three PEM files of a role.
struct Files {
    authority: Vec<u8>,
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl Files {
    fn read(directory: &Path, role: &Role) -> Result<Self, Error> {
        let read = |name: String| files::read(&directory.join(name));
        Ok(Self {
            authority: read("ca.pem".to_owned())?,
            certificate: read(format!("{}.pem", role.file_stem()))?,
            key: read(format!("{}.key", role.file_stem()))?,
        })
    }
}

fn unfit(role: &Role) -> impl Fn(String) -> Error {
    let role = role.to_string();
    move |error| Error::Unfit {
        role: role.clone(),
        error,
    }
}

/// A server's side of mutual TLS: takes only clients whose certificate the cluster's authority signed.
#[derive(Debug, Clone)]
pub struct ServerTls(Arc<ServerConfig>);

impl ServerTls {
    /// Reads `ca.pem` and the role's own files.
    pub fn load(directory: &Path, role: &Role) -> Result<Self, Error> {
        let files = Files::read(directory, role)?;
        let unfit = unfit(role);
        let certificates = |pem: &[u8]| {
            CertificateDer::pem_slice_iter(pem)
                .collect::<Result<Vec<_>, _>>()
                .map_err(|error| unfit(error.to_string()))
        };
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&files.authority)? {
            roots
                .add(certificate)
                .map_err(|error| unfit(error.to_string()))?;
        }
        let provider = Arc::new(ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone())
            .build()
            .map_err(|error| unfit(error.to_string()))?;
        let key = PrivateKeyDer::from_pem_slice(&files.key).map_err(|e| unfit(e.to_string()))?;
        let refuse = |error: rustls::Error| unfit(error.to_string());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&version::TLS13])
            .map_err(refuse)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(certificates(&files.certificate)?, key)
            .map_err(refuse)?;
        config.alpn_protocols.push(b"h2".to_vec());
        Ok(Self(Arc::new(config)))
    }
}

/// A gRPC server that notices within seconds that a link is cut. Serve it with the connections that
/// [`listen`] gives.
pub fn server() -> Server {
    Server::builder()
        .tcp_nodelay(true)
        .http2_keepalive_interval(Some(KEEP_ALIVE_EVERY))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_WITHIN))
        .http2_max_header_list_size(16 * 1024)
        .max_concurrent_streams(256)
}

/// A client's side of mutual TLS.
#[derive(Debug, Clone)]
pub struct ClientTls {
    role: Role,
    config: ClientTlsConfig,
}

impl ClientTls {
    /// Reads `ca.pem` and the role's own files.
    pub fn load(directory: &Path, role: &Role) -> Result<Self, Error> {
        let files = Files::read(directory, role)?;
        let config = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(files.authority))
            .identity(Identity::from_pem(files.certificate, files.key));
        Ok(Self {
            role: role.clone(),
            config,
        })
    }

    /// Where to reach a server of the given role at `host:port`. The link is asked for signs of life
    /// also while nothing is said, so that a cut is noticed within seconds.
    pub fn endpoint(&self, address: &str, server: &Role) -> Result<Endpoint, Error> {
        let unfit = unfit(&self.role);
        Endpoint::from_shared(format!("https://{address}"))
            .and_then(|endpoint| {
                let endpoint = endpoint
                    .tcp_nodelay(true)
                    .connect_timeout(CONNECT_WITHIN)
                    .http2_keep_alive_interval(KEEP_ALIVE_EVERY)
                    .keep_alive_timeout(KEEP_ALIVE_WITHIN)
                    .keep_alive_while_idle(true);
                endpoint.tls_config(self.config.clone().domain_name(server.server_name()))
            })
            .map_err(|error| unfit(crate::telemetry::chain(&error)))
    }
}

/// The role that the caller's certificate gives it.
pub fn peer_role<T>(request: &Request<T>) -> Result<Role, Status> {
    with_peer(request, |certificate| {
        let names = certificate.subject_alternative_name().ok().flatten();
        let mut uris = names
            .iter()
            .flat_map(|names| &names.value.general_names)
            .filter_map(|name| {
                if let GeneralName::URI(uri) = name {
                    Some(*uri)
                } else {
                    None
                }
            });
        match (uris.next().and_then(Role::from_uri), uris.next()) {
            (Some(role), None) => Ok(role),
            (Some(_) | None, _) => Err(Status::permission_denied(
                "the certificate does not name one role",
            )),
        }
    })
}

/// SHA-256 of the public key that the caller proved to hold. It stays the same when a certificate
/// is renewed, and differs between two agents that claim one name.
pub fn peer_identity<T>(request: &Request<T>) -> Result<Digest, Status> {
    with_peer(request, |certificate| {
        Ok(Digest(Sha256::digest(certificate.public_key().raw).into()))
    })
}

fn with_peer<T, R>(
    request: &Request<T>,
    read: impl FnOnce(&X509Certificate<'_>) -> Result<R, Status>,
) -> Result<R, Status> {
    let certificates = request.peer_certs();
    let leaf = certificates
        .as_ref()
        .and_then(|certificates| certificates.first());
    let leaf = leaf.ok_or_else(|| Status::unauthenticated("no certificate was shown"))?;
    let (_, certificate) = X509Certificate::from_der(leaf)
        .map_err(|_| Status::unauthenticated("the certificate cannot be read"))?;
    read(&certificate)
}

#[cfg(test)]
mod tests;
