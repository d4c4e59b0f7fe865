//! The agent's machine, table by table: what it is told, and exactly what it then wants.

#[path = "common/spec.rs"]
mod common;

use common::{digest, spec};
use rebloom_core::cause::{Blamed, Cause, Exit};
use rebloom_core::flight::{Page, Phase, Sighting};
use rebloom_core::id::{Generation, NodeId, Rank, RunId, Slot, Step};
use rebloom_core::order::{Order, Seat, Start, Stop};
use rebloom_core::report::{Finish, Milestone, RankEvent, Report};
use rebloom_core::supervisor::{Command, Config, Event, Memory, Supervisor};
use rebloom_core::time::{Duration, Instant};
use rebloom_core::word::{FromWorker, Hello, ToWorker};

const NOW: Instant = Instant::from_nanos(1_000_000_000_000);

fn node() -> NodeId {
    NodeId::new("node-0").expect("a name")
}

fn run() -> RunId {
    spec().name
}

fn config() -> Config {
    Config {
        node: node(),
        beat_every: Duration::from_millis(500),
        orphan_after: Duration::from_secs(60),
        leave_within: Duration::from_secs(5),
    }
}

struct Agent {
    supervisor: Supervisor,
    memory: Memory,
}

impl Agent {
    fn linked() -> Self {
        let mut agent = Self::of(Memory::default());
        assert_eq!(agent.tell(Event::LinkUp), [""; 0]);
        agent
    }

    fn of(memory: Memory) -> Self {
        Self {
            supervisor: Supervisor::new(config(), memory.clone()),
            memory,
        }
    }

    /// The same node after its agent was killed: all it has is what was written down.
    fn again(self) -> Self {
        Self::of(self.memory)
    }

    fn tell(&mut self, event: Event) -> Vec<String> {
        self.tell_at(NOW, event)
    }

    fn tell_at(&mut self, now: Instant, event: Event) -> Vec<String> {
        self.supervisor.handle(now, event);
        self.drain()
    }

    fn wait_until(&mut self, now: Instant) -> Vec<String> {
        self.supervisor.handle_timeout(now);
        self.drain()
    }

    fn drain(&mut self) -> Vec<String> {
        let mut commands = Vec::new();
        while let Some(command) = self.supervisor.poll_command() {
            if let Command::Remember(memory) = &command {
                self.memory = memory.clone();
            }
            commands.push(short(&command));
        }
        commands
    }

    fn order_start(&mut self, generation: u64, ranks: &[u32]) -> Vec<String> {
        self.tell(Event::Order(Order::Start(Box::new(start(
            generation, ranks,
        )))))
    }

    fn order_stop(&mut self, generation: u64, how: Stop) -> Vec<String> {
        let (generation, cause) = (Generation(generation), Cause::StopRequested);
        self.tell(Event::Order(Order::Stop {
            run: run(),
            generation,
            how,
            cause,
        }))
    }

    /// A process that was spawned comes up and says hello.
    fn comes_up(&mut self, rank: u32, pid: u32) -> Vec<String> {
        let started = Event::Started {
            run: run(),
            rank: Rank(rank),
            pid,
            started: u64::from(pid),
        };
        assert_eq!(self.tell(started), ["remember"]);
        self.hello(rank, pid, 0)
    }

    fn hello(&mut self, rank: u32, pid: u32, generation: u64) -> Vec<String> {
        let generation = Generation(generation);
        let milestone = Milestone::Going;
        self.say(
            rank,
            pid,
            FromWorker::Hello(Hello {
                run: run(),
                rank: Rank(rank),
                pid,
                generation,
                milestone,
            }),
        )
    }

    fn say(&mut self, rank: u32, pid: u32, word: FromWorker) -> Vec<String> {
        self.tell(Event::Word {
            run: run(),
            rank: Rank(rank),
            pid,
            word,
        })
    }

    fn exit(&mut self, rank: u32, pid: u32) -> Vec<String> {
        let exit = Exit::Signal(9);
        let (rank, noticed_after_nanos) = (Rank(rank), None);
        self.tell(Event::Exited {
            run: run(),
            rank,
            pid,
            exit,
            noticed_after_nanos,
        })
    }

