//! How facts change incidents, the ledger and the checkpoints of a run.

use crate::cause::Cause;
use crate::checkpoint::{CheckpointId, Shard};
use crate::engine::state::{Broken, Held, Run, Save, Skipped};
use crate::engine::{CheckpointState, Incident, Ledger, Milepost, RunState, Rung, Spend};
use crate::eval::Evaluation;
use crate::guard::{self, Again};
use crate::hang::deadline::Timing;
use crate::id::{IncidentId, NodeId, Step};
use crate::ladder::evict;
use crate::snapshot::Tier;
use crate::time::{Duration, Instant};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Incidents kept of one run; older ones stay in the ledger only.
const INCIDENTS: usize = 2000;
/// Mileposts and evaluations kept of one run; odd, so that the newest stays when every other one goes.
const MILEPOSTS: usize = 510;
/// Further causes kept of one incident.
pub(in crate::engine) const EVIDENCE: usize = 64;

impl Run {
    /// More steps than ever before are progress.
    pub(super) fn came_to(&mut self, step: Step) {
        if step > self.ladder.best {
            self.ladder.best = step;
            self.progress();
        }
    }

    fn progress(&mut self) {
        let nodes = self
            .gang
            .as_ref()
            .map(|gang| Arc::clone(&gang.placement.nodes));
        self.ladder.progress(&nodes.unwrap_or_default());
        self.timings.retain(|_, timing| !timing.doubted);
    }

    /// A hang that was judged by what was learned may have been none: then the phase gets the time that was
    /// set by hand, or a sound run would be ended there again and again.
    pub(super) fn doubt(&mut self, cause: &Cause) {
        let (Cause::RankHung { phase, .. } | Cause::GangHung { phase, .. }) = cause else {
            return;
        };
        let overdue = self.gang.as_ref().and_then(|gang| gang.overdue.as_ref());
        if overdue.is_some_and(|overdue| overdue.phase == *phase && overdue.step.is_some()) {
            self.timings.insert(*phase, Timing::in_doubt());
        }
    }

    pub(super) fn broke(
        &mut self,
        at: Instant,
        cause: &Cause,
        (began, heard): (Instant, Instant),
        step: Step,
        rung: Rung,
    ) {
        let heard = heard.min(at);
        self.spend(began.min(heard), Some(Spend::Detect));
        if self.state == RunState::Running {
            self.close_incident(at);
        }
        let avoid = self.at_fault(cause);
        if cause.is_hang() {
            let spell = Duration::from_secs(self.spec.recovery.clean_spell);
            // What else is said of the same generation is no other hang.
            let is_first = self.broken.is_none();
            let nodes = if is_first { avoid.as_slice() } else { &[] };
            self.ladder.hung(at, spell, nodes);
        }
        let is_storage = matches!(
            cause,
            Cause::CheckpointUnsound { .. }
                | Cause::SnapshotUnsound { .. }
                | Cause::StorageMisread { .. }
        );
        match self.open_incident() {
            // That the run goes back further than it had to has a record of its own.
            Some(_) if is_storage => self.record_incident(at, cause, Some(at), Some(rung)),
            Some(_) => self.evidence(cause),
            None => {
                let is_failure = cause.climbs()
                    || matches!(cause, Cause::NodeLost { .. } | Cause::NodeFaulty { .. });
                self.failures += u64::from(is_failure);
                self.record_incident(at, cause, None, None);
            }
        }
        self.spend(heard, Some(Spend::Decide));
        self.came_to(step);
        (self.state, self.why) = (RunState::Recovering, cause.clone());
        let hung = cause.stuck();
        match &mut self.broken {
            Some(broken) => {
                broken.rung = broken.rung.max(rung);
                let news = avoid.iter().filter(|node| !broken.avoid.contains(node));
                let news: Vec<_> = news.cloned().collect();
                broken.avoid.extend(news);
                broken.kill.extend(hung);
            }
            None => {
                let (cause, kill) = (cause.clone(), hung.into_iter().collect());
                self.broken = Some(Broken {
                    cause,
                    rung,
                    avoid,
                    kill,
                    step,
                    at,
                });
            }
        }
    }

    /// Remembers a node that is slow.
    pub(super) fn found_slow(&mut self, cause: &Cause) {
        if let Cause::Straggler { node, .. } | Cause::NodeSlow { node } = cause {
            self.slow.insert(node.clone());
        }
    }

