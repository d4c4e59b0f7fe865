//! A node: its clock, its agent with the real supervisor, and the driver that carries out what the
//! supervisor wants, one command after the other, until somebody kills it in between.

mod driver;

use crate::controller::identity;
use crate::options::{Site, USUAL};
use crate::random::Random;
use crate::wire::Side;
use crate::world::{Happening, Undo, World};
use rebloom_core::cause::Exit;
use rebloom_core::health::signal::Signal;
use rebloom_core::id::{Digest, Generation, NodeId, Rank, RunId};
use rebloom_core::labels::Labels;
use rebloom_core::ladder::gate::Nccl;
use rebloom_core::report::{Join, NodeFacts};
use rebloom_core::supervisor::{Command, Config, Event, Memory, Supervisor};
use rebloom_core::time::{Duration, Instant};
use rebloom_core::word::ToWorker;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// What every node's workers use: one that may be told to launch nothing asynchronously.
const NCCL: Nccl = Nccl(2, 10, 3);

/// One machine.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) identity: Digest,
    pub(crate) slots: u32,
    pub(crate) is_on: bool,
    pub(crate) booted: Instant,
    uptime: Duration,
    /// What the agent wrote down; survives everything.
    memory: Memory,
    pub(crate) life: u64,
    pub(crate) agent: Option<Agent>,
    /// The process whose flight page lies where a rank's page lies.
    pages: BTreeMap<(RunId, Rank), u32>,
    /// Snapshots and replicas; gone with the power.
    pub(crate) snapshots: crate::memory::Memory,
    /// Cut off from the controller only.
    pub(crate) is_link_cut: bool,
    /// Cut off from everything.
    pub(crate) is_isolated: bool,
    /// Counts the times it was cut off.
    pub(crate) cuts: u64,
    pub(crate) lag: Duration,
    pub(crate) spawns_fail: bool,
    /// What its probes see until it is over.
    pub(crate) levels: Vec<Signal>,
    /// What was over while there was no agent to see it, and its successor says at its first look.
    pub(crate) denied: Vec<Signal>,
    pub(crate) site: Site,
}

/// An agent's process.
#[derive(Debug)]
pub(crate) struct Agent {
    supervisor: Supervisor,
    inbox: VecDeque<Event>,
    out: VecDeque<Command>,
    is_busy: bool,
    /// Neither runs nor dies.
    pub(crate) is_frozen: bool,
    timer: Option<Instant>,
    wire: Option<u64>,
    is_linked: bool,
    /// Words kept for processes that are not connected.
    kept: BTreeMap<u32, ToWorker>,
    connected: BTreeSet<u32>,
    /// The store of each run it hosts: the generation, and which processes showed up.
    pub(crate) stores: BTreeMap<RunId, (Generation, BTreeMap<Rank, u32>)>,
    pub(crate) routes: BTreeMap<RunId, (Generation, String)>,
}

/// How a process ended, on its way to its agent.
#[derive(Debug, Clone)]
pub(crate) struct SeenExit {
    pub(crate) run: RunId,
    pub(crate) rank: Rank,
    pub(crate) pid: u32,
    pub(crate) exit: Exit,
}

impl Node {
    pub(crate) fn new(at: usize, slots: u32, random: &mut Random) -> Self {
        Self {
            id: NodeId::new(&format!("node-{at}")).expect("a name"),
            identity: identity(at),
            slots,
            is_on: true,
            booted: Instant::ZERO,
            uptime: random.millis(1000, 9_000_000),
            memory: Memory::default(),
            life: 0,
            agent: None,
            pages: BTreeMap::new(),
            snapshots: crate::memory::Memory::default(),
            is_link_cut: false,
            is_isolated: false,
            cuts: 0,
            lag: Duration::ZERO,
            spawns_fail: false,
            levels: Vec::new(),
            denied: Vec::new(),
            site: Site::default(),
        }
    }

    /// The same node, of which an admin says this.
    pub(crate) fn at(mut self, site: Site) -> Self {
        self.site = site;
        self
    }

    fn labels(&self) -> BTreeMap<String, String> {
        let labels = self.site.labels.iter();
        labels
            .map(|(key, value)| ((*key).to_owned(), value.clone()))
            .collect()
    }