    /// Ranks 0 and 1 run generation 1 as processes 10 and 11.
    fn running() -> Self {
        let mut agent = Self::linked();
        assert_eq!(
            agent.order_start(1, &[0, 1]),
            [
                "remember",
                "open 1",
                "route 1",
                "spawn 0 slot 0 for 1",
                "spawn 1 slot 1 for 1"
            ]
        );
        assert_eq!(agent.comes_up(0, 10), ["tell 0 go 1"]);
        assert_eq!(agent.comes_up(1, 11), ["tell 1 go 1"]);
        agent
    }
}

fn start(generation: u64, ranks: &[u32]) -> Start {
    Start {
        spec: spec(),
        generation: Generation(generation),
        seats: ranks
            .iter()
            .map(|&rank| Seat {
                rank: Rank(rank),
                slot: Slot(rank),
            })
            .collect(),
        store_node: node(),
        store_address: "127.0.0.1:1".into(),
        resume: None,
        fresh_processes: false,
        cause: Cause::Submitted,
    }
}

fn finished(generation: u64) -> FromWorker {
    let (generation, step, state) = (Generation(generation), Step(5), digest(1));
    FromWorker::Finished {
        generation,
        why: Finish::Completed,
        step,
        state,
    }
}

fn short(command: &Command) -> String {
    match command {
        Command::Remember(_) => "remember".into(),
        Command::Spawn {
            rank,
            slot,
            generation,
            ..
        } => {
            format!("spawn {rank} slot {slot} for {generation}")
        }
        Command::Tell {
            rank,
            word: ToWorker::Go(go),
            ..
        } => {
            assert_eq!(*rank, go.rank);
            format!("tell {rank} go {}", go.generation)
        }
        Command::Tell {
            rank,
            word: ToWorker::Exit,
            ..
        } => format!("tell {rank} exit"),
        Command::Fence { rank, below, .. } => format!("fence {rank} below {below}"),
        Command::StopSafely {
            rank, generation, ..
        } => format!("stop {rank} in {generation}"),
        Command::Kill { rank, pid, .. } => format!("kill {rank} pid {pid}"),
        Command::OpenStore { generation, .. } => format!("open {generation}"),
        Command::RouteStore { generation, .. } => format!("route {generation}"),
        Command::WriteManifest { manifest, .. } => format!("seal {}", manifest.id.step),
        Command::Prune { checkpoints, .. } => format!("prune {}", checkpoints.len()),
        Command::ReadPages => "read".into(),
        Command::Beat(beat) => format!("beat {}", beat.pages.len()),
        Command::Report { sequence, report } => format!("{sequence}: {}", short_report(report)),
    }
}

fn short_report(report: &Report) -> String {
    match report {
        Report::Rank {
            generation,
            rank,
            event,
            ..
        } => {
            let event = match event {
                RankEvent::Reached { milestone, .. } => format!("{milestone:?}"),
                RankEvent::Finished { .. } => "Finished".into(),
                RankEvent::Exited { exit, .. } => exit.to_string(),
                RankEvent::NotStarted { .. } => "NotStarted".into(),
                RankEvent::Failed { blamed, .. } => format!("Failed {blamed:?}"),
                RankEvent::PeerLost { .. } => "PeerLost".into(),
                RankEvent::LoadRefused { .. } => "LoadRefused".into(),
                RankEvent::Overdue { phase } => format!("overdue in {phase}"),
            };
            format!("rank {rank} g{generation} {event}")
        }
        Report::ShardSaved { shard, .. } => format!("shard of {}", shard.rank),
        Report::ShardFailed { rank, .. } => format!("no shard of {rank}"),
        Report::Sealed { checkpoint, .. } => format!("sealed {}", checkpoint.step),
        Report::Stopped { generation, .. } => format!("stopped {generation}"),
    }
}

#[test]
fn an_order_that_comes_twice_or_late_does_nothing() {
    let mut agent = Agent::running();
    assert_eq!(agent.order_start(1, &[0, 1]), [""; 0]);
    agent.order_start(3, &[0, 1]);
    assert_eq!(agent.order_start(2, &[0, 1]), [""; 0]);
    let (generation, cause) = (Generation(2), Cause::Superseded);
    let kill = Order::Kill {
        run: run(),
        generation,
        rank: Rank(0),
        cause,
    };
    assert_eq!(agent.tell(Event::Order(kill)), [""; 0]);
    assert_eq!(agent.supervisor.remembered()[0].generation, Generation(3));
}

