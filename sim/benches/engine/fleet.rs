//! A fleet in full swing around one engine.

use rebloom_core::cause::Exit;
use rebloom_core::engine::{Answer, Ask, Command, Engine, Event, Fact, Limits, RunState, Ticket};
use rebloom_core::flight::{Page, Phase, Sighting};
use rebloom_core::guard::LossGuard;
use rebloom_core::health::edited::{EditedRule, OwnRule};
use rebloom_core::health::signal::{Sign, Signal};
use rebloom_core::health::{Action, Mode, Verdict};
use rebloom_core::id::{Digest, Generation, NodeId, Rank, RunId, Session, Slot, Step};
use rebloom_core::layout::Layout;
use rebloom_core::order::{Order, Stop};
use rebloom_core::report::{
    Beat, FABRIC, Join, Milestone, NodeFacts, Pages, RACK, RankEvent, Report,
};
use rebloom_core::spec::{
    Checkpoint, Data, Deadlines, Model, Numerics, Optimizer, Recovery, RunSpec, Train,
};
use rebloom_core::time::{Duration, Instant};
use std::collections::BTreeMap;

/// BLOOM's shape: 384 ranks, 48 nodes.
pub(crate) const BLOOM: Layout = Layout {
    tensor: 4,
    pipeline: 12,
    data: 8,
};
const SLOTS: u32 = 8;
/// How the names of gangs of two nodes begin.
pub(crate) const SMALL: &str = "small-";
/// Rules of an admin's own, of the kinds that docs/health.md shows. The first fires on an XID 79.
pub(crate) const RULES: [&str; 8] = [
    r#"signal.kind == "xid" && signal.code in [79, 119, 120]"#,
    r#"signal.kind == "xid" && signal.code == 94 && node.again >= 2"#,
    r#"signal.kind == "xid" && signal.detail.contains("NVLink") && node.withdrawals > 1"#,
    r#"signal.kind == "throttled" && signal.value > 600.0 && !node.cordoned"#,
    r#"signal.kind == "nvlink_errors" && signal.value > 1000.0"#,
    r#"signal.kind == "pcie_replays" && signal.value > 100.0 && node.slots == 8"#,
    r#"signal.kind == "host_memory" && signal.share < 0.02"#,
    r#"node.name.startsWith("rack-7-") && signal.kind == "ecc_uncorrected" && signal.total > 2.0"#,
];
/// Nodes of a rack, and racks of a fabric.
const RACKS: usize = 16;
const FABRICS: usize = 64;

pub(crate) struct Fleet {
    pub(crate) engine: Engine,
    pub(crate) now: Instant,
    pub(crate) nodes: BTreeMap<NodeId, Session>,
    next_session: u64,
    /// Small gangs that were submitted.
    pub(crate) small: usize,
    /// The generation of each run, by its last start order.
    pub(crate) runs: BTreeMap<RunId, Generation>,
    /// Where its ranks were when they stepped last. (To ask the engine before each event that is timed would leave
    /// its views for the allocator to clear away in that time.)
    seats: BTreeMap<RunId, Vec<NodeId>>,
    random: u64,
    rack: usize,
    /// Stop orders that no agent has answered yet.
    stops: Vec<(NodeId, RunId, Generation)>,
}

/// What came out after one event.
#[derive(Default, Debug, Clone)]
pub(crate) struct Out {
    pub(crate) starts: usize,
    pub(crate) orders: usize,
    pub(crate) facts: usize,
    /// Nodes that were withdrawn, by the journal.
    pub(crate) withdrawn: Vec<NodeId>,
    /// The generation that was placed, by the journal.
    pub(crate) generation: Option<Generation>,
    /// Nodes that were told to stop something.
    pub(crate) stopped: Vec<NodeId>,
    pub(crate) answer: Option<Answer>,
}

