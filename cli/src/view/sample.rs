//! A run for tests.

use crate::client::Cluster;
use rebloom_core::cause::{Cause, Exit};
use rebloom_core::checkpoint::CheckpointId;
use rebloom_core::engine::{
    CheckpointState, Incident, Ledger, NodeHealth, NodeState, NodeView, RankView, RunState,
    RunView, Rung, Seating, Spend,
};
use rebloom_core::flight::Phase;
use rebloom_core::id::{Generation, IncidentId, NodeId, Rank, RunId, Slot, Step};
use rebloom_core::report::{Milestone, NodeFacts};
use rebloom_core::spec::RunSpec;
use rebloom_core::time::{Duration, Instant};

const SPEC: &str = "
name: bloom-small
model: {layers: 4, hidden: 64, heads: 4, vocab: 2048, sequence: 64}
layout: {tensor: 2, pipeline: 2, data: 2}
train: {steps: 300, global_batch: 16, micro_batch: 2}
data: {prefix: /data/x}
checkpoint: {directory: /checkpoints, every_steps: 20}
";

fn node(number: u32) -> NodeId {
    NodeId::new(&format!("node-{number}")).unwrap()
}

fn ledger(spent: &[(Spend, u64)]) -> Ledger {
    let entry = |(spend, millis): &(Spend, u64)| (*spend, Duration::from_millis(*millis));
    let spent: std::collections::BTreeMap<_, _> = spent.iter().map(entry).collect();
    let devices = spent
        .iter()
        .map(|(spend, time)| (*spend, *time * 8))
        .collect();
    Ledger {
        spent,
        devices,
        lost_steps: 0,
    }
}

pub(crate) fn checkpoint(step: u64) -> (CheckpointId, CheckpointState) {
    let id = CheckpointId {
        step: Step(step),
        generation: Generation(1),
    };
    (id, CheckpointState::Sealed)
}

/// Trains, at this step.
pub(crate) fn run(step: u64) -> RunView {
    let spec: RunSpec = serde_norway::from_str(SPEC).unwrap();
    let rank = |rank: Rank| RankView {
        seating: Seating {
            rank,
            node: node(rank.0 / 2 + 1),
            slot: Slot(rank.0 % 2),
        },
        pid: Some(1000 + rank.0),
        milestone: Some(Milestone::Stepped),
        phase: Some(Phase::Step),
        step: Some(Step(step)),
    };
    RunView {
        ranks: spec.layout.ranks().map(rank).collect(),
        spec,
        state: RunState::Running,
        why: Cause::Submitted,
        waits_for: String::new(),
        generation: Generation(1),
        step: Step(step),
        samples: step * 16,
        loss: Some(7.5 - step as f32 / 100.0),
        grad_norm: Some(1.0),
        step_time: Some(Duration::from_millis(500)),
        checkpoints: vec![checkpoint(40)],
        snapshot: None,
        incidents: Vec::new(),
        ledger: ledger(&[(Spend::Starting, 5000), (Spend::Productive, 45_000)]),
        ettr_hour: Some(0.9),
        tariff: rebloom_core::footprint::Tariff {
            watts: Some(400.0),
            effectiveness: 1.0,
            grams_per_kwh: 57.0,
        },
        transitions: Vec::new(),
        mileposts: vec![rebloom_core::engine::Milepost {
            at: Instant::from_nanos(25_000_000_000),
            step: Step(40),
            loss: 7.125,
            grad_norm: Some(1.0),
        }],
        evaluations: Vec::new(),
        device: None,
        submitted: Instant::ZERO,
        final_states: Vec::new(),
    }
}

/// Trains again after rank 3 was killed.
pub(crate) fn run_with_incident() -> RunView {
    let incident = Incident {
        id: IncidentId(1),
        cause: Cause::RankExited {
            rank: Rank(3),
            node: node(2),
            exit: Exit::Signal(9),
        },
        evidence: vec![Cause::GangHung {
            phase: Phase::Step,
            suspects: Vec::new(),
            group: None,
        }],
        opened: Instant::from_nanos(30_000_000_000),
        closed: Some(Instant::from_nanos(31_500_000_000)),
        rung: Some(Rung::Reform),
        generation: Generation(1),
        recovered_by: Some(Generation(2)),
        resumed_from: Some(checkpoint(40).0),
        lost_steps: 7,
        tier: rebloom_core::snapshot::Tier::Storage,
        spent: ledger(&[(Spend::Detect, 500), (Spend::Reform, 1000)]),
    };
    RunView {
        generation: Generation(2),
        incidents: vec![incident],
        ..run(50)
    }
}

/// Five nodes, the last of them spare.
pub(crate) fn cluster(run: RunView) -> Cluster {
    let view = |number: u32| NodeView {
        facts: NodeFacts {
            node: node(number),
            slots: 2,
            gpus: Vec::new(),
            store_address: "127.0.0.1:1".to_owned(),
            host: "here".to_owned(),
            cores: 2,
            memory: 1 << 33,
            nccl: None,
            labels: rebloom_core::labels::Labels::default(),
        },
        state: NodeState::Ready,
        cordoned: false,
        health: NodeHealth::default(),
        ranks: run
            .ranks
            .iter()
            .filter(|rank| rank.seating.node == node(number))
            .map(|rank| (RunId::new("bloom-small").unwrap(), rank.seating.rank))
            .collect(),
        last_heard: Some(Instant::ZERO),
    };
    Cluster {
        now: Instant::ZERO,
        nodes: (1..=5).map(view).collect(),
        runs: vec![run],
    }
}