#[test]
fn survivors_are_fenced_and_told_and_only_the_lost_rank_is_started() {
    let mut agent = Agent::running();
    assert_eq!(agent.exit(1, 11), ["1: rank 1 g1 SIGKILL", "remember"]);
    assert_eq!(
        agent.order_start(1, &[0, 1]),
        [""; 0],
        "a rank is tried once in a generation"
    );
    assert_eq!(
        agent.order_start(2, &[0, 1]),
        [
            "remember",
            "open 2",
            "route 2",
            "fence 0 below 2",
            "tell 0 go 2",
            "spawn 1 slot 1 for 2"
        ]
    );
    assert_eq!(agent.comes_up(1, 12), ["tell 1 go 2"]);
    assert_eq!(
        agent.exit(1, 11),
        [""; 0],
        "that process is known to be gone"
    );
}

#[test]
fn fresh_processes_wait_for_the_old_ones_to_end() {
    let mut agent = Agent::running();
    let fresh = Start {
        fresh_processes: true,
        ..start(2, &[0, 1])
    };
    assert_eq!(
        agent.tell(Event::Order(Order::Start(Box::new(fresh)))),
        [
            "remember",
            "open 2",
            "route 2",
            "fence 0 below 2",
            "kill 0 pid 10",
            "fence 1 below 2",
            "kill 1 pid 11"
        ]
    );
    let mut next = agent.again();
    assert_eq!(
        next.tell(Event::LinkUp).last().map(String::as_str),
        Some("kill 1 pid 11")
    );
    assert_eq!(
        next.exit(0, 10),
        ["1: rank 0 g1 SIGKILL", "remember", "spawn 0 slot 0 for 2"],
        "also in the agent's next life"
    );
}

/// S2: a slot is free only when its process is gone.
#[test]
fn a_rank_that_moves_waits_for_its_slot() {
    let mut agent = Agent::running();
    let mut swapped = start(2, &[0]);
    swapped.seats[0].slot = Slot(1);
    let commands = agent.tell(Event::Order(Order::Start(Box::new(swapped))));
    assert_eq!(
        commands[3..],
        [
            "fence 0 below 2",
            "kill 0 pid 10",
            "fence 1 below 2",
            "kill 1 pid 11"
        ]
    );
    assert_eq!(agent.exit(0, 10), ["1: rank 0 g1 SIGKILL", "remember"]);
    assert_eq!(agent.exit(1, 11)[1..], ["remember", "spawn 0 slot 1 for 2"]);
}

#[test]
fn a_next_life_adopts_ranks_and_tells_again_what_was_lost() {
    let mut agent = Agent::linked();
    agent.order_start(1, &[0, 1]);
    let pid = 10;
    agent.tell(Event::Started {
        run: run(),
        rank: Rank(0),
        pid,
        started: 1,
    });
    let mut agent = agent.again();
    assert_eq!(
        agent.supervisor.living().collect::<Vec<_>>(),
        [(run(), Rank(0), 10, 1)]
    );
    assert_eq!(
        agent.tell(Event::LinkUp),
        ["open 1", "route 1"],
        "rank 1 is for the engine to judge"
    );
    let joined = agent.supervisor.remembered();
    assert_eq!(
        joined[0]
            .ranks
            .iter()
            .map(|status| status.rank)
            .collect::<Vec<_>>(),
        [Rank(0)]
    );
    assert_eq!(
        agent.hello(0, 10, 0),
        ["tell 0 go 1"],
        "its go was lost with the agent"
    );
    assert_eq!(agent.hello(0, 10, 1), [""; 0]);
    assert_eq!(
        agent.hello(1, 66, 0),
        ["kill 1 pid 66"],
        "a process that was never written down"
    );
}

#[test]
fn a_hello_may_overtake_the_news_of_its_process() {
    let mut agent = Agent::linked();
    agent.order_start(1, &[0]);
    assert_eq!(agent.hello(0, 10, 0), [""; 0]);
    let started = Event::Started {
        run: run(),
        rank: Rank(0),
        pid: 10,
        started: 1,
    };
    assert_eq!(agent.tell(started), ["remember", "tell 0 go 1"]);
}

