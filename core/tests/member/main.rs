//! The worker's machine, table by table: what it is told, and exactly what it then wants.

#[path = "../common/spec.rs"]
mod common;
mod evaluate;
mod snapshots;

use common::{digest, spec};
use rebloom_core::cause::{Blamed, Unsound};
use rebloom_core::checkpoint::{CheckpointId, Shard};
use rebloom_core::flight::Phase;
use rebloom_core::guard::{Samples, Spike};
use rebloom_core::id::{Generation, Rank, Slot, Step};
use rebloom_core::member::{
    Command, Config, Event, LoadTrouble, Member, ORPHANED, Stepped, Trouble,
};
use rebloom_core::replicas::Differs;
use rebloom_core::time::{Duration, Instant};
use rebloom_core::word::{FromWorker, Go, ToWorker};

const NOW: Instant = Instant::from_nanos(5_000_000_000);

struct Worker(Member);

impl Worker {
    /// A worker of a run of 5 steps with a checkpoint every 2.
    fn new() -> Self {
        let run = spec().name;
        let orphan_after = Duration::from_secs(10);
        let mut worker = Self(Member::new(Config {
            run,
            rank: Rank(0),
            pid: 7,
            orphan_after,
        }));
        assert_eq!(worker.tell(Event::AgentBack), ["say Hello 0 Going"]);
        worker
    }

    fn tell(&mut self, event: Event) -> Vec<String> {
        self.tell_at(NOW, event)
    }

    fn tell_at(&mut self, now: Instant, event: Event) -> Vec<String> {
        self.0.handle(now, event);
        self.drain()
    }

    fn drain(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.0.poll_command())
            .map(|command| short(&command))
            .collect()
    }

    fn go(&mut self, generation: u64) -> Vec<String> {
        self.tell(Event::Word(ToWorker::Go(Box::new(go(generation)))))
    }

    fn step(&mut self, step: u64, stop: bool) -> Vec<String> {
        let outcome = Ok(Stepped {
            step: Step(step),
            samples: step * 4,
            stop,
            spike: None,
        });
        self.tell(Event::Stepped { outcome })
    }

    fn train(&mut self, generation: u64, from: u64) {
        assert_eq!(
            self.go(generation),
            ["enter init", &format!("form {generation}")]
        );
        let formed = self.tell(Event::Formed { outcome: Ok(()) });
        assert_eq!(
            formed,
            [
                "say Reached Formed 0",
                "enter load",
                &format!("load {generation}")
            ]
        );
        let loaded = self.tell(Event::Loaded {
            outcome: Ok((Step(from), from * 4)),
        });
        assert_eq!(
            loaded,
            [&format!("say Reached Loaded {from}"), "enter step", "step"]
        );
    }

    fn saved(&mut self, step: u64, generation: u64, error: Option<&str>) -> Vec<String> {
        let checkpoint = at(step, generation);
        let shard = Shard {
            rank: Rank(0),
            file: "r".into(),
            bytes: 1,
            hash: digest(1),
        };
        let outcome = error.map_or(Ok(shard), |error| Err(error.to_owned()));
        self.tell(Event::Saved {
            checkpoint,
            samples: step * 4,
            outcome,
        })
    }
}

fn go(generation: u64) -> Go {
    let resume = (generation > 1).then(|| at(2, 1));
    let (rank, slot) = (Rank(0), Slot(0));
    Go {
        spec: spec(),
        generation: Generation(generation),
        rank,
        slot,
        resume,
        snapshot: None,
        evaluated: None,
    }
}

const fn at(step: u64, generation: u64) -> CheckpointId {
    CheckpointId {
        step: Step(step),
        generation: Generation(generation),
    }
}

