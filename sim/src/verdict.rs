//! The end of a world: what came true, or what must not have and how it came to that.

use crate::agent::Node;
use crate::storage::digest;
use crate::training;
use crate::world::World;
use rebloom_core::engine::{Ledger, NodeState, NodeView, RunState, RunView, Rung};
use rebloom_core::id::{RunId, Step};
use rebloom_core::layout::Layout;
use rebloom_core::time::{Duration, Instant};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// How often each run was resumed after the storm.
pub(crate) type Resumes = BTreeMap<RunId, u32>;

/// More events than any sound world has, beside those that come with time: beats, above all.
const MOST_EVENTS: u64 = 4_000_000;
/// More of those than come in a second.
const MOST_A_SECOND: u64 = 20_000;
/// After the end, processes have this long to be gone.
const LEAVE: Duration = Duration::from_secs(30);
/// From the end of all faults, or from its boot, until a node must be ready.
const RETURN: Duration = Duration::from_secs(30);
/// A run may be found stopped, failed or parked when the storm ends; not again and again.
const MOST_RESUMES: u32 = 2;

/// A world in which all was well.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// Hash over everything that happened.
    pub trace: u64,
    /// Events of the world.
    pub events: u64,
    /// How long it went on, in its own time.
    pub lasted: Duration,
    /// Each run: generations, incidents, and where its time went.
    pub runs: Vec<(RunId, u64, usize, Ledger)>,
    /// Rungs of the recovery ladder that were taken.
    pub rungs: BTreeSet<Rung>,
    /// Generations that began with a snapshot in memory, and those of them for which a rank read it from
    /// another node.
    pub recalls: [u64; 2],
}

/// A world in which something was wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Its seed.
    pub seed: u64,
    /// The event after which it was seen.
    pub event: u64,
    /// The invariant and what broke it.
    pub violation: String,
    /// The last lines of the trace.
    pub tail: Vec<String>,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lasted = self.lasted.as_secs_f64();
        write!(
            f,
            "sound: {} events, {lasted:.1} s, trace {:016x}",
            self.events, self.trace
        )?;
        let [memory, replicas] = self.recalls;
        if memory > 0 {
            write!(
                f,
                "; {memory} generations began from memory, {replicas} of them in part from replicas"
            )?;
        }
        for (run, generations, incidents, ledger) in &self.runs {
            let ettr = ledger.ettr().unwrap_or(0.0) * 100.0;
            write!(
                f,
                "\n{run}: {generations} generations, {incidents} incidents, ETTR {ettr:.1} %"
            )?;
            for (spend, time) in &ledger.spent {
                write!(
                    f,
                    "\n  {:<12}{:>12.3} s",
                    format!("{spend:?}"),
                    time.as_secs_f64()
                )?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.tail {
            writeln!(f, "{line}")?;
        }
        write!(
            f,
            "seed {}: after event {}: {}",
            self.seed, self.event, self.violation
        )
    }
}

impl World {
    pub(crate) fn count_resume(&mut self, run: &RunId) {
        let resumes = self.resumes.entry(run.clone()).or_insert(0);
        *resumes += 1;
        if *resumes > MOST_RESUMES {
            let what = format!("L1: {run} stops again and again though nothing is wrong any more");
            self.checks.violated(what);
        }
    }

