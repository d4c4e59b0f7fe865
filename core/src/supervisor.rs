//! The agent's machine: starts, watches, stops and fences this node's ranks.
//!
//! It carries out what the controller ordered and tells what became of it; it never decides that a
//! run recovers. One thing it does by itself: hearing from no controller for `orphan_after`, it
//! fences every rank, so that the run may be started elsewhere (S1). What it must know in its next
//! life it asks to have written down before it acts.

mod command;
mod event;
mod memory;
mod outbox;
mod read;
mod run;
mod snapshots;

pub use command::Command;
pub use event::Event;
pub use memory::{Memory, Process, RankMemory, RunMemory, StopMemory};

use crate::cause::{Cause, Exit};
use crate::hang::rules::Match;
use crate::id::{NodeId, Rank, RunId, Slot};
use crate::order::Order;
use crate::report::{Beat, RankEvent, Remembered, Report};
use crate::time::{Duration, Instant};
use crate::word::{FromWorker, ToWorker};
use outbox::Outbox;
use run::Run;
use std::collections::{BTreeMap, VecDeque};

/// How this agent is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The node it keeps.
    pub node: NodeId,
    /// How often to read the pages and give a sign of life.
    pub beat_every: Duration,
    /// Hearing from no controller for this long, fence every rank (S1; see `engine::Limits`).
    pub orphan_after: Duration,
    /// How long a rank that was told to leave may take before it is killed.
    pub leave_within: Duration,
}

/// The agent's machine.
#[derive(Debug)]
pub struct Supervisor {
    config: Config,
    runs: BTreeMap<RunId, Run>,
    outbox: Outbox,
    linked: bool,
    /// When a controller was last known to be there; none before the first call.
    heard: Option<Instant>,
    /// The `heard` of the last life, and from then on the one last written down.
    heard_kept: Instant,
    /// When its ranks were last told that a controller is there.
    heard_told: Option<Instant>,
    next_beat: Instant,
    /// When it last found that it had not run for a while.
    awake: Option<Instant>,
    /// What ranks wrote since the last beat that went out.
    read: BTreeMap<RunId, Vec<Match>>,
    commands: VecDeque<Command>,
}

impl Supervisor {
    /// A new life of an agent, with what the last one wrote down. The driver adopts the ranks that
    /// [`Self::living`] names, and tells of those that are gone with `Event::Exited`.
    pub fn new(config: Config, memory: Memory) -> Self {
        let heard_kept = memory.heard;
        let runs = memory.runs.into_iter();
        let runs = runs
            .map(|kept| (kept.run.clone(), Run::from(kept)))
            .collect();
        Self {
            config,
            runs,
            outbox: Outbox::default(),
            linked: false,
            heard: None,
            heard_kept,
            heard_told: None,
            next_beat: Instant::ZERO,
            awake: None,
            read: BTreeMap::new(),
            commands: VecDeque::new(),
        }
    }

    /// What to tell a controller on joining. The driver adds the manifests it finds.
    pub fn remembered(&self) -> Vec<Remembered> {
        self.runs
            .iter()
            .map(|(id, run)| run.remembered(id))
            .collect()
    }

    /// The `checkpoint.directory` of each run it knows.
    pub fn checkpoint_directories(&self) -> impl Iterator<Item = (&RunId, &str)> {
        self.runs
            .iter()
            .map(|(id, run)| (id, run.checkpoint_directory.as_str()))
    }

    /// Runs that this node was started for and not stopped.
    pub fn started(&self) -> impl Iterator<Item = &RunId> {
        let started = self.runs.iter().filter(|(_, run)| run.start.is_some());
        started.map(|(id, _)| id)
    }

    /// Processes that should be alive: run, rank, pid and kernel start time.
    pub fn living(&self) -> impl Iterator<Item = (RunId, Rank, u32, u64)> {
        self.runs.iter().flat_map(|(id, run)| {
            run.locals.iter().filter_map(|(rank, local)| {
                let process = local.kept.process?;
                Some((id.clone(), *rank, process.pid, process.started))
            })
        })
    }

