//! The links of agents: the first message is a join, and then whatever comes is passed on.

use super::{Guard, Parts};
use crate::links::{Link, Outgoing};
use rebloom_core::id::{Digest, NodeId, Session};
use rebloom_core::report::Join;
use rebloom_proto::link::FromAgent;
use rebloom_proto::wire;
use rebloom_proto::wire::agent_link_server::AgentLink;
use rebloom_runtime::shutdown::Shutdown;
use std::time::Duration;
use tokio::time::timeout;
use tonic::{Request, Response, Status, Streaming};
use tracing::info;

/// A stream that does not begin with a join by then is closed.
const JOIN_WITHIN: Duration = Duration::from_secs(5);

type Incoming = Streaming<wire::FromAgent>;

#[derive(Debug, Clone)]
pub(crate) struct Service {
    parts: Parts,
    guard: Guard,
}

impl Service {
    pub(crate) const fn new(parts: Parts, guard: Guard) -> Self {
        Self { parts, guard }
    }

    fn refuse(&self, kind: &'static str, node: &NodeId, why: Status) -> Status {
        self.parts
            .refusals
            .count(kind, node.as_str(), &why.message());
        why
    }

    async fn first(&self, node: &NodeId, incoming: &mut Incoming) -> Result<Join, Status> {
        let late = |_| Status::deadline_exceeded("no join came");
        let message = timeout(JOIN_WITHIN, incoming.message())
            .await
            .map_err(|elapsed| self.refuse("LateJoin", node, late(elapsed)))??;
        let message = message.ok_or_else(|| Status::cancelled("the agent left"))?;
        match FromAgent::try_from(message) {
            Ok(FromAgent::Join(join)) if join.facts.node == *node => Ok(join),
            Ok(FromAgent::Join(join)) => {
                let claimed = join.facts.node;
                let why = format!("the certificate is for node {node}, the join for {claimed}");
                Err(self.refuse("OtherNode", node, Status::permission_denied(why)))
            }
            Ok(FromAgent::Beat(_) | FromAgent::Report { .. } | FromAgent::Reply { .. }) => {
                let why = Status::failed_precondition("the first message has to be a join");
                Err(self.refuse("NoJoin", node, why))
            }
            Err(malformed) => Err(self.refuse("Malformed", node, malformed.into())),
        }
    }

    /// Reads one link to its end.
    async fn follow(
        self,
        (node, identity): (NodeId, Digest),
        mut incoming: Incoming,
        link: Link,
        mut closed: Shutdown,
    ) {
        let join = match self.first(&node, &mut incoming).await {
            Ok(join) => join,
            Err(why) => return link.close(why),
        };
        let Ok(session) = self.parts.handle.joined(identity, join, link).await else {
            return;
        };
        info!(%node, session = session.0, "link opened");
        let why = tokio::select! {
            why = self.pass_on(&node, session, &mut incoming) => why,
            () = closed.asked() => Status::cancelled("closed by the controller"),
        };
        info!(%node, session = session.0, "link closed: {}", why.message());
        self.parts.links.close(session, why);
        // (A controller that ends needs not be told.)
        self.parts.handle.left(node, session).await.ok();
    }

    async fn pass_on(&self, node: &NodeId, session: Session, incoming: &mut Incoming) -> Status {
        loop {
            let message = match incoming.message().await {
                Ok(Some(message)) => message,
                Ok(None) => return Status::cancelled("the agent left"),
                Err(why) => return why,
            };
            let handle = &self.parts.handle;
            let passed = match FromAgent::try_from(message) {
                Ok(FromAgent::Beat(beat)) => handle.beat(node.clone(), session, beat).await,
                Ok(FromAgent::Report { sequence, report }) => {
                    handle.report(node.clone(), session, sequence, report).await
                }
                Ok(FromAgent::Reply { id, reply }) => {
                    self.parts.links.answer(session, id, reply);
                    Ok(())
                }
                Ok(FromAgent::Join(_)) => {
                    let why = Status::failed_precondition("one link takes one join");
                    return self.refuse("SecondJoin", node, why);
                }
                Err(malformed) => return self.refuse("Malformed", node, malformed.into()),
            };
            if let Err(gone) = passed {
                return gone.into();
            }
        }
    }
}

#[tonic::async_trait]
impl AgentLink for Service {
    type AttachStream = Outgoing;

    async fn attach(
        &self,
        request: Request<Incoming>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let agent = self.guard.agent(&request)?;
        let (link, outgoing, closed) = Link::new(agent.0.clone());
        tokio::spawn(
            self.clone()
                .follow(agent, request.into_inner(), link, closed),
        );
        Ok(Response::new(outgoing))
    }
}
