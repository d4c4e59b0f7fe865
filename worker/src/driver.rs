//! The driver of `core::member`: carries out one command at a time and answers with its outcome.
//!
//! The main thread trains. Words, the fence and the deadline of a worker without an agent come in on
//! the link's thread; whoever brings an event also carries out what needs no training (`Say`,
//! `Enter`, `Leave`), so a step needs no other thread. Nothing is decided in here.

mod work;

use crate::checkpoint::Saved;
use crate::link::{self, Heard};
use crate::shim;
use rebloom_core::flight::Phase;
use rebloom_core::id::Generation;
use rebloom_core::member::{Command, Config, Event, Member};
use rebloom_core::time::Instant;
use rebloom_core::word::FromWorker;
use rebloom_runtime::clock::monotonic;
use rebloom_runtime::flight::Recorder;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

/// How often the pulse goes, and the fence is looked at for the member's sake; waits have their own
/// watcher.
const LOOK: Duration = Duration::from_millis(10);

/// How a worker was started.
#[derive(Debug, Clone)]
pub struct Options {
    /// Who it is, and how long it lives without an agent.
    pub member: Config,
    /// The agent's socket.
    pub socket: PathBuf,
    /// Its flight page.
    pub flight: PathBuf,
    /// The address or interface of its groups.
    pub interface: String,
}

/// Why a worker could not even begin.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The flight page cannot be mapped.
    #[error("the flight page {path} cannot be used: {error}")]
    Flight {
        /// Where it should be.
        path: String,
        /// Why not.
        error: std::io::Error,
    },
    /// libtorch or the network refused.
    #[error(transparent)]
    Shim(#[from] shim::ShimError),
    /// The operating system refused a thread.
    #[error("a thread cannot be started: {0}")]
    Thread(#[from] std::io::Error),
}

/// The member and what has to happen in the same order as its commands.
struct Brain {
    member: Member,
    /// What the page says, so that a new generation's page can say it again.
    phase: (Phase, Option<Instant>),
}

/// What every thread of the worker shares.
pub(crate) struct Shared {
    brain: Mutex<Brain>,
    recorder: &'static Recorder,
    work: Sender<Command>,
    said: UnboundedSender<FromWorker>,
}

impl Shared {
    /// Tells the member, and carries out or passes on what it wants.
    pub(crate) fn handle(&self, event: Event) {
        self.with(|member, now| member.handle(now, event));
    }

    /// As [`Self::handle`], and writes the page in one go with what the member wants.
    pub(crate) fn handle_and_record(&self, event: Event, record: impl FnOnce(&Recorder)) {
        let mut brain = self.lock();
        record(self.recorder);
        brain.member.handle(monotonic(), event);
        self.drain(&mut brain);
    }

    fn with(&self, change: impl FnOnce(&mut Member, Instant)) {
        let mut brain = self.lock();
        change(&mut brain.member, monotonic());
        self.drain(&mut brain);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Brain> {
        self.brain.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn drain(&self, brain: &mut Brain) {
        while let Some(command) = brain.member.poll_command() {
            match command {
                Command::Enter { phase, deadline } => {
                    brain.phase = (phase, deadline);
                    self.recorder.enter(phase, deadline);
                }
                Command::Say(word) => {
                    tracing::debug!(?word, "says");
                    // The link ends with the process only.
                    drop(self.said.send(word));
                }
                Command::Leave { code } => {
                    tracing::info!(code, "leaves");
                    shim::exit(code);
                }
                Command::Form(go) => {
                    // A new generation begins with fresh counters.
                    self.recorder.begin(go.generation);
                    let (phase, deadline) = brain.phase;
                    self.recorder.enter(phase, deadline);
                    self.pass_on(Command::Form(go));
                }
                command @ (Command::Load(_)
                | Command::Step
                | Command::Save { .. }
                | Command::Hash
                | Command::Abandon) => self.pass_on(command),
            }
        }
    }

    fn pass_on(&self, command: Command) {
        // The main thread takes commands until the process ends.
        drop(self.work.send(command));
    }
}

/// Lives until the member leaves; then the process ends with its code.
pub fn run(options: Options) -> Result<(), StartError> {
    shim::setup()?;
    let recorder = Recorder::open(&options.flight).map_err(|error| StartError::Flight {
        path: options.flight.display().to_string(),
        error,
    })?;
    // One page for the whole life of the process.
    let recorder: &'static Recorder = Box::leak(Box::new(recorder));
    let (work, commands) = channel();
    let (said, words) = unbounded_channel();
    let brain = Brain {
        member: Member::new(options.member.clone()),
        phase: (Phase::Idle, None),
    };
    let shared = Arc::new(Shared {
        brain: Mutex::new(brain),
        recorder,
        work,
        said,
    });

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let handle = runtime.handle().clone();
    let heard = Arc::clone(&shared);
    let socket = options.socket.clone();
    std::thread::Builder::new()
        .name("link".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                let hear = |heard_now| {
                    heard.handle(match heard_now {
                        Heard::Back => Event::AgentBack,
                        Heard::Lost => Event::AgentLost,
                        Heard::Word(word) => Event::Word(word),
                    });
                };
                tokio::join!(link::keep(socket, words, hear), watch(&heard));
            });
        })?;
    let telling = Arc::clone(&shared);
    let saved = move |Saved {
                          checkpoint,
                          samples,
                          outcome,
                      }| {
        telling.handle(Event::Saved {
            checkpoint,
            samples,
            outcome,
        });
    };
    let worker = work::Worker::new(&options, handle, recorder, saved)?;
    follow(&commands, &shared, worker);
    Ok(())
}

/// Tells the member of the fence and of time that passes, and shows that the process runs.
async fn watch(shared: &Shared) {
    let mut fence = Generation(0);
    let mut ticks = tokio::time::interval(LOOK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        shared.recorder.pulse();
        let below = shared.recorder.fence();
        if below > fence {
            fence = below;
            shared.handle(Event::Fenced { below });
        }
        let due = {
            let brain = shared.lock();
            brain
                .member
                .poll_timeout()
                .is_some_and(|at| at <= monotonic())
        };
        if due {
            shared.with(Member::handle_timeout);
        }
    }
}

fn follow(commands: &Receiver<Command>, shared: &Shared, mut worker: work::Worker) {
    for command in commands {
        worker.carry_out(command, shared);
    }
}