fn short(command: &Command) -> String {
    match command {
        Command::Enter { phase, deadline } => {
            assert_eq!(
                deadline.is_none(),
                *phase == Phase::Idle,
                "{phase} has a deadline or not"
            );
            assert!(deadline.is_none_or(|deadline| deadline > NOW));
            format!("enter {phase}")
        }
        Command::Form(go) => format!("form {}", go.generation),
        Command::Load(go) => format!("load {}", go.generation),
        Command::Step => "step".into(),
        Command::Save { checkpoint, wait } => {
            format!(
                "save {}{}",
                checkpoint.step,
                if *wait { " wait" } else { "" }
            )
        }
        Command::Snapshot { checkpoint } => format!("snapshot {}", checkpoint.step),
        Command::Evaluate => "evaluate".into(),
        Command::Hash => "hash".into(),
        Command::Abandon => "abandon".into(),
        Command::Leave { code } => format!("leave {code}"),
        Command::Say(word) => match word {
            FromWorker::Hello(hello) => {
                format!("say Hello {} {:?}", hello.generation, hello.milestone)
            }
            FromWorker::Reached {
                milestone, step, ..
            } => format!("say Reached {milestone:?} {step}"),
            FromWorker::Saved { checkpoint, .. } => format!("say Saved {}", checkpoint.step),
            FromWorker::Snapped(piece) => format!("say Snapped {}", piece.checkpoint.step),
            FromWorker::SaveFailed { checkpoint, .. } => {
                format!("say SaveFailed {}", checkpoint.step)
            }
            FromWorker::LoadRefused { checkpoint, .. } => {
                format!("say LoadRefused {}", checkpoint.step)
            }
            FromWorker::Failed { phase, blamed, .. } => format!("say Failed {phase} {blamed:?}"),
            FromWorker::Evaluated { evaluation, .. } => {
                format!("say Evaluated {}", evaluation.step)
            }
            FromWorker::Spiked { goes_on, .. } => format!("say Spiked {goes_on}"),
            FromWorker::ReplicasDiffer { differs, .. } => format!("say {differs}"),
            FromWorker::Finished { why, step, .. } => format!("say Finished {why:?} {step}"),
        },
    }
}

#[test]
fn a_whole_life() {
    let mut worker = Worker::new();
    worker.train(1, 0);
    assert_eq!(
        worker.step(1, false),
        ["say Reached Stepped 1", "enter step", "step"]
    );
    assert_eq!(
        worker.step(2, false),
        ["enter save", "save 2", "enter step", "step"]
    );
    assert_eq!(worker.saved(2, 1, None), ["say Saved 2"]);
    assert_eq!(worker.step(3, false), ["enter step", "step"]);
    assert_eq!(
        worker.step(4, false),
        ["enter save", "save 4", "enter step", "step"]
    );
    assert_eq!(
        worker.step(5, false),
        ["enter save"],
        "the save before is still under way"
    );
    assert_eq!(worker.saved(4, 1, None), ["say Saved 4", "save 5 wait"]);
    assert_eq!(worker.saved(5, 1, None), ["say Saved 5", "hash"]);
    let finished = worker.tell(Event::Hashed { state: digest(3) });
    assert_eq!(finished, ["enter idle", "say Finished Completed 5"]);
    let again = worker.tell(Event::AgentBack);
    assert_eq!(
        again,
        [
            "say Hello 1 Finished",
            "say Saved 5",
            "say Finished Completed 5"
        ]
    );
    assert_eq!(
        worker.tell(Event::Word(ToWorker::Exit)),
        ["enter exit", "leave 0"]
    );
    assert!(
        worker.go(9).is_empty(),
        "a worker that left does not come back"
    );
}

#[test]
fn a_state_at_the_last_step_needs_only_its_hash() {
    let mut worker = Worker::new();
    worker.go(2);
    worker.tell(Event::Formed { outcome: Ok(()) });
    let loaded = worker.tell(Event::Loaded {
        outcome: Ok((Step(5), 20)),
    });
    assert_eq!(loaded, ["say Reached Loaded 5", "hash"]);
}

#[test]
fn a_safe_stop_saves_first() {
    let mut worker = Worker::new();
    worker.train(1, 0);
    let stopped = worker.step(1, true);
    assert_eq!(
        stopped,
        ["say Reached Stepped 1", "enter save", "save 1 wait"]
    );
    assert_eq!(worker.saved(1, 1, None), ["say Saved 1", "hash"]);
    let finished = worker.tell(Event::Hashed { state: digest(3) });
    assert_eq!(finished, ["enter idle", "say Finished Stopped 1"]);
}