    fn device(&self) -> &'static str {
        self.site.device.unwrap_or(USUAL)
    }

    /// Whether it has the devices that there is room for every run on.
    pub(crate) fn is_usual(&self) -> bool {
        self.device() == USUAL
    }

    pub(crate) fn name(&self) -> String {
        self.id.as_str().to_owned()
    }

    /// Whether nothing reaches the controller.
    pub(crate) const fn is_cut(&self) -> bool {
        self.is_link_cut || self.is_isolated
    }

    /// Where its store is reached.
    pub(crate) fn address(&self) -> String {
        format!("{}:1", self.id)
    }

    fn join(&self, world: &World) -> Join {
        let facts = NodeFacts {
            node: self.id.clone(),
            slots: self.slots,
            gpus: vec![self.device().to_owned(); self.slots as usize],
            store_address: self.address(),
            host: self.name(),
            cores: 8,
            memory: 1 << 34,
            nccl: Some(NCCL),
            labels: Labels::from(self.labels()),
        };
        let mut runs = self
            .agent
            .as_ref()
            .map(|a| a.supervisor.remembered())
            .unwrap_or_default();
        for run in &mut runs {
            run.sealed = world.storage.manifests(&run.run);
            run.snapshots = self.snapshots.of(&run.run);
        }
        Join { facts, runs }
    }
}

impl World {
    /// The node's monotonic clock.
    pub(crate) fn node_now(&self, node: usize) -> Instant {
        let node = &self.nodes[node];
        Instant::ZERO + node.uptime + self.now.since(node.booted)
    }

    /// The same moment on the world's clock.
    pub(crate) fn world_time(&self, node: usize, at: Instant) -> Instant {
        self.now + at.since(self.node_now(node))
    }

    pub(crate) fn agent_start(&mut self, at: usize) {
        if !self.nodes[at].is_on || self.nodes[at].agent.is_some() {
            return;
        }
        let config = Config {
            node: self.nodes[at].id.clone(),
            beat_every: self.options.limits.beat_every,
            orphan_after: self.options.limits.orphan_after,
            leave_within: self.options.leave_within,
        };
        let supervisor = Supervisor::new(config, self.nodes[at].memory.clone());
        let mut inbox = VecDeque::new();
        let mut adopted = BTreeMap::new();
        for (run, rank, pid, started) in supervisor.living() {
            let lives = self
                .processes
                .get(&pid)
                .is_some_and(|p| p.started == started);
            if lives {
                adopted.insert((run, rank), pid);
            } else {
                let (exit, noticed_after_nanos) = (Exit::Unknown, None);
                inbox.push_back(Event::Exited {
                    run,
                    rank,
                    pid,
                    exit,
                    noticed_after_nanos,
                });
            }
        }
        // What hangs before anybody wrote it down could never say that it is there.
        let unknown = self.processes_of(at).into_iter();
        let unknown: Vec<_> = unknown
            .filter(|pid| !adopted.values().any(|known| known == pid))
            .collect();
        unknown
            .into_iter()
            .for_each(|pid| self.end_process(pid, Exit::Signal(9)));
        let node = &mut self.nodes[at];
        node.life += 1;
        let life = node.life;
        let name = node.name();
        let gone = inbox.len();
        let found = adopted.len();
        node.pages = adopted;
        node.agent = Some(Agent {
            supervisor,
            inbox,
            out: VecDeque::new(),
            is_busy: true,
            is_frozen: false,
            timer: None,
            wire: None,
            is_linked: false,
            kept: BTreeMap::new(),
            connected: BTreeSet::new(),
            stores: BTreeMap::new(),
            routes: BTreeMap::new(),
        });
        self.note(
            &name,
            format_args!("agent starts, adopts {found} ranks, misses {gone}"),
        );
        self.after(Duration::ZERO, Happening::AgentTick { node: at, life });
        self.probes_start(at);
        let pause = self.random.micros(100, 50_000);
        self.after(pause, Happening::AgentConnect { node: at, life });
    }

    /// SIGKILL of the agent; it is started again after a while, by whatever keeps services.
    pub(crate) fn kill_agent(&mut self, at: usize, away: Option<Duration>) {
        let Some(agent) = self.nodes[at].agent.take() else {
            return;
        };
        let name = self.nodes[at].name();
        self.note(&name, format_args!("agent is killed"));
        if let Some(wire) = agent.wire {
            self.close_wire(wire, Side::Agent);
        }
        for pid in agent.connected {
            self.lose_agent(pid);
        }
        self.break_store(
            at,
            agent
                .stores
                .into_values()
                .flat_map(|(_, there)| there.into_values()),
        );
        if let Some(pause) = away {
            self.after(pause, Happening::AgentStart { node: at });
        }
    }

    /// Stops an agent's process, for a while.
    pub(crate) fn freeze_agent(&mut self, at: usize, lasts: Duration) {
        let life = self.nodes[at].life;
        let Some(agent) = self.agent(at, life).filter(|agent| !agent.is_frozen) else {
            return;
        };
        // (Its loop waits until it goes on, whatever comes in meanwhile.)
        (agent.is_frozen, agent.is_busy) = (true, true);
        let name = self.nodes[at].name();
        self.note(&name, format_args!("agent is frozen for {lasts:?}"));
        self.after(lasts, Happening::Undo(Undo::Freeze { node: at, life }));
    }

