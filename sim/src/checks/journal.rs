//! What the checks learn from the journal: of what is written down now, and of what a controller goes on from.

use super::Checks;
use crate::world::World;
use rebloom_core::engine::{Fact, RunState, Rung};
use rebloom_core::id::{Generation, Step};

impl Checks {
    /// What admins did, and which placements are over.
    pub(super) fn note_fact(&mut self, fact: &Fact) {
        if let Fact::ResumeAsked { run } | Fact::StopAsked { run, .. } = fact
            && let Some(seen) = self.runs.get_mut(run)
        {
            (seen.own, seen.fruitless) = (0, 0);
        }
        if let Fact::ResumeAsked { run } = fact
            && let Some(seen) = self.runs.get_mut(run)
        {
            (seen.sealed, seen.unsealed) = (Step(0), 0);
        }
        if let Fact::CheckpointSealed {
            run, checkpoint, ..
        } = fact
            && let Some(seen) = self.runs.get_mut(run)
            && checkpoint.step > seen.sealed
        {
            (seen.sealed, seen.unsealed) = (checkpoint.step, 0);
        }
        if let Fact::LayoutChosen { run, layout } = fact
            && let Some(seen) = self.runs.get_mut(run)
        {
            seen.spec.layout = *layout;
        }
        if let Fact::RunEnded { run, .. } | Fact::Unplaced { run } = fact
            && let Some(seen) = self.runs.get_mut(run)
        {
            seen.placement = None;
        }
        if let Fact::RunEnded { state, .. } = fact
            && *state == RunState::Parked
        {
            self.rungs.insert(Rung::Park);
        }
        if let Fact::NodeCordoned { node } = fact {
            self.cordoned.insert(node.clone());
        }
        if let Fact::NodeUncordoned { node } = fact {
            self.cordoned.remove(node);
            self.withdrawn.remove(node);
        }
        if let Fact::NodeEnrolled { facts, .. } = fact {
            self.enrolled.insert(facts.node.clone());
        }
        if let Fact::VerdictReached { node, verdict, .. } = fact {
            if verdict.withdraws() {
                self.withdrawn.insert(node.clone());
            } else {
                self.withdrawn.remove(node);
            }
        }
        if let Fact::NodeLost { node, .. } = fact {
            self.lost.insert(node.clone());
        }
        if let Fact::NodeReturned { node } = fact {
            self.lost.remove(node);
        }
    }
}

impl World {
    /// A controller goes on from this journal.
    pub(crate) fn check_journal<'a>(&mut self, facts: impl Iterator<Item = &'a Fact>) {
        for seen in self.checks.runs.values_mut() {
            (seen.placement, seen.own, seen.newest) = (None, 0, Generation(0));
            (seen.sealed, seen.unsealed) = (Step(0), 0);
        }
        self.checks.cordoned.clear();
        self.checks.lost.clear();
        self.checks.withdrawn.clear();
        self.checks.enrolled.clear();
        for fact in facts {
            self.checks.note_fact(fact);
            if let Fact::Placed {
                run,
                generation,
                placement,
                cause,
                rung,
                ..
            } = fact
                && let Some(seen) = self.checks.runs.get_mut(run)
            {
                seen.unsealed += u32::from(rung.is_some() && cause.is_fault());
                seen.placement = Some(placement.clone());
                seen.newest = *generation;
                seen.own += u32::from(cause.spends_budget());
            }
        }
    }
}