    /// Whether this world is over, and how.
    pub(crate) fn judge_end(&mut self) -> Option<Result<Verdict, String>> {
        let events = self.trace.events();
        let lasted = self.now.since(Instant::ZERO).as_secs();
        if events > MOST_EVENTS + lasted * MOST_A_SECOND {
            return Some(Err("L1: the machines run in circles".to_owned()));
        }
        if !events.is_multiple_of(64) {
            return None;
        }
        let now = self.controller_now();
        let views = self
            .controller
            .engine
            .as_ref()
            .map(|engine| engine.runs(now))?;
        let expected = self.options.runs.len();
        let done = views
            .iter()
            .filter(|run| run.state == RunState::Completed)
            .count();
        if self.calm.is_none() && done == expected {
            self.become_calm();
        }
        let calm = self.calm?;
        let nodes = self.controller.engine.as_ref()?.nodes();
        let unused = self.unused(&nodes);
        let is_used = unused.is_empty();
        if let Some(node) = unused
            .iter()
            .find(|node| self.now.since(calm.max(node.booted)) > RETURN + 2 * self.clean_spell())
        {
            let node = &node.id;
            return Some(Err(format!(
                "L2: nothing is wrong with {node} any more, but it is not ready"
            )));
        }
        if let Some(violation) = self.starved(calm, &views, &nodes) {
            return Some(Err(violation));
        }
        if done < expected || !self.processes.is_empty() || !is_used {
            let end = if done < expected {
                None
            } else {
                Some(*self.completed.get_or_insert(self.now))
            };
            if let Some(left) = self.processes.keys().next()
                && end.is_some_and(|end| self.now.since(end) > LEAVE)
            {
                return Some(Err(format!(
                    "L1: every run is over, but process {left} is still there"
                )));
            }
            if self.now.since(calm) > self.patience() {
                let states: Vec<String> = views
                    .iter()
                    .map(|run| format!("{} is {}", run.spec.name, run.state))
                    .collect();
                return Some(Err(format!(
                    "L1: faults ended long ago, but {}",
                    states.join(", ")
                )));
            }
            return None;
        }
        Some(self.judge_truth(&views))
    }

    /// Nodes that live and that the engine neither has ready nor holds back for an admin.
    fn unused(&self, nodes: &[NodeView]) -> Vec<&Node> {
        let is_known = |node: &&Node| {
            nodes.iter().any(|view| {
                let is_ready = view.state == NodeState::Ready && !view.health.verdict.withdraws();
                view.facts.node == node.id && (view.cordoned || is_ready)
            })
        };
        let living = self.nodes.iter().filter(|node| node.is_on);
        living.filter(|node| !is_known(node)).collect()
    }

    /// Runs wait in the order in which they came, those that broke in front of the others. The first
    /// must not wait where there is room for it, but for as long as an older gang may still step (S1).
    fn starved(&mut self, calm: Instant, views: &[RunView], nodes: &[NodeView]) -> Option<String> {
        let pending = views.iter().filter(|run| run.state == RunState::Pending);
        let broke = |run: &RunView| run.incidents.iter().any(|open| open.closed.is_none());
        let first = pending.min_by_key(|run| (!broke(run), run.submitted, run.spec.name.clone()));
        // By priority, or since it waited for too long, another one may be in front of it.
        let is_wide = !self.options.sites.is_empty();
        let waiting = views.iter().filter(|run| run.state == RunState::Pending);
        let is_alone = waiting.count() == 1;
        let first = first.filter(|run| has_room(run, nodes) && (is_alone || !is_wide));
        let Some(first) = first else {
            self.waits = None;
            return None;
        };
        let run = first.spec.name.clone();
        if self.waits.as_ref().is_none_or(|(of, _)| *of != run) {
            self.waits = Some((run.clone(), self.now));
        }
        let (_, since) = self.waits.as_ref()?;
        let limits = &self.options.limits;
        let mut most = limits.orphan_after * 2 + RETURN;
        if is_wide {
            // Spares are left for faults, and nodes are held for those that broke.
            most += limits.starve_after + limits.hold_for;
        }
        (self.now.since(calm.max(*since)) > most).then(|| {
            format!(
                "L3: {run} waits though there is room for it: {}",
                first.waits_for
            )
        })
    }

