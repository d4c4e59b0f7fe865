//! The loop around the supervisor: wait for an event or its deadline, call it, carry out what it says.
//!
//! Commands are carried out in order, and what shall be remembered is on disk before the next one.
//! Slow storage work goes to threads of its own and comes back as events. Decides nothing.

use crate::link::{Link, Wire};
use crate::rank_link::Connection;
use crate::ranks::Ranks;
use crate::snapshots::Shelves;
use crate::state;
use crate::storage;
use crate::store::Stores;
use crate::store_service::Routes;
use rebloom_core::cause::Cause;
use rebloom_core::id::{Generation, Rank, RunId};
use rebloom_core::report::Remembered;
use rebloom_core::snapshot::{Peer, Piece};
use rebloom_core::supervisor::{Command, Event, Memory, Supervisor};
use rebloom_core::time::Instant;
use rebloom_core::word::FromWorker;
use rebloom_proto::link::FromAgent;
use rebloom_proto::rank::ToRank;
use rebloom_runtime::clock::{monotonic, wall};
use rebloom_runtime::shutdown::Shutdown;
use rebloom_runtime::snapshots;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Inputs that wait for the loop; whoever has more waits too.
pub const MOST_WAITING: usize = 1024;
/// How often the lengths of the logs are looked at.
const TRIM_EVERY: Duration = Duration::from_secs(10);
/// How long the snapshots of a run that has left this node stay: another may fetch them meanwhile.
const LINGER: Duration = Duration::from_secs(300);
/// How often something that must be remembered and could not be is tried again.
const REMEMBER_AGAIN: Duration = Duration::from_secs(1);

/// What a join needs from the supervisor.
#[derive(Debug)]
pub struct Standing {
    /// What it remembers.
    pub runs: Vec<Remembered>,
    /// Where the checkpoints of each run lie.
    pub directories: Vec<(RunId, String)>,
    /// Where snapshots lie; none where this node keeps none.
    pub memory: Option<snapshots::Memory>,
}

/// What the loop is told.
#[derive(Debug)]
pub enum Input {
    /// Something for the supervisor.
    Event(Event),
    /// A worker said something.
    Said {
        /// Run, rank and process.
        whose: (RunId, Rank, u32),
        /// Over which connection.
        connection: Connection,
        /// Its number.
        sequence: u64,
        /// What.
        word: FromWorker,
    },
    /// A worker's connection is over.
    HungUp {
        /// Run, rank and process.
        whose: (RunId, Rank, u32),
        /// Which connection.
        number: u64,
    },
    /// The link is about to join.
    Joining {
        /// For the answer.
        answer: oneshot::Sender<Standing>,
    },
    /// The link is up; what is said to the controller goes there.
    Linked(Wire),
}

/// What the loop works with.
#[derive(Debug)]
pub struct Driver {
    /// The machine.
    pub supervisor: Supervisor,
    /// Its hands on the ranks.
    pub ranks: Ranks,
    /// The rendezvous stores of this agent.
    pub stores: Arc<Stores>,
    /// Where the workers' rendezvous requests go.
    pub routes: Arc<Routes>,
    /// The file of its memory.
    pub memory: PathBuf,
    /// What it is told.
    pub inputs: mpsc::Receiver<Input>,
    /// For the outcomes of what goes on beside the loop.
    pub back: mpsc::Sender<Input>,
    /// To the controller.
    pub link: Link,
    /// Snapshots in this node's memory; none where it keeps none.
    pub shelves: Option<Arc<Shelves>>,
    /// What could not be written down yet, and when to try again.
    pub unwritten: Option<(Memory, Instant)>,
}

impl Driver {
    /// Runs until `shutdown` is asked for; the ranks go on without it, or end first.
    pub async fn run(mut self, mut shutdown: Shutdown, end_ranks: bool) {
        let mut trim_at = monotonic() + TRIM_EVERY;
        loop {
            let wake_at = self.wake_at(trim_at);
            tokio::select! {
                biased;
                () = shutdown.asked() => break,
                input = self.inputs.recv() => match input {
                    Some(input) => self.take(input).await,
                    None => break,
                },
                () = tokio::time::sleep(wake_at.since(monotonic())) => {}
            }
            let now = monotonic();
            if self
                .supervisor
                .poll_timeout()
                .is_some_and(|deadline| deadline <= now)
            {
                self.supervisor.handle_timeout(now);
                self.drain().await;
            }
            if self.ranks.warm_up_due().is_some_and(|at| at <= now) {
                self.ranks.warm_up();
            }
            if trim_at <= now {
                trim_at = now + TRIM_EVERY;
                self.ranks.trim_logs();
                self.forget_snapshots();
            }
            if let Some((memory, _)) = self.unwritten.take_if(|(_, at)| *at <= now) {
                self.remember(memory).await;
            }
        }
        if end_ranks {
            self.end_ranks().await;
            // What they left is of no use to anybody any more.
            if let Some(memory) = self.memory() {
                memory.clear();
            }
        }
    }