#[test]
fn words_become_reports_that_are_sent_until_acknowledged() {
    let mut agent = Agent::running();
    let reached = |generation| FromWorker::Reached {
        generation: Generation(generation),
        milestone: Milestone::Formed,
        step: Step(0),
    };
    assert_eq!(agent.say(0, 10, reached(1)), ["1: rank 0 g1 Formed"]);
    assert_eq!(
        agent.say(0, 10, reached(1)),
        [""; 0],
        "again after a reconnect"
    );
    assert_eq!(
        agent.say(0, 10, reached(2)),
        [""; 0],
        "of another generation"
    );
    assert_eq!(agent.say(0, 99, reached(1)), [""; 0], "of another process");
    assert_eq!(agent.tell(Event::LinkDown), [""; 0]);
    let failed = |blamed| FromWorker::Failed {
        generation: Generation(1),
        phase: Phase::Step,
        error: "e".into(),
        blamed,
    };
    assert_eq!(
        agent.say(0, 10, failed(Some(Blamed::Run))),
        [""; 0],
        "there is no link"
    );
    assert_eq!(agent.say(1, 11, failed(None)), [""; 0]);
    agent.tell(Event::Acked { sequence: 1 });
    let again = ["2: rank 0 g1 Failed Run", "3: rank 1 g1 PeerLost"];
    assert_eq!(agent.tell(Event::LinkUp), again);
}

#[test]
fn a_finished_rank_leaves_once_the_controller_knows() {
    let mut agent = Agent::running();
    assert_eq!(agent.say(0, 10, finished(1)), ["1: rank 0 g1 Finished"]);
    assert_eq!(agent.tell(Event::Acked { sequence: 1 }), ["tell 0 exit"]);
    assert_eq!(agent.exit(0, 10), ["2: rank 0 g1 SIGKILL", "remember"]);
    agent.say(1, 11, finished(1));
    assert_eq!(agent.tell(Event::Acked { sequence: 3 }), ["tell 1 exit"]);
    let late = agent.wait_until(NOW + Duration::from_secs(5));
    assert_eq!(late[0], "kill 1 pid 11", "it took too long to leave");
    agent.exit(1, 11);
    assert_eq!(
        agent.order_start(1, &[0, 1]),
        [""; 0],
        "what is done is not begun again"
    );
}

#[test]
fn stopping_safely_lets_ranks_finish() {
    let mut agent = Agent::linked();
    agent.order_start(1, &[0, 1]);
    agent.comes_up(0, 10);
    assert_eq!(
        agent.order_stop(1, Stop::Safely),
        ["remember", "stop 0 in 1"]
    );
    assert_eq!(agent.order_stop(1, Stop::Safely), [""; 0]);
    let started = Event::Started {
        run: run(),
        rank: Rank(1),
        pid: 11,
        started: 1,
    };
    assert_eq!(agent.tell(started), ["remember", "stop 1 in 1"]);
    assert_eq!(agent.hello(1, 11, 0), ["tell 1 exit"], "it never went");
    agent.say(0, 10, finished(1));
    assert_eq!(agent.tell(Event::Acked { sequence: 1 }), ["tell 0 exit"]);
    agent.exit(1, 11);
    assert_eq!(agent.exit(0, 10)[1..], ["remember", "4: stopped 1"]);
    assert_eq!(
        agent.order_stop(1, Stop::Safely),
        ["5: stopped 1"],
        "the answer may have been lost"
    );
    assert_eq!(
        agent.order_start(1, &[0, 1]),
        [""; 0],
        "a late start of a stopped generation"
    );
}

#[test]
fn stopping_now_fences_and_kills() {
    let mut agent = Agent::running();
    agent.order_stop(1, Stop::Safely);
    assert_eq!(
        agent.order_stop(1, Stop::Now),
        [
            "remember",
            "fence 0 below 2",
            "kill 0 pid 10",
            "fence 1 below 2",
            "kill 1 pid 11",
            "1: stopped 1"
        ]
    );
    assert_eq!(
        agent.order_stop(1, Stop::Safely),
        ["2: stopped 1"],
        "it stays at once"
    );
}

#[test]
fn a_stop_of_an_older_or_unknown_generation_is_true_already() {
    let mut agent = Agent::linked();
    assert_eq!(agent.order_stop(4, Stop::Now), ["remember", "1: stopped 4"]);
    assert_eq!(
        agent.order_start(4, &[0]),
        [""; 0],
        "S5 holds for what was stopped unseen, too"
    );
    agent.order_start(5, &[0]);
    assert_eq!(agent.order_stop(4, Stop::Now), ["2: stopped 4"]);
}

