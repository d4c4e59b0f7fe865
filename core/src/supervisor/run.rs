//! One run on this node: what was ordered, and what is left to do until it is so.
//!
//! Orders and news only change what is known; [`Run::settle`] compares that with what was ordered
//! and is the one place that acts. So an order that comes twice does nothing the second time, and
//! a next life goes on where the last one was.

mod local;
mod settle;

use super::outbox::Outbox;
use super::{Command, RankMemory, RunMemory, StopMemory};
use crate::cause::Cause;
use crate::flight::{Page, Phase};
use crate::id::{Generation, NodeId, Rank, RunId, Slot, Step};
use crate::order::{Start, Stop};
use crate::report::{Milestone, RankEvent, Remembered, Report};
use crate::snapshot::{Peer, Piece};
use crate::spec::seconds;
use crate::time::{Duration, Instant};
use crate::word::{FromWorker, Hello};
use local::Local;
use std::collections::BTreeMap;

/// One run on this node.
#[derive(Debug, Default)]
pub(super) struct Run {
    generation: Generation,
    pub(super) checkpoint_directory: String,
    pub(super) start: Option<Start>,
    stop: Option<StopMemory>,
    pub(super) locals: BTreeMap<Rank, Local>,
    /// The generation whose store this life has opened and routed.
    routed: Generation,
    stop_reported: bool,
    changed: bool,
}

/// What settling needs from outside the run.
pub(super) struct Desk<'a> {
    pub(super) now: Instant,
    pub(super) id: &'a RunId,
    pub(super) node: &'a NodeId,
    pub(super) leave_within: Duration,
    pub(super) unacked: &'a Outbox,
    /// Whether new processes and goes are allowed: not once orphaned (S1).
    pub(super) may_go: bool,
    /// Slots on which a process of any run lives (S2).
    pub(super) held: &'a mut Vec<Slot>,
    pub(super) acts: &'a mut Vec<Command>,
}

impl Run {
    pub(super) fn memory(&self, id: &RunId) -> RunMemory {
        RunMemory {
            run: id.clone(),
            generation: self.generation,
            checkpoint_directory: self.checkpoint_directory.clone(),
            start: self.start.clone(),
            stop: self.stop.clone(),
            ranks: self
                .locals
                .values()
                .map(|local| local.kept.clone())
                .collect(),
        }
    }

    pub(super) fn remembered(&self, id: &RunId) -> Remembered {
        Remembered {
            run: id.clone(),
            generation: self.generation,
            ranks: self.locals.values().filter_map(Local::status).collect(),
            sealed: Vec::new(),
            snapshots: Vec::new(),
        }
    }

    pub(super) fn held_slots(&self) -> impl Iterator<Item = Slot> {
        self.locals
            .values()
            .filter(|local| local.is_alive())
            .map(|local| local.kept.slot)
    }

    pub(super) fn runs_unfenced(&self) -> bool {
        self.locals.values().any(Local::runs_unfenced)
    }

    pub(super) fn leave_deadlines(&self) -> impl Iterator<Item = Instant> {
        self.locals
            .values()
            .filter(|local| !local.killed)
            .filter_map(|local| local.leave_by)
    }

    /// Takes a start in; false where it is stale or stopped (S5).
    pub(super) fn start(&mut self, start: Start) -> bool {
        if start.gang.generation <= self.generation {
            return false;
        }
        self.generation = start.gang.generation;
        self.checkpoint_directory
            .clone_from(&start.gang.spec.checkpoint.directory);
        self.start = Some(start);
        self.stop = None;
        self.changed = true;
        true
    }

    /// Takes a stop in; false where a newer start has superseded it.
    pub(super) fn stop(&mut self, mut stop: StopMemory) -> bool {
        if stop.generation < self.generation {
            return false;
        }
        self.generation = stop.generation;
        if self.stop.as_ref().is_some_and(|old| old.how == Stop::Now) {
            stop.how = Stop::Now;
        }
        self.changed |= self.stop.as_ref() != Some(&stop);
        self.stop = Some(stop);
        self.stop_reported = false;
        true
    }

    /// Kills one rank, if it is still in that generation.
    pub(super) fn kill(
        &mut self,
        id: &RunId,
        rank: Rank,
        generation: Generation,
        cause: &Cause,
    ) -> Option<Command> {
        let local = self
            .locals
            .get_mut(&rank)
            .filter(|local| local.kept.generation == generation);
        local?.kill(id, cause)
    }

