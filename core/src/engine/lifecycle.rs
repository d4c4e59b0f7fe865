//! The life of a run: what is decided after every event, until nothing is left to decide.
//!
//! Each decision looks at the state alone, so it comes out the same after a replay; deciding twice
//! decides nothing new.

use super::state::{Gang, Run};
use super::{CheckpointState, Engine, Fact, NodeState, RunState, Rung};
use crate::cause::{Cause, Exit};
use crate::id::{Rank, RunId, Step};
use crate::ladder;
use crate::order::Stop;
use crate::spec::seconds;
use crate::time::Instant;
use std::collections::BTreeSet;

impl Engine {
    /// Reconciles a run, unless it waits for room.
    pub(super) fn decide(&mut self, id: &RunId) {
        self.watch(id);
        self.fence_by_time(id);
        let state = self.state.runs.get(id).map(|run| run.state);
        match state {
            Some(RunState::Starting | RunState::Running | RunState::Recovering) => {
                self.carry_on(id);
            }
            Some(RunState::Stopping) => self.come_to_stop(id),
            Some(
                RunState::Pending
                | RunState::Stopped
                | RunState::Completed
                | RunState::Failed
                | RunState::Parked,
            )
            | None => {}
        }
        // A gang that was retired just now may have been silent for long enough already.
        self.fence_by_time(id);
    }

    fn carry_on(&mut self, id: &RunId) {
        let is_broken = |engine: &Self| {
            engine
                .state
                .runs
                .get(id)
                .is_some_and(|r| r.broken.is_some())
        };
        if self.has_completed(id) {
            return self.end(id, RunState::Completed, Cause::Completed);
        }
        self.check_gang_nodes(id);
        if !is_broken(self) {
            self.move_on(id);
        }
        if !is_broken(self) {
            self.watch_gang(id);
        }
        if is_broken(self) {
            return self.recover(id, &BTreeSet::new());
        }
        let Some(run) = self.state.runs.get(id) else {
            return;
        };
        let step = self.step(id);
        let has_caught_up = run.state == RunState::Running && step >= run.ladder.best;
        if run.catches_up() && has_caught_up {
            self.tell(Fact::IncidentClosed {
                run: id.clone(),
                step,
            });
        }
        self.plan_turn(id);
    }

    /// Every rank has done the last step, and its checkpoint is sealed.
    fn has_completed(&self, id: &RunId) -> bool {
        let Some(run) = self.state.runs.get(id) else {
            return false;
        };
        let is_last_sealed = |held: &super::state::Held| {
            held.id.step.0 >= run.spec.train.steps && held.state == CheckpointState::Sealed
        };
        let gang = run.gang.as_ref();
        gang.is_some_and(|gang| gang.members.all_completed()) && run.held.iter().any(is_last_sealed)
    }

    /// Gangs that stopped without being broken: a drain got as far as it asked for, or something
    /// stopped them that nobody asked for.
    fn move_on(&mut self, id: &RunId) {
        let Some(run) = self.state.runs.get(id) else {
            return;
        };
        let Some(gang) = &run.gang else { return };
        let broke = gang.members.first_broken();
        if let Some((rank, node)) = broke.and_then(|rank| Some((rank, gang.node_of(rank)?))) {
            // Its end was written down, but the last life was cut off before the incident was.
            let node = node.clone();
            return self.fault(
                id,
                Cause::RankExited {
                    rank,
                    node,
                    exit: Exit::Unknown,
                },
                self.now,
            );
        }
        if gang.members.all_completed() && self.now >= seal_by(run, gang) {
            let cause = Cause::SaveFailed {
                step: Step(run.spec.train.steps),
                rank: None,
                error: "it was not sealed in time".to_owned(),
            };
            return self.broke(id, cause, (self.now, self.now), Rung::Reform);
        }
        let has_stopped = gang.members.all_finished() && !gang.members.all_completed();
        if let Some(asked) = run.leaves_by_itself() {
            let is_saved = run.saves.is_empty() || self.now >= seal_by(run, gang);
            let is_over = has_stopped && is_gone(gang) && is_saved;
            if is_over || self.now >= stop_by(run, asked) + self.slack() {
                let Some(moving) = &run.moving else {
                    return self.tell(Fact::Unplaced { run: id.clone() });
                };
                let cause = moving.cause.clone();
                let rung = ladder::first(&cause, &run.ladder.tries);
                self.broke(id, cause, (self.now, self.now), rung);
            }
        } else if let Some(node) = gang.fenced.first().or(gang.node_of(Rank(0)))
            && (has_stopped || !gang.fenced.is_empty())
        {
            let rank = gang
                .on(node)
                .map(|(rank, _)| rank)
                .next()
                .unwrap_or_default();
            let cause = Cause::RanksMissing {
                node: node.clone(),
                rank,
            };
            self.fault(id, cause, self.now);
        }
    }

