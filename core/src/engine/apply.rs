//! How each fact changes the state. Total: a fact about something unknown changes nothing, so that
//! any prefix of a journal, and any snapshot with its tail, can be folded.

mod gang;
mod incident;

pub(super) use incident::EVIDENCE;

use super::ledger::Book;
use super::state::{Ladder, Moving, Node, Overdue, Run, Skipped, StopAsked, Turn, Yielding};
use super::{Fact, RunState, Spend, State, Transition};
use crate::cause::Cause;
use crate::hang::bisect::{Bisect, Outcome};
use crate::id::{Digest, Generation, NodeId, RunId, Step};
use crate::report::NodeFacts;
use crate::spec::RunSpec;
use crate::time::{Duration, Instant};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// Unknown runs whose generations are kept.
const FLOORS: usize = 1024;
/// Removed checkpoints that are remembered.
const PRUNED: usize = 64;
/// Changes of state of one run that are kept.
const TRANSITIONS: usize = 256;

impl State {
    /// Makes `fact` so.
    pub fn apply(&mut self, at: Instant, fact: &Fact) {
        let was_out = fact.fleet_node().map(|node| (node, self.is_out(node)));
        self.make_so(at, fact);
        if let Some((node, was_out)) = was_out {
            match (was_out, self.is_out(node)) {
                (false, true) => self.reliability.lost(at),
                (true, false) => self.reliability.returned(at),
                (false, false) | (true, true) => {}
            }
        }
    }

    /// Whether a node that nobody holds back by hand is out of use: lost, or withdrawn by its health.
    fn is_out(&self, node: &NodeId) -> bool {
        let known = self.nodes.get(node);
        known.is_some_and(|known| known.lost || self.health.verdict(node).withdraws())
    }

    fn make_so(&mut self, at: Instant, fact: &Fact) {
        match fact {
            Fact::NodeEnrolled { facts, identity } => {
                if !self.nodes.contains(&facts.node) {
                    self.reliability.enrolled(at);
                }
                self.enroll(facts, *identity);
            }
            Fact::NodeLost {
                node,
                silent_for: _,
            } => self.node(node, |node| node.lost = true),
            Fact::NodeReturned { node } => self.node(node, |node| node.lost = false),
            Fact::NodeCordoned { node } => self.node(node, |node| node.cordoned = true),
            Fact::NodeUncordoned { node } => {
                self.node(node, |node| node.cordoned = false);
                self.health.lifted(at, node);
                self.runs.for_each_mut(|run| {
                    run.slow.remove(node);
                    run.ladder.blamed.remove(node);
                });
            }
            Fact::SignalHeard {
                node,
                signal,
                findings,
                acquits,
            } => self.health.heard(at, node, signal, findings, *acquits),
            Fact::VerdictReached {
                node,
                verdict,
                finding,
                lemon,
            } => self
                .health
                .reached(at, node, *verdict, finding.as_ref(), *lemon),
            Fact::VerdictHeld { node, finding } => self.health.held_back(node, finding),
            Fact::HealthRuleSet { rule } => self.health.set(rule),
            Fact::HealthRuleUnset { name } => self.health.unset(name),
            Fact::RunSubmitted { spec } => {
                let floor = self.floors.remove(&spec.name);
                let floor = floor.unwrap_or(Generation(self.left_out));
                self.runs
                    .insert(spec.name.clone(), Run::submitted(at, spec, floor));
            }
            Fact::RunForgotten { run } => {
                if let Some(forgotten) = self.runs.remove(run) {
                    self.floor(run, forgotten.floor);
                }
            }
            Fact::NumbersLeftOut { many } => {
                self.left_out += many;
                self.floors.values_mut().for_each(|floor| floor.0 += many);
                self.runs.for_each_mut(|run| run.floor.0 += many);
            }
            Fact::GenerationSeen {
                run,
                generation,
                node,
                alive,
            } => {
                let slots = self.nodes.get(node).map_or(0, |node| node.facts.slots);
                match self.runs.get_mut(run) {
                    Some(run) => run.seen(at, *generation, node, alive.then_some(slots)),
                    None => self.floor(run, *generation),
                }
            }
            Fact::StopAsked { run, .. }
            | Fact::ResumeAsked { run }
            | Fact::LayoutChosen { run, .. }
            | Fact::MoveAsked { run, .. }
            | Fact::TurnAsked { run, .. }
            | Fact::PreemptAsked { run, .. }
            | Fact::Placed { run, .. }
            | Fact::Unplaced { run }
            | Fact::RankReached { run, .. }
            | Fact::RankFinished { run, .. }
            | Fact::RankGone { run, .. }
            | Fact::RankBroke { run, .. }
            | Fact::RankOverdue { run, .. }
            | Fact::OverdueDropped { run }
            | Fact::NodeFenced { run, .. }
            | Fact::GangFenced { run, .. }
            | Fact::PhaseTimed { run, .. }
            | Fact::PaceSeen { run, .. }
            | Fact::SearchBegun { run, .. }
            | Fact::SearchJudged { run, .. }
            | Fact::IncidentOpened { run, .. }
            | Fact::EvidenceAdded { run, .. }
            | Fact::IncidentClosed { run, .. }
            | Fact::ShardSaved { run, .. }
            | Fact::CheckpointFailed { run, .. }
            | Fact::CheckpointSealed { run, .. }
            | Fact::CheckpointRejected { run, .. }
            | Fact::StorageBlamed { run, .. }
            | Fact::SamplesSkipped { run, .. }
            | Fact::CheckpointsPruned { run, .. }
            | Fact::MilepostPassed { run, .. }
            | Fact::Evaluated { run, .. }
            | Fact::RunEnded { run, .. } => {
                if let Some(run) = self.runs.get_mut(run) {
                    run.apply(at, fact);
                }
            }
        }
    }

