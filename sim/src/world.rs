//! One made-up world: what is in it, and how time passes.
//!
//! A queue of happenings, ordered by time and then by the order in which they were thought of. The
//! machines in it are the real ones; everything around them is made up here, from one seed.

use crate::agent::Node;
use crate::checks::Checks;
use crate::controller::Controller;
use crate::gang::Gangs;
use crate::memory::Replica;
use crate::options::{Fault, Options};
use crate::random::{Random, mix};
use crate::storage::{Rot, Storage};
use crate::trace::Trace;
use crate::verdict::{Failure, Resumes, Verdict};
use crate::wire::{Payload, Side, Wires};
use crate::worker::{Outcome, Process};
use rebloom_core::id::{Rank, RunId};
use rebloom_core::time::{Duration, Instant};
use rebloom_core::word::{FromWorker, ToWorker};
use std::collections::BTreeMap;

/// Something that will happen, unless what it is about is gone by then.
#[derive(Debug)]
pub(crate) enum Happening {
    ControllerStart,
    ControllerTick {
        life: u64,
    },
    ControllerTimer {
        life: u64,
    },
    AgentStart {
        node: usize,
    },
    AgentTick {
        node: usize,
        life: u64,
    },
    AgentTimer {
        node: usize,
        life: u64,
    },
    AgentConnect {
        node: usize,
        life: u64,
    },
    Arrive {
        wire: u64,
        to: Side,
        payload: Box<Payload>,
    },
    WireBreaks {
        wire: u64,
        at: Side,
    },
    /// A side gives up on a wire over which it hears nothing, if it is still that cut.
    WireGivenUp {
        wire: u64,
        at: Side,
        cut: u64,
    },
    ProcessEnds {
        pid: u32,
        code: i32,
    },
    ExitSeen {
        node: usize,
        life: u64,
        exit: crate::agent::SeenExit,
    },
    WorkerConnect {
        pid: u32,
    },
    AgentGone {
        pid: u32,
    },
    WorkerTimer {
        pid: u32,
    },
    WordArrives {
        node: usize,
        life: u64,
        pid: u32,
        sequence: u64,
        word: FromWorker,
    },
    WordTold {
        pid: u32,
        word: ToWorker,
    },
    FenceSeen {
        pid: u32,
    },
    FormTried {
        pid: u32,
        action: u64,
    },
    StepEntered {
        pid: u32,
        action: u64,
    },
    ActionDone {
        pid: u32,
        action: u64,
        outcome: Outcome,
    },
    ShardWritten {
        pid: u32,
        save: crate::worker::SaveAction,
    },
    SnapshotTaken {
        pid: u32,
        save: crate::worker::SaveAction,
    },
    /// A shard of one node's memory came to another.
    Replicated {
        node: usize,
        life: u64,
        replica: Replica,
    },
    Continue {
        pid: u32,
    },
    Strike,
    /// Gangs that waited for a process that was stopped go on, if that still is with them.
    GangsTried,
    /// A fault that waited for its moment, on one of these nodes where it can.
    Ambush {
        nodes: Vec<usize>,
    },
    /// The controller is killed, if it is still the same.
    ControllerDies {
        life: u64,
    },
    Undo(Undo),
    Calm,
    Admin {
        at: usize,
    },
    /// What an admin does once all is calm: see that every run goes on.
    Care,
}

impl Happening {
    /// The worker process that must run for this to happen.
    const fn process(&self) -> Option<u32> {
        match self {
            Self::ProcessEnds { pid, .. }
            | Self::WorkerConnect { pid }
            | Self::AgentGone { pid }
            | Self::WorkerTimer { pid }
            | Self::WordTold { pid, .. }
            | Self::FenceSeen { pid }
            | Self::FormTried { pid, .. }
            | Self::StepEntered { pid, .. }
            | Self::ActionDone { pid, .. }
            | Self::SnapshotTaken { pid, .. }
            | Self::ShardWritten { pid, .. } => Some(*pid),
            Self::ControllerStart
            | Self::ControllerTick { .. }
            | Self::ControllerTimer { .. }
            | Self::AgentStart { .. }
            | Self::AgentTick { .. }
            | Self::AgentTimer { .. }
            | Self::AgentConnect { .. }
            | Self::Arrive { .. }
            | Self::WireBreaks { .. }
            | Self::WireGivenUp { .. }
            | Self::ExitSeen { .. }
            | Self::WordArrives { .. }
            | Self::Replicated { .. }
            | Self::Continue { .. }
            | Self::Strike
            | Self::GangsTried
            | Self::Ambush { .. }
            | Self::ControllerDies { .. }
            | Self::Undo(_)
            | Self::Calm
            | Self::Admin { .. }
            | Self::Care => None,
        }
    }
}

