//! A worker's process: the real member, and a driver whose training is made up.

use crate::agent::SeenExit;
use crate::options::{Options, Planted};
use crate::storage::{Saved, digest};
use crate::training;
use crate::world::{Happening, World, micros};
use rebloom_core::cause::{Blamed, Exit};
use rebloom_core::checkpoint::CheckpointId;
use rebloom_core::flight::{Channel, Counter, Page, Phase};
use rebloom_core::id::{Generation, Rank, RunId, Slot};
use rebloom_core::member::{Command, Config, Event, LoadTrouble, Member, Stepped, Trouble};
use rebloom_core::spec::seconds;
use rebloom_core::time::{Duration, Instant};
use rebloom_core::word::{FromWorker, Go, ToWorker};
use std::collections::VecDeque;

/// What a driver is busy with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Doing {
    Nothing,
    Forming,
    Loading,
    Stepping,
    Hashing,
}

/// How an action ended.
#[derive(Debug, Clone)]
pub(crate) enum Outcome {
    Formed,
    LoadEnds,
    /// The state after the step, and whether the gang agreed to stop.
    Stepped(Saved, bool),
    HashEnds,
    Trouble(Trouble),
}

/// A shard on its way to storage.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SaveAction {
    checkpoint: CheckpointId,
    saved: Saved,
}

/// One worker's process.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) run: RunId,
    pub(crate) rank: Rank,
    pub(crate) node: usize,
    pub(crate) slot: Slot,
    pub(crate) started: u64,
    member: Member,
    pub(crate) page: Page,
    pub(crate) fence_below: Generation,
    pub(crate) stop_generation: Generation,
    /// Said and not acknowledged.
    pub(crate) words: VecDeque<(u64, FromWorker)>,
    last_word: u64,
    /// The life of the agent it is connected to.
    life: Option<u64>,
    /// Stopped by SIGSTOP; what would have happened to it is held.
    pub(crate) is_stopped: bool,
    pub(crate) held: Vec<Happening>,
    pub(crate) slowness: u32,
    /// Whether it was ever stopped or slow: then a hang may be blamed on it.
    pub(crate) was_ill: bool,
    /// What its next step ends with.
    pub(crate) trouble: Option<Blamed>,
    /// Counts its actions; the outcome of an older one is nobody's.
    pub(crate) action: u64,
    pub(crate) doing: Doing,
    pub(crate) go: Option<Box<Go>>,
    pub(crate) gang: Option<u64>,
    pub(crate) saved: Saved,
    timer: Option<Instant>,
}

impl Process {
    pub(crate) fn new(
        (run, rank): (RunId, Rank),
        (node, slot): (usize, Slot),
        (pid, started): (u32, u64),
        options: &Options,
    ) -> Self {
        let orphan_after = options.limits.orphan_after;
        Self {
            member: Member::new(Config {
                run: run.clone(),
                rank,
                pid,
                orphan_after,
            }),
            run,
            rank,
            node,
            slot,
            started,
            page: Page::default(),
            fence_below: Generation(0),
            stop_generation: Generation(0),
            words: VecDeque::new(),
            last_word: 0,
            life: None,
            is_stopped: false,
            held: Vec::new(),
            slowness: 1,
            was_ill: false,
            trouble: None,
            action: 0,
            doing: Doing::Nothing,
            go: None,
            gang: None,
            saved: Saved::default(),
            timer: None,
        }
    }

    pub(crate) fn generation(&self) -> Generation {
        self.go.as_ref().map_or(Generation(0), |go| go.generation)
    }

    pub(crate) fn is_fenced(&self) -> bool {
        self.generation() < self.fence_below
    }

    /// One more, or one less, operation of the whole gang under way.
    pub(crate) fn count(&mut self, change: impl FnOnce(&mut Counter)) {
        let world = Channel::ALL
            .iter()
            .position(|&channel| channel == Channel::World);
        change(&mut self.page.counters[world.unwrap_or_default()]);
    }
}