    pub(super) fn started(&mut self, now: Instant, rank: Rank, pid: u32, started: u64) -> bool {
        let Some(local) = self.locals.get_mut(&rank).filter(|local| local.starting) else {
            return false;
        };
        local.started(now, pid, started);
        self.changed = true;
        true
    }

    /// The generation for which the rank could not be started.
    pub(super) fn not_started(&mut self, rank: Rank) -> Option<Generation> {
        let local = self.locals.get_mut(&rank).filter(|local| local.starting)?;
        local.ended();
        Some(local.kept.generation)
    }

    /// The generation in which the rank's process ended.
    pub(super) fn exited(&mut self, rank: Rank, pid: u32) -> Option<Generation> {
        let local = self.locals.get_mut(&rank)?;
        local.kept.process.filter(|process| process.pid == pid)?;
        local.ended();
        self.changed = true;
        Some(local.kept.generation)
    }

    /// A process that nobody knows was started by a last life that could not write it down.
    pub(super) fn hello(&mut self, hello: Hello) -> Option<Command> {
        let Some(local) = self.locals.get_mut(&hello.rank) else {
            return Some(stray(hello));
        };
        match local.kept.process {
            Some(process) if process.pid == hello.pid => local.hello(&hello),
            None if local.starting => local.early = Some(hello),
            Some(_) | None => return Some(stray(hello)),
        }
        None
    }

    /// Whether a rank's process is the one that said so, and whose agent keeps the replica of what it left in
    /// memory: none where it is of a generation that is over.
    pub(super) fn snapped(&self, rank: Rank, pid: u32, piece: &Piece) -> Option<Option<Peer>> {
        let process = self.locals.get(&rank)?.kept.process?;
        let is_its = process.pid == pid && piece.shard.rank == rank;
        let start = self.start.as_ref();
        let start = start.filter(|start| start.gang.generation == piece.checkpoint.generation);
        is_its.then(|| start.and_then(|start| start.replica.clone()))
    }

    /// What a word of a rank's process means to the controller; nothing where it is stale (S10).
    pub(super) fn word(
        &mut self,
        id: &RunId,
        rank: Rank,
        pid: u32,
        word: FromWorker,
    ) -> Option<Report> {
        let local = self.locals.get_mut(&rank)?;
        local.kept.process.filter(|process| process.pid == pid)?;
        let run = id.clone();
        let current = local.kept.generation;
        let mut reached = |generation, milestone| {
            let news = generation == current && local.reported.is_none_or(|had| had < milestone);
            if news {
                local.kept.milestone = local.kept.milestone.max(milestone);
                local.reported = Some(milestone);
            }
            news
        };
        let (generation, event) = match word {
            FromWorker::Hello(_) | FromWorker::Snapped(_) => return None,
            FromWorker::Saved {
                checkpoint,
                samples,
                shard,
            } => {
                return Some(Report::ShardSaved {
                    run,
                    checkpoint,
                    samples,
                    shard,
                });
            }
            FromWorker::SaveFailed { checkpoint, error } => {
                return Some(Report::ShardFailed {
                    run,
                    checkpoint,
                    rank,
                    error,
                });
            }
            FromWorker::Reached {
                generation,
                milestone,
                step,
            } => {
                let event = RankEvent::Reached {
                    milestone,
                    step,
                    pid,
                };
                let event = reached(generation, milestone).then_some(event)?;
                return Some(Report::Rank {
                    run,
                    generation,
                    rank,
                    event,
                });
            }
            FromWorker::Finished {
                generation,
                why,
                step,
                state,
            } => {
                let event = RankEvent::Finished { why, step, state };
                (
                    generation,
                    reached(generation, Milestone::Finished).then_some(event)?,
                )
            }
            FromWorker::LoadRefused {
                generation,
                checkpoint,
                unsound,
            } => (
                generation,
                RankEvent::LoadRefused {
                    checkpoint,
                    unsound,
                },
            ),
            FromWorker::Spiked {
                generation,
                spike,
                goes_on: true,
            } => {
                return (generation == current).then_some(Report::Rank {
                    run,
                    generation,
                    rank,
                    event: RankEvent::Spiked {
                        spike,
                        goes_on: true,
                    },
                });
            }
            FromWorker::Spiked {
                generation,
                spike,
                goes_on,
            } => (generation, RankEvent::Spiked { spike, goes_on }),
            FromWorker::ReplicasDiffer {
                generation,
                differs,
            } => (generation, RankEvent::ReplicasDiffer(differs)),
            FromWorker::Evaluated {
                generation,
                evaluation,
            } => {
                let event = RankEvent::Evaluated(evaluation);
                return (generation == current).then_some(Report::Rank {
                    run,
                    generation,
                    rank,
                    event,
                });
            }
            FromWorker::Failed {
                generation,
                phase,
                error,
                blamed: Some(blamed),
            } => (
                generation,
                RankEvent::Failed {
                    phase,
                    error,
                    blamed,
                },
            ),
            FromWorker::Failed {
                generation,
                phase,
                error,
                blamed: None,
            } => (generation, RankEvent::PeerLost { phase, error }),
        };
        if generation != current {
            return None;
        }
        local.over = Some(event.clone());
        Some(Report::Rank {
            run,
            generation,
            rank,
            event,
        })
    }