    fn judge_truth(&self, views: &[RunView]) -> Result<Verdict, String> {
        for view in views {
            let run = &view.spec.name;
            let truth = self.checks.runs.get(run).and_then(|seen| seen.truth.last());
            let layout = view.spec.layout;
            let part = |rank| truth?.get(training::part(layout, rank).0 as usize);
            let truth = layout.ranks().filter_map(part);
            let truth: Vec<_> = truth.map(|saved| digest(*saved)).collect();
            if view.final_states != truth {
                return Err(format!(
                    "T1: {run} ended in another state than it would have had"
                ));
            }
            if view.step != Step(view.spec.train.steps) {
                return Err(format!("T1: {run} says it ended at step {}", view.step));
            }
            self.judge_evaluations(view)?;
            let spent: Duration = view.ledger.spent.values().sum();
            let known = view
                .incidents
                .iter()
                .all(|incident| incident.closed.is_some());
            if !known {
                return Err(format!("{run} is over with an incident that is still open"));
            }
            if spent > self.now.since(Instant::ZERO) {
                return Err(format!(
                    "the ledger of {run} accounts for more time than there was"
                ));
            }
        }
        let runs = views.iter().map(|view| {
            let name = view.spec.name.clone();
            (
                name,
                view.generation.0,
                view.incidents.len(),
                view.ledger.clone(),
            )
        });
        Ok(Verdict {
            trace: self.trace.hash(),
            events: self.trace.events(),
            lasted: self.now.since(Instant::ZERO),
            runs: runs.collect(),
            rungs: self.checks.rungs.clone(),
            recalls: self.checks.recalls,
        })
    }

    /// A run is evaluated after every step that is due, and comes to what it would have come to. What a journal
    /// forgot is not done again.
    fn judge_evaluations(&self, view: &RunView) -> Result<(), String> {
        let run = &view.spec.name;
        let seen = self.checks.runs.get(run);
        let truth = seen.map_or(&[][..], |seen| &seen.truth);
        let eval = view.spec.eval.as_ref();
        let due = truth.iter().filter_map(|ranks| {
            let first = ranks.first()?;
            let is_due = eval?.is_due(first.step, view.spec.train.steps);
            let one = Layout {
                data: 1,
                ..view.spec.layout
            };
            let reduced = || training::reduce(one, ranks.iter().copied());
            is_due.then(|| training::evaluation(reduced(), *first))
        });
        let due: Vec<_> = due.collect();
        let found: Vec<_> = view.evaluations.iter().map(|(_, found)| found).collect();
        let is_true =
            found.is_sorted_by_key(|it| it.step) && found.iter().all(|it| due.contains(it));
        if is_true && (found.len() == due.len() || self.checks.forgot) {
            return Ok(());
        }
        let missing = due.iter().filter(|due| !found.contains(due));
        let missing: Vec<_> = missing.map(|it| it.step.0).collect();
        Err(format!(
            "T1: {run} has {} evaluations and not the {} that it would have had; missing are those after steps \
             {missing:?}",
            found.len(),
            due.len()
        ))
    }

    /// How long recovery from everything at once may take: T of L1.
    fn patience(&self) -> Duration {
        let of_run = |run: &rebloom_core::spec::RunSpec| {
            let d = &run.deadlines;
            let round = d.init + d.load + d.step + d.save + 5.0;
            let steps = self.options.step_time.as_secs_f64() * 2.0 + 0.1;
            // A round for every rung and every checkpoint that may have rotted, twice the training.
            let r = &run.recovery;
            let budgets = r.reform + r.restart + r.replace + r.async_off + r.shrink;
            let rounds = f64::from(budgets + run.checkpoint.keep + 4);
            round * rounds + steps * 2.0 * f64::from(u32::try_from(run.train.steps).unwrap_or(0))
        };
        let work: f64 = self.options.runs.iter().map(of_run).sum();
        let healing = 4 * (self.clean_spell() + RETURN);
        Duration::from_secs_f64(work) + self.options.limits.orphan_after * 3 + healing
    }
}

/// Whether a run fits beside all others.
fn has_room(run: &RunView, nodes: &[NodeView]) -> bool {
    let layout = run.spec.layout;
    let usable = nodes
        .iter()
        .filter(|node| node.state == NodeState::Ready && !node.cordoned)
        .filter(|node| !node.health.verdict.withdraws());
    let mut groups: BTreeMap<_, u32> = BTreeMap::new();
    for node in usable {
        let others = node.ranks.iter().filter(|(of, _)| *of != run.spec.name);
        let taken = u32::try_from(others.count()).unwrap_or(u32::MAX);
        let here = node.facts.slots.saturating_sub(taken) / layout.tensor;
        *groups.entry(node.facts.gpus.first()).or_default() += here;
    }
    let needed = layout.pipeline * layout.data;
    groups.into_values().any(|groups| groups >= needed)
}