    fn come_to_stop(&mut self, id: &RunId) {
        if self.has_completed(id) {
            return self.end(id, RunState::Completed, Cause::Completed);
        }
        let hangs = self.hangs_while_stopping(id);
        let Some(run) = self.state.runs.get(id) else {
            return;
        };
        let Some(stop) = &run.stop else { return };
        let cause = stop.cause.clone();
        let Some(gang) = &run.gang else {
            return self.end(id, RunState::Stopped, cause);
        };
        let is_lost =
            gang.placement.nodes.iter().any(|node| {
                self.node_state(node) == NodeState::Lost && !gang.fenced.contains(node)
            });
        match stop.how {
            Stop::Safely => {
                let cannot = hangs
                    || gang.symptom.is_some()
                    || gang.members.first_broken().is_some()
                    || (is_lost && !gang.members.all_finished());
                if gang.members.all_finished() && is_gone(gang) && run.saves.is_empty() {
                    self.end(id, RunState::Stopped, cause);
                } else if cannot || self.now >= stop_by(run, stop.at) + self.slack() {
                    self.tell(Fact::StopAsked {
                        run: id.clone(),
                        how: Stop::Now,
                        cause,
                    });
                    self.come_to_stop(id);
                }
            }
            Stop::Now => {
                let is_over =
                    gang.placement
                        .seats()
                        .zip(gang.members.iter())
                        .all(|(seat, member)| {
                            member.gone
                                || gang.fenced.contains(seat.node)
                                || self.node_state(seat.node) == NodeState::Lost
                        });
                if is_over {
                    self.end(id, RunState::Stopped, cause);
                }
            }
        }
    }

    /// Whether a gang that is to stop at a step boundary was found hanging: it will not get there.
    fn hangs_while_stopping(&mut self, id: &RunId) -> bool {
        let is_safe = |run: &&Run| {
            let how = run.stop.as_ref().map(|stop| stop.how);
            how == Some(Stop::Safely) && run.gang.as_ref().is_some_and(|g| g.overdue.is_some())
        };
        let seen = |engine: &Self| {
            let run = engine.state.runs.get(id).filter(is_safe);
            run.map(|run| run.incidents_seen)
        };
        let Some(before) = seen(self) else {
            return false;
        };
        self.watch_gang(id);
        seen(self).is_some_and(|after| after > before)
    }

    /// An old gang of which nothing was heard for long enough has fenced itself (S1).
    fn fence_by_time(&mut self, id: &RunId) {
        let Some(run) = self.state.runs.get(id) else {
            return;
        };
        let due = run
            .older
            .iter()
            .filter(|old| self.unfenced_until(&old.nodes).is_none());
        let due: Vec<_> = due.map(|old| old.generation).collect();
        for generation in due {
            self.tell(Fact::GangFenced {
                run: id.clone(),
                generation,
            });
        }
    }

    fn slack(&self) -> crate::time::Duration {
        self.limits.silent_after
    }

    /// The next moment at which something may have to be decided about a run.
    pub(super) fn run_deadline(&self, id: &RunId) -> Option<Instant> {
        let run = self.state.runs.get(id)?;
        let older = run.older.iter();
        let older = older.filter_map(|old| self.unfenced_until(&old.nodes));
        let owed = run.owed.values();
        let owed = owed.map(|owed| owed.since + seconds(run.spec.deadlines.exit));
        let mut at: Vec<_> = older.chain(owed).collect();
        at.extend(self.watch_deadlines(id));
        at.extend(self.turn_ends(run));
        at.extend(self.desk.next_prune(id));
        at.extend(Self::turn_deadlines(run));
        if let Some(gang) = &run.gang {
            let asked = run.stop.as_ref().map(|stop| stop.at);
            let asked = asked.or(run.leaves_by_itself());
            at.extend(asked.map(|asked| stop_by(run, asked) + self.slack()));
            at.extend(gang.members.all_finished().then(|| seal_by(run, gang)));
        }
        at.into_iter().filter(|at| *at > self.now).min()
    }
}

/// Every process of the gang has left.
fn is_gone(gang: &Gang) -> bool {
    gang.members
        .iter()
        .zip(gang.placement.seats())
        .all(|(member, seat)| member.gone || gang.fenced.contains(seat.node))
}

/// When the seal of a gang that has finished must have come.
fn seal_by(run: &Run, gang: &Gang) -> Instant {
    gang.reached_at + seconds(run.spec.deadlines.save)
}

/// When a gang that was asked to stop must have.
fn stop_by(run: &Run, asked: Instant) -> Instant {
    let deadlines = &run.spec.deadlines;
    asked + seconds(deadlines.step) + seconds(deadlines.save) + seconds(deadlines.exit)
}
