//! The gRPC services, each open to the roles it is for.

mod admin;
mod guard;
mod link;

use crate::links::Links;
use crate::owner::Handle;
use crate::refusals::Refusals;
use guard::Guard;
use rebloom_core::time::Instant;
use rebloom_proto::wire::admin_server::AdminServer;
use rebloom_proto::wire::agent_link_server::AgentLinkServer;
use rebloom_proto::{FILE_DESCRIPTOR_SET, MAX_MESSAGE};
use rebloom_runtime::tls::{self, Connections};
use std::sync::Arc;

/// A run spec and its name is all that admins send.
const MAX_ADMIN_MESSAGE: usize = 1 << 20;

/// What the services need.
#[derive(Debug, Clone)]
pub(crate) struct Parts {
    pub(crate) handle: Handle,
    pub(crate) links: Arc<Links>,
    pub(crate) refusals: Arc<Refusals>,
    pub(crate) started: Instant,
}

/// Serves agents and admins, with health and reflection beside them.
pub(crate) async fn serve(
    connections: Connections,
    parts: Parts,
) -> Result<(), tonic::transport::Error> {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter
        .set_serving::<AgentLinkServer<link::Service>>()
        .await;
    reporter.set_serving::<AdminServer<admin::Service>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .expect("the descriptors were compiled with this program");
    let guard = Guard::new(parts.refusals.clone());
    let agents = AgentLinkServer::new(link::Service::new(parts.clone(), guard.clone()))
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    let admins = AdminServer::new(admin::Service::new(parts, guard))
        .max_decoding_message_size(MAX_ADMIN_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    tls::server()
        .add_service(agents)
        .add_service(admins)
        .add_service(health)
        .add_service(reflection)
        .serve_with_incoming(connections)
        .await
}