/// The end of a fault that has one.
#[derive(Debug)]
pub(crate) enum Undo {
    Power { node: usize },
    Cut { node: usize, cut: u64 },
    Isolation { node: usize },
    Lag { node: usize },
    Full,
    Away,
    Spawns { node: usize },
    Level { node: usize },
    Repair { node: usize },
    Cordon { node: usize },
    Resume { run: RunId },
    Freeze { node: usize, life: u64 },
    FreezeController { life: u64 },
}

/// One world.
#[derive(Debug)]
pub struct World {
    pub(crate) options: Options,
    pub(crate) now: Instant,
    queue: BTreeMap<(Instant, u64), Happening>,
    serial: u64,
    pub(crate) random: Random,
    /// Chance of its own for what came later, so that a seed means the world that it meant.
    pub(crate) chance: Random,
    pub(crate) controller: Controller,
    pub(crate) nodes: Vec<Node>,
    pub(crate) processes: BTreeMap<u32, Process>,
    pub(crate) next_pid: u32,
    pub(crate) wires: Wires,
    pub(crate) gangs: Gangs,
    pub(crate) storage: Storage,
    pub(crate) checks: Checks,
    pub(crate) trace: Trace,
    /// When faults ended.
    pub(crate) calm: Option<Instant>,
    /// When every run was seen to be over.
    pub(crate) completed: Option<Instant>,
    pub(crate) resumes: Resumes,
    /// The first run that waits though there is room for it, and since when.
    pub(crate) waits: Option<(RunId, Instant)>,
    /// Nodes that the fault under way is meant for; none means any.
    pub(crate) aim: Vec<usize>,
}

impl World {
    /// The world of these options; with `print`, its story goes to standard output.
    pub fn new(options: Options, print: bool) -> Self {
        let mut random = Random::new(options.seed);
        let nodes = (0..options.nodes.len())
            .map(|at| {
                let site = options.sites.get(at).cloned().unwrap_or_default();
                Node::new(at, options.nodes[at], &mut random).at(site)
            })
            .collect();
        let mut world = Self {
            now: Instant::ZERO,
            queue: BTreeMap::new(),
            serial: 0,
            random,
            chance: Random::new(mix(options.seed) ^ 0x5a95_4075),
            controller: Controller::default(),
            nodes,
            processes: BTreeMap::new(),
            next_pid: 1000,
            wires: Wires::default(),
            gangs: Gangs::default(),
            storage: Storage::default(),
            checks: Checks::new(&options),
            trace: Trace::new(print),
            calm: None,
            completed: None,
            resumes: Resumes::new(),
            waits: None,
            aim: Vec::new(),
            options,
        };
        world.after(Duration::ZERO, Happening::ControllerStart);
        for node in 0..world.nodes.len() {
            let delay = world.random.millis(0, 1000);
            world.after(delay, Happening::AgentStart { node });
        }
        for at in 0..world.options.runs.len() {
            let delay = world.random.millis(100, 4000);
            world.after(delay, Happening::Admin { at });
        }
        let first = world.random.millis(0, 8000);
        world.after(first, Happening::Strike);
        world.after(world.options.storm, Happening::Calm);
        world
    }

    /// Lets time pass until everything came true that must, or something came true that must not.
    pub fn run(&mut self) -> Result<Verdict, Failure> {
        while let Some(((at, _), happening)) = self.queue.pop_first() {
            self.now = at;
            self.trace.count();
            if let Some(process) = happening
                .process()
                .and_then(|pid| self.processes.get_mut(&pid))
                && process.is_stopped
            {
                process.held.push(happening);
                continue;
            }
            self.happen(happening);
            if let Some(violation) = self.checks.violation.take() {
                return Err(self.failure(violation));
            }
            match self.judge_end() {
                Some(Ok(verdict)) => return Ok(verdict),
                Some(Err(violation)) => return Err(self.failure(violation)),
                None => {}
            }
        }
        Err(self.failure("L1: nothing is going to happen any more".to_owned()))
    }

    fn failure(&self, violation: String) -> Failure {
        Failure {
            seed: self.options.seed,
            event: self.trace.events(),
            violation,
            tail: self.trace.tail().map(str::to_owned).collect(),
        }
    }

    pub(crate) fn after(&mut self, delay: Duration, happening: Happening) {
        self.at(self.now + delay, happening);
    }