impl World {
    pub(crate) fn worker_connect(&mut self, pid: u32) {
        let Some(process) = self
            .processes
            .get(&pid)
            .filter(|process| process.life.is_none())
        else {
            return;
        };
        let Some(life) = self.agent_meets(process.node, pid) else {
            let pause = self.random.millis(5, 150);
            self.after(pause, Happening::WorkerConnect { pid });
            return;
        };
        let Some(process) = self.processes.get_mut(&pid) else {
            return;
        };
        process.life = Some(life);
        for (sequence, word) in process.words.clone() {
            self.carry_word(pid, sequence, word);
        }
        self.tell_member(pid, Event::AgentBack);
    }

    /// The agent's end of the socket is gone.
    pub(crate) fn lose_agent(&mut self, pid: u32) {
        let notices = self.random.micros(20, 800);
        self.after(notices, Happening::AgentGone { pid });
    }

    pub(crate) fn agent_gone(&mut self, pid: u32) {
        let Some(process) = self.processes.get_mut(&pid) else {
            return;
        };
        process.life = None;
        self.tell_member(pid, Event::AgentLost);
        self.after(Duration::from_millis(5), Happening::WorkerConnect { pid });
    }

    pub(crate) fn word_told(&mut self, pid: u32, word: ToWorker) {
        self.tell_member(pid, Event::Word(word));
    }

    pub(crate) fn worker_timer(&mut self, pid: u32) {
        let Some(process) = self.processes.get_mut(&pid) else {
            return;
        };
        process.timer = None;
        let now = self.node_now(self.processes[&pid].node);
        let Some(process) = self.processes.get_mut(&pid) else {
            return;
        };
        if process.member.poll_timeout().is_some_and(|due| due <= now) {
            process.member.handle_timeout(now);
        }
        self.drain_member(pid);
    }

    pub(crate) fn raise_fence(&mut self, pid: u32, below: Generation) {
        if let Some(process) = self.processes.get_mut(&pid) {
            process.fence_below = process.fence_below.max(below);
            let seen = self.random.micros(100, 5000);
            self.after(seen, Happening::FenceSeen { pid });
        }
    }

    pub(crate) fn fence_seen(&mut self, pid: u32) {
        let Some(process) = self.processes.get(&pid) else {
            return;
        };
        if self.options.planted == Some(Planted::FenceIgnored) {
            return;
        }
        let below = process.fence_below;
        let waits = matches!(process.doing, Doing::Forming | Doing::Stepping);
        let (action, ends) = (process.action, waits && process.is_fenced());
        // Two threads of the worker see it, in any order.
        let first = self.random.once_in(2);
        if first {
            self.tell_member(pid, Event::Fenced { below });
        }
        if ends {
            self.action_done(pid, action, Outcome::Trouble(Trouble::Fenced));
        }
        if !first {
            self.tell_member(pid, Event::Fenced { below });
        }
    }

    pub(crate) fn continue_process(&mut self, pid: u32) {
        let Some(process) = self.processes.get_mut(&pid) else {
            return;
        };
        if process.is_stopped {
            process.is_stopped = false;
            for happening in std::mem::take(&mut process.held) {
                self.after(Duration::ZERO, happening);
            }
            self.note("fault", format_args!("SIGCONT of {pid}"));
        }
    }

    /// The process is gone, however that came.
    pub(crate) fn end_process(&mut self, pid: u32, exit: Exit) {
        self.leave_gang(pid);
        let Some(process) = self.processes.remove(&pid) else {
            return;
        };
        let (run, rank, node) = (process.run, process.rank, process.node);
        let name = self.nodes[node].name();
        self.note(
            &name,
            format_args!("{run} rank {rank} pid {pid} ends with {exit}"),
        );
        let seen = self.random.micros(50, 6000);
        let life = self.nodes[node].life;
        let exit = SeenExit {
            run,
            rank,
            pid,
            exit,
        };
        self.after(seen, Happening::ExitSeen { node, life, exit });
    }