#[test]
fn only_a_failed_last_save_ends_the_generation() {
    let mut worker = Worker::new();
    worker.train(1, 0);
    worker.step(1, false);
    worker.step(2, false);
    assert_eq!(worker.saved(2, 1, Some("disk full")), ["say SaveFailed 2"]);
    worker.step(5, false);
    let failed = worker.saved(5, 1, Some("disk full"));
    let infrastructure = "say Failed save Some(Infrastructure)";
    assert_eq!(
        failed,
        ["say SaveFailed 5", "abandon", "enter idle", infrastructure]
    );
}

/// A newer go waits for the command under way, whatever its outcome.
#[test]
fn the_highest_generation_wins() {
    let outcomes: [fn() -> Result<Stepped, Trouble>; 3] = [
        || {
            Ok(Stepped {
                step: Step(1),
                samples: 4,
                stop: false,
                spike: None,
            })
        },
        || Err(Trouble::Fenced),
        || {
            Err(Trouble::PeerLost {
                error: "closed".into(),
            })
        },
    ];
    for outcome in outcomes {
        let mut worker = Worker::new();
        worker.train(3, 2);
        assert!(worker.go(3).is_empty(), "the same go again");
        assert!(worker.go(2).is_empty(), "an older go");
        assert!(
            worker
                .tell(Event::Fenced {
                    below: Generation(5)
                })
                .is_empty()
        );
        assert!(worker.go(4).is_empty(), "a go that is fenced");
        assert!(worker.go(6).is_empty(), "it is still in a step");
        assert!(worker.go(5).is_empty(), "older than the one that waits");
        let outcome = outcome();
        assert_eq!(
            worker.tell(Event::Stepped { outcome }),
            ["enter init", "form 6"]
        );
        let outcome = Ok(Stepped {
            step: Step(2),
            samples: 8,
            stop: false,
            spike: None,
        });
        assert!(
            worker.tell(Event::Stepped { outcome }).is_empty(),
            "nothing is owed any more"
        );
    }
}

fn spike() -> Spike {
    Spike {
        step: Step(3),
        consumed: 8,
        samples: Samples { from: 8, until: 12 },
        reading: "a loss of 9".into(),
    }
}

#[test]
fn a_spike_that_is_only_worth_a_warning_is_said_and_training_goes_on() {
    let mut worker = Worker::new();
    worker.train(1, 2);
    let outcome = Ok(Stepped {
        step: Step(3),
        samples: 12,
        stop: false,
        spike: Some(spike()),
    });
    let said = worker.tell(Event::Stepped { outcome });
    assert_eq!(said[0], "say Spiked true");
    assert_eq!(said.last().map(String::as_str), Some("step"));
}

#[test]
fn trouble_ends_the_generation_and_waits_for_the_next() {
    let error = || "e".to_owned();
    let blamed = Blamed::Run;
    let differs = Differs {
        tensor: "a".into(),
        ranks: vec![Rank(1)],
    };
    let cases: [(Trouble, &[&str]); 5] = [
        (
            Trouble::ReplicasDiffer(differs),
            &[
                "abandon",
                "enter idle",
                "say a differs between ranks that must hold the same: rank 1 is unlike the others",
            ],
        ),
        (
            Trouble::Spiked(spike()),
            &["abandon", "enter idle", "say Spiked false"],
        ),
        (Trouble::Fenced, &["abandon", "enter idle"]),
        (
            Trouble::PeerLost { error: error() },
            &["abandon", "enter idle", "say Failed step None"],
        ),
        (
            Trouble::Error {
                error: error(),
                blamed,
            },
            &["abandon", "enter idle", "say Failed step Some(Run)"],
        ),
    ];
    for (trouble, wanted) in cases {
        let mut worker = Worker::new();
        worker.train(1, 0);
        assert_eq!(
            worker.tell(Event::Stepped {
                outcome: Err(trouble)
            }),
            wanted
        );
        worker.train(2, 2);
    }
    let mut worker = Worker::new();
    worker.go(2);
    worker.tell(Event::Formed { outcome: Ok(()) });
    let unsound = LoadTrouble::Unsound(Unsound::Hash {
        file: "rank-00000.safetensors".into(),
    });
    let refused = worker.tell(Event::Loaded {
        outcome: Err(unsound),
    });
    assert_eq!(refused, ["abandon", "enter idle", "say LoadRefused 2"]);
}