    /// How the generation in force ended for each rank that lives on: said on every new link.
    pub(super) fn again(&mut self) -> Vec<(Rank, Generation, RankEvent)> {
        if self.stop.as_ref().is_some_and(|stop| stop.how == Stop::Now) {
            return Vec::new();
        }
        let generation = self.generation;
        let locals = self.locals.iter_mut();
        let current = locals.filter(|(_, local)| local.kept.generation == generation);
        let again = current
            .filter_map(|(rank, local)| local.again().map(|event| (*rank, generation, event)));
        again.collect()
    }

    /// Ranks that missed a deadline, each said once.
    pub(super) fn overdue(
        &mut self,
        now: Instant,
        pages: Option<&BTreeMap<Rank, Page>>,
    ) -> Vec<(Rank, Generation, (Phase, Option<Step>))> {
        let Some(start) = &self.start else {
            return Vec::new();
        };
        let init = seconds(start.gang.spec.deadlines.init);
        let overdue = self.locals.iter_mut().filter_map(|(rank, local)| {
            let page = pages.and_then(|pages| pages.get(rank));
            Some((
                *rank,
                local.kept.generation,
                local.overdue(now, page, init)?,
            ))
        });
        overdue.collect()
    }

    /// Fences every rank, for want of a controller.
    pub(super) fn fence_all(&mut self, id: &RunId, cause: &Cause, acts: &mut Vec<Command>) {
        for local in self
            .locals
            .values_mut()
            .filter(|local| local.runs_unfenced())
        {
            local.fence(id, local.kept.generation.next(), cause, acts);
            local.orphaned();
        }
    }

    /// Kills ranks that were told to leave and stayed.
    pub(super) fn kill_stragglers(&mut self, now: Instant, id: &RunId) -> Vec<Command> {
        let cause = self
            .stop
            .as_ref()
            .map_or(Cause::Completed, |stop| stop.cause.clone());
        let stayed = |local: &&mut Local| local.leave_by.is_some_and(|by| by <= now);
        let stragglers = self.locals.values_mut().filter(stayed);
        stragglers
            .filter_map(|local| local.kill(id, &cause))
            .collect()
    }

    /// The generation up to which a stop has come true, said once for each order.
    pub(super) fn stopped(&mut self) -> Option<Generation> {
        let stop = self.stop.as_ref().filter(|_| !self.stop_reported)?;
        let is_gone = |local: &Local| match stop.how {
            Stop::Safely => !local.is_alive(),
            Stop::Now => !local.runs_unfenced() || local.starting,
        };
        self.stop_reported = self.locals.values().all(is_gone);
        self.stop_reported.then_some(stop.generation)
    }
}

/// Ends a process that nobody started as far as this life knows.
pub(super) fn stray(hello: Hello) -> Command {
    let Hello {
        run,
        rank,
        pid,
        generation,
        ..
    } = hello;
    Command::Kill {
        run,
        rank,
        pid,
        generation,
        cause: Cause::Superseded,
    }
}

impl From<RunMemory> for Run {
    fn from(kept: RunMemory) -> Self {
        let locals = kept
            .ranks
            .into_iter()
            .map(|rank: RankMemory| (rank.rank, rank.into()));
        Self {
            generation: kept.generation,
            checkpoint_directory: kept.checkpoint_directory,
            start: kept.start,
            stop: kept.stop,
            locals: locals.collect(),
            ..Self::default()
        }
    }
}