    fn wake_at(&self, trim_at: Instant) -> Instant {
        let has_snapshots = self.shelves.is_some();
        let trim_at = (has_snapshots || !self.ranks.is_empty()).then_some(trim_at);
        let again_at = self.unwritten.as_ref().map(|(_, at)| *at);
        let deadlines = self
            .supervisor
            .poll_timeout()
            .into_iter()
            .chain(trim_at)
            .chain(again_at)
            .chain(self.ranks.warm_up_due());
        // The loop always looks up once in a while.
        deadlines.min().unwrap_or(monotonic() + TRIM_EVERY)
    }

    /// Takes over the ranks of the last life, before their words and requests are let in.
    pub async fn adopt(&mut self) {
        let living: Vec<_> = self.supervisor.living().collect();
        for (run, rank, pid, started) in living {
            if let Some(event) = self.ranks.adopt(run, rank, pid, started) {
                self.handle(event).await;
            }
        }
        self.ranks.end_unknown();
        self.supervisor.handle_timeout(monotonic());
        self.drain().await;
    }

    async fn take(&mut self, input: Input) {
        match input {
            Input::Event(event) => {
                if let Event::Exited {
                    run,
                    rank,
                    pid,
                    exit,
                    ..
                } = &event
                {
                    tracing::info!(%run, %rank, pid, %exit, "a rank's process ended");
                    self.ranks.ended(run, *rank, *pid);
                }
                if matches!(event, Event::LinkDown) {
                    self.link.cut();
                }
                self.handle(event).await;
            }
            Input::Said {
                whose,
                connection,
                sequence,
                word,
            } => {
                let is_hello = matches!(word, FromWorker::Hello(_));
                if self.ranks.said(&whose, &connection, sequence, is_hello) {
                    let (run, rank, pid) = whose.clone();
                    self.handle(Event::Word {
                        run,
                        rank,
                        pid,
                        word,
                    })
                    .await;
                }
                self.ranks.heard(&whose, sequence);
                // A worker that does not read its acknowledgements says its words again.
                drop(connection.words.try_send(ToRank::Ack(sequence)));
            }
            Input::HungUp { whose, number } => self.ranks.hung_up(&whose, number),
            Input::Joining { answer } => {
                let directories = self.supervisor.checkpoint_directories();
                let directories = directories
                    .filter(|(_, directory)| !directory.is_empty())
                    .map(|(run, directory)| (run.clone(), directory.to_owned()))
                    .collect();
                // (The link may have given up meanwhile.)
                drop(answer.send(Standing {
                    runs: self.supervisor.remembered(),
                    directories,
                    memory: self.memory(),
                }));
            }
            Input::Linked(wire) => {
                self.link.up(wire);
                self.handle(Event::LinkUp).await;
            }
        }
    }

    async fn handle(&mut self, event: Event) {
        self.supervisor.handle(monotonic(), event);
        self.drain().await;
    }

    async fn drain(&mut self) {
        while let Some(command) = self.supervisor.poll_command() {
            self.act(command).await;
        }
    }