    /// Takes in what happened.
    pub fn handle(&mut self, now: Instant, event: Event) {
        self.wake(now);
        match event {
            Event::LinkUp => self.link_up(now),
            Event::LinkDown => self.linked = false,
            Event::Order(order) => self.order(now, order),
            Event::Acked { sequence } => {
                self.outbox.acked(sequence);
                self.settle(now);
            }
            Event::Started {
                run,
                rank,
                pid,
                started,
            } => {
                if let Some(kept) = self.runs.get_mut(&run)
                    && kept.started(now, rank, pid, started)
                {
                    self.settle(now);
                }
            }
            Event::NotStarted { run, rank, error } => {
                if let Some(generation) = self
                    .runs
                    .get_mut(&run)
                    .and_then(|kept| kept.not_started(rank))
                {
                    let event = RankEvent::NotStarted { error };
                    self.report(Report::Rank {
                        run,
                        generation,
                        rank,
                        event,
                    });
                    self.settle(now);
                }
            }
            Event::Exited {
                run,
                rank,
                pid,
                exit,
                noticed_after_nanos,
            } => {
                self.exited(now, (run, rank, pid), exit, noticed_after_nanos);
            }
            Event::Word {
                run,
                rank,
                pid,
                word,
            } => self.word(now, (run, rank, pid), word),
            Event::Read {
                run,
                rank,
                matches,
                broken,
            } => self.read(run, rank, matches, broken),
            Event::Pages(pages) => self.pages(now, pages),
            Event::Signal(signal) => self.report(Report::Signal { signal }),
            Event::Replicated { run, piece, at } => {
                self.report(Report::SnapshotHeld { run, piece, at });
            }
            Event::ManifestWritten {
                run,
                checkpoint,
                error,
            } => {
                self.report(Report::Sealed {
                    run,
                    checkpoint,
                    error,
                });
            }
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.wake(now);
        if self.orphan_at().is_some_and(|at| at <= now) {
            self.orphan(now);
        }
        for (id, run) in &mut self.runs {
            self.commands.extend(run.kill_stragglers(now, id));
        }
        if self.next_beat <= now {
            self.next_beat = now + self.config.beat_every;
            if self.living().next().is_some() {
                self.commands.push_back(Command::ReadPages);
            } else if self.linked {
                self.commands.push_back(Command::Beat(Beat::default()));
            }
            let due = |told: Instant| told + self.config.orphan_after / 8 < now;
            if self.linked && self.heard_told.is_none_or(due) {
                self.tell_heard(now);
            }
            let stale = self.heard_kept + self.config.orphan_after / 8;
            if self.linked && stale < now && self.living().next().is_some() {
                self.remember();
            }
        }
    }

    /// What it wants done; drain it after every call.
    pub fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// When to call [`Self::handle_timeout`] next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let leaving = self.runs.values().flat_map(Run::leave_deadlines);
        leaving
            .chain(self.orphan_at())
            .chain([self.next_beat])
            .min()
    }

    /// Keeps `heard` up to date. Ranks of the last life count from when that life last had a link.
    fn wake(&mut self, now: Instant) {
        let first = self.heard.is_none();
        let is_late = |due| due + self.config.orphan_after / 32 < now;
        if first {
            self.next_beat = self.next_beat.max(now);
        } else if self.poll_timeout().is_some_and(is_late) {
            // What waits for it may be as old as its sleep, and its link long dead (S1).
            self.awake = Some(now);
            if std::mem::take(&mut self.linked) {
                self.commands.push_back(Command::Rejoin);
            }
        }
        if self.linked {
            self.heard = Some(now);
        } else if first {
            let adopted = self.living().next().is_some();
            self.heard = Some(if adopted {
                self.heard_kept.min(now)
            } else {
                now
            });
        }
        if first {
            self.settle(now);
        }
    }

    /// Lets every rank know that a controller is there, should this agent not live to fence it.
    fn tell_heard(&mut self, now: Instant) {
        self.heard_told = Some(now);
        let living = self.runs.iter().flat_map(|(id, run)| {
            let living = run
                .locals
                .values()
                .filter(|local| local.kept.process.is_some());
            living.map(|local| (id.clone(), local.kept.rank))
        });
        let word = ToWorker::Heard(now);
        self.commands
            .extend(living.map(|(run, rank)| Command::Tell {
                run,
                rank,
                word: word.clone(),
            }));
    }

    fn orphan_at(&self) -> Option<Instant> {
        let runs = || self.runs.values().any(Run::runs_unfenced);
        self.heard
            .filter(|_| !self.linked && runs())
            .map(|heard| heard + self.config.orphan_after)
    }

    /// S1: whoever starts this run elsewhere has waited for this.
    fn orphan(&mut self, now: Instant) {
        let silent_for = now.since(self.heard.unwrap_or(now));
        let cause = Cause::NodeLost {
            node: self.config.node.clone(),
            silent_for,
        };
        let mut fences = Vec::new();
        for (id, run) in &mut self.runs {
            run.fence_all(id, &cause, &mut fences);
        }
        // A fence that is up without being written down is only careful, the reverse is not.
        self.commands.extend(fences);
        self.remember();
    }

