//! One agent to test with: it keeps what it is told to remember, and says in short what it wants.

use crate::common::{digest, spec};
use rebloom_core::cause::{Cause, Exit};
use rebloom_core::id::{Generation, NodeId, Rank, RunId, Slot, Step};
use rebloom_core::order::{GangStart, Order, Seat, Start, Stop};
use rebloom_core::report::{Finish, Milestone, RankEvent, Report};
use rebloom_core::supervisor::{Command, Config, Event, Memory, Supervisor};
use rebloom_core::time::{Duration, Instant};
use rebloom_core::word::{FromWorker, Hello, ToWorker};

pub(crate) const NOW: Instant = Instant::from_nanos(1_000_000_000_000);

pub(crate) fn node() -> NodeId {
    NodeId::new("node-0").expect("a name")
}

pub(crate) fn run() -> RunId {
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

pub(crate) struct Agent {
    pub(crate) supervisor: Supervisor,
    pub(crate) memory: Memory,
    /// When ranks were told that a controller was there.
    pub(crate) heard: Vec<(Rank, Instant)>,
}

impl Agent {
    pub(crate) fn linked() -> Self {
        let mut agent = Self::of(Memory::default());
        assert_eq!(agent.tell(Event::LinkUp), [""; 0]);
        agent
    }

    pub(crate) fn of(memory: Memory) -> Self {
        Self {
            supervisor: Supervisor::new(config(), memory.clone()),
            memory,
            heard: Vec::new(),
        }
    }

    /// The same node after its agent was killed: all it has is what was written down.
    pub(crate) fn again(self) -> Self {
        Self::of(self.memory)
    }

    pub(crate) fn tell(&mut self, event: Event) -> Vec<String> {
        self.tell_at(NOW, event)
    }

    pub(crate) fn tell_at(&mut self, now: Instant, event: Event) -> Vec<String> {
        self.live_until(now);
        self.supervisor.handle(now, event);
        self.drain()
    }

    /// Does what it does all the time, up to a moment ago.
    fn live_until(&mut self, now: Instant) {
        while let Some(due) = self.supervisor.poll_timeout()
            && due >= NOW
            && due + Duration::from_secs(1) < now
        {
            self.supervisor.handle_timeout(due);
            self.drain();
        }
    }

    /// Does nothing at all until then.
    pub(crate) fn sleep_until(&mut self, now: Instant, event: Event) -> Vec<String> {
        self.supervisor.handle(now, event);
        self.drain()
    }

    pub(crate) fn wait_until(&mut self, now: Instant) -> Vec<String> {
        self.live_until(now);
        self.supervisor.handle_timeout(now);
        self.drain()
    }

    fn drain(&mut self) -> Vec<String> {
        let mut commands = Vec::new();
        while let Some(command) = self.supervisor.poll_command() {
            if let Command::Remember(memory) = &command {
                self.memory = memory.clone();
            }
            if let Command::Tell {
                rank,
                word: ToWorker::Heard(at),
                ..
            } = &command
            {
                self.heard.push((*rank, *at));
            } else {
                commands.push(short(&command));
            }
        }
        commands
    }

    pub(crate) fn order_start(&mut self, generation: u64, ranks: &[u32]) -> Vec<String> {
        self.tell(Event::Order(Order::Start(start(generation, ranks))))
    }

    pub(crate) fn order_stop(&mut self, generation: u64, how: Stop) -> Vec<String> {
        let (generation, cause) = (Generation(generation), Cause::StopRequested);
        self.tell(Event::Order(Order::Stop {
            run: run(),
            generation,
            how,
            cause,
        }))
    }

    /// A process that was spawned comes up and says hello.
    pub(crate) fn comes_up(&mut self, rank: u32, pid: u32) -> Vec<String> {
        let started = Event::Started {
            run: run(),
            rank: Rank(rank),
            pid,
            started: u64::from(pid),
        };
        assert_eq!(self.tell(started), ["remember"]);
        self.hello(rank, pid, 0)
    }

    pub(crate) fn hello(&mut self, rank: u32, pid: u32, generation: u64) -> Vec<String> {
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

    pub(crate) fn say(&mut self, rank: u32, pid: u32, word: FromWorker) -> Vec<String> {
        self.tell(Event::Word {
            run: run(),
            rank: Rank(rank),
            pid,
            word,
        })
    }

    pub(crate) fn exit(&mut self, rank: u32, pid: u32) -> Vec<String> {
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
    pub(crate) fn running() -> Self {
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

pub(crate) fn start(generation: u64, ranks: &[u32]) -> Start {
    let gang = GangStart {
        evaluated: None,
        spec: spec().into(),
        generation: Generation(generation),
        store_node: node(),
        store_address: "127.0.0.1:1".into(),
        resume: None,
        fresh_processes: false,
        async_off: false,
        cause: Cause::Submitted,
    };
    Start {
        gang: gang.into(),
        seats: ranks
            .iter()
            .map(|&rank| Seat {
                rank: Rank(rank),
                slot: Slot(rank),
            })
            .collect(),
        snapshot: Vec::new(),
        replica: None,
    }
}

pub(crate) fn finished(generation: u64) -> FromWorker {
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
        Command::Tell {
            rank,
            word: ToWorker::Heard(at),
            ..
        } => format!("tell {rank} heard {at:?}"),
        Command::Fence { rank, below, .. } => format!("fence {rank} below {below}"),
        Command::StopSafely {
            rank, generation, ..
        } => format!("stop {rank} in {generation}"),
        Command::Kill { rank, pid, .. } => format!("kill {rank} pid {pid}"),
        Command::OpenStore { generation, .. } => format!("open {generation}"),
        Command::RouteStore { generation, .. } => format!("route {generation}"),
        Command::WriteManifest { manifest, .. } => format!("seal {}", manifest.id.step),
        Command::Prune { checkpoints, .. } => format!("prune {}", checkpoints.len()),
        Command::Replicate { piece, to, .. } => {
            format!(
                "replicate {} of {} to {}",
                piece.checkpoint.step, piece.shard.rank, to.node
            )
        }
        Command::DropSnapshots { after, .. } => format!("drop after {after}"),
        Command::ReadPages => "read".into(),
        Command::Rejoin => "rejoin".into(),
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
                RankEvent::Evaluated(evaluation) => format!("Evaluated {}", evaluation.step),
                RankEvent::Spiked { goes_on, .. } => format!("Spiked {goes_on}"),
                RankEvent::ReplicasDiffer(differs) => differs.to_string(),
                RankEvent::Failed { blamed, .. } => format!("Failed {blamed:?}"),
                RankEvent::PeerLost { .. } => "PeerLost".into(),
                RankEvent::LoadRefused { .. } => "LoadRefused".into(),
                RankEvent::RuleBroken { rule, .. } => format!("broke {rule}"),
                RankEvent::Overdue { phase, .. } => format!("overdue in {phase}"),
            };
            format!("rank {rank} g{generation} {event}")
        }
        Report::ShardSaved { shard, .. } => format!("shard of {}", shard.rank),
        Report::SnapshotHeld { piece, at, .. } => {
            format!(
                "snapshot {} of {} at {at}",
                piece.checkpoint.step, piece.shard.rank
            )
        }
        Report::ShardFailed { rank, .. } => format!("no shard of {rank}"),
        Report::Sealed { checkpoint, .. } => format!("sealed {}", checkpoint.step),
        Report::Stopped { generation, .. } => format!("stopped {generation}"),
        Report::Signal { signal } => format!("signal {}", signal.sign.kind().name()),
    }
}
