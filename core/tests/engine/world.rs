//! A fleet of obedient agents around one engine. Agents remember what they were told and run ranks
//! that come to life, train and save when the test says so. After every event the safety
//! invariants are judged, and the journal must fold to the very state that the engine has.

mod agents;
mod ranks;

pub(crate) use agents::{Agent, Process};
pub(crate) use ranks::count;

use rebloom_core::cause::Unsound;
use rebloom_core::checkpoint::Manifest;
use rebloom_core::engine::{
    Answer, Ask, Command, Engine, Event, Limits, Record, Refusal, RunState, RunView, State, Ticket,
    judge,
};
use rebloom_core::flight::Sighting;
use rebloom_core::id::{Digest, Generation, NodeId, RunId, Session};
use rebloom_core::labels::Labels;
use rebloom_core::layout::Layout;
use rebloom_core::order::{Order, Start};
use rebloom_core::report::{Beat, Join, NodeFacts, Pages, RankStatus, Remembered, Report};
use rebloom_core::spec::RunSpec;
use rebloom_core::time::{Duration, Instant};
use std::collections::{BTreeMap, VecDeque};

pub(crate) fn node(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

pub(crate) fn run_id(name: &str) -> RunId {
    RunId::new(name).unwrap()
}

pub(crate) fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub(crate) fn spec(name: &str, tensor: u32, pipeline: u32, data: u32) -> RunSpec {
    serde_json::from_value(serde_json::json!({
        "name": name,
        "model": { "layers": 12, "hidden": 64, "heads": 4, "vocab": 256, "sequence": 32 },
        "layout": Layout { tensor, pipeline, data },
        "train": { "steps": 1000, "global_batch": 8 * data, "micro_batch": 1 },
        "data": { "prefix": "/data/text" },
        "checkpoint": { "directory": "/checkpoints", "every_steps": 10, "keep": 2 },
    }))
    .unwrap()
}

pub(crate) fn digest(byte: u8) -> Digest {
    Digest([byte; 32])
}

pub(crate) struct World {
    pub(crate) engine: Engine,
    pub(crate) now: Instant,
    pub(crate) journal: Vec<Record>,
    /// What the journal folds to.
    fold: State,
    pub(crate) agents: BTreeMap<NodeId, Agent>,
    pub(crate) storage: Vec<Manifest>,
    pub(crate) orders: Vec<(NodeId, Order)>,
    pub(crate) answers: Vec<Answer>,
    pub(crate) refused: Vec<(Session, Refusal)>,
    /// Whether agents obey orders and ranks come to life by themselves.
    pub(crate) obedient: bool,
    /// A node whose ranks refuse every checkpoint, and how.
    pub(crate) rots: Option<(NodeId, Unsound)>,
    /// Whether seals succeed.
    pub(crate) disk_full: bool,
    /// The number of records after which the engine dies.
    dies_at: Option<usize>,
    next_session: u64,
    next_pid: u32,
}

impl World {
    /// A fleet of nodes `n0`, `n1`... with these numbers of slots, all joined.
    pub(crate) fn new(slots: &[u32]) -> Self {
        Self::limited(slots, Limits::default())
    }

    /// The same with other limits than usual.
    pub(crate) fn limited(slots: &[u32], limits: Limits) -> Self {
        let mut world = Self {
            engine: Engine::new(limits),
            now: Instant::ZERO + Duration::from_secs(1000),
            journal: Vec::new(),
            fold: State::default(),
            agents: BTreeMap::new(),
            storage: Vec::new(),
            orders: Vec::new(),
            answers: Vec::new(),
            refused: Vec::new(),
            obedient: true,
            rots: None,
            disk_full: false,
            dies_at: None,
            next_session: 1,
            next_pid: 100,
        };
        for (at, slots) in slots.iter().enumerate() {
            let agent = Agent {
                slots: *slots,
                gpus: 0,
                nccl: None,
                identity: digest(u8::try_from(at).unwrap()),
                session: None,
                runs: BTreeMap::new(),
                unsent: VecDeque::new(),
            };
            let name = node(&format!("n{at}"));
            world.agents.insert(name.clone(), agent);
            world.join(&name);
        }
        world
    }

    /// The same with a run in full swing.
    pub(crate) fn running(slots: &[u32], spec: RunSpec) -> (Self, RunId) {
        Self::new(slots).with_run(spec)
    }

    /// The same with this run in full swing.
    pub(crate) fn with_run(self, spec: RunSpec) -> (Self, RunId) {
        let mut world = self;
        let run = spec.name.clone();
        world.submit(spec);
        assert_eq!(world.state(&run), RunState::Running);
        (world, run)
    }

    pub(crate) fn view(&self, run: &RunId) -> RunView {
        self.engine.run(run, self.now).unwrap()
    }

    pub(crate) fn state(&self, run: &RunId) -> RunState {
        self.view(run).state
    }

    pub(crate) fn generation(&self, run: &RunId) -> Generation {
        self.view(run).generation
    }

    pub(crate) fn node_of(&self, run: &RunId, rank: u32) -> NodeId {
        self.view(run).ranks[rank as usize].seating.node.clone()
    }

    pub(crate) fn facts(&self, name: &NodeId) -> NodeFacts {
        NodeFacts {
            node: name.clone(),
            slots: self.agents[name].slots,
            gpus: vec!["A100".to_owned(); self.agents[name].gpus],
            store_address: format!("{name}:1"),
            host: name.to_string(),
            cores: 8,
            memory: 1 << 30,
            nccl: self.agents[name].nccl,
            labels: Labels::default(),
        }
    }

    pub(crate) fn join(&mut self, name: &NodeId) {
        let session = Session(self.next_session);
        self.next_session += 1;
        let join = self.join_message(name);
        let agent = self.agents.get_mut(name).unwrap();
        agent.session = Some(session);
        let identity = agent.identity;
        self.tell(Event::Joined {
            session,
            identity,
            join,
        });
    }

    pub(crate) fn join_message(&self, name: &NodeId) -> Join {
        let runs = self.agents[name]
            .runs
            .iter()
            .map(|(run, local)| Remembered {
                run: run.clone(),
                generation: local.generation,
                ranks: local
                    .ranks
                    .iter()
                    .filter(|(_, process)| process.alive)
                    .map(|(rank, process)| RankStatus {
                        rank: *rank,
                        pid: process.pid,
                        generation: process.generation,
                        milestone: process.milestone,
                    })
                    .collect(),
                snapshots: local.snapshots.clone(),
                sealed: self
                    .storage
                    .iter()
                    .filter(|m| m.run == *run)
                    .rev()
                    .cloned()
                    .collect(),
            });
        Join {
            facts: self.facts(name),
            runs: runs.collect(),
        }
    }

    /// The link breaks; the agent and its ranks live on.
    pub(crate) fn cut(&mut self, name: &NodeId) {
        let session = self.agents.get_mut(name).unwrap().session.take();
        if let Some(session) = session {
            self.tell(Event::Left {
                node: name.clone(),
                session,
            });
        }
    }

    /// The node is gone with everything on it.
    pub(crate) fn destroy(&mut self, name: &NodeId) {
        self.agents.get_mut(name).unwrap().runs.clear();
        self.agents.get_mut(name).unwrap().unsent.clear();
        self.cut(name);
    }

    pub(crate) fn ask(&mut self, ask: Ask) -> Answer {
        self.tell(Event::Ask {
            ticket: Ticket(1),
            ask,
        });
        self.answers.pop().unwrap()
    }

    pub(crate) fn submit(&mut self, spec: RunSpec) -> Answer {
        self.ask(Ask::Submit {
            spec: Box::new(spec),
            dry_run: false,
        })
    }

    /// The engine dies right after it has written this many records: what it wanted done then, or was
    /// told later, is lost, and agents keep what they have to say.
    pub(crate) fn dies_at(&mut self, records: usize) {
        self.dies_at = Some(records);
    }

    fn is_dead(&self) -> bool {
        self.dies_at.is_some_and(|at| self.journal.len() >= at)
    }

    /// Lets time pass that nobody notices.
    pub(crate) fn wait(&mut self, span: Duration) {
        self.now = self.now + span;
    }

    /// Asks an engine that may be dead, or die of it.
    pub(crate) fn ask_in_vain(&mut self, ask: Ask) {
        self.tell(Event::Ask {
            ticket: Ticket(1),
            ask,
        });
        self.answers.clear();
    }

    /// The engine dies and another one comes up from this much of its journal; agents join again.
    pub(crate) fn restart(&mut self, journal: Vec<Record>) {
        self.go_down(journal);
        let names: Vec<_> = self.agents.keys().cloned().collect();
        names.iter().for_each(|name| self.join(name));
    }

    /// The engine dies and another one comes up; nobody has joined yet.
    pub(crate) fn go_down(&mut self, journal: Vec<Record>) {
        self.dies_at = None;
        self.engine = Engine::replay(self.engine.limits().clone(), journal.clone());
        self.journal = journal;
        self.fold = self.engine.snapshot().clone();
        self.agents
            .values_mut()
            .for_each(|agent| agent.session = None);
        assert!(
            self.engine.poll_command().is_none(),
            "a replay commands nothing"
        );
        self.engine.handle_timeout(self.now);
        self.drain();
        self.check();
    }

    pub(crate) fn tell(&mut self, event: Event) {
        if !self.is_dead() {
            self.engine.handle(self.now, event);
            self.settle();
        }
    }

    pub(crate) fn report(&mut self, name: &NodeId, report: Report) {
        let agent = self.agents.get_mut(name).unwrap();
        agent.unsent.push_back(report);
        self.settle();
    }

    /// Every agent with a link beats.
    pub(crate) fn beat(&mut self) {
        let names: Vec<_> = self.agents.keys().cloned().collect();
        names.iter().for_each(|name| self.beat_of(name));
    }

    pub(crate) fn beat_of(&mut self, name: &NodeId) {
        let agent = &self.agents[name];
        let Some(session) = agent.session else { return };
        let pages = agent.runs.iter().map(|(run, local)| Pages {
            run: run.clone(),
            matches: local.said.clone(),
            sightings: local
                .ranks
                .iter()
                .filter(|(_, process)| process.alive)
                .map(|(rank, process)| Sighting {
                    rank: *rank,
                    page: process.page.clone(),
                })
                .collect(),
        });
        let beat = Beat {
            pages: pages.collect(),
        };
        self.tell(Event::Beat {
            node: name.clone(),
            session,
            beat,
        });
    }

    /// Lets time pass; agents with a link beat, and the engine is woken when it asked to be.
    pub(crate) fn pass(&mut self, span: Duration) {
        let end = self.now + span;
        while self.now < end {
            if self.is_dead() {
                self.now = end;
                return;
            }
            let beat_at = self.now + millis(500);
            let wake = self.engine.poll_timeout().unwrap_or(end);
            assert!(wake > self.now, "the engine asks to be woken in the past");
            let next = wake.min(beat_at).min(end);
            self.now = next;
            if wake <= next {
                self.engine.handle_timeout(self.now);
                self.settle();
            }
            if next == beat_at || next == end {
                self.beat();
            }
        }
    }

    /// Lets time pass without a sign of life of anybody.
    pub(crate) fn pass_in_silence(&mut self, span: Duration) {
        let end = self.now + span;
        while let Some(wake) = self.engine.poll_timeout().filter(|wake| *wake <= end) {
            if self.is_dead() {
                break;
            }
            assert!(wake > self.now, "the engine asks to be woken in the past");
            self.now = wake;
            self.engine.handle_timeout(self.now);
            self.settle();
        }
        self.now = end;
    }

    pub(crate) fn starts_since(&self, mark: usize) -> Vec<(NodeId, Start)> {
        let orders = self.orders[mark..].iter();
        let starts = orders.filter_map(|(node, order)| match order {
            Order::Start(start) => Some((node.clone(), start.clone())),
            _ => None,
        });
        starts.collect()
    }

    /// Deliveries go on until nothing is under way.
    fn settle(&mut self) {
        self.drain();
        for _ in 0..10_000 {
            if self.is_dead() {
                return;
            }
            self.check();
            self.come_to_life();
            let Some((node, session, report)) = self.next_report() else {
                return;
            };
            let (name, unheard) = (node.clone(), report.clone());
            self.engine.handle(
                self.now,
                Event::Report {
                    node,
                    session,
                    report,
                },
            );
            self.drain();
            if self.is_dead() {
                // It was not acknowledged, so it is said again.
                let agent = self.agents.get_mut(&name).unwrap();
                agent.unsent.push_front(unheard);
            }
        }
        panic!("the fleet does not come to rest");
    }

    fn next_report(&mut self) -> Option<(NodeId, Session, Report)> {
        let mut linked = self
            .agents
            .iter_mut()
            .filter_map(|(name, agent)| Some((name, agent.session?, agent)));
        linked.find_map(|(name, session, agent)| {
            Some((name.clone(), session, agent.unsent.pop_front()?))
        })
    }

    fn check(&self) {
        let violations = judge(&self.engine);
        assert!(violations.is_empty(), "{violations:?}");
        assert!(
            self.fold == *self.engine.snapshot(),
            "the journal does not fold to this"
        );
    }

    fn drain(&mut self) {
        while let Some(command) = self.engine.poll_command() {
            if self.is_dead() {
                continue;
            }
            match command {
                Command::Persist(record) => {
                    self.fold.apply(record.at, &record.fact);
                    self.journal.push(record);
                }
                Command::Send {
                    node,
                    session,
                    order,
                } => {
                    self.orders.push((node.clone(), order.clone()));
                    let linked = self.agents[&node].session == Some(session);
                    if linked && self.obedient {
                        self.obey(&node, order);
                    }
                }
                Command::Answer { answer, .. } => self.answers.push(answer),
                Command::Refuse { session, refusal } => self.refused.push((session, refusal)),
            }
        }
    }
}
