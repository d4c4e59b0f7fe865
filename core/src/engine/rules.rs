//! Log rules: what agents read in the output of a run, and what follows from it.
//!
//! A rule whose lines cease is a hang like any other: the pages say who it is. Matches come with beats
//! and are not journaled, so another life of the engine gives each rule its whole time again.

use super::{Engine, Rung};
use crate::cause::Cause;
use crate::hang::rules::{self, Breach, Match};
use crate::id::{NodeId, RunId};
use crate::report::Milestone;
use crate::time::Instant;

impl Engine {
    /// Takes in what a node's agent read in the output of its ranks.
    pub(super) fn read_out(&mut self, node: &NodeId, id: &RunId, matches: &[Match]) {
        let Some((run, watch)) = self.state.runs.get(id).zip(self.watches.get_mut(id)) else {
            return;
        };
        let is_its = run
            .gang
            .as_ref()
            .is_some_and(|gang| gang.placement.nodes.contains(node));
        for what in matches.iter().filter(|_| is_its) {
            let is_known = (what.rule as usize) < run.spec.log_rules.len();
            if is_known && what.generation == watch.generation {
                let heard = watch.heard.entry(what.rule).or_default();
                if heard.last.is_none() {
                    // From now on another deadline counts.
                    self.agenda.touch(id);
                }
                heard.hear(what, &watch.pause, self.now);
            }
        }
    }

    /// The rule that is broken first if nothing more is heard: its name, how, and when.
    pub(super) fn rule_due(&self, id: &RunId) -> Option<(String, Breach, Instant)> {
        let (run, watch) = self.state.runs.get(id).zip(self.watches.get(id))?;
        let gang = run.gang.as_ref()?;
        let trains = gang.reached >= Some(Milestone::Loaded) && !gang.members.all_finished();
        if !trains || run.stop.is_some() || run.moving.is_some() {
            return None;
        }
        let since = gang.reached_at.max(watch.lit_at);
        let rules = run.spec.log_rules.iter().zip(0..);
        let due = rules.filter_map(|(rule, at)| {
            let heard = watch.heard.get(&at).copied().unwrap_or_default();
            let (by, breach) = rules::due(rule, heard, since, &watch.pause)?;
            Some((rule.name.clone(), breach, by))
        });
        due.min_by_key(|(_, _, by)| *by)
    }

    /// A rule's lines did not come: first blame, then act.
    pub(super) fn rule_broken(&mut self, id: &RunId, rule: String, breach: Breach) {
        let Some((run, watch)) = self.state.runs.get(id).zip(self.watches.get(id)) else {
            return;
        };
        let Some(gang) = &run.gang else { return };
        let suspects = self.suspects(run, gang, watch);
        let rank = match suspects.as_slice() {
            [suspect] => Some(suspect.rank),
            _ => None,
        };
        let node = rank.and_then(|rank| gang.node_of(rank)).cloned();
        let rung = if rank.is_some() {
            Rung::Reform
        } else {
            Rung::Restart
        };
        let cause = Cause::LogRule {
            rule,
            breach,
            rank,
            node,
        };
        self.broke(id, cause, (watch.moved_at.min(self.now), self.now), rung);
    }
}
