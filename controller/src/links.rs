//! The open links to agents: a bounded queue each, so that one that does not read holds nobody up.
//!
//! A link whose queue is full is closed; its agent opens another one, and its join brings back
//! whatever was in the queue. Questions are answered by id, over the link they were asked on.

use crate::refusals::Refusals;
use rebloom_core::id::{NodeId, Session};
use rebloom_proto::link::{Question, Reply, ToAgent, Welcome};
use rebloom_proto::wire;
use rebloom_runtime::shutdown::{Shutdown, Trigger};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_stream::Stream;
use tonic::Status;

/// Messages that may wait for one agent.
const QUEUE: usize = 512;

/// One link.
#[derive(Debug)]
pub(crate) struct Link {
    node: NodeId,
    queue: mpsc::Sender<ToAgent>,
    end: Arc<OnceLock<Status>>,
    stop: Trigger,
    welcomed: bool,
    questions: BTreeMap<u64, oneshot::Sender<Result<Reply, String>>>,
}

impl Link {
    /// A link, what goes out over it, and the word that it is closed.
    pub(crate) fn new(node: NodeId) -> (Self, Outgoing, Shutdown) {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let (stop, stopped) = Shutdown::manual();
        let end = Arc::new(OnceLock::new());
        let outgoing = Outgoing {
            waiting,
            end: end.clone(),
            ended: false,
        };
        let questions = BTreeMap::new();
        (
            Self {
                node,
                queue,
                end,
                stop,
                welcomed: false,
                questions,
            },
            outgoing,
            stopped,
        )
    }

    /// Closes it; the agent is told why.
    pub(crate) fn close(self, why: Status) {
        // (The first reason counts.)
        drop(self.end.set(why));
        self.stop.fire();
    }
}

/// What goes out over one link: its queue, and after it was closed the reason, at once.
#[derive(Debug)]
pub(crate) struct Outgoing {
    waiting: mpsc::Receiver<ToAgent>,
    end: Arc<OnceLock<Status>>,
    ended: bool,
}

impl Stream for Outgoing {
    type Item = Result<wire::ToAgent, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if self.end.get().is_none()
            && let Some(message) = ready!(self.waiting.poll_recv(context))
        {
            return Poll::Ready(Some(Ok(message.into())));
        }
        self.ended = true;
        Poll::Ready(self.end.get().cloned().map(Err))
    }
}

/// Why a question has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unanswered {
    #[error("the agent of node {0} is not connected")]
    NotConnected(NodeId),
    #[error("the link to node {0} broke before it answered")]
    Broken(NodeId),
    #[error("node {0} did not answer within {1:?}")]
    Late(NodeId, Duration),
    #[error("node {0}: {1}")]
    Failed(NodeId, String),
}

/// Every open link.
#[derive(Debug)]
pub(crate) struct Links {
    table: Mutex<Table>,
    refusals: Arc<Refusals>,
}

#[derive(Debug, Default)]
struct Table {
    links: BTreeMap<Session, Link>,
    questions: u64,
}

impl Links {
    pub(crate) fn new(refusals: Arc<Refusals>) -> Self {
        Self {
            table: Mutex::default(),
            refusals,
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a link whose join the engine is about to judge.
    pub(crate) fn add(&self, session: Session, link: Link) {
        self.table().links.insert(session, link);
    }

    /// Opens a link whose join was accepted; it takes the place of its node's earlier ones.
    pub(crate) fn welcome(&self, welcome: Welcome) {
        let mut table = self.table();
        let Some(link) = table.links.get_mut(&welcome.session) else {
            return;
        };
        link.welcomed = true;
        let node = link.node.clone();
        let earlier = table
            .links
            .extract_if(..welcome.session, |_, link| link.node == node);
        for (_, link) in earlier {
            link.close(Status::aborted("the agent opened another link"));
        }
        drop(table);
        self.send(welcome.session, ToAgent::Welcome(welcome));
    }

    /// Puts a message in a link's queue. It is dropped if the link is gone.
    pub(crate) fn send(&self, session: Session, message: ToAgent) {
        let mut table = self.table();
        let Some(link) = table.links.get(&session) else {
            return;
        };
        match link.queue.try_send(message) {
            Ok(()) => {}
            // (Its reader is about to say that it is closed.)
            Err(mpsc::error::TrySendError::Closed(_)) => {}
            Err(mpsc::error::TrySendError::Full(_)) => {
                let link = table.links.remove(&session);
                drop(table);
                if let Some(link) = link {
                    let node = link.node.to_string();
                    self.refusals.count(
                        "SlowAgent",
                        &node,
                        &"its queue is full, the link is closed",
                    );
                    link.close(Status::resource_exhausted("the agent reads too slowly"));
                }
            }
        }
    }

    /// Closes a link, if it is open, and tells the agent why.
    pub(crate) fn close(&self, session: Session, why: Status) {
        let link = self.table().links.remove(&session);
        if let Some(link) = link {
            link.close(why);
        }
    }

    /// Closes every link: the controller ends.
    pub(crate) fn close_all(&self) {
        let links = std::mem::take(&mut self.table().links);
        for link in links.into_values() {
            link.close(Status::unavailable("the controller is ending"));
        }
    }

    /// Number of links whose join was accepted.
    pub(crate) fn open(&self) -> usize {
        self.table()
            .links
            .values()
            .filter(|link| link.welcomed)
            .count()
    }

    /// Asks a node's agent and waits for the answer.
    pub(crate) async fn ask(
        &self,
        node: &NodeId,
        question: Question,
        within: Duration,
    ) -> Result<Reply, Unanswered> {
        let (answer, answered) = oneshot::channel();
        let (session, id) = {
            let mut table = self.table();
            table.questions += 1;
            let id = table.questions;
            let mut links = table.links.iter_mut().rev();
            let (session, link) = links
                .find(|(_, link)| link.welcomed && link.node == *node)
                .ok_or_else(|| Unanswered::NotConnected(node.clone()))?;
            link.questions.insert(id, answer);
            (*session, id)
        };
        self.send(session, ToAgent::Question { id, question });
        match timeout(within, answered).await {
            Ok(Ok(Ok(reply))) => Ok(reply),
            Ok(Ok(Err(error))) => Err(Unanswered::Failed(node.clone(), error)),
            Ok(Err(_)) => Err(Unanswered::Broken(node.clone())),
            Err(_) => {
                if let Some(link) = self.table().links.get_mut(&session) {
                    link.questions.remove(&id);
                }
                Err(Unanswered::Late(node.clone(), within))
            }
        }
    }

    /// Passes an answer on; one that comes too late or was not asked for is dropped.
    pub(crate) fn answer(&self, session: Session, id: u64, reply: Result<Reply, String>) {
        let question = self
            .table()
            .links
            .get_mut(&session)
            .and_then(|l| l.questions.remove(&id));
        if let Some(question) = question {
            // (Whoever asked may be gone.)
            drop(question.send(reply));
        }
    }
}
