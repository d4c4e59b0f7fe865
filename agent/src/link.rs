//! The connection to the controller: joins, carries both ways, and connects again for ever.
//!
//! Every attempt begins with what the supervisor remembers and the manifests on storage, so a
//! controller that lost its journal's last moments learns the truth. A cut is noticed within seconds
//! by keep-alive pings. Questions of admins are answered here, beside the supervisor.

use crate::driver::{Input, Standing};
use crate::logs;
use crate::state::State;
use crate::storage;
use crate::watch::Reference;
use rebloom_core::report::{Join, NodeFacts, Remembered};
use rebloom_core::supervisor::Event;
use rebloom_proto::link::{FromAgent, MAX_LOG_PART, Question, Reply, ToAgent, Verified, Welcome};
use rebloom_proto::wire::agent_link_client::AgentLinkClient;
use rebloom_proto::{MAX_MESSAGE, wire};
use rebloom_runtime::clock::monotonic;
use rebloom_runtime::telemetry::{Seldom, chain};
use rebloom_runtime::tls::{ClientTls, Role};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

/// Messages to the controller that may be under way.
const MOST_UNDER_WAY: usize = 4096;
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// A controller that refused this agent is asked again, seldom: an admin may set it right.
const PAUSE_WHEN_REFUSED: Duration = Duration::from_secs(5);
/// How long a controller may take to answer a join.
const WELCOME_WITHIN: Duration = Duration::from_secs(10);

/// The driver's end of a link; the link ends when it is dropped.
#[derive(Debug)]
pub struct Wire {
    outgoing: mpsc::Sender<FromAgent>,
    _held: oneshot::Receiver<()>,
}

/// The driver's end of the link, while there is one.
#[derive(Debug, Default)]
pub struct Link(Option<Wire>);

impl Link {
    /// The link is up.
    pub fn up(&mut self, wire: Wire) {
        self.0 = Some(wire);
    }

    /// The link is down, or shall be.
    pub fn cut(&mut self) {
        self.0 = None;
    }

    /// Says something if the link is up. A controller that does not listen is cut off and joined
    /// anew: reports come again then, and beats are worthless when they are late.
    pub fn say(&mut self, message: FromAgent) {
        if self
            .0
            .as_ref()
            .is_some_and(|wire| wire.outgoing.try_send(message).is_err())
        {
            self.cut();
        }
    }
}