    pub(crate) fn tell_member(&mut self, pid: u32, event: Event) {
        let Some(process) = self.processes.get(&pid) else {
            return;
        };
        let now = self.node_now(process.node);
        if let Some(process) = self.processes.get_mut(&pid) {
            process.member.handle(now, event);
        }
        self.drain_member(pid);
    }

    fn drain_member(&mut self, pid: u32) {
        while let Some(process) = self.processes.get_mut(&pid)
            && let Some(command) = process.member.poll_command()
        {
            self.do_for_member(pid, command);
        }
        let Some(process) = self.processes.get(&pid) else {
            return;
        };
        let (node, timer) = (process.node, process.timer);
        if let Some(due) = process.member.poll_timeout()
            && let due = self.world_time(node, due)
            && timer.is_none_or(|set| due < set)
        {
            if let Some(process) = self.processes.get_mut(&pid) {
                process.timer = Some(due);
            }
            self.at(due, Happening::WorkerTimer { pid });
        }
    }

    fn do_for_member(&mut self, pid: u32, command: Command) {
        let shard_time = micros(self.options.shard_time);
        let Some(process) = self.processes.get_mut(&pid) else {
            return;
        };
        match command {
            Command::Enter { phase, deadline } => {
                process.page.phase = phase;
                process.page.deadline = deadline;
            }
            Command::Form(go) => self.form(pid, go),
            Command::Load(_) => {
                let action = begin(process, Doing::Loading);
                let takes = self.random.micros(1000, shard_time.max(1001));
                self.after(
                    takes,
                    Happening::ActionDone {
                        pid,
                        action,
                        outcome: Outcome::LoadEnds,
                    },
                );
            }
            Command::Step => self.step(pid),
            Command::Save {
                checkpoint,
                wait: _,
            } => {
                let save = SaveAction {
                    checkpoint,
                    saved: process.saved,
                };
                let takes = self.random.micros(1000, shard_time.max(1001));
                self.after(takes, Happening::ShardWritten { pid, save });
            }
            Command::Hash => {
                let action = begin(process, Doing::Hashing);
                let takes = self.random.millis(1, 20);
                self.after(
                    takes,
                    Happening::ActionDone {
                        pid,
                        action,
                        outcome: Outcome::HashEnds,
                    },
                );
            }
            Command::Abandon => {
                begin(process, Doing::Nothing);
                self.leave_gang(pid);
            }
            Command::Say(word) => {
                process.last_word += 1;
                let sequence = process.last_word;
                process.words.push_back((sequence, word.clone()));
                self.carry_word(pid, sequence, word);
            }
            Command::Leave { code } => {
                let takes = self.random.millis(1, 40);
                self.after(takes, Happening::ProcessEnds { pid, code });
            }
        }
    }

    fn carry_word(&mut self, pid: u32, sequence: u64, word: FromWorker) {
        let delay = self.random.micros(20, 900);
        let Some(process) = self.processes.get(&pid) else {
            return;
        };
        if let Some(life) = process.life {
            let node = process.node;
            self.after(
                delay,
                Happening::WordArrives {
                    node,
                    life,
                    pid,
                    sequence,
                    word,
                },
            );
        }
    }

    fn form(&mut self, pid: u32, go: Box<Go>) {
        self.leave_gang(pid);
        let Some(process) = self.processes.get_mut(&pid) else {
            return;
        };
        process.page = Page {
            generation: go.generation,
            phase: Phase::Init,
            deadline: process.page.deadline,
            ..Page::default()
        };
        let deadline = seconds(go.spec.deadlines.init);
        process.go = Some(go);
        let action = begin(process, Doing::Forming);
        self.check_form(pid);
        let begins = self.random.millis(1, 15);
        self.after(begins, Happening::FormTried { pid, action });
        self.give_up_after(pid, action, deadline);
    }