pub(crate) fn spec(name: &str, layout: Layout) -> RunSpec {
    RunSpec {
        eval: None,
        name: RunId::new(name).expect("the bench gives sound names"),
        priority: 0,
        model: Model {
            layers: 70,
            hidden: 14_336,
            heads: 112,
            vocab: 250_880,
            sequence: 2048,
            residual_after_layernorm: false,
        },
        init: None,
        layout,
        train: Train {
            steps: 1_000_000,
            global_batch: 8 * layout.data,
            micro_batch: 1,
            seed: 42,
            optimizer: Optimizer::default(),
            ramp_up: None,
            numerics: Numerics::default(),
        },
        data: Data {
            prefix: "/data/roots".to_owned(),
            ..Data::default()
        },
        checkpoint: Checkpoint {
            directory: "/checkpoints".to_owned(),
            every_steps: 100,
            auto: None,
            keep: 3,
            snapshot: None,
        },
        deadlines: Deadlines::default(),
        recovery: Recovery {
            restarts: 3,
            reform: 1_000_000,
            restart: 3,
            replace: 1_000_000,
            unsealed: 1_000_000,
            ..Recovery::default()
        },
        elastic: None,
        guard: LossGuard::default(),
        log_rules: Vec::new(),
    }
}

impl Fleet {
    /// Nodes of eight GPUs in racks and fabrics, all joined.
    pub(crate) fn new(nodes: usize, rack: usize) -> Self {
        let limits = Limits {
            // What is measured is a decision; whom the bench does not let beat is not lost.
            silent_after: Duration::from_secs(1_000_000_000),
            ..Limits::default()
        };
        let mut fleet = Self {
            engine: Engine::new(limits),
            now: Instant::ZERO + Duration::from_secs(1_000_000),
            nodes: BTreeMap::new(),
            next_session: 1,
            small: 0,
            runs: BTreeMap::new(),
            seats: BTreeMap::new(),
            random: 0x9e37_79b9_7f4a_7c15,
            rack,
            stops: Vec::new(),
        };
        for at in 0..nodes {
            fleet.join(at, rack);
        }
        fleet
    }

    /// The fleet of the steady figures: racks of sixteen.
    pub(crate) fn large(nodes: usize) -> Self {
        Self::new(nodes, RACKS)
    }

    fn join(&mut self, at: usize, rack: usize) {
        let node = NodeId::new(&format!("node-{at:06}")).expect("a sound name");
        let label = |key: &str, of: usize| (key.to_owned(), format!("{:05}", at / of));
        let facts = NodeFacts {
            node: node.clone(),
            slots: SLOTS,
            gpus: vec!["NVIDIA A100-SXM4-80GB".to_owned(); SLOTS as usize],
            store_address: "10.0.0.1:4100".to_owned(),
            host: node.to_string(),
            cores: 64,
            memory: 1 << 39,
            nccl: None,
            labels: [label(RACK, rack), label(FABRIC, rack * FABRICS)].into(),
        };
        self.next_session += 1;
        let session = Session(self.next_session);
        self.nodes.insert(node, session);
        let join = Join {
            facts,
            runs: Vec::new(),
        };
        let identity = Digest([7; 32]);
        self.tell(Event::Joined {
            session,
            identity,
            join,
        });
    }

    /// A number below `most`, as good as any (xorshift64).
    pub(crate) fn draw(&mut self, most: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        usize::try_from(self.random >> 11).unwrap_or_default() % most
    }

    pub(crate) fn tell(&mut self, event: Event) -> Out {
        self.now = self.now + Duration::from_micros(10);
        self.engine.handle(self.now, event);
        self.drain()
    }

    pub(crate) fn drain(&mut self) -> Out {
        let mut out = Out::default();
        while let Some(command) = self.engine.poll_command() {
            match command {
                Command::Persist(record) => {
                    out.facts += 1;
                    if let Fact::VerdictReached { node, verdict, .. } = record.fact {
                        if verdict.withdraws() {
                            out.withdrawn.push(node);
                        }
                    } else if let Fact::Placed { generation, .. } = record.fact {
                        out.generation = Some(generation);
                    }
                }
                Command::Send { node, order, .. } => {
                    out.orders += 1;
                    match order {
                        Order::Start(start) => {
                            out.starts += 1;
                            if out.starts == 1 {
                                self.runs
                                    .insert(start.gang.spec.name.clone(), start.gang.generation);
                            }
                        }
                        Order::Stop {
                            run, generation, ..
                        } => {
                            out.stopped.push(node.clone());
                            self.stops.push((node, run, generation));
                        }
                        Order::Kill { .. } | Order::Seal { .. } | Order::Prune { .. } => {}
                    }
                }
                Command::Answer { answer, .. } => out.answer = Some(answer),
                Command::Refuse { .. } => {}
            }
        }
        out
    }