    pub(crate) fn thaw_agent(&mut self, at: usize, life: u64) {
        let Some(agent) = self.agent(at, life).filter(|agent| agent.is_frozen) else {
            return;
        };
        agent.is_frozen = false;
        let name = self.nodes[at].name();
        self.note(&name, format_args!("agent goes on"));
        self.after(Duration::ZERO, Happening::AgentTick { node: at, life });
    }

    pub(crate) fn power_off(&mut self, at: usize) {
        self.kill_agent(at, None);
        self.nodes[at].is_on = false;
        self.nodes[at].snapshots = crate::memory::Memory::default();
        let here: Vec<u32> = self.processes_of(at);
        here.into_iter()
            .for_each(|pid| self.end_process(pid, Exit::Unknown));
    }

    pub(crate) fn power_on(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        if !node.is_on {
            node.is_on = true;
            node.booted = self.now;
            node.uptime = Duration::from_secs(20);
            let pause = self.random.millis(10, 3000);
            self.after(pause, Happening::AgentStart { node: at });
        }
    }

    pub(crate) fn processes_of(&self, node: usize) -> Vec<u32> {
        let here = self
            .processes
            .iter()
            .filter(|(_, process)| process.node == node);
        here.map(|(pid, _)| *pid).collect()
    }

    fn agent(&mut self, node: usize, life: u64) -> Option<&mut Agent> {
        let node = &mut self.nodes[node];
        node.agent.as_mut().filter(|_| node.life == life)
    }

    pub(crate) fn set_linked(&mut self, node: usize, life: u64) {
        if let Some(agent) = self.agent(node, life) {
            agent.is_linked = true;
        }
    }

    pub(crate) fn forget_wire(&mut self, node: usize, life: u64, wire: u64) {
        if let Some(agent) = self.agent(node, life)
            && agent.wire == Some(wire)
        {
            agent.wire = None;
            agent.is_linked = false;
        }
    }

    pub(crate) fn agent_connect(&mut self, at: usize, life: u64) {
        let is_cut = self.nodes[at].is_cut();
        let Some(agent) = self.agent(at, life).filter(|agent| agent.wire.is_none()) else {
            return;
        };
        // A join says what is so now, so what was commanded before must be done.
        if is_cut || agent.is_busy || !self.controller.is_up() {
            let pause = self.random.millis(20, 400);
            self.after(pause, Happening::AgentConnect { node: at, life });
            return;
        }
        let join = self.nodes[at].join(self);
        let wire = self.open_wire(at, life, join);
        if let Some(agent) = self.agent(at, life) {
            agent.wire = Some(wire);
        }
    }

    pub(crate) fn tell_agent(&mut self, at: usize, life: u64, event: Event) {
        let Some(agent) = self.agent(at, life) else {
            return;
        };
        agent.inbox.push_back(event);
        if !agent.is_busy {
            agent.is_busy = true;
            self.after(Duration::ZERO, Happening::AgentTick { node: at, life });
        }
    }

    pub(crate) fn agent_tick(&mut self, at: usize, life: u64) {
        let now = self.node_now(at);
        let Some(agent) = self.agent(at, life).filter(|agent| !agent.is_frozen) else {
            return;
        };
        let pause = if let Some(command) = agent.out.pop_front() {
            self.do_for_agent(at, life, command)
        } else if let Some(event) = agent.inbox.pop_front() {
            agent.supervisor.handle(now, event);
            agent.drain();
            self.random.micros(2, 30)
        } else if agent
            .supervisor
            .poll_timeout()
            .is_some_and(|due| due <= now)
        {
            agent.supervisor.handle_timeout(now);
            agent.drain();
            self.random.micros(2, 30)
        } else {
            return self.agent_idle(at, life);
        };
        self.after(pause, Happening::AgentTick { node: at, life });
    }

    fn agent_idle(&mut self, at: usize, life: u64) {
        let Some(agent) = self.agent(at, life) else {
            return;
        };
        agent.is_busy = false;
        let due = agent.supervisor.poll_timeout();
        let timer = agent.timer;
        if let Some(due) = due.map(|due| self.world_time(at, due))
            && timer.is_none_or(|set| due < set)
        {
            if let Some(agent) = self.agent(at, life) {
                agent.timer = Some(due);
            }
            self.at(due, Happening::AgentTimer { node: at, life });
        }
    }

    pub(crate) fn agent_timer(&mut self, at: usize, life: u64) {
        let Some(agent) = self.agent(at, life) else {
            return;
        };
        agent.timer = None;
        if !agent.is_busy {
            agent.is_busy = true;
            self.after(Duration::ZERO, Happening::AgentTick { node: at, life });
        }
    }
}

impl Agent {
    fn drain(&mut self) {
        self.out
            .extend(std::iter::from_fn(|| self.supervisor.poll_command()));
    }
}
