//! Reports: what agents say of their ranks, turned into facts.
//!
//! A report may come twice, late, or of a generation that is over. What is known already changes
//! nothing; what is stale is counted and never acted on (S10).

use super::state::{Run, Skipped};
use super::{CheckpointState, Engine, Fact, RunState};
use crate::cause::Cause;
use crate::flight::Phase;
use crate::guard::Spike;
use crate::id::{Generation, NodeId, Rank, RunId, Session};
use crate::report::{RankEvent, Report};
use crate::time::Duration;

/// Incidents in which a warning is looked for that another rank gave already.
const RECENT: usize = 64;

impl Engine {
    pub(super) fn report(&mut self, node: &NodeId, session: Session, report: Report) {
        let link = self.links.get(node);
        let is_its =
            |link: &super::nodes::Link| [link.session, link.previous].contains(&Some(session));
        if !link.is_some_and(is_its) {
            return self.count("stale_link");
        }
        match report {
            Report::Rank {
                run,
                generation,
                rank,
                event,
            } => {
                self.rank_event(node, &run, generation, rank, event);
            }
            Report::ShardSaved {
                run,
                checkpoint,
                samples,
                shard,
            } => {
                self.shard_saved(node, &run, checkpoint, samples, shard);
            }
            Report::ShardFailed {
                run,
                checkpoint,
                rank,
                error,
            } => {
                self.shard_failed(node, &run, checkpoint, rank, error);
            }
            Report::Sealed {
                run,
                checkpoint,
                error,
            } => {
                self.manifest_written(&run, checkpoint, error);
            }
            Report::Stopped { run, generation } => self.stopped(node, &run, generation),
        }
    }

    fn stopped(&mut self, node: &NodeId, id: &RunId, generation: Generation) {
        self.desk.stray_stopped(node, id, generation);
        let Some(run) = self.state.runs.get(id) else {
            return;
        };
        let is_ganged = run.gang.as_ref().is_some_and(|gang| {
            gang.generation <= generation
                && gang.nodes.contains(node)
                && !gang.fenced.contains(node)
        });
        let is_owed = run
            .owed
            .get(node)
            .is_some_and(|owed| owed.generation <= generation);
        let is_older = run
            .older
            .iter()
            .any(|old| old.generation <= generation && old.nodes.contains(node));
        if is_ganged || is_owed || is_older {
            let (run, node) = (id.clone(), node.clone());
            self.tell(Fact::NodeFenced {
                run,
                generation,
                node,
            });
        }
    }

    fn rank_event(
        &mut self,
        node: &NodeId,
        id: &RunId,
        generation: Generation,
        rank: Rank,
        event: RankEvent,
    ) {
        let Some(run) = self.state.runs.get(id) else {
            return self.count("unknown_run");
        };
        let gang = run
            .gang
            .as_ref()
            .filter(|gang| gang.generation == generation);
        let Some(gang) = gang else {
            return self.stale_event(node, id, generation, rank, event);
        };
        let Some(member) = gang
            .member(rank)
            .filter(|_| gang.node_of(rank) == Some(node))
        else {
            return self.count("not_its_rank");
        };
        let is_over = member.finished.is_some() || member.gone;
        let run = id.clone();
        match event {
            RankEvent::Reached {
                milestone,
                step,
                pid,
            } => {
                if member.reached < Some(milestone) && !is_over {
                    let fact = Fact::RankReached {
                        run,
                        generation,
                        rank,
                        milestone,
                        step,
                        pid,
                    };
                    self.tell(fact);
                }
            }
            RankEvent::Finished { why, step, state } => {
                if member.finished.is_none() {
                    self.tell(Fact::RankFinished {
                        run,
                        generation,
                        rank,
                        why,
                        step,
                        state,
                    });
                }
            }
            RankEvent::Exited { .. } | RankEvent::NotStarted { .. } => {
                if !member.gone {
                    self.tell(Fact::RankGone {
                        run,
                        generation,
                        rank,
                    });
                }
                if !is_over {
                    self.root_cause(id, node, rank, event);
                }
            }
            RankEvent::Failed { .. } | RankEvent::LoadRefused { .. } if !is_over => {
                let phase = if let RankEvent::Failed { phase, .. } = event {
                    phase
                } else {
                    Phase::Load
                };
                self.tell(Fact::RankBroke {
                    run,
                    generation,
                    phase,
                });
                self.root_cause(id, node, rank, event);
            }
            RankEvent::Spiked { spike, goes_on } if !is_over => {
                self.spiked(&run, generation, spike, goes_on);
            }
            RankEvent::PeerLost { phase, error: _ } if !is_over => {
                if gang.symptom.is_none() {
                    self.tell(Fact::RankBroke {
                        run,
                        generation,
                        phase,
                    });
                }
            }
            RankEvent::Overdue { phase } if !is_over => {
                if gang.overdue.is_none() {
                    self.tell(Fact::RankOverdue {
                        run,
                        generation,
                        rank,
                        phase,
                    });
                }
            }
            RankEvent::Failed { .. }
            | RankEvent::LoadRefused { .. }
            | RankEvent::Spiked { .. }
            | RankEvent::PeerLost { .. }
            | RankEvent::Overdue { .. } => self.count("after_the_end"),
        }
    }

