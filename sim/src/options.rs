//! The parameters of a world, all drawn from its seed: which faults there are at all, how often,
//! how large the fleet is and how slow everything. So one seed tries few things hard.

mod hard;
mod wide;

pub(crate) use hard::{Bias, fits};
pub(crate) use wide::{Site, USUAL};

use crate::random::{Random, mix};
use rebloom_core::engine::Limits;
use rebloom_core::eval::{Eval, EvalSet};
use rebloom_core::guard::{GuardAction, LossGuard};
use rebloom_core::health::Windows;
use rebloom_core::id::RunId;
use rebloom_core::layout::Layout;
use rebloom_core::spec::{
    Checkpoint, Data, Deadlines, Model, Numerics, Optimizer, Recovery, RunSpec, Snapshots, Train,
};
use rebloom_core::time::Duration;
use std::fmt;

/// A bug put into the world on purpose, to show that the checks can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Planted {
    /// Workers look at no fence and no loss of a peer: what S1 is there to catch.
    FenceIgnored,
    /// A shard is not verified when it is loaded: what S6 is there to catch.
    ShardUnverified,
    /// A resumed rank forgets how many samples were consumed: what T1 is there to catch.
    SamplesRepeated,
    /// Workers pass over one sample more than they were told: what T1 is there to catch.
    SkipTooMuch,
    /// Workers are not told when a controller was last there, so one whose agent dies in a partition
    /// counts from that death: what S1 is there to catch.
    LeaseForgotten,
}

/// Something that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    KillRank,
    KillSeveral,
    KillAgent,
    KillController,
    PowerCutController,
    PowerOffNode,
    LoseNode,
    StopRank,
    StopAndContinueRank,
    SlowRank,
    CutLink,
    CutLongLink,
    IsolateNode,
    ResetLink,
    SlowLink,
    RotShard,
    FillStorage,
    FailSpawn,
    FatalXid,
    OddXid,
    FlappingLevel,
    XidBurst,
    ResetVote,
    WorkerError,
    RunError,
    AdminStop,
    AdminDrain,
    AdminCordon,
    LoseAgent,
    FreezeAgent,
    FreezeController,
    LoseStorage,
}

impl Fault {
    const ALL: [Self; 28] = [
        Self::KillRank,
        Self::KillSeveral,
        Self::KillAgent,
        Self::KillController,
        Self::PowerCutController,
        Self::PowerOffNode,
        Self::LoseNode,
        Self::StopRank,
        Self::StopAndContinueRank,
        Self::SlowRank,
        Self::CutLink,
        Self::CutLongLink,
        Self::IsolateNode,
        Self::ResetLink,
        Self::SlowLink,
        Self::RotShard,
        Self::FillStorage,
        Self::FailSpawn,
        Self::FatalXid,
        Self::OddXid,
        Self::FlappingLevel,
        Self::XidBurst,
        Self::ResetVote,
        Self::WorkerError,
        Self::RunError,
        Self::AdminStop,
        Self::AdminDrain,
        Self::AdminCordon,
    ];

    /// What hard worlds know.
    const HARD: [Self; Self::ALL.len() + 3] = {
        let mut all = [Self::LoseAgent; Self::ALL.len() + 3];
        let mut at = 0;
        while at < Self::ALL.len() {
            all[at] = Self::ALL[at];
            at += 1;
        }
        all[at + 1] = Self::FreezeAgent;
        all[at + 2] = Self::FreezeController;
        all
    };
}

/// The parameters of one world.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where everything comes from.
    pub seed: u64,
    /// Slots of each node.
    pub nodes: Vec<u32>,
    /// What an admin says of each node, where that is drawn.
    pub(crate) sites: Vec<Site>,
    /// The runs.
    pub runs: Vec<RunSpec>,
    /// The controller's limits.
    pub limits: Limits,
    /// For how long things go wrong.
    pub storm: Duration,
    pub(crate) faults: Vec<Fault>,
    /// When faults strike, beside at random.
    pub(crate) biases: Vec<Bias>,
    /// The controller dies once it has written this many records; 0 is never.
    pub(crate) dies_after: usize,
    /// A controller that died is back after this, at most.
    pub(crate) outage: Duration,
    pub(crate) fault_every: Duration,
    /// Time of a message over a link, at most.
    pub(crate) latency: Duration,
    /// A dead link is noticed after this.
    pub(crate) keepalive: Duration,
    pub(crate) leave_within: Duration,
    /// Compute of one step, at most.
    pub(crate) step_time: Duration,
    /// Writing or reading one shard, at most.
    pub(crate) shard_time: Duration,
    /// Collectives give up after this many step deadlines; 0 is never.
    pub(crate) collective_timeout: u32,
    /// A bug to find.
    pub planted: Option<Planted>,
}

