//! Recovery: from a fault to the next generation, rung by rung.
//!
//! A fault ends the generation at once ([`Engine::broke`]); placing the next one may have to wait for
//! room, for an agent that is about to come back, or until the old gang surely cannot step (S1).
//! What was decided is a fact before anything is sent, so a recovery that is cut in two goes on.

use super::apply::EVIDENCE;
use super::state::{Broken, Gang, Run};
use super::{Engine, Fact, NodeState, RunState, Rung};
use crate::cause::Cause;
use crate::id::{Generation, NodeId, RunId};
use crate::ladder::gate::{self, Shut, Site};
use crate::ladder::{self, Standing, shape};
use crate::layout::Layout;
use crate::order::Stop;
use crate::spec::seconds;
use crate::time::{Duration, Instant};
use std::collections::BTreeSet;

impl Engine {
    /// Takes in a root cause that was heard of now and began at `began`.
    pub(super) fn fault(&mut self, id: &RunId, cause: Cause, began: Instant) {
        let Some(run) = self.state.runs.get(id) else {
            return;
        };
        let rung = ladder::first(&cause, &run.ladder.tries);
        self.broke(id, cause, (began, self.now), rung);
    }

    /// Opens an incident that ends the generation in force, or adds to the one that is open. A run
    /// that is coming to a stop only records it.
    pub(super) fn broke(
        &mut self,
        id: &RunId,
        cause: Cause,
        (began, heard): (Instant, Instant),
        rung: Rung,
    ) {
        let Some(run) = self.state.runs.get(id) else {
            return;
        };
        let rung = match run.state {
            RunState::Starting | RunState::Running | RunState::Recovering => Some(rung),
            RunState::Pending
            | RunState::Stopping
            | RunState::Stopped
            | RunState::Completed
            | RunState::Failed
            | RunState::Parked => None,
        };
        let is_forced = run.stop.as_ref().is_some_and(|stop| stop.how == Stop::Now);
        if run.state == RunState::Stopping && is_forced && cause.is_an_end() {
            // That is what was ordered.
            return self.count("ended_by_order");
        }
        let (run, step) = (id.clone(), self.step(id));
        self.tell(Fact::IncidentOpened {
            run,
            cause,
            began,
            heard,
            step,
            rung,
        });
    }

    /// A root cause of an older generation: what else was seen of the incident that ended it.
    pub(super) fn too_late(&mut self, id: &RunId, generation: Generation, cause: Cause) {
        let open = self.state.runs.get(id).and_then(Run::open_incident);
        if open.is_some_and(|open| open.generation == generation && open.cause != cause) {
            self.tell(Fact::EvidenceAdded {
                run: id.clone(),
                cause,
            });
        }
    }

    /// Gives up nodes of the gang that are lost, unless none of its nodes can be reached: then the
    /// cut may be ours, the gang may be training, and only time can tell (S1).
    pub(super) fn check_gang_nodes(&mut self, id: &RunId) {
        let Some((run, watch)) = self.state.runs.get(id).zip(self.watches.get(id)) else {
            return;
        };
        let Some(gang) = &run.gang else { return };
        let nodes = &gang.placement.nodes;
        let is_time = if watch.dark {
            self.unfenced_until(nodes).is_none()
        } else {
            self.now >= watch.lit_at + self.limits.rejoin_within
        };
        if !is_time {
            return;
        }
        let away = watch.away.iter();
        let lost = away.filter(|node| self.node_state(node) == NodeState::Lost);
        let finished = |node: &&NodeId| gang.on(node).all(|(_, member)| member.finished.is_some());
        // A recovery that has to wait goes on knowing it; it is not told again at every event.
        let is_known = |node: &&NodeId| {
            let is_told = |cause: &Cause| matches!(cause, Cause::NodeLost { node: lost, .. } if lost == *node);
            let incident = run.open_incident();
            let climbs = run
                .broken
                .as_ref()
                .filter(|broken| broken.rung >= Rung::Replace);
            climbs.zip(incident).is_some_and(|(_, incident)| {
                is_told(&incident.cause) || incident.evidence.iter().any(is_told)
            })
        };
        let lost = lost.filter(|node| !finished(node) && !is_known(node));
        let lost: Vec<_> = lost.cloned().collect();
        for node in lost {
            let heard = self.heard(&node);
            let silent_for = self.now.since(heard);
            self.fault(id, Cause::NodeLost { node, silent_for }, heard);
        }
    }