    /// The nodes that a cause speaks against, the surest first: the one it names, or those of the
    /// suspects and then of the group that they share.
    fn at_fault(&self, cause: &Cause) -> Vec<NodeId> {
        let Cause::GangHung { suspects, .. } = cause else {
            return cause.node().cloned().into_iter().collect();
        };
        let Some(gang) = &self.gang else {
            return Vec::new();
        };
        let group = evict::shared(self.spec.layout, suspects).map(|(_, ranks)| ranks);
        let ranks = group.into_iter().flat_map(|ranks| {
            let rest: Vec<_> = ranks
                .into_iter()
                .filter(|r| !suspects.contains(r))
                .collect();
            suspects.iter().copied().chain(rest)
        });
        let mut nodes = Vec::new();
        for node in ranks.filter_map(|rank| gang.node_of(rank)) {
            if !nodes.contains(node) {
                nodes.push(node.clone());
            }
        }
        nodes
    }

    /// A checkpoint is unsound as far as one node can tell.
    pub(super) fn rejected(&mut self, id: CheckpointId, node: &NodeId) {
        if let Some(held) = self.held.iter_mut().find(|held| held.id == id) {
            held.state = CheckpointState::Rejected;
        }
        self.misread
            .entry(node.clone())
            .or_default()
            .refused
            .push(id);
    }

    /// Every checkpoint that was refused gets another chance: an admin may have repaired the storage.
    pub(super) fn trust_again(&mut self) {
        let clean = |held: &&Held| !self.is_tainted(held.id.generation, held.samples);
        let clean: Vec<_> = self.held.iter().filter(clean).map(|it| it.id).collect();
        let mut held = self.held.iter_mut();
        held.by_ref()
            .filter(|held| clean.contains(&held.id))
            .for_each(|held| held.state = CheckpointState::Sealed);
    }

    /// What only this node refused counts as sealed again.
    pub(super) fn storage_blamed(&mut self, node: &NodeId) {
        let misread = self.misread.entry(node.clone()).or_default();
        misread.blamed = true;
        let mine = misread.refused.clone();
        let others = || self.misread.iter().filter(|(other, _)| *other != node);
        let alone = |id: &CheckpointId| others().all(|(_, theirs)| !theirs.refused.contains(id));
        let alone: BTreeSet<_> = mine.into_iter().filter(alone).collect();
        let clean = |held: &&Held| !self.is_tainted(held.id.generation, held.samples);
        let clean: Vec<_> = self.held.iter().filter(clean).map(|it| it.id).collect();
        let mut held = self.held.iter_mut();
        held.by_ref()
            .filter(|held| alone.contains(&held.id) && clean.contains(&held.id))
            .for_each(|held| held.state = CheckpointState::Sealed);
    }

    pub(super) fn record_incident(
        &mut self,
        at: Instant,
        cause: &Cause,
        closed: Option<Instant>,
        rung: Option<Rung>,
    ) {
        self.incidents_seen += 1;
        let incident = Incident {
            id: IncidentId(self.incidents_seen),
            cause: cause.clone(),
            evidence: Vec::new(),
            opened: at,
            closed,
            rung,
            generation: self.generation,
            recovered_by: None,
            resumed_from: None,
            tier: Tier::default(),
            lost_steps: 0,
            spent: Ledger::default(),
        };
        // The open incident stays the last one.
        match self.incidents.pop_back() {
            Some(open) if open.closed.is_none() => self.incidents.extend([incident, open]),
            Some(last) => self.incidents.extend([last, incident]),
            None => self.incidents.push_back(incident),
        }
        if self.incidents.len() > INCIDENTS {
            self.incidents.pop_front();
        }
    }

    pub(super) fn evidence(&mut self, cause: &Cause) {
        let incident = self
            .incidents
            .back_mut()
            .filter(|incident| incident.closed.is_none());
        if let Some(incident) = incident
            && incident.evidence.len() < EVIDENCE
            && incident.cause != *cause
            && !incident.evidence.contains(cause)
        {
            incident.evidence.push(cause.clone());
        }
    }

    pub(super) fn close_incident(&mut self, at: Instant) {
        let incident = self
            .incidents
            .back_mut()
            .filter(|incident| incident.closed.is_none());
        if let Some(incident) = incident {
            incident.closed = Some(at);
        }
    }

    pub(super) fn caught_up(&mut self, at: Instant, step: Step) {
        if self.state == RunState::Running {
            self.spend(at, Some(Spend::Productive));
        }
        self.close_incident(at);
        self.came_to(step);
    }