/// Why a link came to an end.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("{0}")]
    Transport(String),
    #[error("{}", .0.message())]
    Status(#[from] Status),
    #[error("the controller closed the link")]
    Closed,
    #[error("the controller does not make sense: {0}")]
    Malformed(#[from] rebloom_proto::Malformed),
    #[error("the controller did not answer the join")]
    Silent,
    #[error("the controller does not take what it is told")]
    Deaf,
    #[error("the agent is ending")]
    Ending,
}

impl Broken {
    /// Whether trying again soon is of no use.
    fn is_refusal(&self) -> bool {
        match self {
            Self::Status(status) => matches!(
                status.code(),
                Code::PermissionDenied
                    | Code::Unauthenticated
                    | Code::FailedPrecondition
                    | Code::AlreadyExists
                    | Code::InvalidArgument
            ),
            Self::Transport(_)
            | Self::Closed
            | Self::Malformed(_)
            | Self::Silent
            | Self::Deaf
            | Self::Ending => false,
        }
    }
}

/// What the link works with.
#[derive(Debug)]
pub struct Connector {
    /// `host:port` of the controller.
    pub controller: String,
    /// The agent's key and certificate.
    pub tls: ClientTls,
    /// What the node is.
    pub facts: NodeFacts,
    /// Where the logs lie.
    pub state: Arc<State>,
    /// How long this agent waits before it fences orphaned ranks.
    pub orphan_after: Duration,
    /// Where the controller's clock is noted.
    pub reference: Reference,
    /// To the driver.
    pub inputs: mpsc::Sender<Input>,
}

impl Connector {
    /// Connects and connects again until the driver is gone.
    pub async fn run(self) {
        let mut pause = FIRST_PAUSE;
        let seldom = Seldom::new(Duration::from_secs(60));
        while !self.inputs.is_closed() {
            let began = monotonic();
            let (was_up, broken) = self.once().await;
            if was_up {
                // Links that break as soon as they are up (two agents of one name, say) are no
                // reason for haste.
                if monotonic().since(began) > LONGEST_PAUSE {
                    pause = FIRST_PAUSE;
                }
                if self
                    .inputs
                    .send(Input::Event(Event::LinkDown))
                    .await
                    .is_err()
                {
                    return;
                }
            }
            let controller = &self.controller;
            if let Some(held) = seldom.admit(broken.to_string()) {
                if broken.is_refusal() {
                    tracing::error!(controller, reason = %broken, held, "the controller refuses this agent");
                } else {
                    tracing::warn!(controller, reason = %broken, held, "no link to the controller; trying again");
                }
            }
            let longest = if broken.is_refusal() {
                PAUSE_WHEN_REFUSED
            } else {
                pause
            };
            tokio::time::sleep(jittered(longest)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// One link, from connecting to its end; whether it was up.
    async fn once(&self) -> (bool, Broken) {
        match self.join().await {
            Ok((incoming, outgoing)) => {
                tracing::info!(controller = self.controller, "linked to the controller");
                let asked = outgoing.downgrade();
                let (mut cut, _held) = oneshot::channel();
                if self
                    .inputs
                    .send(Input::Linked(Wire { outgoing, _held }))
                    .await
                    .is_err()
                {
                    return (false, Broken::Ending);
                }
                let broken = tokio::select! {
                    broken = self.listen(incoming, asked) => broken,
                    () = cut.closed() => Broken::Deaf,
                };
                (true, broken)
            }
            Err(broken) => (false, broken),
        }
    }

    async fn join(&self) -> Result<(Streaming<wire::ToAgent>, mpsc::Sender<FromAgent>), Broken> {
        let transport = |error: &dyn std::error::Error| Broken::Transport(chain(error));
        let endpoint = self
            .tls
            .endpoint(&self.controller, &Role::Controller)
            .map_err(|error| transport(&error))?;
        let channel = endpoint
            .connect()
            .await
            .map_err(|error| transport(&error))?;
        let mut client = AgentLinkClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);

        let (answer, standing) = oneshot::channel();
        self.inputs
            .send(Input::Joining { answer })
            .await
            .map_err(|_| Broken::Ending)?;
        let standing = standing.await.map_err(|_| Broken::Ending)?;
        let runs = tokio::task::spawn_blocking(move || with_manifests(standing))
            .await
            .map_err(|_| Broken::Ending)?;

        let (outgoing, messages) = mpsc::channel(MOST_UNDER_WAY);
        let join = FromAgent::Join(Join {
            facts: self.facts.clone(),
            runs,
        });
        outgoing.try_send(join).map_err(|_| Broken::Closed)?;
        let attach = async {
            let messages = ReceiverStream::new(messages).map(Into::into);
            let mut incoming = client.attach(messages).await?.into_inner();
            match incoming.message().await?.map(ToAgent::try_from) {
                Some(Ok(ToAgent::Welcome(welcome))) => {
                    self.check(&welcome);
                    self.reference.set(welcome.now);
                    Ok(incoming)
                }
                Some(Ok(_)) => Err(Broken::Closed),
                Some(Err(malformed)) => Err(malformed.into()),
                None => Err(Broken::Closed),
            }
        };
        let incoming = tokio::time::timeout(WELCOME_WITHIN, attach)
            .await
            .map_err(|_| Broken::Silent)??;
        Ok((incoming, outgoing))
    }

    /// S1 rests on the controller waiting at least as long as the agent before it starts a run
    /// elsewhere.
    fn check(&self, welcome: &Welcome) {
        if self.orphan_after > welcome.orphan_after {
            tracing::error!(
                agent = ?self.orphan_after, controller = ?welcome.orphan_after,
                "--orphan-after-ms is longer than the controller waits; make it shorter"
            );
        }
    }

    async fn listen(
        &self,
        mut incoming: Streaming<wire::ToAgent>,
        asked: mpsc::WeakSender<FromAgent>,
    ) -> Broken {
        loop {
            let message = match incoming.message().await {
                Ok(Some(message)) => message,
                Ok(None) => return Broken::Closed,
                Err(status) => return status.into(),
            };
            let event = match ToAgent::try_from(message) {
                Ok(ToAgent::Order(order)) => Event::Order(order),
                Ok(ToAgent::Ack(sequence)) => Event::Acked { sequence },
                Ok(ToAgent::Question { id, question }) => {
                    self.answer(id, question, &asked);
                    continue;
                }
                Ok(ToAgent::Welcome(_)) => continue,
                Err(malformed) => return malformed.into(),
            };
            if self.inputs.send(Input::Event(event)).await.is_err() {
                return Broken::Ending;
            }
        }
    }

    fn answer(&self, id: u64, question: Question, asked: &mpsc::WeakSender<FromAgent>) {
        let (state, asked) = (Arc::clone(&self.state), asked.clone());
        tokio::task::spawn_blocking(move || {
            let reply = answer(&state, question);
            if let Some(outgoing) = asked.upgrade() {
                // (Whoever asked over a link that broke asks again.)
                drop(outgoing.blocking_send(FromAgent::Reply { id, reply }));
            }
        });
    }
}

fn with_manifests(standing: Standing) -> Vec<Remembered> {
    let Standing {
        mut runs,
        directories,
        memory,
    } = standing;
    for (run, directory) in directories {
        if let Some(known) = runs.iter_mut().find(|known| known.run == run) {
            known.sealed = storage::sealed(&directory, &run);
        }
    }
    for known in &mut runs {
        let held = memory.as_ref().map(|memory| memory.pieces(&known.run));
        known.snapshots = held.unwrap_or_default();
    }
    runs
}

fn answer(state: &State, question: Question) -> Result<Reply, String> {
    match question {
        Question::ReadLog {
            run,
            rank,
            previous,
            offset,
            limit,
            tail_lines,
        } => {
            let mut path = state.log(&run, rank);
            if previous {
                path = logs::previous(&path);
            }
            let from = match tail_lines {
                0 => logs::From::Offset(offset),
                lines => logs::From::Tail(lines),
            };
            let most = u64::from(limit).min(MAX_LOG_PART as u64);
            let part = logs::read(&path, from, most)
                .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
            let logs::Part { offset, data, more } = part;
            Ok(Reply::LogPart { offset, data, more })
        }
        Question::VerifyCheckpoint {
            directory,
            run,
            checkpoint,
        } => {
            let found = storage::verify(&directory, &run, checkpoint);
            let storage::Verification {
                shards,
                bytes,
                problems,
            } = found.map_err(|error| error.to_string())?;
            Ok(Reply::Verified(Verified {
                shards,
                bytes,
                problems,
            }))
        }
    }
}

/// Between half and all of a pause, so that agents do not come back in step.
fn jittered(pause: Duration) -> Duration {
    let random = RandomState::new().hash_one(()) % 1024;
    pause.mul_f64(0.5 + random as f64 / 2048.0)
}