    fn step(&mut self, pid: u32) {
        let most = micros(self.options.step_time);
        let Some(process) = self.processes.get_mut(&pid) else {
            return;
        };
        let deadline = process.go.as_ref().map_or(1.0, |go| go.spec.deadlines.step);
        let action = begin(process, Doing::Stepping);
        let takes = self.random.micros(most / 2, most) * process.slowness;
        self.after(takes, Happening::StepEntered { pid, action });
        self.give_up_after(pid, action, seconds(deadline));
    }

    /// Every wait is bounded, if far above its deadline.
    fn give_up_after(&mut self, pid: u32, action: u64, deadline: Duration) {
        if self.options.collective_timeout > 0 {
            let error = "timed out".to_owned();
            let outcome = Outcome::Trouble(Trouble::PeerLost { error });
            let after = deadline * self.options.collective_timeout;
            self.after(
                after,
                Happening::ActionDone {
                    pid,
                    action,
                    outcome,
                },
            );
        }
    }

    pub(crate) fn action_done(&mut self, pid: u32, action: u64, outcome: Outcome) {
        let Some(process) = self.processes.get_mut(&pid).filter(|p| p.action == action) else {
            return;
        };
        let doing = process.doing;
        begin(process, Doing::Nothing);
        let is_fenced = process.is_fenced() && self.options.planted != Some(Planted::FenceIgnored);
        let event = match outcome {
            Outcome::Formed => Event::Formed { outcome: Ok(()) },
            Outcome::LoadEnds => Event::Loaded {
                outcome: self.load(pid),
            },
            Outcome::Stepped(..) if is_fenced => Event::Stepped {
                outcome: Err(Trouble::Fenced),
            },
            Outcome::Stepped(saved, stop) => {
                process.saved = saved;
                process.page.step = saved.step;
                process.page.samples = saved.samples;
                process.count(|counter| counter.done += 1);
                self.check_step(pid);
                let (step, samples) = (saved.step, saved.samples);
                Event::Stepped {
                    outcome: Ok(Stepped {
                        step,
                        samples,
                        stop,
                    }),
                }
            }
            Outcome::HashEnds => Event::Hashed {
                state: digest(process.saved),
            },
            Outcome::Trouble(trouble) if doing == Doing::Forming => Event::Formed {
                outcome: Err(trouble),
            },
            Outcome::Trouble(trouble) => Event::Stepped {
                outcome: Err(trouble),
            },
        };
        self.tell_member(pid, event);
    }

    fn load(&mut self, pid: u32) -> Result<(rebloom_core::id::Step, u64), LoadTrouble> {
        let process = self.processes.get_mut(&pid);
        let Some((process, go)) = process.and_then(|p| p.go.clone().map(|go| (p, go))) else {
            return Err(LoadTrouble::Other(Trouble::Fenced));
        };
        let mut saved = match go.resume {
            None => training::initial(&go.spec, process.rank),
            Some(id) => match self.storage.read(&process.run, id, process.rank) {
                Ok(saved) => saved,
                Err(_) if self.options.planted == Some(Planted::ShardUnverified) => Saved {
                    step: id.step,
                    ..Saved::default()
                },
                Err(unsound) => return Err(LoadTrouble::Unsound(unsound)),
            },
        };
        if self.options.planted == Some(Planted::SamplesRepeated) {
            saved.samples = saved.samples.saturating_sub(1);
        }
        process.saved = saved;
        process.page.step = saved.step;
        process.page.samples = saved.samples;
        self.check_loaded(pid);
        Ok((saved.step, saved.samples))
    }

    pub(crate) fn shard_written(&mut self, pid: u32, save: SaveAction) {
        let Some(process) = self.processes.get(&pid) else {
            return;
        };
        let SaveAction { checkpoint, saved } = save;
        let outcome = self
            .storage
            .write(&process.run, checkpoint, process.rank, saved);
        self.tell_member(
            pid,
            Event::Saved {
                checkpoint,
                samples: saved.samples,
                outcome,
            },
        );
    }
}

/// Begins an action; the one before is over.
const fn begin(process: &mut Process, doing: Doing) -> u64 {
    process.action += 1;
    process.doing = doing;
    process.action
}
