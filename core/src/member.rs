//! The worker's machine: one process that lives through generations.
//!
//! It waits for a go, forms its groups, loads the state it is told, trains until it is done or
//! fenced, and waits again. The driver carries out one command at a time and answers with its
//! outcome; while it trains, each step is one command. `Say` and `Leave` are carried out at once,
//! also while another command is under way. A fence and a newer go never interrupt a command: the
//! driver sees the fence in the flight page and answers `Fenced`, and only then the member goes on.

mod command;
mod evaluate;
mod event;
mod save;

pub use command::Command;
pub use event::{Event, LoadTrouble, Stepped, Trouble};

use crate::checkpoint::CheckpointId;
use crate::flight::Phase;
use crate::id::{Generation, Rank, RunId, Step};
use crate::report::{Finish, Milestone};
use crate::spec::seconds;
use crate::time::{Duration, Instant};
use crate::word::{FromWorker, Go, Hello, ToWorker};
use std::collections::VecDeque;

/// The exit code of a worker that left because it had no agent for too long.
pub const ORPHANED: i32 = 75;

/// How this worker is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Whose process it is.
    pub run: RunId,
    /// Which rank.
    pub rank: Rank,
    /// Its process id.
    pub pid: u32,
    /// Where its agent is gone, or does nothing, it leaves this long after a controller was last there
    /// (S1; see `engine::Limits`).
    pub orphan_after: Duration,
}

/// What it is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Waits for a word: before the first go, after its generation ended, or once finished.
    Idle,
    Forming,
    Loading,
    Stepping,
    /// Before it goes on, or ends.
    Evaluating {
        finish: Option<Finish>,
    },
    /// Waits for the save before, since `next` is due already.
    Clearing {
        next: CheckpointId,
        finish: Option<Finish>,
    },
    /// Waits for the last save.
    Saving {
        last: CheckpointId,
        why: Finish,
    },
    Hashing {
        why: Finish,
    },
    Left,
}

/// The worker's machine.
#[derive(Debug)]
pub struct Member {
    config: Config,
    state: State,
    /// The generation it is or was in.
    go: Option<Box<Go>>,
    milestone: Milestone,
    step: Step,
    /// The newest step after which the run was evaluated.
    evaluated: Step,
    /// The save under way.
    saving: Option<CheckpointId>,
    /// The snapshot under way.
    snapping: Option<CheckpointId>,
    /// The lowest generation that is not fenced.
    fence_below: Generation,
    /// What comes once the command under way is over.
    pending: Option<ToWorker>,
    /// What an agent that comes back is told again: it may have died before passing it on.
    last_word: Option<FromWorker>,
    last_saved: Option<FromWorker>,
    last_snapped: Option<FromWorker>,
    /// The evaluations of the last while, oldest first, by when they were said.
    scored: VecDeque<(Instant, FromWorker)>,
    has_agent: bool,
    /// Since when it has no agent; none before the first call.
    alone_since: Option<Instant>,
    /// When a controller was last there, as far as its agent said.
    heard: Option<Instant>,
    commands: VecDeque<Command>,
}

impl Member {
    /// A worker that just started, not connected to its agent yet.
    pub const fn new(config: Config) -> Self {
        Self {
            config,
            state: State::Idle,
            go: None,
            milestone: Milestone::Going,
            step: Step(0),
            evaluated: Step(0),
            saving: None,
            snapping: None,
            fence_below: Generation(0),
            pending: None,
            last_word: None,
            last_saved: None,
            last_snapped: None,
            scored: VecDeque::new(),
            has_agent: false,
            alone_since: None,
            heard: None,
            commands: VecDeque::new(),
        }
    }

    /// Takes in what happened.
    pub fn handle(&mut self, now: Instant, event: Event) {
        self.wake(now);
        match event {
            Event::Word(word) => self.word(now, word),
            Event::Fenced { below } => self.fence(below),
            Event::AgentLost => {
                self.has_agent = false;
                self.alone_since = Some(now);
            }
            Event::AgentBack => self.agent_back(),
            Event::Formed { outcome } => self.formed(now, outcome),
            Event::Loaded { outcome } => self.loaded(now, outcome),
            Event::Stepped { outcome } => self.stepped(now, outcome),
            Event::Evaluated { outcome } => self.was_evaluated(now, outcome),
            Event::Saved {
                checkpoint,
                samples,
                outcome,
            } => {
                self.saved(now, checkpoint, samples, outcome);
            }
            Event::Snapped {
                checkpoint,
                outcome,
            } => self.snapped(checkpoint, outcome),
            Event::Hashed { state } => self.hashed(now, state),
        }
    }

