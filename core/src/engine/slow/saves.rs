//! How often a run saves, where that is the engine's to choose: anew for each generation, and within one where what
//! was measured says that the interval in force costs too much.
//!
//! Ranks have to save after the same steps, so an interval holds for a whole generation: another one
//! begins with a planned restart, at a step boundary and with a checkpoint.

use crate::cause::Cause;
use crate::engine::state::Run;
use crate::engine::{Engine, Fact};
use crate::id::RunId;
use std::collections::BTreeSet;

impl Engine {
    /// Steps between two checkpoints of the next generation on this many nodes.
    pub(in crate::engine) fn interval(&self, run: &Run, nodes: usize) -> u64 {
        let by_hand = run.spec.checkpoint.every_steps;
        let Some(auto) = run.spec.checkpoint.auto else {
            return by_hand;
        };
        let measured = self.measured(run, nodes);
        measured.steps(auto.bounds()).unwrap_or(by_hand)
    }

    /// Plans a restart for another interval, where going on with this one until the next fault would cost
    /// more. As for slow nodes, the generation in force has lost as much by then: what is measured may change again,
    /// and turns never cost more than the wrong interval itself.
    pub(super) fn plan_saves_turn(&mut self, id: &RunId) {
        let run = self.state.runs.get(id);
        let Some((run, gang)) = run.and_then(|run| Some((run, run.gang.as_ref()?))) else {
            return;
        };
        let auto = run.spec.checkpoint.auto.filter(|_| run.may_turn());
        let Some(bounds) = auto.map(|auto| auto.bounds()) else {
            return;
        };
        let measured = self.measured(run, gang.placement.nodes.len());
        let known = measured.excess(gang.every_steps, bounds);
        let Some((share, to)) = known.zip(measured.steps(bounds)) else {
            return;
        };
        let turn = self.turn_cost(run).as_secs_f64();
        let ran = self.now.since(gang.reached_at).as_secs_f64();
        let wait = measured.between_failures().min(self.time_left(run));
        if ran.min(wait.as_secs_f64()) * share <= turn {
            return;
        }
        let avoid = run.shuns(&[]);
        let place = self.find_place(id, run.spec.layout, &avoid, &BTreeSet::new());
        if place.is_some() {
            let (run, from) = (id.clone(), gang.every_steps);
            let cause = Cause::IntervalOff { from, to };
            self.tell(Fact::TurnAsked { run, cause });
        }
    }
}
