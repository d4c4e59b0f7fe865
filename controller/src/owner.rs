//! The one task that owns the engine and its journal.
//!
//! What it is told in one moment is journaled in one go, and only then is any of it carried out:
//! orders, answers, acknowledgements and views alike, in the order they came. If the journal cannot
//! be written the task ends with the error, and the controller with it: agents train on without it.

use crate::links::{Link, Links};
use crate::meter::Meter;
use crate::past::{self, Past};
use rebloom_core::engine::{Answer, Ask, Command, Engine, Event, Record, Refusal, Ticket};
use rebloom_core::id::{Digest, NodeId, Session};
use rebloom_core::order::Order;
use rebloom_core::report::{Beat, Join, Report};
use rebloom_core::time::Instant;
use rebloom_proto::link::{ToAgent, Welcome};
use rebloom_runtime::clock::Wall;
use rebloom_runtime::journal::{self, Writer};
use rebloom_runtime::shutdown::Shutdown;
use std::collections::BTreeMap;
use std::fmt;
use std::future::pending;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;
use tonic::Status;
use tracing::{info, warn};

/// Messages that may wait for the owner; whoever sends more waits.
const INBOX: usize = 1024;
/// Messages whose records share one write to the journal.
const GROUP: usize = 256;

type View = Box<dyn FnOnce(&Engine, Instant) + Send>;

/// What the owner is told.
enum Message {
    Joined {
        identity: Digest,
        join: Join,
        link: Link,
        session: oneshot::Sender<Session>,
    },
    Left {
        node: NodeId,
        session: Session,
    },
    Beat {
        node: NodeId,
        session: Session,
        beat: Beat,
    },
    Report {
        node: NodeId,
        session: Session,
        sequence: u64,
        report: Report,
    },
    Ask {
        ask: Ask,
        answer: oneshot::Sender<Answer>,
    },
    View(View),
}

/// What is done once the records before it are in the journal.
enum Effect {
    Welcome(Session),
    Send {
        node: NodeId,
        session: Session,
        order: Order,
    },
    Refuse {
        session: Session,
        refusal: Refusal,
    },
    Answer {
        ticket: Ticket,
        answer: Answer,
    },
    Ack {
        session: Session,
        sequence: u64,
    },
    View(View),
}

/// The owner has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the controller is ending")]
pub(crate) struct Gone;

impl From<Gone> for Status {
    fn from(gone: Gone) -> Self {
        Self::unavailable(gone.to_string())
    }
}

/// The way to the owner, for all others.
#[derive(Debug, Clone)]
pub(crate) struct Handle(mpsc::Sender<Message>);

impl Handle {
    async fn tell(&self, message: Message) -> Result<(), Gone> {
        self.0.send(message).await.map_err(|_| Gone)
    }

    /// Tells of a new link; it is the engine that welcomes or refuses it.
    pub(crate) async fn joined(
        &self,
        identity: Digest,
        join: Join,
        link: Link,
    ) -> Result<Session, Gone> {
        let (session, given) = oneshot::channel();
        self.tell(Message::Joined {
            identity,
            join,
            link,
            session,
        })
        .await?;
        given.await.map_err(|_| Gone)
    }

    /// Tells that a link is closed.
    pub(crate) async fn left(&self, node: NodeId, session: Session) -> Result<(), Gone> {
        self.tell(Message::Left { node, session }).await
    }

    /// Passes a sign of life on.
    pub(crate) async fn beat(
        &self,
        node: NodeId,
        session: Session,
        beat: Beat,
    ) -> Result<(), Gone> {
        self.tell(Message::Beat {
            node,
            session,
            beat,
        })
        .await
    }

    /// Passes a report on; it is acknowledged over the link once it is in the journal.
    pub(crate) async fn report(
        &self,
        node: NodeId,
        session: Session,
        sequence: u64,
        report: Report,
    ) -> Result<(), Gone> {
        self.tell(Message::Report {
            node,
            session,
            sequence,
            report,
        })
        .await
    }

    /// Asks the engine for something.
    pub(crate) async fn ask(&self, ask: Ask) -> Result<Answer, Gone> {
        let (answer, answered) = oneshot::channel();
        self.tell(Message::Ask { ask, answer }).await?;
        answered.await.map_err(|_| Gone)
    }