    fn root_cause(&mut self, id: &RunId, node: &NodeId, rank: Rank, event: RankEvent) {
        let mut began = self.now;
        if let RankEvent::Exited {
            noticed_after_nanos: Some(nanos),
            ..
        } = event
        {
            began = began - Duration::from_nanos(nanos);
        }
        let Some(cause) = cause_of(node, rank, &event) else {
            return;
        };
        if let RankEvent::LoadRefused { checkpoint, .. } = event {
            self.reject(id, checkpoint);
        }
        self.fault(id, cause, began);
    }

    /// Every rank of a gang reports the same spike; the first report decides.
    fn spiked(&mut self, id: &RunId, generation: Generation, spike: Spike, goes_on: bool) {
        let cause = spike_cause(spike.clone(), !goes_on);
        if goes_on {
            let is_known = self.state.runs.get(id).is_none_or(|run| {
                let mut known = run.incidents.iter().rev().take(RECENT);
                known.any(|incident| incident.cause == cause && incident.generation == generation)
            });
            if !is_known {
                let step = self.step(id);
                self.tell(Fact::IncidentOpened {
                    run: id.clone(),
                    cause,
                    began: self.now,
                    heard: self.now,
                    step,
                    rung: None,
                });
            }
            return;
        }
        let phase = Phase::Step;
        let run = id.clone();
        self.tell(Fact::RankBroke {
            run,
            generation,
            phase,
        });
        let skipped = Skipped {
            by: generation,
            consumed: spike.consumed,
            samples: spike.samples,
        };
        let is_new = |run: &Run| !run.skipped.contains(&skipped);
        if self.state.runs.get(id).is_some_and(is_new) {
            self.tell(Fact::SamplesSkipped {
                run: id.clone(),
                generation,
                consumed: spike.consumed,
                samples: spike.samples,
            });
        }
        self.fault(id, cause, self.now);
    }

    fn reject(&mut self, id: &RunId, checkpoint: crate::checkpoint::CheckpointId) {
        let state = self
            .state
            .runs
            .get(id)
            .and_then(|run| run.checkpoint_state(checkpoint));
        if state == Some(CheckpointState::Sealed) {
            self.tell(Fact::CheckpointRejected {
                run: id.clone(),
                checkpoint,
            });
        }
    }

    /// An event of a generation that is not in force: it may still say that an older gang cannot
    /// step any more, and what broke it.
    fn stale_event(
        &mut self,
        node: &NodeId,
        id: &RunId,
        generation: Generation,
        rank: Rank,
        event: RankEvent,
    ) {
        self.count("stale_event");
        let Some(run) = self.state.runs.get(id) else {
            return;
        };
        let ends = matches!(
            event,
            RankEvent::Exited { .. } | RankEvent::NotStarted { .. }
        );
        let is_owed = run
            .owed
            .get(node)
            .is_some_and(|owed| owed.generation == generation && owed.ranks.contains(&rank));
        let is_older = run
            .older
            .iter()
            .any(|old| old.generation == generation && old.nodes.contains(node));
        let is_over = run.state == RunState::Completed;
        if ends && (is_owed || is_older) {
            self.tell(Fact::RankGone {
                run: id.clone(),
                generation,
                rank,
            });
        }
        let cause = cause_of(node, rank, &event).filter(|_| !is_over);
        if let Some(cause) = cause {
            self.too_late(id, generation, cause);
        }
    }
}

fn spike_cause(spike: Spike, rolls_back: bool) -> Cause {
    Cause::LossSpiked {
        step: spike.step,
        samples: spike.samples,
        reading: spike.reading,
        rolls_back,
    }
}

/// The root cause that an event of a rank stands for; none where it is a symptom or no fault.
fn cause_of(node: &NodeId, rank: Rank, event: &RankEvent) -> Option<Cause> {
    let node = node.clone();
    match event {
        RankEvent::Exited { exit, .. } => Some(Cause::RankExited {
            rank,
            node,
            exit: *exit,
        }),
        RankEvent::NotStarted { error } => Some(Cause::RankNotStarted {
            rank,
            node,
            error: error.clone(),
        }),
        RankEvent::Failed {
            phase,
            error,
            blamed,
        } => {
            let (phase, error, blamed) = (*phase, error.clone(), *blamed);
            Some(Cause::RankFailed {
                rank,
                node,
                phase,
                error,
                blamed,
            })
        }
        RankEvent::LoadRefused {
            checkpoint,
            unsound,
        } => {
            let (step, unsound) = (checkpoint.step, unsound.clone());
            Some(Cause::CheckpointUnsound {
                step,
                rank,
                unsound,
            })
        }
        RankEvent::Spiked { spike, goes_on } => Some(spike_cause(spike.clone(), !goes_on)),
        RankEvent::Reached { .. }
        | RankEvent::Finished { .. }
        | RankEvent::PeerLost { .. }
        | RankEvent::Overdue { .. } => None,
    }
}
