//! Reports: what agents say of their ranks, turned into facts.
//!
//! A report may come twice, late, or of a generation that is over. What is known already changes
//! nothing; what is stale is counted and never acted on (S10).

use super::spikes::spike_cause;
use super::state::Run;
use super::{CheckpointState, Engine, Fact, RunState};
use crate::cause::{Cause, Exit, Unsound};
use crate::checkpoint::CheckpointId;
use crate::eval::Evaluation;
use crate::flight::Phase;
use crate::hang::rules::Breach;
use crate::id::{Generation, NodeId, Rank, RunId, Session};
use crate::report::{RankEvent, Report};
use crate::time::Duration;

/// SIGKILL.
const KILLED: i32 = 9;

impl Engine {
    pub(super) fn report(&mut self, node: &NodeId, session: Session, report: Report) {
        let link = self.links.get(node);
        let is_its =
            |link: &super::links::Link| [link.session, link.previous].contains(&Some(session));
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
            Report::SnapshotHeld { run, piece, at } => {
                self.snapshot_held(node, &run, &piece, &at);
            }
            Report::Sealed {
                run,
                checkpoint,
                error,
            } => {
                self.manifest_written(&run, checkpoint, error);
            }
            Report::Stopped { run, generation } => self.stopped(node, &run, generation),
            Report::Signal { signal } => self.signal(node, signal),
        }
    }

    fn stopped(&mut self, node: &NodeId, id: &RunId, generation: Generation) {
        if self.desk.stray_stopped(node, id, generation) {
            self.rehold(id);
            self.agenda.reorder(id);
            self.agenda.room_changed();
        }
        let Some(run) = self.state.runs.get(id) else {
            return;
        };
        let is_ganged = run.gang.as_ref().is_some_and(|gang| {
            gang.generation <= generation
                && gang.placement.nodes.contains(node)
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
            .members
            .get(rank)
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
            RankEvent::ReplicasDiffer(differs) if !is_over => {
                self.replicas_differ(&run, generation, differs);
            }
            RankEvent::Evaluated(evaluation) => self.evaluated(id, generation, evaluation),
            RankEvent::PeerLost { phase, error: _ } if !is_over => {
                if gang.symptom.is_none() {
                    self.tell(Fact::RankBroke {
                        run,
                        generation,
                        phase,
                    });
                }
            }
            RankEvent::RuleBroken { .. } if !is_over => self.root_cause(id, node, rank, event),
            RankEvent::Overdue { phase, step: seen } if !is_over => {
                if gang.overdue.is_none() {
                    self.tell(Fact::RankOverdue {
                        run,
                        generation,
                        rank,
                        phase,
                        step: None,
                        seen,
                    });
                }
            }
            RankEvent::Failed { .. }
            | RankEvent::LoadRefused { .. }
            | RankEvent::Spiked { .. }
            | RankEvent::ReplicasDiffer(_)
            | RankEvent::PeerLost { .. }
            | RankEvent::RuleBroken { .. }
            | RankEvent::Overdue { .. } => self.count("after_the_end"),
        }
    }

    /// What an evaluation gave counts in whichever generation and order it is heard of, unless it was trained on
    /// samples that are skipped by now.
    fn evaluated(&mut self, id: &RunId, generation: Generation, evaluation: Evaluation) {
        let is_news = self.state.runs.get(id).is_some_and(|run| {
            let mut known = run.evaluations.iter();
            !known.any(|(_, known)| known.step == evaluation.step)
                && !run.is_tainted(generation, evaluation.samples)
        });
        if is_news {
            self.tell(Fact::Evaluated {
                run: id.clone(),
                generation,
                evaluation,
            });
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
        let cause = match event {
            RankEvent::LoadRefused {
                checkpoint,
                unsound,
            } => self
                .refused(id, (node, rank), checkpoint, unsound)
                .unwrap_or(cause),
            RankEvent::Reached { .. }
            | RankEvent::Finished { .. }
            | RankEvent::Exited { .. }
            | RankEvent::NotStarted { .. }
            | RankEvent::Failed { .. }
            | RankEvent::Spiked { .. }
            | RankEvent::ReplicasDiffer(_)
            | RankEvent::Evaluated(_)
            | RankEvent::PeerLost { .. }
            | RankEvent::RuleBroken { .. }
            | RankEvent::Overdue { .. } => cause,
        };
        self.fault(id, cause, began);
    }

    /// A checkpoint that a node cannot load is rejected; one that finds the next one unsound as well
    /// is at fault itself, once.
    fn refused(
        &mut self,
        id: &RunId,
        (node, rank): (&NodeId, Rank),
        checkpoint: CheckpointId,
        unsound: Unsound,
    ) -> Option<Cause> {
        let run = self.state.runs.get(id)?;
        if let Some(cause) = Self::snapshot_refused(run, rank, checkpoint, &unsound) {
            return Some(cause);
        }
        if run.checkpoint_state(checkpoint) != Some(CheckpointState::Sealed) {
            return None;
        }
        let misread = run.misread.get(node);
        let is_second = misread.is_some_and(|it| !it.blamed && !it.refused.is_empty());
        let (run, node) = (id.clone(), node.clone());
        if is_second {
            let blamed = node.clone();
            self.tell(Fact::StorageBlamed { run, node });
            return Some(Cause::StorageMisread {
                node: blamed,
                rank,
                unsound,
            });
        }
        self.tell(Fact::CheckpointRejected {
            run,
            checkpoint,
            node,
        });
        None
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
        if let RankEvent::Evaluated(evaluation) = event {
            return self.evaluated(id, generation, evaluation);
        }
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
        let is_ours = ended_by_us(run, generation, (node, rank), &event);
        if ends && (is_owed || is_older) {
            self.tell(Fact::RankGone {
                run: id.clone(),
                generation,
                rank,
            });
        }
        let cause = cause_of(node, rank, &event).filter(|_| !is_over && !is_ours);
        if let Some(cause) = cause {
            self.too_late(id, generation, cause);
        }
    }
}

/// Whether a rank of an older generation was killed because the next one wanted it so: it hung, it was to
/// begin anew, or its place is elsewhere. That is no evidence of anything.
fn ended_by_us(
    run: &Run,
    generation: Generation,
    (node, rank): (&NodeId, Rank),
    event: &RankEvent,
) -> bool {
    let RankEvent::Exited { exit, .. } = event else {
        return false;
    };
    let is_kill = *exit == Exit::Signal(KILLED);
    is_kill
        && run.gang.as_ref().is_none_or(|gang| {
            let was_blamed = gang.after == generation && gang.kill.contains(&rank);
            was_blamed || gang.fresh || !gang.placement.nodes.contains(node)
        })
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
        RankEvent::RuleBroken { rule, line } => {
            let (rule, line) = (rule.clone(), line.clone());
            Some(Cause::LogRule {
                rule,
                breach: Breach::Written { line },
                rank: Some(rank),
                node: Some(node),
            })
        }
        // Every rank of the group says the same, and who is odd sat where its generation was.
        RankEvent::ReplicasDiffer(_)
        | RankEvent::Reached { .. }
        | RankEvent::Finished { .. }
        | RankEvent::Evaluated(_)
        | RankEvent::PeerLost { .. }
        | RankEvent::Overdue { .. } => None,
    }
}