    /// Looks at the engine's state, all of which is in the journal.
    pub(crate) async fn view<R: Send + 'static>(
        &self,
        look: impl FnOnce(&Engine, Instant) -> R + Send + 'static,
    ) -> Result<R, Gone> {
        let (sender, seen) = oneshot::channel();
        let view: View = Box::new(move |engine, now| drop(sender.send(look(engine, now))));
        self.tell(Message::View(view)).await?;
        seen.await.map_err(|_| Gone)
    }
}

/// The task that owns the engine.
pub(crate) struct Owner {
    engine: Engine,
    clock: Wall,
    writer: Writer,
    links: Arc<Links>,
    meter: Arc<Meter>,
    inbox: mpsc::Receiver<Message>,
    answers: BTreeMap<Ticket, oneshot::Sender<Answer>>,
    next_ticket: u64,
    next_session: u64,
    snapshot_every: usize,
    since_snapshot: usize,
    /// Whether the journal was vouched for in this life.
    vouched: bool,
    records: Vec<Record>,
    effects: Vec<Effect>,
}

impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Owner")
            .field("engine", &self.engine)
            .finish_non_exhaustive()
    }
}

impl Owner {
    pub(crate) fn new(
        past: Past,
        clock: Wall,
        writer: Writer,
        links: Arc<Links>,
        meter: Arc<Meter>,
        snapshot_every: u32,
    ) -> (Self, Handle) {
        let (sender, inbox) = mpsc::channel(INBOX);
        let owner = Self {
            engine: past.engine,
            // Sessions go up over restarts too, as the clock does.
            next_session: clock.now().as_nanos(),
            clock,
            writer,
            links,
            meter,
            inbox,
            answers: BTreeMap::new(),
            next_ticket: 1,
            snapshot_every: usize::try_from(snapshot_every).unwrap_or(usize::MAX),
            since_snapshot: past.tail,
            vouched: false,
            records: Vec::new(),
            effects: Vec::new(),
        };
        (owner, Handle(sender))
    }

