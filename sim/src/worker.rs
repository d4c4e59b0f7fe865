//! A worker's process: the real member, and a driver whose training is made up.

mod driver;

use crate::agent::SeenExit;
use crate::options::{Options, Planted};
use crate::storage::Saved;
use crate::world::{Happening, World};
use rebloom_core::cause::{Blamed, Exit};
use rebloom_core::checkpoint::CheckpointId;
use rebloom_core::eval::Evaluation;
use rebloom_core::flight::{Channel, Counter, Page};
use rebloom_core::id::{Generation, Rank, RunId, Slot};
use rebloom_core::member::{Config, Event, Member, Trouble};
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
    Evaluating,
    Hashing,
}

/// How an action ended.
#[derive(Debug, Clone)]
pub(crate) enum Outcome {
    Formed,
    LoadEnds,
    /// The state after the step, and whether the gang agreed to stop.
    Stepped(Saved, bool),
    Evaluated(Evaluation),
    HashEnds,
    Trouble(Trouble),
}

/// A shard on its way to storage.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SaveAction {
    pub(crate) checkpoint: CheckpointId,
    pub(crate) saved: Saved,
}

/// One worker's process.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) run: RunId,
    pub(crate) rank: Rank,
    pub(crate) node: usize,
    pub(crate) slot: Slot,
    pub(crate) started: u64,
    /// The generation it was started for.
    pub(crate) spawned_for: Generation,
    member: Member,
    pub(crate) page: Page,
    pub(crate) fence_below: Generation,
    pub(crate) stop_generation: Generation,
    /// Said and not acknowledged.
    pub(crate) words: VecDeque<(u64, FromWorker)>,
    last_word: u64,
    /// When the last of them arrives: what goes through one socket comes in order.
    word_arrives: Instant,
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
        spawned_for: Generation,
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
            spawned_for,
            page: Page::default(),
            fence_below: Generation(0),
            stop_generation: Generation(0),
            words: VecDeque::new(),
            last_word: 0,
            word_arrives: Instant::ZERO,
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
        let waits = matches!(
            process.doing,
            Doing::Forming | Doing::Stepping | Doing::Evaluating
        );
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
            self.after(Duration::ZERO, Happening::GangsTried);
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
}