    fn enroll(&mut self, facts: &NodeFacts, identity: Digest) {
        let new = || Node {
            facts: Box::new(facts.clone()),
            identity,
            cordoned: false,
            lost: false,
        };
        match self.nodes.get_mut(&facts.node) {
            Some(node) => *node.facts = facts.clone(),
            None => drop(self.nodes.insert(facts.node.clone(), new())),
        }
    }

    fn node(&mut self, node: &NodeId, change: impl FnOnce(&mut Node)) {
        if let Some(node) = self.nodes.get_mut(node) {
            change(node);
        }
    }

    fn floor(&mut self, run: &RunId, generation: Generation) {
        let floor = self.floors.entry(run.clone()).or_default();
        *floor = generation.max(*floor);
        if self.floors.len() > FLOORS {
            self.floors.pop_first();
        }
    }
}

impl Run {
    fn submitted(at: Instant, spec: &RunSpec, floor: Generation) -> Self {
        Self {
            spec: Arc::new(spec.clone()),
            submitted: at,
            state: RunState::Pending,
            why: Cause::Submitted,
            generation: Generation(0),
            floor,
            first: floor,
            gang: None,
            broken: None,
            stop: None,
            moving: None,
            yielding: None,
            turn: Turn {
                since: at,
                waited: Duration::ZERO,
            },
            claim: None,
            owed: BTreeMap::new(),
            older: Vec::new(),
            trained_at: at,
            saves: Vec::new(),
            held: Vec::new(),
            skipped: Vec::new(),
            tried: Vec::new(),
            doubted: Vec::new(),
            garbage: Vec::new(),
            pruned: VecDeque::new(),
            ladder: Ladder::default(),
            full: None,
            async_off: false,
            timings: BTreeMap::new(),
            step_time: None,
            save_cost: None,
            failures: 0,
            slow: BTreeSet::new(),
            search: None,
            misread: BTreeMap::new(),
            incidents: VecDeque::new(),
            incidents_seen: 0,
            book: Book::open(at),
            transitions: VecDeque::new(),
            mileposts: Vec::new(),
            evaluations: Vec::new(),
            final_states: Vec::new(),
        }
    }

    fn apply(&mut self, at: Instant, fact: &Fact) {
        let before = self.state;
        self.make_so(at, fact);
        if self.state != before || matches!(fact, Fact::Placed { .. }) {
            self.came_into_state(at);
        }
    }

