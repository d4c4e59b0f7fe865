//! What must never be: the safety invariants and the truth of the training state, checked on what
//! machines do, not on what they believe. Each check stands where the thing it judges happens.

mod journal;
mod orders;
mod snapshots;

use crate::options::{Options, Planted};
use crate::storage::Saved;
use crate::training;
use crate::world::World;
use rebloom_core::cause::Cause;
use rebloom_core::checkpoint::Manifest;
use rebloom_core::engine::{Engine, Fact, Placement, Record, Rung, judge};
use rebloom_core::health::fleet::most_withdrawn;
use rebloom_core::id::{Generation, NodeId, Rank, RunId, Slot, Step};
use rebloom_core::layout::Layout;
use rebloom_core::spec::RunSpec;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What the checks remember.
#[derive(Debug)]
pub(crate) struct Checks {
    /// Whether the last moments of a journal were ever lost.
    pub(crate) forgot: bool,
    pub(crate) violation: Option<String>,
    pub(crate) runs: BTreeMap<RunId, Seen>,
    /// The newest generation of each run that reached each node.
    received: BTreeMap<(NodeId, RunId), Generation>,
    pub(crate) cordoned: BTreeSet<NodeId>,
    /// Nodes that were given up and did not come back.
    lost: BTreeSet<NodeId>,
    /// Nodes that verdicts withdrew.
    withdrawn: BTreeSet<NodeId>,
    /// Nodes that are known to the controller.
    enrolled: BTreeSet<NodeId>,
    /// The share of them that verdicts may withdraw (S8).
    share: f64,
    /// Rungs of the ladder that were taken.
    pub(crate) rungs: BTreeSet<Rung>,
    /// Generations that began with a snapshot, and those of them for which a node asked another.
    pub(crate) recalls: [u64; 2],
}

/// What was seen of one run.
#[derive(Debug)]
pub(crate) struct Seen {
    spec: RunSpec,
    /// Every state in a world where nothing happens: by step, then by part of the model.
    pub(crate) truth: Vec<Vec<Saved>>,
    /// The newest generation in which any rank completed a step.
    stepped: Generation,
    /// Most steps done, and recoveries since that number grew.
    best: Step,
    fruitless: u32,
    /// Restarts after failures of the run's own, since it was submitted or resumed.
    own: u32,
    /// Newest step that was sealed since it was submitted or resumed, and recoveries since, planned ones
    /// left out.
    sealed: Step,
    unsealed: u32,
    decided: BTreeMap<Generation, Arc<Placement>>,
    /// Why each generation was decided.
    causes: BTreeMap<Generation, Cause>,
    /// The newest generation that was placed, by the journal.
    newest: Generation,
    ordered: BTreeMap<Generation, Arc<Placement>>,
    placement: Option<Arc<Placement>>,
}

impl Checks {
    pub(crate) fn new(options: &Options) -> Self {
        let seen = |spec: &RunSpec| Seen {
            spec: spec.clone(),
            truth: training::undisturbed(spec),
            stepped: Generation(0),
            best: Step(0),
            fruitless: 0,
            own: 0,
            sealed: Step(0),
            unsealed: 0,
            decided: BTreeMap::new(),
            causes: BTreeMap::new(),
            newest: Generation(0),
            ordered: BTreeMap::new(),
            placement: None,
        };
        Self {
            forgot: false,
            violation: None,
            runs: options
                .runs
                .iter()
                .map(|spec| (spec.name.clone(), seen(spec)))
                .collect(),
            received: BTreeMap::new(),
            cordoned: BTreeSet::new(),
            lost: BTreeSet::new(),
            withdrawn: BTreeSet::new(),
            enrolled: BTreeSet::new(),
            share: options.limits.withdraw_share,
            rungs: BTreeSet::new(),
            recalls: [0; 2],
        }
    }

    /// Where a run is placed, by the journal.
    pub(crate) fn placement(&self, run: &RunId) -> Option<&Placement> {
        self.runs.get(run)?.placement.as_deref()
    }

    /// A rank's news may be written down for the newest generation only; that an older rank is gone
    /// is news whenever it comes, since it makes room.
    fn check_fresh(&mut self, fact: &Fact) {
        let (run, generation) = if let Fact::RankReached {
            run, generation, ..
        }
        | Fact::RankFinished {
            run, generation, ..
        }
        | Fact::RankBroke {
            run, generation, ..
        }
        | Fact::RankOverdue {
            run, generation, ..
        } = fact
        {
            (run, *generation)
        } else if let Fact::ShardSaved {
            run, checkpoint, ..
        } = fact
        {
            (run, checkpoint.generation)
        } else {
            return;
        };
        let newest = self.runs.get(run).map(|seen| seen.newest);
        if newest.is_some_and(|newest| newest != generation) {
            self.violated(format!(
                "S10: news of generation {generation} of {run} is taken for that of another"
            ));
        }
    }