    /// Does what is due: leaves when nobody who could fence it has heard of a controller for too long.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.wake(now);
        if self.poll_timeout().is_some_and(|at| at <= now) {
            self.state = State::Left;
            self.commands.push_back(Command::Leave { code: ORPHANED });
        }
    }

    /// What it wants done; drain it after every call.
    pub fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// When to call [`Self::handle_timeout`] next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let Config { orphan_after, .. } = self.config;
        let heard = self.heard.map(|heard| heard + orphan_after);
        if self.state == State::Left {
            None
        } else if self.has_agent {
            // An agent that runs has fenced it by then.
            let trains = self.state != State::Idle && !self.is_fenced();
            heard.filter(|_| trains).map(|at| at + orphan_after / 20)
        } else {
            // Its agent may have died long after it last heard anything itself.
            let alone = self.alone_since.map(|since| since + orphan_after);
            Some(heard.into_iter().chain(alone).min().unwrap_or_default())
        }
    }

    fn wake(&mut self, now: Instant) {
        self.alone_since.get_or_insert(now);
    }

    fn generation(&self) -> Generation {
        self.go.as_ref().map_or(Generation(0), |go| go.generation)
    }

    fn is_fenced(&self) -> bool {
        self.generation() < self.fence_below
    }

    /// Whether a command is under way whose outcome must come before the next.
    const fn is_busy(&self) -> bool {
        !matches!(
            self.state,
            State::Idle | State::Clearing { .. } | State::Left
        )
    }

    fn agent_back(&mut self) {
        self.has_agent = true;
        self.say(FromWorker::Hello(Hello {
            run: self.config.run.clone(),
            rank: self.config.rank,
            pid: self.config.pid,
            generation: self.generation(),
            milestone: self.milestone,
        }));
        // A checkpoint is sealed by the words of its saves, so what was scored before it comes before them.
        let scored = self.scored.iter().map(|(_, word)| word);
        let last = [&self.last_snapped, &self.last_saved, &self.last_word];
        let again = scored.chain(last.into_iter().flatten());
        for word in again.cloned().collect::<Vec<_>>() {
            self.say(word);
        }
    }

    fn word(&mut self, now: Instant, word: ToWorker) {
        if let ToWorker::Heard(at) = word {
            self.heard = self.heard.max(Some(at));
            return;
        }
        let newest = match &self.pending {
            Some(ToWorker::Go(go)) => go.generation,
            Some(ToWorker::Exit | ToWorker::Heard(_)) | None => self.generation(),
        };
        let is_stale = |go: &Go| go.generation <= newest || go.generation < self.fence_below;
        if self.state == State::Left || matches!(&word, ToWorker::Go(go) if is_stale(go)) {
            return;
        }
        self.pending = Some(word);
        if !self.is_busy() {
            self.next_word(now);
        }
    }

    /// Takes up the word that waited for the end of a command; false where there is none.
    fn next_word(&mut self, now: Instant) -> bool {
        match self.pending.take() {
            Some(ToWorker::Go(go)) => {
                self.milestone = Milestone::Going;
                self.step = Step(0);
                self.evaluated = go.evaluated.unwrap_or_default();
                (self.saving, self.snapping) = (None, None);
                self.last_word = None;
                self.state = State::Forming;
                self.go = Some(go.clone());
                self.enter(now, Phase::Init);
                self.commands.push_back(Command::Form(go));
                true
            }
            Some(ToWorker::Exit) => {
                self.enter(now, Phase::Exit);
                self.state = State::Left;
                self.commands.push_back(Command::Leave { code: 0 });
                true
            }
            Some(ToWorker::Heard(_)) | None => false,
        }
    }

    fn fence(&mut self, below: Generation) {
        self.fence_below = self.fence_below.max(below);
        if self.is_fenced() && matches!(self.state, State::Clearing { .. }) {
            self.abandon();
        }
    }

    /// Ends the generation; the process waits for the next.
    fn abandon(&mut self) {
        self.state = State::Idle;
        self.commands.push_back(Command::Abandon);
        self.commands.push_back(Command::Enter {
            phase: Phase::Idle,
            deadline: None,
        });
    }

    /// Whether the generation ended while a command was under way; then there is no next one.
    fn is_over(&mut self, now: Instant) -> bool {
        if self.next_word(now) {
            return true;
        }
        if self.is_fenced() {
            self.abandon();
        }
        self.is_fenced()
    }

    fn give_up(&mut self, now: Instant, phase: Phase, trouble: Trouble) {
        if self.is_over(now) {
            return;
        }
        let word = trouble.word(self.generation(), phase);
        self.abandon();
        word.into_iter().for_each(|word| self.say_last(word));
    }

    fn formed(&mut self, now: Instant, outcome: Result<(), Trouble>) {
        if self.state != State::Forming {
            return;
        }
        if let Err(trouble) = outcome {
            return self.give_up(now, Phase::Init, trouble);
        }
        if self.is_over(now) {
            return;
        }
        self.reach(Milestone::Formed);
        self.state = State::Loading;
        self.enter(now, Phase::Load);
        self.commands.extend(self.go.clone().map(Command::Load));
    }

    fn loaded(&mut self, now: Instant, outcome: Result<(Step, u64), LoadTrouble>) {
        if self.state != State::Loading {
            return;
        }
        match outcome {
            Err(LoadTrouble::Other(trouble)) => self.give_up(now, Phase::Load, trouble),
            Err(LoadTrouble::Unsound(unsound)) => {
                if !self.is_over(now) {
                    self.abandon();
                    let generation = self.generation();
                    let resume = self.go.as_ref().and_then(|go| go.resume);
                    let checkpoint = resume.unwrap_or(CheckpointId {
                        step: Step(0),
                        generation,
                    });
                    self.say_last(FromWorker::LoadRefused {
                        generation,
                        checkpoint,
                        unsound,
                    });
                }
            }
            Ok((step, _)) => {
                if !self.is_over(now) {
                    self.step = step;
                    self.reach(Milestone::Loaded);
                    let finish = self.is_last(step).then_some(Finish::Completed);
                    self.go_on(now, finish);
                }
            }
        }
    }

    fn stepped(&mut self, now: Instant, outcome: Result<Stepped, Trouble>) {
        if self.state != State::Stepping {
            return;
        }
        let done = match outcome {
            Ok(done) => done,
            Err(trouble) => return self.give_up(now, Phase::Step, trouble),
        };
        if self.is_over(now) {
            return;
        }
        self.step = done.step;
        if let Some(spike) = done.spike {
            let generation = self.generation();
            self.say(FromWorker::Spiked {
                generation,
                spike,
                goes_on: true,
            });
        }
        if self.milestone < Milestone::Stepped {
            self.reach(Milestone::Stepped);
        }
        let finish = if self.is_last(done.step) {
            Some(Finish::Completed)
        } else {
            done.stop.then_some(Finish::Stopped)
        };
        let every = self
            .go
            .as_ref()
            .map_or(1, |go| go.spec.checkpoint.every_steps);
        if finish.is_none() && !done.step.0.is_multiple_of(every) {
            self.snap(done.step);
            return self.go_on(now, None);
        }
        let next = CheckpointId {
            step: done.step,
            generation: self.generation(),
        };
        self.enter(now, Phase::Save);
        if self.saving.is_some() {
            self.state = State::Clearing { next, finish };
        } else {
            self.save(now, next, finish);
        }
    }

    /// Evaluates where that is due, and then ends or does the next step.
    fn go_on(&mut self, now: Instant, finish: Option<Finish>) {
        if self.is_to_evaluate(finish) {
            self.state = State::Evaluating { finish };
            self.enter(now, Phase::Eval);
            self.commands.push_back(Command::Evaluate);
        } else if let Some(why) = finish {
            self.hash(why);
        } else {
            self.state = State::Stepping;
            self.enter(now, Phase::Step);
            self.commands.push_back(Command::Step);
        }
    }

    fn is_last(&self, step: Step) -> bool {
        self.go
            .as_ref()
            .is_some_and(|go| step.0 >= go.spec.train.steps)
    }

    fn enter(&mut self, now: Instant, phase: Phase) {
        let deadline = self.go.as_ref().and_then(|go| {
            let deadlines = &go.spec.deadlines;
            (phase != Phase::Idle).then(|| now + seconds(deadlines.of(phase)))
        });
        self.commands.push_back(Command::Enter { phase, deadline });
    }

    fn reach(&mut self, milestone: Milestone) {
        self.milestone = milestone;
        let (generation, step) = (self.generation(), self.step);
        self.say_last(FromWorker::Reached {
            generation,
            milestone,
            step,
        });
    }

    fn say_last(&mut self, word: FromWorker) {
        self.last_word = Some(word.clone());
        self.say(word);
    }

    fn say(&mut self, word: FromWorker) {
        self.commands.push_back(Command::Say(word));
    }
}