    /// Turns the page of the ledger; what is not productive also counts for the open incident.
    pub(super) fn spend(&mut self, at: Instant, spend: Option<Spend>) {
        let Some(booked) = self.book.turn(at, spend) else {
            return;
        };
        let open = self
            .incidents
            .back_mut()
            .filter(|incident| incident.closed.is_none());
        if let Some(incident) = open.filter(|_| booked.spend != Spend::Productive) {
            incident.spent.add(booked);
        }
    }

    /// Notes how training stands.
    pub(super) fn passed(&mut self, at: Instant, step: Step, loss: f32, grad_norm: Option<f32>) {
        self.mileposts.retain(|post| post.step < step);
        self.mileposts.push(Milepost {
            at,
            step,
            loss,
            grad_norm,
        });
        self.came_to(step);
        thin_out(&mut self.mileposts);
    }

    /// Notes what an evaluation gave, in the order of steps.
    pub(super) fn was_evaluated(&mut self, at: Instant, evaluation: &Evaluation) {
        let before = |(_, known): &(Instant, Evaluation)| known.step < evaluation.step;
        let place = self.evaluations.partition_point(before);
        self.evaluations.insert(place, (at, evaluation.clone()));
        thin_out(&mut self.evaluations);
    }

    pub(super) fn shard_saved(&mut self, id: CheckpointId, samples: u64, shard: &Shard) {
        let layout = self.spec.layout;
        let save = match self.saves.iter().position(|save| save.id == id) {
            Some(at) => &mut self.saves[at],
            None => {
                self.saves.push(Save {
                    id,
                    layout,
                    samples,
                    shards: BTreeMap::new(),
                });
                self.saves.last_mut().expect("it was just pushed")
            }
        };
        save.shards.insert(shard.rank, shard.clone());
    }

    pub(super) fn skip(&mut self, skipped: Skipped) {
        if self.skipped.contains(&skipped) {
            return;
        }
        self.skipped.push(skipped);
        self.doubt_checkpoint();
        self.evaluations
            .retain(|(_, evaluation)| evaluation.samples <= skipped.consumed);
        let tainted: Vec<_> = self
            .held
            .iter()
            .filter(|held| self.is_tainted(held.id.generation, held.samples))
            .map(|held| held.id)
            .collect();
        for held in self.held.iter_mut().filter(|h| tainted.contains(&h.id)) {
            held.state = CheckpointState::Rejected;
        }
    }

    /// The checkpoint that a spiked generation began with is not taken again where it led to a spike before.
    fn doubt_checkpoint(&mut self) {
        let from = self.gang.as_ref().and_then(|gang| gang.resume);
        if let Some(from) = from
            && guard::again(Some(from), &self.tried) != Again::No
        {
            self.doubted.push(from);
            let mut held = self.held.iter_mut();
            if let Some(held) = held.find(|held| held.id == from) {
                held.state = CheckpointState::Rejected;
            }
        }
    }

    pub(super) fn drop_partial_saves(&mut self) {
        let partial = self.saves.extract_if(.., |save| !save.is_whole());
        let partial: Vec<_> = partial.map(|save| save.id).collect();
        partial.into_iter().for_each(|id| self.throw_away(id));
    }

    pub(super) fn throw_away(&mut self, id: CheckpointId) {
        if !self.garbage.contains(&id) {
            self.garbage.push(id);
        }
    }

    pub(super) fn sealed(&mut self, id: CheckpointId, samples: u64) {
        self.saves.retain(|save| save.id != id);
        self.garbage.retain(|other| *other != id);
        if self.checkpoint_state(id).is_none() {
            let state = if self.is_tainted(id.generation, samples) {
                CheckpointState::Rejected
            } else {
                CheckpointState::Sealed
            };
            let is_newer = self.tried.iter().all(|tried| id.step > tried.step);
            if state == CheckpointState::Sealed && is_newer {
                (self.tried, self.doubted) = (Vec::new(), Vec::new());
            }
            let at = self.held.partition_point(|held| held.id < id);
            self.held.insert(at, Held { id, state, samples });
        }
        if id.step > self.ladder.sealed {
            self.ladder.sealed = id.step;
            self.ladder.unsealed = 0;
            self.progress();
        }
        self.came_to(id.step);
    }
}

/// Forgets every other one where there are too many, so that the whole run stays in sight.
fn thin_out<T>(kept: &mut Vec<T>) {
    if kept.len() > MILEPOSTS {
        let mut keep = false;
        kept.retain(|_| {
            keep = !keep;
            keep
        });
    }
}