    /// Carries a broken run on: to its next generation, to waiting, or to its end. Not on nodes that
    /// are held for others.
    pub(super) fn recover(&mut self, id: &RunId, held: &BTreeSet<NodeId>) {
        let Some(run) = self.state.runs.get(id) else {
            return;
        };
        let Some(broken) = &run.broken else { return };
        if matches!(broken.cause, Cause::LossSpiked { .. })
            && let Some(step) = run.spikes_repeat()
        {
            return self.end(id, RunState::Parked, Cause::SpikesRepeat { step });
        }
        if broken.cause.spends_budget() && run.ladder.own >= run.spec.recovery.restarts {
            let restarts = run.spec.recovery.restarts;
            return self.end(id, RunState::Failed, Cause::BudgetSpent { restarts });
        }
        // (The gate looks at every node of the gang.)
        let is_hang = broken.cause.is_hang() && !run.async_off;
        let gate = if is_hang {
            self.async_gate(run)
        } else {
            Ok(())
        };
        let rung = ladder::climb(
            &broken.cause,
            broken.rung,
            &run.spec.recovery,
            &Self::standing(run, broken, gate.is_ok()),
        );
        if let Err(shut) = gate
            && let Some(cause) = self.left_out(run, broken, &shut)
        {
            self.tell(Fact::EvidenceAdded {
                run: id.clone(),
                cause,
            });
            return self.recover(id, held);
        }
        let is_bare = run.has_lost_its_checkpoints();
        let unsound = Cause::NoSoundCheckpoint {
            step: run.ladder.sealed,
        };
        if is_bare && !self.has_snapshot(id, run) {
            return self.end(id, RunState::Parked, unsound);
        }
        if rung == Rung::Park {
            let is_unsealed = run.ladder.unsealed >= run.spec.recovery.unsealed;
            let unsealed = if is_unsealed { run.ladder.unsealed } else { 0 };
            let recoveries = run.ladder.recoveries().max(unsealed);
            return self.end(id, RunState::Parked, Cause::NoProgress { recoveries });
        }
        let waits = run.gang.is_some()
            && self.watches.get(id).is_some_and(|watch| {
                let mut away = watch.away.iter();
                away.any(|node| self.node_state(node) == NodeState::Unreachable)
            });
        if waits || self.doubts_until().is_some() {
            return;
        }
        if run.yielding.is_some() && run.gang.is_some() {
            // It stops for another run anyway; it recovers when it has room again.
            return self.tell(Fact::Unplaced { run: id.clone() });
        }
        match self.next_placed(id, run, broken, rung, held) {
            // What lies in memory was not enough after all, and it must not begin anew.
            Some(Fact::Placed { resume: None, .. }) if is_bare => {
                self.end(id, RunState::Parked, unsound);
            }
            Some(fact) => self.tell(fact),
            None if run.gang.is_some() => self.tell(Fact::Unplaced { run: id.clone() }),
            None => {}
        }
    }

    /// Why launches stay asynchronous though they would be turned off if that could be, where the incident
    /// does not say so yet.
    fn left_out(&self, run: &Run, broken: &Broken, shut: &Shut) -> Option<Cause> {
        let recovery = &run.spec.recovery;
        let open = Self::standing(run, broken, true);
        let would_be = ladder::climb(&broken.cause, broken.rung, recovery, &open);
        let cause = Cause::LaunchesStayAsync {
            why: shut.to_string(),
        };
        let incident = run.open_incident()?;
        let is_news = !incident.evidence.contains(&cause) && incident.evidence.len() < EVIDENCE;
        (would_be == Rung::AsyncOff && is_news).then_some(cause)
    }