    /// Verdicts withdraw no more than their share of the fleet, and each for a reason.
    fn check_breaker(&mut self, fact: &Fact) {
        let Fact::VerdictReached {
            node,
            verdict,
            finding,
            ..
        } = fact
        else {
            return;
        };
        let (nodes, withdrawn) = (self.enrolled.len(), self.withdrawn.len());
        let most = most_withdrawn(nodes, self.share);
        if verdict.withdraws() && withdrawn > most {
            self.violated(format!(
                "S8: {withdrawn} of {nodes} nodes are withdrawn, {most} may be"
            ));
        }
        if verdict.withdraws() && finding.as_ref().is_none_or(|finding| !finding.counts()) {
            self.violated(format!(
                "S9: {node} is {verdict} without a finding that counts"
            ));
        }
    }

    /// Records the first violation.
    pub(crate) fn violated(&mut self, what: String) {
        self.violation.get_or_insert(what);
    }
}

impl Seen {
    fn true_state(&self, layout: Layout, rank: Rank, step: Step) -> Option<Saved> {
        let parts = self.truth.get(usize::try_from(step.0).ok()?)?;
        let part = training::part(layout, rank);
        parts.get(part.0 as usize).copied()
    }
}

impl World {
    /// A rank has completed a step.
    pub(crate) fn check_step(&mut self, pid: u32) {
        let Some(process) = self.processes.get(&pid) else {
            return;
        };
        let (run, rank) = (&process.run, process.rank);
        let saved = process.saved;
        let layout = process.go.as_ref().map(|go| go.spec.layout);
        let Some((seen, layout)) = self.checks.runs.get_mut(run).zip(layout) else {
            return;
        };
        if saved.step > seen.best {
            seen.best = saved.step;
            seen.fruitless = 0;
        }
        let truth = seen.true_state(layout, rank, saved.step);
        let run = run.clone();
        if truth != Some(saved) {
            let step = saved.step;
            self.checks.violated(format!(
                "T1: rank {rank} of {run} has another state at step {step} than it would have had"
            ));
        }
    }

    /// A gang has stepped: from here on each of its ranks completes the step by itself.
    pub(crate) fn check_gang_step(&mut self, run: &RunId, generation: Generation, step: Step) {
        let Some(seen) = self.checks.runs.get_mut(run) else {
            return;
        };
        let newest = seen.stepped;
        seen.stepped = newest.max(generation);
        if generation < newest {
            self.checks.violated(format!(
                "S1: generation {generation} of {run} stepped after generation {newest} had"
            ));
        } else if newest < generation {
            self.note("gang", format_args!("{run} g{generation} steps: {step}"));
        }
    }

    /// A rank has loaded a state.
    pub(crate) fn check_loaded(&mut self, pid: u32) {
        let Some(process) = self.processes.get(&pid) else {
            return;
        };
        let (run, rank, saved) = (&process.run, process.rank, process.saved);
        let layout = process.go.as_ref().map(|go| go.spec.layout);
        let seen = self.checks.runs.get(run).zip(layout);
        let sound = seen.and_then(|(seen, layout)| seen.true_state(layout, rank, saved.step));
        let excused = self.options.planted == Some(Planted::SamplesRepeated);
        if sound != Some(saved) && !excused {
            let what = format!("S6: rank {rank} of {run} resumed from unsound state");
            self.checks.violated(what);
        }
    }

    /// A process of a generation is to use its device.
    pub(crate) fn check_form(&mut self, pid: u32) {
        let Some(process) = self.processes.get(&pid) else {
            return;
        };
        let (node, slot) = (process.node, process.slot);
        let other = self.processes.iter().find(|(other, process)| {
            **other != pid
                && (process.node, process.slot) == (node, slot)
                && process.generation() > Generation(0)
        });
        if let Some((other, _)) = other {
            let what = format!("S2: processes {pid} and {other} use slot {slot} of node {node}");
            self.checks.violated(what);
        }
    }

    /// A process is started on a device.
    pub(crate) fn check_spawn(&mut self, node: usize, slot: Slot, generation: Generation) {
        let other = self.processes.iter().find(|(_, process)| {
            (process.node, process.slot) == (node, slot) && process.generation() > Generation(0)
        });
        if let Some((other, _)) = other {
            self.checks.violated(format!(
                "S2: a process of generation {generation} is started on slot {slot} of node {node}, \
                 which process {other} uses"
            ));
        }
    }

    /// A manifest is to be written.
    pub(crate) fn check_manifest(&mut self, manifest: &Manifest) {
        let complete = manifest.is_whole()
            && self.checks.runs.get(&manifest.run).is_some_and(|run| {
                // Copies may have left.
                let data = manifest.layout.data;
                let given = run.spec.layout;
                data <= given.data && Layout { data, ..given } == manifest.layout
            });
        if !complete || !self.storage.is_true(manifest) {
            let at = manifest.id.directory();
            self.checks.violated(format!(
                "S6: the seal of {at} speaks of shards that are not there"
            ));
        }
    }

