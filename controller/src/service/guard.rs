//! Checks at every call that the caller's role allows it.

use crate::refusals::Refusals;
use rebloom_core::id::{Digest, NodeId};
use rebloom_runtime::tls::{Role, peer_identity, peer_role};
use std::sync::Arc;
use tonic::{Request, Status};

/// Lets the right roles in, and counts the others.
#[derive(Debug, Clone)]
pub(crate) struct Guard {
    pub(crate) refusals: Arc<Refusals>,
}

impl Guard {
    pub(crate) const fn new(refusals: Arc<Refusals>) -> Self {
        Self { refusals }
    }

    /// The node whose agent calls, and the key it holds.
    pub(crate) fn agent<T>(&self, request: &Request<T>) -> Result<(NodeId, Digest), Status> {
        match self.role(request)? {
            Role::Agent(node) => Ok((node, peer_identity(request)?)),
            role @ (Role::Controller | Role::Admin(_)) => Err(self.wrong(&role, "agents")),
        }
    }

    /// Whether an admin calls.
    pub(crate) fn admin<T>(&self, request: &Request<T>) -> Result<(), Status> {
        match self.role(request)? {
            Role::Admin(_) => Ok(()),
            role @ (Role::Controller | Role::Agent(_)) => Err(self.wrong(&role, "admins")),
        }
    }

    fn role<T>(&self, request: &Request<T>) -> Result<Role, Status> {
        peer_role(request).inspect_err(|status| {
            let who = request
                .remote_addr()
                .map(|address| address.ip().to_string());
            self.refusals
                .count("NoRole", &who.unwrap_or_default(), &status.message());
        })
    }

    fn wrong(&self, role: &Role, whom: &str) -> Status {
        let status = Status::permission_denied(format!("this is for {whom}, not for {role}"));
        self.refusals
            .count("WrongRole", &role.to_string(), &status.message());
        status
    }
}