    fn standing<'a>(run: &'a Run, broken: &Broken, is_gate_open: bool) -> Standing<'a> {
        Standing {
            tries: &run.ladder.tries,
            unsealed: run.ladder.unsealed,
            hangs: run.ladder.hangs,
            blamed: run.ladder.named(&broken.avoid),
            may_async_off: broken.cause.is_hang() && !run.async_off && is_gate_open,
            may_shrink: !shape::smaller(&run.spec, run.spec.layout).is_empty(),
        }
    }

    /// Whether asynchronous launches can be turned off on the nodes of the gang.
    fn async_gate(&self, run: &Run) -> Result<(), Shut> {
        let gang = run.gang.iter();
        let sites = gang.flat_map(|gang| {
            gang.placement.nodes.iter().filter_map(|node| {
                let facts = &self.state.nodes.get(node)?.facts;
                Some(Site {
                    node,
                    devices: facts.gpus.len(),
                    processes: gang.on(node).count(),
                    nccl: facts.nccl,
                })
            })
        });
        gate::check(sites)
    }

    /// The next generation of a broken run, if there is a place for it.
    fn next_placed(
        &self,
        id: &RunId,
        run: &Run,
        broken: &Broken,
        rung: Rung,
        held: &BTreeSet<NodeId>,
    ) -> Option<Fact> {
        let at_fault: &[NodeId] = if rung >= Rung::Replace {
            &broken.avoid
        } else {
            &[]
        };
        let avoid = &run.shuns(at_fault);
        let (rung, layout, placement) = self
            .wanted_layouts(run, broken, rung)
            .into_iter()
            .find_map(|(rung, layout)| {
                Some((rung, layout, self.find_place(id, layout, avoid, held)?))
            })?;
        let is_clean = self.now >= clean_at(run);
        let is_known_loss = rung == Rung::Replace && broken.rung == rung && !broken.cause.is_hang();
        let async_off = rung == Rung::AsyncOff || (run.async_off && !is_clean);
        let is_same = (layout, async_off) == (run.spec.layout, run.async_off);
        let fresh = !is_same || !(rung == Rung::Reform || is_known_loss);
        let (resume, snapshot) = self.begins_with(id, run, layout, &placement);
        Some(Fact::Placed {
            run: id.clone(),
            generation: run.floor.next(),
            layout,
            every_steps: self.interval(run, placement.nodes.len()),
            placement,
            async_off,
            rung: Some(rung),
            resume,
            snapshot,
            fresh,
            kill: broken.kill.clone(),
            cause: broken.cause.clone(),
        })
    }

    /// Layouts to try, the best first, and the rung that each of them is.
    fn wanted_layouts(&self, run: &Run, broken: &Broken, rung: Rung) -> Vec<(Rung, Layout)> {
        let (spec, now) = (&run.spec, run.spec.layout);
        let smaller = || {
            let smaller = shape::smaller(spec, now).into_iter();
            smaller.map(|layout| (Rung::Shrink, layout))
        };
        if rung == Rung::Shrink {
            return smaller().collect();
        }
        // A restart that comes anyway is the cheapest moment to grow back.
        let above = run
            .full
            .into_iter()
            .flat_map(|full| shape::larger(spec, now, full));
        let mut wanted: Vec<_> = above.map(|layout| (rung, layout)).collect();
        wanted.push((rung, now));
        if shrinks_at(run, broken).is_some_and(|at| at <= self.now) {
            wanted.extend(smaller());
        }
        wanted
    }

    /// Plans a restart at a step boundary where something is to change that a running gang cannot.
    pub(super) fn plan_turn(&mut self, id: &RunId) {
        let Some(run) = self.state.runs.get(id) else {
            return;
        };
        let Some(gang) = run.gang.as_ref().filter(|_| run.may_turn()) else {
            return;
        };
        let cause = if run.async_off && self.now >= clean_at(run) {
            Cause::CleanSpell {
                lasted: self.now.since(run.ladder.calm_since),
            }
        } else if let Some(full) = run.full
            && self.now >= grows_at(run, gang)
            && let Some(layout) = shape::larger(&run.spec, run.spec.layout, full)
                .into_iter()
                .find(|layout| {
                    self.find_place(id, *layout, &[], &BTreeSet::new())
                        .is_some()
                })
        {
            Cause::RoomToGrow { data: layout.data }
        } else {
            return;
        };
        self.tell(Fact::TurnAsked {
            run: id.clone(),
            cause,
        });
    }

    /// When [`Self::plan_turn`] or a run that waits for room may come to something by time alone.
    pub(super) fn turn_deadlines(run: &Run) -> impl Iterator<Item = Instant> {
        let clean = run.async_off.then(|| clean_at(run));
        let gang = run.gang.as_ref().filter(|_| run.full.is_some());
        let grows = gang.map(|gang| grows_at(run, gang));
        let broken = run.broken.as_ref();
        let shrinks = broken.and_then(|broken| shrinks_at(run, broken));
        clean.into_iter().chain(grows).chain(shrinks)
    }

    pub(super) fn end(&mut self, id: &RunId, state: RunState, cause: Cause) {
        self.pass_milepost(id);
        self.tell(Fact::RunEnded {
            run: id.clone(),
            state,
            cause,
        });
    }
}

/// When launches that were made to block have been calm for long enough.
fn clean_at(run: &Run) -> Instant {
    run.ladder.calm_since + Duration::from_secs(run.spec.recovery.clean_spell)
}

/// When a broken run has waited long enough for room to go on with less.
fn shrinks_at(run: &Run, broken: &Broken) -> Option<Instant> {
    let elastic = run.spec.elastic.filter(|_| run.gang.is_none())?;
    Some(broken.at + seconds(elastic.wait))
}

/// When a gang has trained long enough to stop for growing.
fn grows_at(run: &Run, gang: &Gang) -> Instant {
    gang.reached_at
        + run
            .spec
            .elastic
            .map_or(Duration::MAX, |elastic| seconds(elastic.wait))
}