#[test]
fn a_fence_ends_a_generation_even_when_the_step_came_through() {
    let mut worker = Worker::new();
    worker.train(1, 0);
    worker.tell(Event::Fenced {
        below: Generation(2),
    });
    assert_eq!(worker.step(1, false), ["abandon", "enter idle"]);
    assert!(worker.go(1).is_empty());
    worker.train(2, 2);
}

#[test]
fn without_an_agent_it_leaves_in_the_end() {
    let mut worker = Worker::new();
    assert_eq!(worker.0.poll_timeout(), None);
    worker.train(1, 0);
    assert!(worker.tell(Event::AgentLost).is_empty(), "it trains on");
    let due = worker.0.poll_timeout().expect("it counts");
    assert_eq!(due, NOW + Duration::from_secs(10));
    worker.0.handle_timeout(due - Duration::from_nanos(1));
    assert!(worker.drain().is_empty());
    let mut patient = Worker::new();
    patient.tell(Event::AgentLost);
    assert_eq!(patient.tell(Event::AgentBack).len(), 1);
    patient.0.handle_timeout(due);
    assert!(patient.drain().is_empty(), "its agent came back");
    worker.0.handle_timeout(due);
    assert_eq!(worker.drain(), [format!("leave {ORPHANED}")]);
    assert_eq!(worker.0.poll_timeout(), None);
}

/// S1: the engine starts a gang elsewhere a little more than `orphan_after` after it heard of a node.
#[test]
fn a_worker_counts_from_when_a_controller_was_last_there() {
    let heard = |at| Event::Word(ToWorker::Heard(at));
    let second = Duration::from_secs(1);
    let mut worker = Worker::new();
    assert_eq!(worker.0.poll_timeout(), None);
    worker.train(1, 0);
    worker.tell(heard(NOW));
    worker.tell(heard(NOW - second));
    let due = NOW + second * 10 + second / 2;
    assert_eq!(
        worker.0.poll_timeout(),
        Some(due),
        "an agent that runs fences it before"
    );
    let lost = NOW + second * 8;
    worker.tell_at(lost, Event::AgentLost);
    assert_eq!(
        worker.0.poll_timeout(),
        Some(NOW + second * 10),
        "not from the death of its agent"
    );
    worker.tell_at(lost, Event::AgentBack);
    worker.tell_at(lost, heard(lost));
    assert_eq!(
        worker.0.poll_timeout(),
        Some(lost + second * 10 + second / 2)
    );
    let due = lost + second * 11;
    let mut fenced = Worker::new();
    fenced.train(1, 0);
    fenced.tell(heard(NOW));
    fenced.tell(Event::Fenced {
        below: Generation(2),
    });
    assert_eq!(fenced.0.poll_timeout(), None, "a fence is as good");
    worker.0.handle_timeout(due);
    assert_eq!(worker.drain(), [format!("leave {ORPHANED}")]);
}

#[test]
fn one_that_never_finds_its_agent_leaves_too() {
    let run = spec().name;
    let orphan_after = Duration::from_secs(10);
    let mut member = Member::new(Config {
        run,
        rank: Rank(0),
        pid: 7,
        orphan_after,
    });
    assert_eq!(member.poll_timeout(), Some(Instant::ZERO));
    member.handle_timeout(NOW);
    assert_eq!(member.poll_timeout(), Some(NOW + Duration::from_secs(10)));
    assert_eq!(member.poll_command(), None);
}