    fn link_up(&mut self, now: Instant) {
        if self
            .awake
            .is_some_and(|awake| now < awake + self.config.beat_every)
        {
            return self.commands.push_back(Command::Rejoin);
        }
        self.linked = true;
        self.heard = Some(now);
        self.next_beat = now;
        self.tell_heard(now);
        self.commands.extend(self.outbox.all());
        let again = self.runs.iter_mut().flat_map(|(id, run)| {
            let again = run.again().into_iter();
            again.map(|(rank, generation, event)| Report::Rank {
                run: id.clone(),
                generation,
                rank,
                event,
            })
        });
        let again = again.chain(self.outbox.levels());
        let again: Vec<_> = again.filter(|report| !self.outbox.has(report)).collect();
        again.into_iter().for_each(|report| self.report(report));
        self.settle(now);
    }

    fn order(&mut self, now: Instant, order: Order) {
        match order {
            Order::Start(start) => {
                let run = self.runs.entry(start.gang.spec.name.clone()).or_default();
                let drops = snapshots::drops(&start);
                if run.start(start) {
                    self.commands.extend(drops);
                    self.settle(now);
                }
            }
            Order::Stop {
                run,
                generation,
                how,
                cause,
            } => {
                let known = self.runs.entry(run.clone()).or_default();
                if known.stop(StopMemory {
                    generation,
                    how,
                    cause,
                }) {
                    self.settle(now);
                } else {
                    // A newer start has fenced or killed whatever this is about.
                    self.report(Report::Stopped { run, generation });
                }
            }
            Order::Kill {
                run,
                generation,
                rank,
                cause,
            } => {
                if let Some(known) = self.runs.get_mut(&run) {
                    self.commands
                        .extend(known.kill(&run, rank, generation, &cause));
                }
            }
            Order::Seal {
                directory,
                manifest,
            } => {
                self.commands.push_back(Command::WriteManifest {
                    directory,
                    manifest,
                });
            }
            Order::Prune {
                run,
                directory,
                checkpoints,
            } => {
                self.commands.push_back(Command::Prune {
                    run,
                    directory,
                    checkpoints,
                });
            }
        }
    }

    fn exited(
        &mut self,
        now: Instant,
        (run, rank, pid): (RunId, Rank, u32),
        exit: Exit,
        noticed_after_nanos: Option<u64>,
    ) {
        let known = self.runs.get_mut(&run);
        if let Some(generation) = known.and_then(|known| known.exited(rank, pid)) {
            // Before anything is written down: the gang waits for it, and a join would tell it too.
            let event = RankEvent::Exited {
                exit,
                noticed_after_nanos,
            };
            self.report(Report::Rank {
                run,
                generation,
                rank,
                event,
            });
            self.settle(now);
        }
    }

    fn word(&mut self, now: Instant, (run, rank, pid): (RunId, Rank, u32), word: FromWorker) {
        let known = self.runs.get_mut(&run);
        if let FromWorker::Hello(hello) = word {
            let stray = match known {
                Some(known) => known.hello(hello),
                None => Some(run::stray(hello)),
            };
            if stray.is_none() {
                let word = ToWorker::Heard(self.heard.unwrap_or(now));
                self.commands.push_back(Command::Tell { run, rank, word });
            }
            self.commands.extend(stray);
        } else if let FromWorker::Snapped(piece) = word {
            self.snapped(run, rank, pid, piece);
        } else if let Some(report) = known.and_then(|known| known.word(&run, rank, pid, word)) {
            if matches!(report, Report::ShardSaved { .. }) {
                // So that what the pages say of this step is known before the checkpoint is sealed.
                self.next_beat = self.next_beat.min(now);
            }
            self.report(report);
        }
        self.settle(now);
    }

    /// Brings every run closer to what was ordered. What is written down comes first.
    fn settle(&mut self, now: Instant) {
        let silent_for = now.since(self.heard.unwrap_or(now));
        let may_go = self.linked || silent_for < self.config.orphan_after;
        let mut held: Vec<Slot> = self.runs.values().flat_map(Run::held_slots).collect();
        let mut acts = Vec::new();
        let mut stopped = Vec::new();
        let mut changed = false;
        for (id, run) in &mut self.runs {
            let desk = run::Desk {
                now,
                id,
                node: &self.config.node,
                leave_within: self.config.leave_within,
                unacked: &self.outbox,
                may_go,
                held: &mut held,
                acts: &mut acts,
            };
            changed |= run.settle(desk);
            stopped.extend(run.stopped().map(|generation| Report::Stopped {
                run: id.clone(),
                generation,
            }));
        }
        if changed {
            self.remember();
        }
        self.commands.extend(acts);
        stopped.into_iter().for_each(|report| self.report(report));
    }

    fn remember(&mut self) {
        self.heard_kept = self.heard.unwrap_or(self.heard_kept);
        self.commands.push_back(Command::Remember(Memory {
            heard: self.heard_kept,
            runs: self.runs.iter().map(|(id, run)| run.memory(id)).collect(),
        }));
    }

    fn report(&mut self, report: Report) {
        let command = self.outbox.add(report);
        if self.linked {
            self.commands.push_back(command);
        }
    }
}