/// S1: a node without a controller fences itself, and says so when it is back.
#[test]
fn orphans_are_fenced_also_across_lives() {
    let mut agent = Agent::running();
    agent.tell(Event::LinkDown);
    let due = NOW + Duration::from_secs(60);
    let early = agent.wait_until(due - Duration::from_nanos(1));
    assert_eq!(early, ["read"], "it trains on for as long as it may");
    let orphaned = agent.wait_until(due);
    assert_eq!(orphaned, ["fence 0 below 2", "fence 1 below 2", "remember"]);
    assert_eq!(agent.hello(0, 10, 0), [""; 0], "no go below its fence");
    let reports = [
        "1: rank 0 g1 Failed Infrastructure",
        "2: rank 1 g1 Failed Infrastructure",
    ];
    let fences = ["fence 0 below 2", "fence 1 below 2"];
    let mut next = Agent::of(agent.memory.clone());
    let again = next.tell_at(due, Event::LinkUp);
    assert_eq!(again[..2], fences, "the page may not have been written");
    assert_eq!(
        again[4..],
        reports,
        "what an agent knew, its next life says"
    );
    assert_eq!(agent.tell_at(due, Event::LinkUp), reports);

    let mut lost = Agent::running().again();
    let orphaned = lost.wait_until(due);
    assert!(
        orphaned.starts_with(&["open 1".into(), "route 1".into()]),
        "{orphaned:?}"
    );
    assert!(
        orphaned.contains(&"fence 0 below 2".to_owned()),
        "a next life counts from the last link"
    );
}

#[test]
fn a_missed_deadline_is_said_once_and_with_the_pages() {
    let mut agent = Agent::running();
    let page = |rank, phase, deadline: u64| {
        let deadline = Some(NOW + Duration::from_secs(deadline));
        let page = Page {
            generation: Generation(1),
            phase,
            deadline,
            ..Page::default()
        };
        (
            run(),
            Sighting {
                rank: Rank(rank),
                page,
            },
        )
    };
    assert_eq!(agent.wait_until(NOW + Duration::from_secs(1)), ["read"]);
    let later = NOW + Duration::from_secs(10);
    let pages = vec![page(0, Phase::Step, 9), page(1, Phase::Step, 11)];
    let seen = agent.tell_at(later, Event::Pages(pages.clone()));
    assert_eq!(seen, ["1: rank 0 g1 overdue in step", "beat 1"]);
    assert_eq!(agent.tell_at(later, Event::Pages(pages)), ["beat 1"]);
    let init = NOW + Duration::from_secs(61);
    let unmoved = (
        run(),
        Sighting {
            rank: Rank(1),
            page: Page::default(),
        },
    );
    let seen = agent.tell_at(init, Event::Pages(vec![page(0, Phase::Save, 99), unmoved]));
    assert_eq!(
        seen,
        ["2: rank 1 g1 overdue in init", "beat 1"],
        "a go that was never taken up"
    );
}

#[test]
fn an_adopted_rank_that_says_nothing_is_overdue() {
    let mut agent = Agent::running().again();
    agent.tell(Event::LinkUp);
    agent.hello(1, 11, 1);
    let idle = |rank| {
        let page = Page {
            generation: Generation(1),
            ..Page::default()
        };
        (
            run(),
            Sighting {
                rank: Rank(rank),
                page,
            },
        )
    };
    assert_eq!(agent.tell(Event::Pages(vec![idle(0), idle(1)])), ["beat 1"]);
    let init = NOW + Duration::from_secs(60);
    assert_eq!(
        agent.tell_at(init, Event::Pages(vec![idle(0), idle(1)])),
        ["1: rank 0 g1 overdue in idle", "beat 1"]
    );
}

#[test]
fn a_blamed_rank_is_killed_once() {
    let mut agent = Agent::running();
    let kill = || {
        let (generation, cause) = (Generation(1), Cause::GangHung { phase: Phase::Step });
        Event::Order(Order::Kill {
            run: run(),
            generation,
            rank: Rank(1),
            cause,
        })
    };
    assert_eq!(agent.tell(kill()), ["kill 1 pid 11"]);
    assert_eq!(agent.tell(kill()), [""; 0]);
    let restarted = agent.order_start(2, &[0, 1]);
    assert_eq!(
        restarted[3..],
        ["fence 0 below 2", "tell 0 go 2", "fence 1 below 2"]
    );
    let exited = agent.exit(1, 11);
    assert_eq!(
        exited,
        ["1: rank 1 g1 SIGKILL", "remember", "spawn 1 slot 1 for 2"]
    );
    let not_started = Event::NotStarted {
        run: run(),
        rank: Rank(0),
        error: "e".into(),
    };
    assert_eq!(
        agent.tell(not_started),
        [""; 0],
        "nothing was being started"
    );
}