impl Options {
    /// The world of this seed.
    pub fn draw(seed: u64) -> Self {
        let mut random = Random::new(seed ^ 0x5eed);
        let r = &mut random;
        let nodes = (0..r.within(2, 6))
            .map(|_| 2 * r.small(1, 2))
            .collect::<Vec<_>>();
        let slots: u32 = nodes.iter().sum();
        // Some room is left, so that a lost node is no reason to wait for ever.
        let largest = nodes.iter().copied().max().unwrap_or(2);
        let room = slots.saturating_sub(largest).clamp(2, 8);
        let runs = (0..r.within(1, 2))
            .map(|at| draw_run(r, at, room))
            .collect();
        let density = r.within(1, 4);
        let faults = Fault::ALL
            .into_iter()
            .filter(|_| r.within(0, 4) < density)
            .collect();
        let beat_every = r.millis(200, 1000);
        let limits = Limits {
            beat_every,
            silent_after: beat_every * 4 + r.millis(0, 3000),
            rejoin_within: r.millis(1000, 4000),
            orphan_after: r.millis(8000, 40_000),
            withdraw_share: [0.0, 0.25, 0.5, 1.0][usize::try_from(r.within(0, 3)).unwrap_or(2)],
            health: draw_windows(r),
            ..Limits::default()
        };
        let silent_after = limits.silent_after;
        Self {
            seed,
            nodes,
            sites: Vec::new(),
            runs,
            limits,
            storm: r.millis(10_000, 200_000),
            faults,
            biases: Vec::new(),
            dies_after: 0,
            outage: Duration::from_secs(6),
            fault_every: r.millis(100, 300) * r.small(1, 40),
            latency: r.millis(1, 80),
            // The engine allows for `silent_after` (see `Engine::fence_after`): S1 rests on it.
            keepalive: r.millis(1000, 5000).min(silent_after),
            leave_within: r.millis(500, 5000),
            step_time: r.millis(10, 500),
            shard_time: r.millis(5, 600),
            collective_timeout: r.small(0, 3),
            planted: None,
        }
    }

    /// The same world, in which the controller also dies right after this many records of its journal.
    #[must_use]
    pub const fn dies_after(mut self, records: usize) -> Self {
        self.dies_after = records;
        self
    }

    /// The same world in which every run keeps snapshots in memory, and nodes may be in racks: drawn from a
    /// stream of its own, so that a seed without them means the world that it meant.
    #[must_use]
    pub fn snapping(mut self) -> Self {
        let r = &mut Random::new(mix(self.seed) ^ 0x003e_3027);
        for run in &mut self.runs {
            // So that there are some between two checkpoints.
            run.checkpoint.every_steps = run.checkpoint.every_steps.max(2) * r.within(1, 6);
            let every_steps = r.within(1, (run.checkpoint.every_steps / 2).max(1));
            run.checkpoint.snapshot = Some(Snapshots { every_steps });
        }
        if r.once_in(2) {
            let racks = r.within(1, 3);
            self.sites.resize_with(self.nodes.len(), Site::default);
            for site in &mut self.sites {
                site.labels = vec![("rack", format!("rack-{}", r.within(1, racks)))];
            }
        }
        self
    }

    /// The same world, in which each run comes upon samples that have its loss run away, and goes back and skips them.
    #[must_use]
    pub fn spiking(mut self) -> Self {
        for run in &mut self.runs {
            run.guard.action = GuardAction::RollBack;
            // A spike spends one.
            run.recovery.restarts += 1;
        }
        self
    }

    /// The same world with a bug in it, and with the faults that bring it out.
    #[must_use]
    pub fn plant(mut self, bug: Planted) -> Self {
        if bug == Planted::SkipTooMuch {
            self = self.spiking();
        }
        self.planted = Some(bug);
        self.faults = match bug {
            Planted::FenceIgnored => vec![Fault::CutLongLink],
            Planted::ShardUnverified => vec![Fault::RotShard, Fault::KillRank],
            Planted::SamplesRepeated | Planted::SkipTooMuch => vec![Fault::KillRank],
            Planted::LeaseForgotten => vec![Fault::CutLongLink, Fault::LoseAgent],
        };
        self.storm = Duration::from_secs(120);
        self
    }
}

