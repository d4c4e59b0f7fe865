//! Planned restarts for slowness: whether leaving a slow node now is worth one (ADR 8).
//!
//! Never breaks a gang: it asks for a stop at a step boundary, with a checkpoint.

use crate::cause::Cause;
use crate::engine::state::Run;
use crate::engine::{Engine, Fact, Spend};
use crate::id::RunId;
use crate::time::Duration;
use std::collections::BTreeSet;

/// What a node that is known to be slow costs at least, as a share of every step: less is not noticed.
const LEAST_SHARE: f64 = 0.04;
/// What a planned restart is taken to cost at least, so that a machine that is slow for a moment moves nobody.
const LEAST_TURN: Duration = Duration::from_secs(60);

impl Engine {
    /// Plans a restart that leaves slow nodes, or suspects of a search, where waiting for the next fault would
    /// cost more. The generation in force has lost as much by then, so that turns which lead to nothing
    /// never cost more than the slowness itself.
    pub(super) fn plan_slow_turn(&mut self, id: &RunId) {
        let run = self.state.runs.get(id);
        let Some((run, gang)) = run.and_then(|run| Some((run, run.gang.as_ref()?))) else {
            return;
        };
        if !run.may_turn() {
            return;
        }
        let nodes = &gang.placement.nodes;
        let known = || run.slow.iter().filter(|node| nodes.contains(node));
        let search = run.search.as_ref().filter(|search| !search.asks());
        let (cause, suspects, share) = if let Some(search) = search {
            let (before, now) = search.steps();
            let suspects = search.suspects_in(nodes);
            (Cause::Slower { before, now }, suspects, search.share())
        } else if let Some(node) = known().next() {
            let node = node.clone();
            (Cause::NodeSlow { node }, known().count(), LEAST_SHARE)
        } else {
            return;
        };
        let turn = self.turn_cost(run).as_secs_f64();
        let ran = self.now.since(gang.reached_at).as_secs_f64();
        if ran * share < turn {
            return;
        }
        let avoid = run.shuns(&[]);
        let Some(placement) = self.find_place(id, run.spec.layout, &avoid, &BTreeSet::new()) else {
            return;
        };
        let left = nodes.difference(&placement.nodes);
        let left = left.filter(|node| avoid.contains(node)).count();
        if left == 0 {
            return;
        }
        // Where none stands out, half of the suspects are looked at on average before it is found.
        let is_sharp = search.is_none_or(|search| search.busiest().is_some());
        let turns = if is_sharp {
            1.0
        } else {
            (suspects as f64 / left as f64).max(1.0).midpoint(1.0)
        };
        let rest = self.time_left(run).as_secs_f64();
        let wait = self.measured(run, nodes.len()).between_failures();
        if wait.as_secs_f64().min(rest) * share > turn * turns {
            let run = id.clone();
            self.tell(Fact::TurnAsked { run, cause });
        }
    }

    /// What a planned restart costs: what starting, forming and loading took so far for each failure and the
    /// first start.
    pub(super) fn turn_cost(&self, run: &Run) -> Duration {
        let spent = run.book.at(self.now).spent;
        let spends = [Spend::Starting, Spend::Reform, Spend::Restore];
        let took: Duration = spends.iter().filter_map(|spend| spent.get(spend)).sum();
        let starts = u32::try_from(run.failures + 1).unwrap_or(u32::MAX);
        (took / starts).max(LEAST_TURN)
    }

    /// How long the steps that are left will take.
    pub(super) fn time_left(&self, run: &Run) -> Duration {
        let left = run
            .spec
            .train
            .steps
            .saturating_sub(self.step(&run.spec.name).0);
        let left = u32::try_from(left).unwrap_or(u32::MAX);
        run.step_time.unwrap_or_default().saturating_mul(left)
    }
}