    pub(crate) fn submit(&mut self, spec: RunSpec) -> Out {
        self.tell(Event::Ask {
            ticket: Ticket(1),
            ask: Ask::Submit {
                spec: Box::new(spec),
                dry_run: false,
            },
        })
    }

    /// Fills the fleet with gangs of BLOOM's shape that all train.
    pub(crate) fn fill(&mut self, gangs: usize) {
        for at in 0..gangs {
            let name = format!("run-{at:05}");
            let out = self.submit(spec(&name, BLOOM));
            assert_eq!(out.starts, 48, "a gang has 48 nodes: {:?}", out.answer);
            self.swing(&RunId::new(&name).expect("a sound name"));
        }
    }

    /// Bytes in which the bench itself remembers where ranks are.
    pub(crate) fn own_memory(&self) -> usize {
        let ranks: usize = self.seats.values().map(Vec::capacity).sum();
        ranks * size_of::<NodeId>()
    }

    /// Ranks of a run.
    pub(crate) fn ranks(&self, run: &RunId) -> usize {
        self.seats[run].len()
    }

    /// Nodes of a run, whose ranks fill them.
    pub(crate) fn size(&self, run: &RunId) -> usize {
        self.ranks(run) / SLOTS as usize
    }

    pub(crate) fn node_of(&self, run: &RunId, rank: usize) -> NodeId {
        self.seats[run][rank].clone()
    }

    /// Every rank of the run reports its first step in the generation in force.
    pub(crate) fn swing(&mut self, run: &RunId) {
        let view = self.engine.run(run, self.now).expect("the run is there");
        let seats = view.ranks.iter().map(|rank| rank.seating.node.clone());
        self.seats.insert(run.clone(), seats.collect());
        for rank in &view.ranks {
            let session = self.nodes[&rank.seating.node];
            let report = Report::Rank {
                run: run.clone(),
                generation: view.generation,
                rank: rank.seating.rank,
                event: RankEvent::Reached {
                    milestone: Milestone::Stepped,
                    step: Step(1),
                    pid: 1,
                },
            };
            self.tell(Event::Report {
                node: rank.seating.node.clone(),
                session,
                report,
            });
        }
        let state = self.engine.run(run, self.now).map(|run| run.state);
        assert_eq!(state, Some(RunState::Running), "{run} must train");
    }

    /// The process of a rank ends.
    pub(crate) fn exit(&self, run: &RunId, rank: usize) -> Event {
        let node = self.node_of(run, rank);
        let session = self.nodes[&node];
        let report = Report::Rank {
            run: run.clone(),
            generation: self.runs[run],
            rank: Rank(u32::try_from(rank).unwrap_or_default()),
            event: RankEvent::Exited {
                exit: Exit::Signal(9),
                noticed_after_nanos: Some(1_000_000),
            },
        };
        Event::Report {
            node,
            session,
            report,
        }
    }

    /// The kernel log of a node says that a GPU has fallen off the bus.
    pub(crate) fn falls_off(&self, node: &NodeId) -> Event {
        let signal = Signal {
            device: Some(Slot(3)),
            sign: Sign::Xid {
                code: 79,
                detail: "pid='<unknown>', name=<unknown>, GPU has fallen off the bus.".to_owned(),
            },
            cleared: false,
        };
        Event::Report {
            node: node.clone(),
            session: self.nodes[node],
            report: Report::Signal { signal },
        }
    }

    /// A day goes by, so that the fleet does not look as if it lost a node every second.
    pub(crate) fn pass_day(&mut self) {
        self.now = self.now + Duration::from_secs(86_400);
        self.engine.handle_timeout(self.now);
        let out = self.drain();
        assert_eq!(out.starts, 0, "nothing waits for the time to pass");
    }