/// The rules' windows, made as short as everything else in here.
fn draw_windows(r: &mut Random) -> Windows {
    Windows {
        burst: r.millis(100, 2000),
        sticky: r.millis(2000, 20_000),
        history: r.millis(20_000, 100_000),
        throttled_for: r.millis(1000, 10_000),
        suspect_for: r.millis(500, 5000),
        quarantine_for: r.millis(500, 8000),
        flaps_within: r.millis(2000, 20_000),
        lemon_after: r.small(2, 6),
        lemon_within: r.millis(20_000, 200_000),
        act_within: r.millis(500, 10_000),
        ..Windows::default()
    }
}

/// Whether and how often a run is evaluated.
fn draw_eval(seed: u64) -> Option<Eval> {
    let r = &mut Random::new(seed);
    r.once_in(2).then(|| Eval {
        every_steps: r.within(2, 40),
        samples: 1,
        sets: vec![EvalSet {
            name: "held out".to_owned(),
            prefix: "/data/held-out".to_owned(),
            documents: [0.0, 1.0],
        }],
    })
}

fn draw_run(r: &mut Random, at: u64, room: u32) -> RunSpec {
    let layout = loop {
        let (tensor, pipeline, data) = (r.small(1, 2), r.small(1, 2), r.small(1, 2));
        let layout = Layout {
            tensor,
            pipeline,
            data,
        };
        if layout.world() <= room {
            break layout;
        }
    };
    // Deadlines are well above what the undisturbed action takes, and saves overlap with steps.
    let within = |r: &mut Random, most: u64| {
        f64::from(r.small(20, 20 * u32::try_from(most).unwrap_or(1))) / 10.0
    };
    let mut run = RunSpec {
        name: RunId::new(&format!("run-{at}")).expect("a name"),
        priority: 0,
        model: Model {
            layers: 4,
            hidden: 32,
            heads: 4,
            vocab: 64,
            sequence: 16,
            residual_after_layernorm: false,
        },
        init: None,
        layout,
        train: Train {
            steps: r.within(1, 30) * r.within(1, 30),
            global_batch: layout.data * r.small(1, 4),
            micro_batch: 1,
            seed: r.bits(),
            optimizer: Optimizer::default(),
            ramp_up: None,
            numerics: Numerics::default(),
        },
        data: Data {
            prefix: "/data/corpus".to_owned(),
            ..Data::default()
        },
        checkpoint: Checkpoint {
            directory: "/checkpoints".to_owned(),
            every_steps: r.within(2, 40),
            auto: None,
            keep: r.small(1, 4),
            snapshot: None,
        },
        deadlines: Deadlines {
            init: within(r, 4) + 1.0,
            load: within(r, 4) + 1.0,
            step: within(r, 3),
            save: within(r, 4) + 1.0,
            exit: within(r, 3),
            ..Deadlines::default()
        },
        recovery: Recovery {
            restarts: r.small(0, 3),
            reform: r.small(1, 4),
            restart: r.small(1, 3),
            replace: r.small(1, 3),
            ..Recovery::default()
        },
        elastic: None,
        guard: LossGuard::default(),
        eval: None,
        log_rules: Vec::new(),
    };
    run.eval = draw_eval(run.train.seed);
    run
}

impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed      {}", self.seed)?;
        writeln!(f, "nodes     {:?} slots", self.nodes)?;
        if !self.sites.is_empty() {
            writeln!(f, "sites     {:?}", self.sites)?;
        }
        for run in &self.runs {
            let Layout {
                tensor,
                pipeline,
                data,
            } = run.layout;
            writeln!(
                f,
                "{:<9} TP {tensor} x PP {pipeline} x DP {data}, priority {}, {} steps, saved every {}, {:?}, \
                 kept {}, {:?}, {:?}, {:?}",
                run.name.as_str(),
                run.priority,
                run.train.steps,
                run.checkpoint.every_steps,
                run.checkpoint.auto,
                run.checkpoint.keep,
                run.recovery,
                run.deadlines,
                run.elastic
            )?;
        }
        writeln!(f, "limits    {:?}", self.limits)?;
        writeln!(
            f,
            "latency   {:?}, dead links noticed after {:?}",
            self.latency, self.keepalive
        )?;
        writeln!(
            f,
            "step      {:?}, shard {:?}, collectives time out after {} step deadlines",
            self.step_time, self.shard_time, self.collective_timeout
        )?;
        writeln!(
            f,
            "storm     {:?}, a fault every {:?}",
            self.storm, self.fault_every
        )?;
        write!(
            f,
            "faults    {:?}, biased to {:?}",
            self.faults, self.biases
        )
    }
}