    /// The engine has decided something.
    pub(crate) fn check_fact(&mut self, record: &Record) {
        self.checks.check_fresh(&record.fact);
        if let Fact::IncidentOpened { run, cause, .. }
        | Fact::RunEnded { run, cause, .. }
        | Fact::StopAsked { run, cause, .. }
        | Fact::Placed { run, cause, .. } = &record.fact
        {
            self.check_cause(run, cause);
        }
        let Fact::Placed {
            run,
            generation,
            placement,
            cause,
            rung,
            resume,
            snapshot,
            layout,
            ..
        } = &record.fact
        else {
            self.checks.note_fact(&record.fact);
            self.checks.check_breaker(&record.fact);
            return;
        };
        let Some(seen) = self.checks.runs.get_mut(run) else {
            return;
        };
        let whole = layout.ranks().eq(placement.seats().map(|seat| seat.rank));
        let mut violations = Vec::new();
        if !whole {
            violations.push(format!("S4: generation {generation} of {run} is not whole"));
        }
        let node_of = |rank: Rank| placement.seat(rank).map(|seat| seat.node);
        for rank in layout.ranks() {
            if layout
                .tensor_group(rank)
                .into_iter()
                .any(|peer| node_of(peer) != node_of(rank))
            {
                violations.push(format!(
                    "placement: the tensor group of rank {rank} is torn apart"
                ));
            }
        }
        let used: BTreeSet<_> = placement
            .seats()
            .map(|seat| (seat.node, seat.slot))
            .collect();
        if used.len() < placement.ranks() {
            violations.push(format!(
                "S2: generation {generation} of {run} uses a slot twice"
            ));
        }
        if let Some(seat) = placement.seats().find(|seat| {
            let node = self.nodes.iter().find(|node| node.id == *seat.node);
            node.is_none_or(|node| seat.slot.0 >= node.slots)
        }) {
            violations.push(format!("placement: rank {} sits on no slot", seat.rank));
        }
        let before = seen.placement.replace(placement.clone());
        seen.decided.insert(*generation, placement.clone());
        seen.causes.insert(*generation, cause.clone());
        seen.newest = *generation;
        if cause.spends_budget() {
            seen.own += 1;
            if seen.own > seen.spec.recovery.restarts {
                violations.push(format!("S7: {run} is restarted above its budget"));
            }
        }
        if resume.is_none() && seen.sealed > Step(0) {
            let step = seen.sealed;
            violations.push(format!(
                "L4: {run} begins anew though it sealed step {step}"
            ));
        }
        self.checks.rungs.extend(*rung);
        let gang = (*layout, placement.as_ref());
        violations.extend(seen.check_restore(run, *resume, snapshot.as_deref(), gang));
        if let Some(restore) = snapshot {
            self.checks.note_restore(restore, placement);
        }
        let Some(seen) = self.checks.runs.get_mut(run) else {
            return;
        };
        seen.unsealed += u32::from(rung.is_some() && cause.is_fault());
        if seen.unsealed > seen.spec.recovery.unsealed {
            violations.push(format!("L4: {run} goes on and on without a checkpoint"));
        }
        if rung.is_some() {
            seen.fruitless += 1;
            let recovery = seen.spec.recovery;
            // Each rung may be climbed again after a lower one's budget came back.
            let budgets = Rung::ALL.map(|rung| rung.budget(&recovery));
            let most = 4 * budgets[..5].iter().sum::<u32>() + 8;
            if seen.fruitless > most {
                let fruitless = seen.fruitless;
                violations.push(format!(
                    "L4: {run} recovered {fruitless} times without progress"
                ));
            }
        }
        for seat in placement.seats() {
            let stayed = before
                .as_ref()
                .is_some_and(|before| before.nodes.contains(seat.node));
            let checks = &self.checks;
            let holds_back = [&checks.cordoned, &checks.lost, &checks.withdrawn];
            if holds_back.iter().any(|nodes| nodes.contains(seat.node)) {
                let node = seat.node;
                violations.push(format!(
                    "S3: generation {generation} of {run} is placed on {node}, which is held back"
                ));
            }
            if self.checks.cordoned.contains(seat.node) && !stayed {
                violations.push(format!(
                    "S11: {run} is placed on {}, which is cordoned",
                    seat.node
                ));
            }
        }
        for (other, seen) in &self.checks.runs {
            let taken = seen
                .placement
                .iter()
                .flat_map(|placement| placement.seats());
            if other != run
                && taken
                    .into_iter()
                    .any(|seat| used.contains(&(seat.node, seat.slot)))
            {
                violations.push(format!("S2: {run} and {other} are placed on the same slot"));
            }
        }
        violations
            .into_iter()
            .for_each(|what| self.checks.violated(what));
    }

    /// The engine has changed its state.
    pub(crate) fn check_engine(&mut self) {
        let violations = self
            .controller
            .engine
            .as_ref()
            .map(|engine: &Engine| judge(engine));
        if let Some(violation) = violations.into_iter().flatten().next() {
            self.checks.violated(violation.to_string());
        }
    }
}