    async fn act(&mut self, command: Command) {
        match command {
            Command::Remember(memory) => self.remember(memory).await,
            Command::Spawn {
                run,
                rank,
                slot,
                generation,
                async_off,
                cause,
            } => {
                acting("start", &run, rank, generation, &cause);
                let event = self.ranks.spawn(run, rank, slot, async_off);
                if let Event::NotStarted { run, rank, error } = &event {
                    tracing::error!(%run, %rank, error, "cannot start a rank");
                }
                self.supervisor.handle(monotonic(), event);
            }
            Command::Tell { run, rank, word } => self.ranks.tell(&run, rank, word),
            Command::Fence {
                run,
                rank,
                below,
                cause,
            } => {
                acting("fence", &run, rank, below, &cause);
                self.ranks.fence(&run, rank, below);
            }
            Command::StopSafely {
                run,
                rank,
                generation,
                cause,
            } => {
                acting("stop safely", &run, rank, generation, &cause);
                self.ranks.stop_safely(&run, rank, generation);
            }
            Command::Kill {
                run,
                rank,
                pid,
                generation,
                cause,
            } => {
                acting("kill", &run, rank, generation, &cause);
                self.ranks.kill(&run, rank, pid);
            }
            Command::OpenStore { run, generation } => self.stores.open(&run, generation),
            Command::RouteStore {
                run,
                generation,
                address,
            } => {
                self.stores.close_below(&run, generation);
                self.routes.set(run, generation, address);
            }
            Command::WriteManifest {
                directory,
                manifest,
            } => {
                let (run, checkpoint) = (manifest.run.clone(), manifest.id);
                self.aside(move || {
                    let error = storage::seal(&directory, &manifest).err();
                    let error = error.map(|error| error.to_string());
                    if let Some(error) = &error {
                        let step = checkpoint.step;
                        tracing::error!(%run, %step, error, "cannot seal a checkpoint");
                    }
                    Some(Event::ManifestWritten {
                        run,
                        checkpoint,
                        error,
                    })
                });
            }
            Command::Prune {
                run,
                directory,
                checkpoints,
            } => self.aside(move || {
                for checkpoint in checkpoints {
                    if let Err(error) = storage::remove(&directory, &run, checkpoint) {
                        tracing::warn!(%run, %error, "cannot remove a checkpoint");
                    }
                }
                None
            }),
            Command::Replicate { run, piece, to } => self.replicate(run, piece, to),
            Command::DropSnapshots { run, after } => {
                if let Some(memory) = self.memory() {
                    let outdated = memory.after(&run, after);
                    self.aside(move || {
                        outdated.remove();
                        None
                    });
                }
            }
            Command::ReadPages => {
                let read = self.ranks.read_output(self.supervisor.log_rules());
                for event in read {
                    self.supervisor.handle(monotonic(), event);
                }
                let pages = self.ranks.pages();
                self.supervisor.handle(monotonic(), Event::Pages(pages));
            }
            Command::Beat(beat) => self.link.say(FromAgent::Beat(beat)),
            Command::Rejoin => self.link.cut(),
            Command::Report { sequence, report } => {
                self.link.say(FromAgent::Report { sequence, report });
            }
        }
    }

    fn memory(&self) -> Option<snapshots::Memory> {
        self.shelves
            .as_ref()
            .map(|shelves| shelves.memory().clone())
    }

    /// Sends a shard on, beside the loop. What is not kept there is only not a replica.
    fn replicate(&self, run: RunId, piece: Piece, to: Peer) {
        let Some(shelves) = self.shelves.clone() else {
            return;
        };
        let back = self.back.clone();
        tokio::spawn(async move {
            match shelves.send(&run, &piece, &to).await {
                Ok(()) => {
                    let at = to.node;
                    let event = Event::Replicated { run, piece, at };
                    // The loop is only gone when the agent ends.
                    drop(back.send(Input::Event(event)).await);
                }
                Err(status) => {
                    let (step, rank) = (piece.checkpoint.step, piece.shard.rank);
                    let (node, error) = (to.node, status.message().to_owned());
                    tracing::warn!(%run, %step, %rank, %node, error, "no replica of a snapshot");
                }
            }
        });
    }

    /// Drops snapshots of runs that have left this node, once nobody may ask for them any more.
    fn forget_snapshots(&self) {
        let Some(memory) = self.memory() else { return };
        let here: Vec<_> = self.supervisor.started().cloned().collect();
        tokio::task::spawn_blocking(move || {
            memory.forget(wall(), |run| here.contains(run), LINGER);
        });
    }

    /// On disk when this returns. Where the disk does not take it, that is said loudly and tried
    /// again, and the agent goes on: ranks that nobody watches and fences are the greater harm, and
    /// the controller knows what it ordered should this life end before it is written down.
    async fn remember(&mut self, memory: Memory) {
        let path = self.memory.clone();
        let written = tokio::task::spawn_blocking(move || {
            let written = state::remember(&path, &memory);
            (written, memory)
        });
        match written.await {
            Ok((Ok(()), _)) => self.unwritten = None,
            Ok((Err(error), memory)) => {
                tracing::error!(%error, "cannot write down what the next life must know");
                self.unwritten = Some((memory, monotonic() + REMEMBER_AGAIN));
            }
            Err(error) => tracing::error!(%error, "writing down what must be known broke off"),
        }
    }

    /// Slow work beside the loop; what comes of it comes back as an event.
    fn aside(&self, work: impl FnOnce() -> Option<Event> + Send + 'static) {
        let back = self.back.clone();
        tokio::task::spawn_blocking(move || {
            if let Some(event) = work() {
                // The loop is only gone when the agent ends.
                drop(back.blocking_send(Input::Event(event)));
            }
        });
    }

    /// Kills every rank and waits until each is reaped.
    async fn end_ranks(&mut self) {
        self.ranks.kill_all();
        while !self.ranks.is_empty() {
            match self.inputs.recv().await {
                Some(input @ Input::Event(Event::Exited { .. })) => self.take(input).await,
                Some(_) => {}
                None => return,
            }
            self.ranks.kill_all();
        }
    }
}

/// Every acting command is told with its cause (S9).
fn acting(what: &str, run: &RunId, rank: Rank, generation: Generation, cause: &Cause) {
    let reason = cause.label();
    tracing::info!(%run, %rank, %generation, reason, %cause, "{what}");
}