    /// Notes a change of state, unless an incident tells of it.
    fn came_into_state(&mut self, at: Instant) {
        let is_told = match self.state {
            RunState::Recovering | RunState::Running => true,
            RunState::Pending => self.open_incident().is_some(),
            RunState::Starting
            | RunState::Stopping
            | RunState::Stopped
            | RunState::Completed
            | RunState::Failed
            | RunState::Parked => false,
        };
        if is_told {
            return;
        }
        if self.transitions.len() == TRANSITIONS {
            self.transitions.pop_front();
        }
        self.transitions.push_back(Transition {
            at,
            state: self.state,
            why: self.why.clone(),
        });
    }

    fn make_so(&mut self, at: Instant, fact: &Fact) {
        match fact {
            Fact::StopAsked { how, cause, .. } => {
                self.stop = Some(StopAsked {
                    how: *how,
                    at,
                    cause: cause.clone(),
                });
                (self.state, self.why) = (RunState::Stopping, cause.clone());
                (self.moving, self.broken) = (None, None);
                (self.yielding, self.claim) = (None, None);
            }
            Fact::ResumeAsked { .. } => self.resumed(at),
            Fact::LayoutChosen { layout, .. } => {
                (Arc::make_mut(&mut self.spec).layout, self.full) = (*layout, None);
                self.forget_pace();
            }
            Fact::MoveAsked { cause, .. } | Fact::TurnAsked { cause, .. } => {
                let cause = cause.clone();
                self.moving = Some(Moving { cause, at });
            }
            Fact::PreemptAsked { by, .. } => {
                self.yielding = Some(Yielding { by: by.clone(), at });
            }
            Fact::Placed { .. } => self.placed(at, fact),
            Fact::Unplaced { .. } => self.unplaced(at),
            Fact::RankReached {
                generation,
                rank,
                milestone,
                step,
                pid,
                ..
            } => {
                self.fenced_by_start(*generation, *rank);
                if let Some(members) = self.members(*generation) {
                    members.hear(*rank, |member| {
                        member.reached = member.reached.max(Some(*milestone));
                        member.step = *step;
                        member.pid = Some(*pid);
                    });
                    self.advance(at);
                }
            }
            Fact::RankFinished {
                generation,
                rank,
                why,
                step,
                state,
                ..
            } => {
                self.fenced_by_start(*generation, *rank);
                if let Some(members) = self.members(*generation) {
                    members.finish(*rank, *why, *step, *state);
                    self.advance(at);
                }
            }
            Fact::RankGone {
                generation, rank, ..
            } => self.gone(*generation, *rank),
            Fact::RankBroke {
                generation, phase, ..
            } => {
                if let Some(gang) = self.gang.as_mut().filter(|g| g.generation == *generation) {
                    gang.dead = true;
                    gang.symptom.get_or_insert((at, *phase));
                }
                self.older.retain(|old| old.generation != *generation);
            }
            Fact::RankOverdue {
                generation,
                rank,
                phase,
                step,
                seen,
                ..
            } => {
                if let Some(gang) = self.gang.as_mut().filter(|g| g.generation == *generation) {
                    gang.overdue.get_or_insert(Overdue {
                        at,
                        rank: *rank,
                        phase: *phase,
                        step: *step,
                        seen: *seen,
                    });
                }
            }
            Fact::OverdueDropped { .. } => {
                if let Some(gang) = &mut self.gang {
                    gang.overdue = None;
                }
            }
            Fact::NodeFenced {
                generation, node, ..
            } => self.node_fenced(*generation, node),
            Fact::GangFenced { generation, .. } => {
                self.older.retain(|old| old.generation != *generation);
            }
            Fact::IncidentOpened {
                cause,
                began,
                heard,
                step,
                rung,
                ..
            } => {
                self.doubt(cause);
                match rung {
                    Some(rung) => {
                        self.broke(at, cause, (*began, *heard), *step, *rung);
                    }
                    None => {
                        self.found_slow(cause);
                        if cause.is_hang() {
                            // It was to stop; the time in which it hung was no training.
                            self.spend((*began).min(at), Some(Spend::Detect));
                        }
                        self.record_incident(at, cause, Some(at), None);
                    }
                }
            }
            Fact::PhaseTimed { phase, timing, .. } => {
                self.timings.insert(*phase, *timing);
            }
            Fact::PaceSeen { step, save, .. } => {
                (self.step_time, self.save_cost) = (Some(*step), *save);
            }
            Fact::SearchBegun {
                before, now, busy, ..
            } => self.search = Some(Bisect::new(*before, *now, busy)),
            Fact::SearchJudged { step, .. } => {
                let outcome = self.search.as_mut().map(|search| search.judge(*step));
                if matches!(outcome, Some(Outcome::Found(_) | Outcome::Gone)) {
                    self.search = None;
                }
            }
            Fact::EvidenceAdded { cause, .. } => self.evidence(cause),
            Fact::IncidentClosed { step, .. } => self.caught_up(at, *step),
            Fact::ShardSaved {
                checkpoint,
                samples,
                shard,
                ..
            } => {
                self.trained_at = at;
                self.shard_saved(*checkpoint, *samples, shard);
            }
            Fact::CheckpointFailed { checkpoint, .. } => {
                self.saves.retain(|save| save.id != *checkpoint);
                self.throw_away(*checkpoint);
            }
            Fact::CheckpointSealed {
                checkpoint,
                samples,
                ..
            } => {
                self.sealed(*checkpoint, *samples);
            }
            Fact::CheckpointRejected {
                checkpoint, node, ..
            } => self.rejected(*checkpoint, node),
            Fact::StorageBlamed { node, .. } => self.storage_blamed(node),
            Fact::SamplesSkipped {
                generation,
                consumed,
                samples,
                ..
            } => self.skip(Skipped {
                by: *generation,
                consumed: *consumed,
                samples: *samples,
            }),
            Fact::CheckpointsPruned { checkpoints, .. } => {
                self.held.retain(|held| !checkpoints.contains(&held.id));
                self.garbage.retain(|id| !checkpoints.contains(id));
                self.pruned.extend(checkpoints);
                let surplus = self.pruned.len().saturating_sub(PRUNED);
                self.pruned.drain(..surplus);
            }
            Fact::MilepostPassed {
                step,
                loss,
                grad_norm,
                ..
            } => self.passed(at, *step, *loss, *grad_norm),
            Fact::Evaluated { evaluation, .. } => self.was_evaluated(at, evaluation),
            Fact::RunEnded { state, cause, .. } => self.ended(at, *state, cause),
            Fact::NodeEnrolled { .. }
            | Fact::NodeLost { .. }
            | Fact::NodeReturned { .. }
            | Fact::NodeCordoned { .. }
            | Fact::NodeUncordoned { .. }
            | Fact::SignalHeard { .. }
            | Fact::VerdictReached { .. }
            | Fact::VerdictHeld { .. }
            | Fact::HealthRuleSet { .. }
            | Fact::HealthRuleUnset { .. }
            | Fact::RunSubmitted { .. }
            | Fact::RunForgotten { .. }
            | Fact::NumbersLeftOut { .. }
            | Fact::GenerationSeen { .. } => {}
        }
    }

    fn resumed(&mut self, at: Instant) {
        (self.state, self.why) = (RunState::Pending, Cause::ResumeRequested);
        (self.stop, self.broken) = (None, None);
        self.misread.clear();
        self.timings.clear();
        (self.tried, self.doubted) = (Vec::new(), Vec::new());
        self.trust_again();
        // What begins anew has a new first checkpoint to come to.
        let sealed = self.newest_sealed().map_or(Step(0), |_| self.ladder.sealed);
        self.turn = Turn {
            since: at,
            waited: Duration::ZERO,
        };
        // An admin's word gives every budget back, but repairs no node.
        self.ladder = Ladder {
            best: self.ladder.best,
            sealed,
            blamed: std::mem::take(&mut self.ladder.blamed),
            ..Ladder::default()
        };
        self.spend(at, Some(Spend::Waiting));
    }
}
