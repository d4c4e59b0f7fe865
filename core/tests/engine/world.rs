//! A fleet of obedient agents around one engine. Agents remember what they were told and run ranks
//! that come to life, train and save when the test says so. After every event the safety
//! invariants are judged, and the journal must fold to the very state that the engine has.

use rebloom_core::cause::Exit;
use rebloom_core::checkpoint::{CheckpointId, MANIFEST_VERSION, Manifest, Shard};
use rebloom_core::engine::{
    Answer, Ask, Command, Engine, Event, Limits, Record, Refusal, RunState, RunView, State, Ticket,
    judge,
};
use rebloom_core::flight::{Counter, Page, Phase, Sighting};
use rebloom_core::id::{Digest, Generation, NodeId, Rank, RunId, Session, Slot, Step};
use rebloom_core::layout::Layout;
use rebloom_core::order::{Order, Start, Stop};
use rebloom_core::report::{
    Beat, Finish, Join, Milestone, NodeFacts, Pages, RankEvent, RankStatus, Remembered, Report,
};
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

#[derive(Debug, Clone)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) slot: Slot,
    pub(crate) generation: Generation,
    pub(crate) milestone: Milestone,
    pub(crate) page: Page,
    pub(crate) alive: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Local {
    pub(crate) generation: Generation,
    pub(crate) start: Option<Start>,
    pub(crate) ranks: BTreeMap<Rank, Process>,
    pub(crate) stop: Option<(Generation, Stop)>,
}

#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) slots: u32,
    pub(crate) identity: Digest,
    pub(crate) session: Option<Session>,
    pub(crate) runs: BTreeMap<RunId, Local>,
    /// Reports that no engine has taken in yet.
    pub(crate) unsent: VecDeque<Report>,
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
    /// Whether seals succeed.
    pub(crate) disk_full: bool,
    next_session: u64,
    next_pid: u32,
}

