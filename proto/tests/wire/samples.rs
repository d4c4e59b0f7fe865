//! One sample at least of every variant that crosses the wire, for the tests beside this file.

mod causes;
pub(crate) mod health;
mod specs;
mod views;
mod words;

pub(crate) use causes::causes;
pub(crate) use specs::spec;
pub(crate) use views::{nodes, refusals, runs};
pub(crate) use words::{from_rank, to_rank};

use rebloom_core::cause::{Blamed, Cause, Exit, Unsound};
use rebloom_core::checkpoint::{CheckpointId, Manifest, Shard};
use rebloom_core::eval::{Evaluation, Score};
use rebloom_core::flight::{Counter, Page, Phase, Sighting};
use rebloom_core::guard::{Samples, Spike};
use rebloom_core::hang::rules::Match;
use rebloom_core::id::{Digest, Generation, NodeId, Rank, RunId, Session, Slot, Step};
use rebloom_core::layout::Layout;
use rebloom_core::order::{GangStart, Order, Seat, Start, Stop};
use rebloom_core::replicas::Differs;
use rebloom_core::report::{
    Beat, Finish, Join, Milestone, Pages, RankEvent, RankStatus, Remembered, Report,
};
use rebloom_core::snapshot::{Peer, Piece, Recall};
use rebloom_core::time::{Duration, Instant};
use rebloom_proto::link::{FromAgent, Question, Reply, ToAgent, Verified, Welcome};

pub(crate) fn run() -> RunId {
    RunId::new("bloom-tiny").expect("a name")
}

pub(crate) fn node() -> NodeId {
    NodeId::new("node-3").expect("a name")
}

pub(crate) fn checkpoint() -> CheckpointId {
    CheckpointId {
        step: Step(120),
        generation: Generation(7),
    }
}

fn shard() -> Shard {
    Shard {
        rank: Rank(1),
        file: "rank-00001.safetensors".to_owned(),
        bytes: 1 << 33,
        hash: Digest([0xA5; 32]),
    }
}

pub(crate) fn manifest() -> Manifest {
    Manifest {
        version: 1,
        run: run(),
        id: checkpoint(),
        layout: Layout {
            tensor: 2,
            pipeline: 1,
            data: 1,
        },
        samples: 1920,
        shards: vec![
            Shard {
                rank: Rank(0),
                ..shard()
            },
            shard(),
        ],
    }
}

fn samples() -> Samples {
    Samples {
        from: 320,
        until: 336,
    }
}

pub(crate) fn differs() -> Differs {
    Differs {
        tensor: "weight/h.1.mlp.dense_4h_to_h.bias".to_owned(),
        ranks: vec![Rank(1), Rank(6)],
    }
}

fn spike() -> Spike {
    Spike {
        step: Step(21),
        consumed: 8,
        samples: samples(),
        reading: "a loss of 9".to_owned(),
    }
}

fn evaluation() -> Evaluation {
    let score = |set: &str, bytes| Score {
        set: set.to_owned(),
        documents: 3,
        bytes,
        tokens: 40,
        nats: 120.5,
    };
    Evaluation {
        step: Step(20),
        samples: 160,
        scores: vec![score("fr", None), score("sw", Some(99))],
    }
}

fn unsounds() -> Vec<Unsound> {
    let file = || "rank-00001.safetensors".to_owned();
    vec![
        Unsound::Missing { file: file() },
        Unsound::Length {
            file: file(),
            expected: 10,
            found: 9,
        },
        Unsound::Hash { file: file() },
        Unsound::Unreadable {
            file: file(),
            error: "permission denied".to_owned(),
        },
    ]
}

fn page() -> Page {
    Page {
        generation: Generation(7),
        phase: Phase::Step,
        deadline: Some(Instant::from_nanos(99)),
        step: Step(121),
        samples: 1936,
        loss: 5.25,
        grad_norm: 0.5,
        step_nanos: 350_000_000,
        pulse: 41,
        busy_nanos: 300_000_000,
        counters: std::array::from_fn(|at| Counter {
            entered: at as u64 + 1,
            done: at as u64,
        }),
    }
}

pub(crate) fn reports() -> Vec<Report> {
    let (generation, rank, error) = (Generation(7), Rank(1), || "disk full".to_owned());
    let mut events = vec![
        RankEvent::Exited {
            exit: Exit::Signal(9),
            noticed_after_nanos: Some(1_000_000),
        },
        RankEvent::Exited {
            exit: Exit::Unknown,
            noticed_after_nanos: None,
        },
        RankEvent::NotStarted { error: error() },
        RankEvent::RuleBroken {
            rule: "oom".to_owned(),
            line: "out of memory".to_owned(),
        },
        RankEvent::Failed {
            phase: Phase::Load,
            error: error(),
            blamed: Blamed::Run,
        },
        RankEvent::PeerLost {
            phase: Phase::Step,
            error: error(),
        },
        RankEvent::LoadRefused {
            checkpoint: checkpoint(),
            unsound: Unsound::Hash {
                file: "rank-00000.safetensors".to_owned(),
            },
        },
        RankEvent::Overdue {
            phase: Phase::Save,
            step: Some(Step(7)),
        },
        RankEvent::Overdue {
            phase: Phase::Init,
            step: None,
        },
        RankEvent::Evaluated(evaluation()),
        RankEvent::ReplicasDiffer(differs()),
        RankEvent::Spiked {
            spike: spike(),
            goes_on: true,
        },
    ];
    for milestone in [
        Milestone::Going,
        Milestone::Formed,
        Milestone::Loaded,
        Milestone::Stepped,
        Milestone::Finished,
    ] {
        events.push(RankEvent::Reached {
            milestone,
            step: Step(3),
            pid: 77,
        });
    }
    for why in [Finish::Completed, Finish::Stopped] {
        events.push(RankEvent::Finished {
            why,
            step: Step(200),
            state: Digest([1; 32]),
        });
    }
    let of_rank = |event| Report::Rank {
        run: run(),
        generation,
        rank,
        event,
    };
    let mut reports: Vec<Report> = events.into_iter().map(of_rank).collect();
    let checkpoint = checkpoint();
    reports.extend([
        Report::ShardSaved {
            run: run(),
            checkpoint,
            samples: 1920,
            shard: shard(),
        },
        Report::ShardFailed {
            run: run(),
            checkpoint,
            rank,
            error: error(),
        },
        Report::SnapshotHeld {
            run: run(),
            piece: recall(true).piece,
            at: node(),
        },
        Report::Sealed {
            run: run(),
            checkpoint,
            error: None,
        },
        Report::Sealed {
            run: run(),
            checkpoint,
            error: Some(error()),
        },
        Report::Stopped {
            run: run(),
            generation,
        },
    ]);
    reports
}