    /// An admin says that a node was repaired.
    pub(crate) fn repair(&mut self, node: &NodeId) {
        let ask = Ask::Uncordon { node: node.clone() };
        self.ask(ask);
        self.obey();
    }

    /// An admin sets rules of their own, or removes them.
    pub(crate) fn set_rules(&mut self, are_set: bool) {
        for (at, when) in RULES.into_iter().enumerate() {
            let name = format!("own-{at}");
            let rule = EditedRule {
                name: name.clone(),
                mode: Mode::Enforce,
                own: Some(OwnRule {
                    when: when.to_owned(),
                    verdict: Verdict::Quarantined,
                    action: Action::RunDiagnostics,
                }),
            };
            self.ask(if are_set {
                Ask::SetRule { rule }
            } else {
                Ask::UnsetRule { name }
            });
        }
    }

    fn ask(&mut self, ask: Ask) {
        let ticket = Ticket(1);
        let out = self.tell(Event::Ask { ticket, ask });
        let is_done = matches!(out.answer, Some(Answer::Done { .. }));
        assert!(is_done, "the admin gets what was asked for: {out:?}");
    }

    /// The agent of a node comes back over a new link, with nothing on it.
    pub(crate) fn return_of(&mut self, node: &NodeId) {
        let number = node.as_str().trim_start_matches("node-");
        self.join(number.parse().expect("nodes are numbered"), self.rack);
        self.obey();
    }

    pub(crate) fn stop(&mut self, run: &RunId) -> Out {
        let mut out = self.tell(Event::Ask {
            ticket: Ticket(1),
            ask: Ask::Stop {
                run: run.clone(),
                how: Stop::Now,
            },
        });
        self.runs.remove(run);
        out.orders += self.obey();
        out
    }

    /// Agents that were told to stop something say that nothing of it runs.
    fn obey(&mut self) -> usize {
        let mut orders = 0;
        for (node, run, generation) in std::mem::take(&mut self.stops) {
            let session = self.nodes[&node];
            let report = Report::Stopped { run, generation };
            orders += self
                .tell(Event::Report {
                    node,
                    session,
                    report,
                })
                .orders;
        }
        orders
    }

    /// A beat of every node that the run is on.
    pub(crate) fn beat_of(&mut self, run: &RunId) {
        for node in self.seats[run].clone() {
            let session = self.nodes[&node];
            let beat = Beat { pages: Vec::new() };
            self.tell(Event::Beat {
                node,
                session,
                beat,
            });
        }
    }

    /// A beat of every node, in a random order, with a page of each rank on it if `pages`.
    pub(crate) fn beats(&mut self, pages: bool, step: u64) -> Vec<Event> {
        let mut ranks: BTreeMap<NodeId, (RunId, Vec<Sighting>)> = BTreeMap::new();
        if pages {
            for run in self.engine.runs(self.now) {
                for rank in run.ranks {
                    let page = Page {
                        generation: run.generation,
                        step: Step(step),
                        phase: Phase::Step,
                        pulse: step,
                        ..Page::default()
                    };
                    let of_node = ranks.entry(rank.seating.node.clone());
                    let rank = rank.seating.rank;
                    let entry = of_node.or_insert_with(|| (run.spec.name.clone(), Vec::new()));
                    entry.1.push(Sighting { rank, page });
                }
            }
        }
        let mut events: Vec<Event> = self
            .nodes
            .iter()
            .map(|(node, session)| {
                let pages = ranks.remove(node);
                let pages = pages.map(|(run, sightings)| Pages {
                    run,
                    sightings,
                    matches: Vec::new(),
                });
                Event::Beat {
                    node: node.clone(),
                    session: *session,
                    beat: Beat {
                        pages: pages.into_iter().collect(),
                    },
                }
            })
            .collect();
        for at in (1..events.len()).rev() {
            let other = self.draw(at + 1);
            events.swap(at, other);
        }
        events
    }
}