impl World {
    /// A fleet of nodes `n0`, `n1`... with these numbers of slots, all joined.
    pub(crate) fn new(slots: &[u32]) -> Self {
        let mut world = Self {
            engine: Engine::new(Limits::default()),
            now: Instant::ZERO + Duration::from_secs(1000),
            journal: Vec::new(),
            fold: State::default(),
            agents: BTreeMap::new(),
            storage: Vec::new(),
            orders: Vec::new(),
            answers: Vec::new(),
            refused: Vec::new(),
            obedient: true,
            disk_full: false,
            next_session: 1,
            next_pid: 100,
        };
        for (at, slots) in slots.iter().enumerate() {
            let agent = Agent {
                slots: *slots,
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
        let mut world = Self::new(slots);
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
            gpus: Vec::new(),
            store_address: format!("{name}:1"),
            host: name.to_string(),
            cores: 8,
            memory: 1 << 30,
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

    /// The engine dies and another one comes up from this much of its journal; agents join again.
    pub(crate) fn restart(&mut self, journal: Vec<Record>) {
        self.go_down(journal);
        let names: Vec<_> = self.agents.keys().cloned().collect();
        names.iter().for_each(|name| self.join(name));
    }

    /// The engine dies and another one comes up; nobody has joined yet.
    pub(crate) fn go_down(&mut self, journal: Vec<Record>) {
        self.engine = Engine::replay(Limits::default(), journal.clone());
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
        self.engine.handle(self.now, event);
        self.settle();
    }

    pub(crate) fn report(&mut self, name: &NodeId, report: Report) {
        let agent = self.agents.get_mut(name).unwrap();
        agent.unsent.push_back(report);
        self.settle();
    }

    pub(crate) fn rank_event(&mut self, run: &RunId, rank: u32, event: RankEvent) {
        let (name, generation) = self.where_is(run, rank);
        let (run, rank) = (run.clone(), Rank(rank));
        self.report(
            &name,
            Report::Rank {
                run,
                generation,
                rank,
                event,
            },
        );
    }

    /// The agent of a rank, and the generation its process is in; a dead one where none lives.
    fn where_is(&self, run: &RunId, rank: u32) -> (NodeId, Generation) {
        let agents = self.agents.iter();
        let found = agents.filter_map(|(name, agent)| {
            let process = agent.runs.get(run)?.ranks.get(&Rank(rank))?;
            Some((process.alive, process.generation, name.clone()))
        });
        let (_, generation, name) = found.max().unwrap();
        (name, generation)
    }

    /// kill -9 of ranks; the agents notice after 10 ms. All of them die before anybody notices.
    pub(crate) fn kill(&mut self, run: &RunId, ranks: &[u32]) {
        for rank in ranks {
            let (name, generation) = self.where_is(run, *rank);
            self.process(run, *rank).alive = false;
            let (run, rank) = (run.clone(), Rank(*rank));
            let event = RankEvent::Exited {
                exit: Exit::Signal(9),
                noticed_after_nanos: Some(10_000_000),
            };
            let report = Report::Rank {
                run,
                generation,
                rank,
                event,
            };
            self.agents.get_mut(&name).unwrap().unsent.push_back(report);
        }
        self.settle();
    }

    pub(crate) fn process(&mut self, run: &RunId, rank: u32) -> &mut Process {
        let processes = self
            .agents
            .values_mut()
            .filter_map(|agent| agent.runs.get_mut(run));
        let mut processes = processes.flat_map(|local| local.ranks.iter_mut());
        let is_it = |found: &(&Rank, &mut Process)| found.0.0 == rank && found.1.alive;
        processes.find(is_it).unwrap().1
    }

    pub(crate) fn for_each_process(
        &mut self,
        run: &RunId,
        mut act: impl FnMut(Rank, &mut Process),
    ) {
        for local in self
            .agents
            .values_mut()
            .filter_map(|agent| agent.runs.get_mut(run))
        {
            local
                .ranks
                .iter_mut()
                .for_each(|(rank, process)| act(*rank, process));
        }
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
            assert!(wake > self.now, "the engine asks to be woken in the past");
            self.now = wake;
            self.engine.handle_timeout(self.now);
            self.settle();
        }
        self.now = end;
    }

    /// The living ranks do steps up to this one, and their pages say so.
    pub(crate) fn train(&mut self, run: &RunId, step: u64) {
        self.for_each_process(run, |_, process| {
            process.page.step = Step(step);
            process.page.samples = step * 8;
            process.page.loss = 2.0;
            process.page.phase = Phase::Step;
        });
        self.pass(millis(100));
    }

    /// Every rank writes its shard of this step.
    pub(crate) fn save(&mut self, run: &RunId, step: u64) -> CheckpointId {
        let id = CheckpointId {
            step: Step(step),
            generation: self.generation(run),
        };
        let world = self.view(run).spec.layout.world();
        (0..world).for_each(|rank| self.save_shard(run, rank, id));
        id
    }

    pub(crate) fn save_shard(&mut self, run: &RunId, rank: u32, checkpoint: CheckpointId) {
        let name = self.node_of(run, rank);
        let shard = Shard {
            rank: Rank(rank),
            file: format!("rank-{rank:05}.safetensors"),
            bytes: 10,
            sha256: digest(7),
        };
        let samples = checkpoint.step.0 * 8;
        self.report(
            &name,
            Report::ShardSaved {
                run: run.clone(),
                checkpoint,
                samples,
                shard,
            },
        );
    }

    pub(crate) fn finish(&mut self, run: &RunId, why: Finish, step: u64) {
        let world = self.view(run).spec.layout.world();
        for rank in 0..world {
            self.process(run, rank).milestone = Milestone::Finished;
            let state = digest(u8::try_from(rank).unwrap());
            self.rank_event(
                run,
                rank,
                RankEvent::Finished {
                    why,
                    step: Step(step),
                    state,
                },
            );
        }
        for rank in 0..world {
            self.process(run, rank).alive = false;
            let event = RankEvent::Exited {
                exit: Exit::Code(0),
                noticed_after_nanos: None,
            };
            self.rank_event(run, rank, event);
        }
    }

    pub(crate) fn starts_since(&self, mark: usize) -> Vec<(NodeId, Start)> {
        let orders = self.orders[mark..].iter();
        let starts = orders.filter_map(|(node, order)| match order {
            Order::Start(start) => Some((node.clone(), (**start).clone())),
            _ => None,
        });
        starts.collect()
    }

    /// Deliveries go on until nothing is under way.
    fn settle(&mut self) {
        self.drain();
        for _ in 0..10_000 {
            self.check();
            self.come_to_life();
            let Some((name, session, report)) = self.next_report() else {
                return;
            };
            self.engine.handle(
                self.now,
                Event::Report {
                    node: name,
                    session,
                    report,
                },
            );
            self.drain();
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

    pub(crate) fn obey(&mut self, name: &NodeId, order: Order) {
        let agent = self.agents.get_mut(name).unwrap();
        match order {
            Order::Start(start) => {
                let local = agent.runs.entry(start.spec.name.clone()).or_default();
                if start.generation <= local.generation {
                    return;
                }
                local.generation = start.generation;
                local.stop = None;
                let seat = |rank: &Rank| start.seats.iter().find(|seat| seat.rank == *rank);
                local.ranks.retain(|rank, process| {
                    let stays = seat(rank).is_some_and(|seat| seat.slot == process.slot);
                    process.alive && stays && !start.fresh_processes
                });
                for seat in &start.seats {
                    let process = local.ranks.entry(seat.rank).or_insert_with(|| {
                        self.next_pid += 1;
                        Process {
                            pid: self.next_pid,
                            slot: seat.slot,
                            generation: start.generation,
                            milestone: Milestone::Going,
                            page: Page::default(),
                            alive: true,
                        }
                    });
                    process.generation = start.generation;
                    process.milestone = Milestone::Going;
                    let step = start.resume.map_or(Step(0), |checkpoint| checkpoint.step);
                    let (generation, phase) = (start.generation, Phase::Init);
                    process.page = Page {
                        generation,
                        step,
                        phase,
                        ..Page::default()
                    };
                }
                local.start = Some(*start);
            }
            Order::Stop {
                run,
                generation,
                how,
                ..
            } => {
                let local = agent.runs.entry(run.clone()).or_default();
                if generation < local.generation {
                    return;
                }
                local.generation = generation;
                local.stop = Some((generation, how));
                if how == Stop::Now {
                    for (rank, process) in &mut local.ranks {
                        if std::mem::take(&mut process.alive) {
                            let event = RankEvent::Exited {
                                exit: Exit::Signal(9),
                                noticed_after_nanos: None,
                            };
                            let (run, generation) = (run.clone(), process.generation);
                            agent.unsent.push_back(Report::Rank {
                                run,
                                generation,
                                rank: *rank,
                                event,
                            });
                        }
                    }
                }
                if local.ranks.values().all(|process| !process.alive) {
                    agent.unsent.push_back(Report::Stopped { run, generation });
                }
            }
            Order::Kill {
                run,
                generation,
                rank,
                ..
            } => {
                let local = agent.runs.entry(run).or_default();
                let process = local.ranks.get_mut(&rank);
                if let Some(process) = process.filter(|p| p.generation == generation) {
                    process.alive = false;
                }
            }
            Order::Seal { manifest, .. } => {
                let error = self.disk_full.then(|| "no space left on device".to_owned());
                let (run, checkpoint) = (manifest.run.clone(), manifest.id);
                assert_eq!(manifest.version, MANIFEST_VERSION);
                assert!(manifest.is_whole());
                if error.is_none() && !self.storage.contains(&manifest) {
                    self.storage.push(*manifest);
                }
                agent.unsent.push_back(Report::Sealed {
                    run,
                    checkpoint,
                    error,
                });
            }
            Order::Prune {
                run, checkpoints, ..
            } => {
                self.storage
                    .retain(|m| m.run != run || !checkpoints.contains(&m.id));
            }
        }
    }

    /// Ranks of a whole gang that runs one generation form, load and do a first step.
    fn come_to_life(&mut self) {
        if !self.obedient {
            return;
        }
        let runs: Vec<_> = self
            .engine
            .runs(self.now)
            .into_iter()
            .map(|view| view.spec)
            .collect();
        for spec in runs {
            let run = spec.name.clone();
            let locals = || {
                self.agents
                    .values()
                    .filter_map(|agent| agent.runs.get(&run))
            };
            let newest = locals()
                .map(|local| local.generation)
                .max()
                .unwrap_or_default();
            let ranks = locals().flat_map(|local| local.ranks.values());
            let going = ranks.filter(|p| p.alive && p.generation == newest);
            if going.count() < spec.layout.world() as usize {
                continue;
            }
            for agent in self.agents.values_mut() {
                let Some(local) = agent.runs.get_mut(&run) else {
                    continue;
                };
                for (rank, process) in &mut local.ranks {
                    if process.generation != newest || process.milestone != Milestone::Going {
                        continue;
                    }
                    process.milestone = Milestone::Stepped;
                    let loaded = process.page.step;
                    process.page.step = Step(loaded.0 + 1);
                    process.page.phase = Phase::Step;
                    for milestone in [
                        Milestone::Going,
                        Milestone::Formed,
                        Milestone::Loaded,
                        Milestone::Stepped,
                    ] {
                        let is_step = milestone == Milestone::Stepped;
                        let step = if is_step { process.page.step } else { loaded };
                        let event = RankEvent::Reached {
                            milestone,
                            step,
                            pid: process.pid,
                        };
                        agent.unsent.push_back(Report::Rank {
                            run: run.clone(),
                            generation: newest,
                            rank: *rank,
                            event,
                        });
                    }
                }
            }
        }
    }
}

/// Sets one counter of a page: `entered` operations begun, `done` finished.
pub(crate) fn count(
    page: &mut Page,
    channel: rebloom_core::flight::Channel,
    entered: u64,
    done: u64,
) {
    let at = rebloom_core::flight::Channel::ALL
        .iter()
        .position(|c| *c == channel)
        .unwrap();
    page.counters[at] = Counter { entered, done };
}