    /// Serves until it is asked to end, or the journal fails.
    pub(crate) async fn run(mut self, mut shutdown: Shutdown) -> Result<(), journal::Error> {
        // An engine from a journal does not know yet that time goes on.
        self.engine.handle_timeout(self.clock.now());
        self.drain();
        self.carry_out().await?;
        loop {
            let due = self
                .engine
                .poll_timeout()
                .map(|due| due.since(self.clock.now()));
            let alarm = async {
                match due {
                    Some(wait) => sleep(wait).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                Some(message) = self.inbox.recv() => self.take(message),
                () = alarm => {}
                () = shutdown.asked() => return Ok(()),
            }
            for _ in 1..GROUP {
                match self.inbox.try_recv() {
                    Ok(message) => self.take(message),
                    Err(_) => break,
                }
            }
            let now = self.clock.now();
            if self.engine.poll_timeout().is_some_and(|due| due <= now) {
                self.engine.handle_timeout(now);
                self.drain();
            }
            self.carry_out().await?;
        }
    }

    fn take(&mut self, message: Message) {
        let now = self.clock.now();
        match message {
            Message::Joined {
                identity,
                join,
                link,
                session: given,
            } => {
                let session = Session(self.next_session);
                self.next_session += 1;
                self.links.add(session, link);
                // (A link that is gone already says so next.)
                given.send(session).ok();
                self.engine.handle(
                    now,
                    Event::Joined {
                        session,
                        identity,
                        join,
                    },
                );
                let first = self.effects.len();
                self.drain();
                let refused = self.effects[first..]
                    .iter()
                    .any(|e| matches!(e, Effect::Refuse { session: of, .. } if *of == session));
                if !refused {
                    self.effects.insert(first, Effect::Welcome(session));
                }
            }
            Message::Left { node, session } => {
                self.links
                    .close(session, Status::cancelled("the agent left"));
                self.engine.handle(now, Event::Left { node, session });
                self.drain();
            }
            Message::Beat {
                node,
                session,
                beat,
            } => {
                self.engine.handle(
                    now,
                    Event::Beat {
                        node,
                        session,
                        beat,
                    },
                );
                self.drain();
            }
            Message::Report {
                node,
                session,
                sequence,
                report,
            } => {
                self.engine.handle(
                    now,
                    Event::Report {
                        node,
                        session,
                        report,
                    },
                );
                self.drain();
                self.effects.push(Effect::Ack { session, sequence });
            }
            Message::Ask { ask, answer } => {
                let ticket = Ticket(self.next_ticket);
                self.next_ticket += 1;
                self.answers.insert(ticket, answer);
                self.engine.handle(now, Event::Ask { ticket, ask });
                self.drain();
            }
            Message::View(view) => self.effects.push(Effect::View(view)),
        }
    }

    fn drain(&mut self) {
        while let Some(command) = self.engine.poll_command() {
            match command {
                Command::Persist(record) => self.records.push(record),
                Command::Send {
                    node,
                    session,
                    order,
                } => {
                    self.effects.push(Effect::Send {
                        node,
                        session,
                        order,
                    });
                }
                Command::Refuse { session, refusal } => {
                    self.effects.push(Effect::Refuse { session, refusal });
                }
                Command::Answer { ticket, answer } => {
                    self.effects.push(Effect::Answer { ticket, answer });
                }
            }
        }
    }

    async fn carry_out(&mut self) -> Result<(), journal::Error> {
        if !self.records.is_empty() {
            let records: Vec<_> = self.records.drain(..).map(|r| past::record(&r)).collect();
            self.since_snapshot += records.len();
            let begun = self.clock.now();
            self.writer.append(records).await?;
            self.meter.appended(self.clock.now().since(begun));
        }
        if !self.vouched && !self.engine.is_in_doubt() {
            // What the journal may have lost is in it again.
            self.writer.vouch().await?;
            self.vouched = true;
        }
        for effect in std::mem::take(&mut self.effects) {
            self.perform(effect);
        }
        if self.since_snapshot >= self.snapshot_every {
            self.since_snapshot = 0;
            let state = past::snapshot(self.clock.now(), self.engine.snapshot());
            // The journal is whole without it, only longer.
            if let Err(error) = self.writer.snapshot(state).await {
                warn!("no snapshot was written: {error}");
            }
        }
        Ok(())
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Welcome(session) => {
                let limits = self.engine.limits();
                let (beat_every, orphan_after) = (limits.beat_every, limits.orphan_after);
                self.links.welcome(Welcome {
                    session,
                    beat_every,
                    orphan_after,
                    now: self.clock.now(),
                });
            }
            Effect::Send {
                node,
                session,
                order,
            } => {
                log(&node, &order);
                self.links.send(session, ToAgent::Order(order));
            }
            Effect::Refuse { session, refusal } => {
                warn!(session = session.0, "join refused: {refusal}");
                self.links
                    .close(session, rebloom_proto::admin::status(refusal));
            }
            Effect::Answer { ticket, answer } => {
                if let Some(waiting) = self.answers.remove(&ticket) {
                    // (Whoever asked may be gone; what was done is done.)
                    drop(waiting.send(answer));
                }
            }
            Effect::Ack { session, sequence } => self.links.send(session, ToAgent::Ack(sequence)),
            Effect::View(view) => view(&self.engine, self.clock.now()),
        }
    }
}

/// One line for each order: what goes to whom, and why (S9).
fn log(node: &NodeId, order: &Order) {
    match order {
        Order::Start(start) => info!(
            %node, run = %start.gang.spec.name, generation = start.gang.generation.0,
            ranks = start.seats.len(), cause = start.gang.cause.label(), "start: {}", start.gang.cause
        ),
        Order::Stop {
            run,
            generation,
            how,
            cause,
        } => info!(
            %node, %run, generation = generation.0, ?how, cause = cause.label(), "stop: {cause}"
        ),
        Order::Kill {
            run,
            generation,
            rank,
            cause,
        } => info!(
            %node, %run, generation = generation.0, rank = rank.0, cause = cause.label(),
            "kill: {cause}"
        ),
        Order::Seal { manifest, .. } => {
            info!(%node, run = %manifest.run, checkpoint = manifest.id.directory(), "seal");
        }
        Order::Prune {
            run, checkpoints, ..
        } => {
            info!(%node, %run, checkpoints = checkpoints.len(), "prune");
        }
    }
}