    pub(crate) fn at(&mut self, at: Instant, happening: Happening) {
        self.serial += 1;
        self.queue
            .insert((at.max(self.now), self.serial), happening);
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::ControllerStart => self.controller_start(),
            Happening::ControllerTick { life } => self.controller_tick(life),
            Happening::ControllerTimer { life } => self.controller_timer(life),
            Happening::AgentStart { node } => self.agent_start(node),
            Happening::AgentTick { node, life } => self.agent_tick(node, life),
            Happening::AgentTimer { node, life } => self.agent_timer(node, life),
            Happening::AgentConnect { node, life } => self.agent_connect(node, life),
            Happening::Arrive { wire, to, payload } => self.arrive(wire, to, *payload),
            Happening::WireBreaks { wire, at } => self.wire_breaks(wire, at),
            Happening::WireGivenUp { wire, at, cut } => self.wire_given_up(wire, at, cut),
            Happening::ProcessEnds { pid, code } => {
                self.end_process(pid, rebloom_core::cause::Exit::Code(code));
            }
            Happening::ExitSeen { node, life, exit } => self.exit_seen(node, life, exit),
            Happening::WorkerConnect { pid } => self.worker_connect(pid),
            Happening::AgentGone { pid } => self.agent_gone(pid),
            Happening::WorkerTimer { pid } => self.worker_timer(pid),
            Happening::WordArrives {
                node,
                life,
                pid,
                sequence,
                word,
            } => {
                self.word_arrives((node, life), pid, sequence, word);
            }
            Happening::WordTold { pid, word } => self.word_told(pid, word),
            Happening::FenceSeen { pid } => self.fence_seen(pid),
            Happening::FormTried { pid, action } => self.form_tried(pid, action),
            Happening::StepEntered { pid, action } => self.step_entered(pid, action),
            Happening::ActionDone {
                pid,
                action,
                outcome,
            } => self.action_done(pid, action, outcome),
            Happening::SnapshotTaken { pid, save } => self.snapshot_taken(pid, save),
            Happening::Replicated {
                node,
                life,
                replica,
            } => self.replicated(node, life, replica),
            Happening::ShardWritten { pid, save } => self.shard_written(pid, save),
            Happening::Continue { pid } => self.continue_process(pid),
            Happening::Strike => self.strike(),
            Happening::GangsTried => self.retry_gangs(),
            Happening::Ambush { nodes } => self.spring(nodes),
            Happening::ControllerDies { life } => {
                if self.controller.life() == life {
                    self.kill_controller(false);
                }
            }
            Happening::Undo(undo) => self.undo(undo),
            Happening::Calm => self.become_calm(),
            Happening::Admin { at } => self.submit(at),
            Happening::Care => self.care(),
        }
    }

    /// One fault out of those that this world knows.
    fn strike(&mut self) {
        if self.calm.is_some() {
            return;
        }
        // Now and then the next one hits the recovery from this one.
        let every = micros(self.options.fault_every) * 2;
        let most = if self.random.once_in(3) {
            every.min(1_500_000)
        } else {
            every
        };
        let next = self.random.micros(0, most);
        self.after(next, Happening::Strike);
        self.strike_once();
    }

    pub(crate) fn note(&mut self, who: &str, what: std::fmt::Arguments<'_>) {
        self.trace.line(self.now, format_args!("{who}"), what);
    }

    pub(crate) fn any_process(&mut self) -> Option<u32> {
        let is_meant = |process: &Process| self.aim.contains(&process.node);
        let all = || self.processes.iter();
        let meant: Vec<u32> = all()
            .filter(|(_, process)| is_meant(process))
            .map(|(pid, _)| *pid)
            .collect();
        let pids = if meant.is_empty() {
            all().map(|(pid, _)| *pid).collect()
        } else {
            meant
        };
        self.random.pick(&pids)
    }

    pub(crate) fn any_node(&mut self) -> usize {
        if !self.aim.is_empty() {
            return self.random.pick(&self.aim).unwrap_or_default();
        }
        let nodes: Vec<usize> = (0..self.nodes.len()).collect();
        self.random.pick(&nodes).unwrap_or_default()
    }

    pub(crate) fn any_run(&mut self) -> RunId {
        let names: Vec<usize> = (0..self.options.runs.len()).collect();
        let at = self.random.pick(&names).unwrap_or_default();
        self.options.runs[at].name.clone()
    }

    /// One file of the newest checkpoint of a run rots.
    pub(crate) fn rot_shard(&mut self) {
        let run = self.any_run();
        let world = self.options.runs.iter().find(|spec| spec.name == run);
        let most = world.map_or(0, |spec| spec.layout.world() - 1);
        let rank = Rank(self.random.small(0, most));
        let rot = self
            .random
            .pick(&[Rot::Flipped, Rot::Cut, Rot::Removed])
            .unwrap_or(Rot::Flipped);
        if let Some(id) = self.storage.rot(&run, rank, rot) {
            let directory = id.directory();
            self.note(
                "fault",
                format_args!("{rot:?}: rank {rank} of {run}/{directory}"),
            );
        }
    }

    pub(crate) fn has(&self, fault: Fault) -> bool {
        self.options.faults.contains(&fault)
    }
}

/// A span in whole microseconds.
pub(crate) fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}
