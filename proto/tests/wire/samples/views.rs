//! Runs and nodes as the engine shows them.

use super::{causes, checkpoint, evaluation, node, run, spec};
use rebloom_core::cause::Cause;
use rebloom_core::engine::{
    CheckpointState, Incident, Ledger, Milepost, NodeState, NodeView, RankView, Refusal, RunState,
    RunView, Rung, Seating, SnapshotView, Spend, Transition,
};
use rebloom_core::flight::Phase;
use rebloom_core::footprint::Tariff;
use rebloom_core::id::{Digest, Generation, IncidentId, Rank, Slot, Step};
use rebloom_core::ladder::gate::Nccl;
use rebloom_core::report::{Milestone, NodeFacts};
use rebloom_core::snapshot::Tier;
use rebloom_core::spec::Flaw;
use rebloom_core::time::{Duration, Instant};

pub(crate) fn runs() -> Vec<RunView> {
    let spends = [
        Spend::Waiting,
        Spend::Stalled,
        Spend::Starting,
        Spend::Productive,
        Spend::Detect,
        Spend::Decide,
        Spend::Reform,
        Spend::Restore,
        Spend::CatchUp,
    ];
    let spent = spends
        .into_iter()
        .zip((1..).map(Duration::from_millis))
        .collect();
    let devices = [(Spend::Productive, Duration::from_millis(24))].into();
    let ledger = Ledger {
        spent,
        devices,
        lost_steps: 9,
    };
    let incident = |rung: Option<Rung>, cause| Incident {
        id: IncidentId(1),
        cause,
        evidence: causes(),
        opened: Instant::from_nanos(5),
        closed: rung.map(|_| Instant::from_nanos(6)),
        rung,
        generation: Generation(1),
        recovered_by: rung.map(|_| Generation(2)),
        resumed_from: rung.map(|_| checkpoint()),
        lost_steps: 4,
        spent: ledger.clone(),
        tier: match rung {
            None => Tier::Storage,
            Some(Rung::Reform) => Tier::Memory,
            Some(_) => Tier::Replica,
        },
    };
    let rungs = [
        None,
        Some(Rung::Reform),
        Some(Rung::Restart),
        Some(Rung::Replace),
        Some(Rung::AsyncOff),
        Some(Rung::Shrink),
        Some(Rung::Park),
    ];
    let seating = Seating {
        rank: Rank(0),
        node: node(),
        slot: Slot(1),
    };
    let known = RankView {
        seating: seating.clone(),
        pid: Some(77),
        milestone: Some(Milestone::Stepped),
        phase: Some(Phase::Step),
        step: Some(Step(12)),
    };
    let unknown = RankView {
        seating,
        pid: None,
        milestone: None,
        phase: None,
        step: None,
    };
    let states = [
        RunState::Pending,
        RunState::Starting,
        RunState::Running,
        RunState::Recovering,
        RunState::Stopping,
        RunState::Stopped,
        RunState::Completed,
        RunState::Failed,
        RunState::Parked,
    ];
    let view = |state| RunView {
        spec: spec(),
        state,
        why: Cause::Submitted,
        waits_for: "no node has two free slots".to_owned(),
        generation: Generation(2),
        ranks: vec![known.clone(), unknown.clone()],
        step: Step(12),
        samples: 192,
        loss: Some(6.5),
        grad_norm: Some(1.5),
        step_time: Some(Duration::from_millis(350)),
        snapshot: Some(SnapshotView {
            newest: Some(checkpoint()),
            copies: 2,
            note: "the replicas of 2 of 4 nodes".to_owned(),
        }),
        checkpoints: vec![
            (checkpoint(), CheckpointState::Sealed),
            (checkpoint(), CheckpointState::Rejected),
        ],
        incidents: rungs.map(|rung| incident(rung, Cause::Superseded)).to_vec(),
        ledger: ledger.clone(),
        ettr_hour: Some(0.5),
        tariff: Tariff {
            watts: Some(400.0),
            effectiveness: 1.25,
            grams_per_kwh: 57.0,
        },
        transitions: vec![Transition {
            at: Instant::from_nanos(3),
            state: RunState::Stopping,
            why: Cause::Superseded,
        }],
        mileposts: vec![
            Milepost {
                at: Instant::from_nanos(4),
                step: Step(10),
                loss: 6.75,
                grad_norm: Some(1.5),
            },
            Milepost {
                at: Instant::from_nanos(5),
                step: Step(12),
                loss: 6.5,
                grad_norm: None,
            },
        ],
        device: Some("NVIDIA A100-SXM4-80GB".to_owned()),
        evaluations: vec![(Instant::from_nanos(6), evaluation())],
        submitted: Instant::from_nanos(1),
        final_states: vec![Digest([3; 32])],
    };
    let mut views: Vec<RunView> = states.map(view).to_vec();
    views.push(RunView {
        loss: None,
        grad_norm: None,
        step_time: None,
        ettr_hour: None,
        tariff: Tariff::default(),
        device: None,
        transitions: Vec::new(),
        mileposts: Vec::new(),
        ..view(RunState::Pending)
    });
    views
}

pub(crate) fn nodes() -> Vec<NodeView> {
    let view = |state, last_heard: Option<Instant>| NodeView {
        facts: facts(),
        state,
        cordoned: last_heard.is_some(),
        health: last_heard
            .map(|_| super::health::node())
            .unwrap_or_default(),
        ranks: vec![(run(), Rank(2))],
        last_heard,
    };
    vec![
        view(NodeState::Ready, Some(Instant::from_nanos(8))),
        view(NodeState::Unreachable, None),
        view(NodeState::Lost, None),
    ]
}

pub(super) fn facts() -> NodeFacts {
    NodeFacts {
        node: node(),
        slots: 2,
        gpus: vec!["NVIDIA H200".to_owned()],
        store_address: "127.0.0.1:4100".to_owned(),
        host: "machine".to_owned(),
        cores: 2,
        memory: 8 << 30,
        nccl: Some(Nccl(2, 27, 5)),
        labels: [("rack".to_owned(), "r1".to_owned())].into(),
    }
}

pub(crate) fn refusals() -> Vec<Refusal> {
    let flaw = Flaw {
        field: "layout.tensor".to_owned(),
        value: "3".to_owned(),
        problem: "does not divide model.heads (4)".to_owned(),
        remedy: "use one of 1, 2, 4".to_owned(),
    };
    vec![
        Refusal::Flaws(vec![flaw.clone(), flaw]),
        Refusal::RunExists(run(), RunState::Running),
        Refusal::NoSuchRun(run()),
        Refusal::NoSuchNode(node()),
        Refusal::WrongState(run(), RunState::Completed, "submit a new one".to_owned()),
        Refusal::OtherIdentity(node()),
        Refusal::NoRoom(run()),
        Refusal::BadRule("no".to_owned()),
        Refusal::NoSuchRule("mine".to_owned()),
    ]
}
