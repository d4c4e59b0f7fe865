//! The driver of `core::member`: carries out one command at a time and answers with its outcome.
//!
//! The main thread trains. Words, the fence and the deadline of a worker without an agent come in on
//! the link's thread; whoever brings an event also carries out what needs no training (`Say`,
//! `Enter`, `Leave`), so a step needs no other thread. Nothing is decided in here.

use crate::fence::Fence;
use crate::link::{self, Heard};
use crate::snapshots::Snapshots;
use crate::work::{Place, Teller, Work};
use rebloom_core::flight::Phase;
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

/// How often the pulse goes and the fence is looked at, unless [`Options::look`] says otherwise.
pub const LOOK: Duration = Duration::from_millis(10);

/// How a rank's process was started.
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
    /// Where it computes, as the agent says it.
    pub device: String,
    /// Its place on the node.
    pub slot: u32,
    /// Where its agent keeps snapshots; none where it keeps none.
    pub snapshots: Option<PathBuf>,
    /// How often the pulse goes and the fence is looked at, besides whenever the agent says something.
    pub look: Duration,
}

/// Why the process could not even begin.
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

/// What every thread of the process shares.
pub(crate) struct Shared {
    brain: Mutex<Brain>,
    recorder: &'static Recorder,
    fence: Arc<Fence>,
    exit: fn(i32) -> !,
    /// Whether there is a memory to leave them in.
    keeps_snapshots: bool,
    work: Sender<Command>,
    said: UnboundedSender<FromWorker>,
}

impl Shared {
    /// Tells the member, and carries out or passes on what it wants.
    pub(crate) fn handle(&self, event: Event) {
        self.with(|member, now| member.handle(now, event));
    }

    /// As [`Self::handle`], and writes the page in one go with what the member wants.
    fn handle_and_record(&self, event: Event, record: impl FnOnce(&Recorder)) {
        let mut brain = self.lock();
        record(self.recorder);
        brain.member.handle(monotonic(), event);
        self.drain(&mut brain);
    }

    /// Tells the member where the fence stands, if it rose.
    fn look(&self) {
        if let Some(below) = self.fence.look() {
            self.handle(Event::Fenced { below });
        }
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
                    (self.exit)(code);
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
                | Command::Evaluate
                | Command::Save { .. }
                | Command::Snapshot { .. }
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

/// Lives until the member leaves; then `exit` ends the process with its code. `begin` makes what carries out
/// the commands.
///
/// # Errors
/// Where the flight page or a thread cannot be had, or `begin` fails.
pub fn run<W: Work, E: From<StartError>>(
    options: &Options,
    exit: fn(i32) -> !,
    begin: impl FnOnce(Place) -> Result<W, E>,
) -> Result<(), E> {
    let recorder = Recorder::open(&options.flight).map_err(|error| StartError::Flight {
        path: options.flight.display().to_string(),
        error,
    })?;
    // One page for the whole life of the process.
    let recorder: &'static Recorder = Box::leak(Box::new(recorder));
    let fence = Arc::new(Fence::new(recorder));
    let (work, commands) = channel();
    let (said, words) = unbounded_channel();
    let brain = Brain {
        member: Member::new(options.member.clone()),
        phase: (Phase::Idle, None),
    };
    let shared = Arc::new(Shared {
        brain: Mutex::new(brain),
        recorder,
        fence: Arc::clone(&fence),
        exit,
        keeps_snapshots: options.snapshots.is_some(),
        work,
        said,
    });

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(StartError::Thread)?;
    let handle = runtime.handle().clone();
    let heard = Arc::clone(&shared);
    let (socket, look) = (options.socket.clone(), options.look);
    std::thread::Builder::new()
        .name("link".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                let hear = |heard_now| {
                    // A fence goes up before the word that follows from it.
                    heard.look();
                    heard.handle(match heard_now {
                        Heard::Back => Event::AgentBack,
                        Heard::Lost => Event::AgentLost,
                        Heard::Word(word) => Event::Word(word),
                    });
                };
                tokio::join!(link::keep(socket, words, hear), watch(&heard, look));
            });
        })
        .map_err(StartError::Thread)?;
    let snapshots = options.snapshots.as_ref().map(|root| {
        let (run, fence) = (options.member.run.clone(), Arc::clone(&fence));
        Snapshots::new(root, run, handle.clone(), &options.socket, fence)
    });
    let mut work = begin(Place {
        runtime: handle,
        recorder,
        fence,
        snapshots,
        teller: Teller(Arc::clone(&shared)),
    })?;
    follow(&commands, &shared, &mut work);
    Ok(())
}

/// Tells the member of the fence and of time that passes, and shows that the process runs.
async fn watch(shared: &Shared, look: Duration) {
    let mut ticks = tokio::time::interval(look);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        shared.recorder.pulse();
        shared.look();
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

fn follow(commands: &Receiver<Command>, shared: &Shared, work: &mut impl Work) {
    for command in commands {
        carry_out(command, shared, work);
    }
}

/// Carries out one command and tells the member what came of it.
fn carry_out(command: Command, shared: &Shared, work: &mut impl Work) {
    match command {
        Command::Form(go) => {
            let outcome = work.form(&go);
            shared.handle(Event::Formed { outcome });
        }
        Command::Load(go) => match work.load(&go) {
            Ok((step, samples)) => {
                let outcome = Ok((step, samples));
                shared.handle_and_record(Event::Loaded { outcome }, |r| r.stand(step, samples));
            }
            Err(error) => shared.handle(Event::Loaded {
                outcome: Err(error),
            }),
        },
        Command::Step => {
            let began = monotonic();
            shared.recorder.begin_step();
            match work.step() {
                Ok(done) => {
                    let (step, samples) = (done.stepped.step, done.stepped.samples);
                    let nanos = monotonic().since(began).as_nanos();
                    let nanos = u64::try_from(nanos).unwrap_or(u64::MAX);
                    let outcome = Ok(done.stepped);
                    shared.handle_and_record(Event::Stepped { outcome }, |recorder| {
                        recorder.stand(step, samples);
                        recorder.figures(done.loss, done.grad_norm, nanos);
                    });
                }
                Err(trouble) => {
                    tracing::warn!(?trouble, "the step came to nothing");
                    shared.handle(Event::Stepped {
                        outcome: Err(trouble),
                    });
                }
            }
        }
        Command::Evaluate => {
            let outcome = work.evaluate();
            if let Err(trouble) = &outcome {
                tracing::warn!(?trouble, "the evaluation came to nothing");
            }
            shared.handle(Event::Evaluated { outcome });
        }
        Command::Save { checkpoint, .. } => work.save(checkpoint),
        Command::Snapshot { checkpoint } if shared.keeps_snapshots => work.snapshot(checkpoint),
        Command::Snapshot { checkpoint } => shared.handle(Event::Snapped {
            checkpoint,
            outcome: Err("this node keeps no snapshots".to_owned()),
        }),
        Command::Hash => {
            let state = work.hash();
            shared.handle(Event::Hashed { state });
        }
        Command::Abandon => work.abandon(),
        Command::Enter { .. } | Command::Say(_) | Command::Leave { .. } => {
            unreachable!("carried out where they are drained")
        }
    }
}