pub(crate) fn from_agent() -> Vec<FromAgent> {
    let status = RankStatus {
        rank: Rank(0),
        pid: 4711,
        generation: Generation(7),
        milestone: Milestone::Stepped,
    };
    let remembered = Remembered {
        run: run(),
        generation: Generation(7),
        ranks: vec![status],
        sealed: vec![manifest()],
        snapshots: vec![recall(true).piece],
    };
    let sighting = Sighting {
        rank: Rank(1),
        page: page(),
    };
    let verified = Verified {
        shards: 8,
        bytes: 1 << 30,
        problems: unsounds(),
    };
    let log = Reply::LogPart {
        offset: 3,
        data: b"step 1\xFF".to_vec(),
        more: true,
    };
    let mut messages = vec![
        FromAgent::Join(Join {
            facts: views::facts(),
            runs: vec![remembered],
        }),
        FromAgent::Beat(Beat {
            pages: vec![Pages {
                run: run(),
                sightings: vec![sighting],
                matches: vec![Match {
                    generation: Generation(7),
                    rule: 1,
                    lines: 3,
                    stopped: true,
                }],
            }],
        }),
        FromAgent::Reply {
            id: 4,
            reply: Ok(log),
        },
        FromAgent::Reply {
            id: 5,
            reply: Ok(Reply::Verified(verified)),
        },
        FromAgent::Reply {
            id: 6,
            reply: Err("no such rank".to_owned()),
        },
    ];
    let numbered = reports().into_iter().zip(1..);
    messages.extend(numbered.map(|(report, sequence)| FromAgent::Report { sequence, report }));
    messages
}

/// A shard to restore from, on another node or this one.
pub(crate) fn recall(is_far: bool) -> Recall {
    Recall {
        piece: Piece {
            checkpoint: checkpoint(),
            layout: manifest().layout,
            samples: 96,
            shard: shard(),
        },
        from: is_far.then(|| Peer {
            node: node(),
            address: "10.0.0.2:4100".to_owned(),
        }),
    }
}

fn orders() -> Vec<Order> {
    let generation = Generation(8);
    let gang = GangStart {
        spec: spec().into(),
        generation,
        evaluated: Some(Step(12)),
        store_node: node(),
        store_address: "127.0.0.1:4100".to_owned(),
        resume: Some(checkpoint()),
        fresh_processes: true,
        async_off: true,
        cause: Cause::Submitted,
    };
    let first = GangStart {
        resume: None,
        evaluated: None,
        fresh_processes: false,
        ..gang.clone()
    };
    let start = Start {
        gang: gang.into(),
        seats: vec![
            Seat {
                rank: Rank(2),
                slot: Slot(0),
            },
            Seat {
                rank: Rank(3),
                slot: Slot(1),
            },
        ]
        .into(),
        snapshot: vec![recall(true), recall(false)],
        replica: recall(true).from,
    };
    let first = Start {
        gang: first.into(),
        seats: start.seats.clone(),
        snapshot: Vec::new(),
        replica: None,
    };
    let directory = || "/checkpoints".to_owned();
    let mut orders = vec![
        Order::Start(start),
        Order::Start(first),
        Order::Seal {
            directory: directory(),
            manifest: Box::new(manifest()),
        },
        Order::Prune {
            run: run(),
            directory: directory(),
            checkpoints: vec![checkpoint()],
        },
    ];
    for how in [Stop::Safely, Stop::Now] {
        orders.push(Order::Stop {
            run: run(),
            generation,
            how,
            cause: Cause::StopRequested,
        });
    }
    for cause in causes() {
        orders.push(Order::Kill {
            run: run(),
            generation,
            rank: Rank(3),
            cause,
        });
    }
    orders
}

pub(crate) fn to_agent() -> Vec<ToAgent> {
    let welcome = Welcome {
        session: Session(3),
        beat_every: Duration::from_millis(500),
        orphan_after: Duration::from_secs(300),
        now: Instant::from_nanos(9),
    };
    let read_log = Question::ReadLog {
        run: run(),
        rank: Rank(1),
        previous: true,
        offset: 10,
        limit: 4096,
        tail_lines: 20,
    };
    let verify = Question::VerifyCheckpoint {
        directory: "/checkpoints".to_owned(),
        run: run(),
        checkpoint: checkpoint(),
    };
    let mut messages = vec![
        ToAgent::Welcome(welcome),
        ToAgent::Ack(17),
        ToAgent::Question {
            id: 1,
            question: read_log,
        },
        ToAgent::Question {
            id: 2,
            question: verify,
        },
    ];
    messages.extend(orders().into_iter().map(ToAgent::Order));
    messages
}
