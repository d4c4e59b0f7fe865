//! What is known of the ranks of a gang.

use crate::id::{Digest, Rank, Step};
use crate::report::{Finish, Milestone};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What is known of one rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::engine) struct Member {
    pub(in crate::engine) reached: Option<Milestone>,
    pub(in crate::engine) step: Step,
    pub(in crate::engine) pid: Option<u32>,
    pub(in crate::engine) finished: Option<Finish>,
    pub(in crate::engine) gone: bool,
}

/// What is known of every rank of a gang, with the sums that every event asks for: a gang may have
/// ten thousand ranks, and each of them reports.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(from = "Vec<Line>", into = "Vec<Line>")]
pub(in crate::engine) struct Members {
    ranks: usize,
    /// By rank; empty until something is heard of any, so that a new gang costs nothing.
    heard: Vec<Member>,
    /// What those ended with that finished.
    states: BTreeMap<Rank, Digest>,
    /// How many have come how far, and no further.
    reached: BTreeMap<Option<Milestone>, usize>,
    completed: usize,
    broke: usize,
    furthest: Step,
}

/// A member as it is written down.
#[derive(Serialize, Deserialize)]
struct Line {
    reached: Option<Milestone>,
    step: Step,
    pid: Option<u32>,
    finished: Option<(Finish, Digest)>,
    gone: bool,
}

const NEW: &Member = &Member {
    reached: None,
    step: Step(0),
    pid: None,
    finished: None,
    gone: false,
};

impl Member {
    /// Its process has ended before its work was done.
    pub(in crate::engine) const fn broke(&self) -> bool {
        self.gone && self.finished.is_none()
    }
}

impl Members {
    /// So many ranks of which nothing was heard; takes up the room of those before them.
    pub(in crate::engine) fn renewed(mut self, ranks: usize) -> Self {
        self.heard.clear();
        Self {
            ranks,
            heard: self.heard,
            ..Self::default()
        }
    }

    pub(in crate::engine) fn get(&self, rank: Rank) -> Option<&Member> {
        let rank = rank.0 as usize;
        (rank < self.ranks).then(|| self.heard.get(rank).unwrap_or(NEW))
    }

    /// By rank.
    pub(in crate::engine) fn iter(&self) -> impl Iterator<Item = &Member> {
        (0..self.ranks).map(|rank| self.heard.get(rank).unwrap_or(NEW))
    }

    /// Takes in something of a rank; says whether there is such a rank.
    pub(in crate::engine) fn hear(&mut self, rank: Rank, change: impl FnOnce(&mut Member)) -> bool {
        let rank = rank.0 as usize;
        if rank >= self.ranks {
            return false;
        }
        if self.heard.is_empty() {
            self.heard.resize(self.ranks, *NEW);
            self.reached.insert(None, self.ranks);
        }
        let member = &mut self.heard[rank];
        let before = *member;
        change(member);
        let now = *member;
        if before.reached != now.reached {
            if let Some(count) = self.reached.get_mut(&before.reached) {
                *count -= 1;
            }
            self.reached.retain(|_, count| *count > 0);
            *self.reached.entry(now.reached).or_default() += 1;
        }
        let count = |sum: &mut usize, is: fn(&Member) -> bool| {
            *sum = *sum + usize::from(is(&now)) - usize::from(is(&before));
        };
        count(&mut self.broke, Member::broke);
        count(&mut self.completed, |member| {
            member.finished == Some(Finish::Completed)
        });
        if now.step >= self.furthest {
            self.furthest = now.step;
        } else if before.step == self.furthest {
            let steps = self.heard.iter().map(|member| member.step);
            self.furthest = steps.max().unwrap_or_default();
        }
        true
    }

    /// A rank has done what it was told, and ended with this state.
    pub(in crate::engine) fn finish(&mut self, rank: Rank, why: Finish, step: Step, state: Digest) {
        let is_one = self.hear(rank, |member| {
            member.reached = Some(Milestone::Finished);
            member.step = step;
            member.finished = Some(why);
        });
        if is_one {
            self.states.insert(rank, state);
        }
    }

    /// The first rank whose process ended before its work was done.
    pub(in crate::engine) fn first_broken(&self) -> Option<Rank> {
        let ranks = (0..).map(Rank).zip(&self.heard);
        let mut broken = ranks.filter(|(_, member)| member.broke());
        (self.broke > 0)
            .then(|| broken.next())?
            .map(|(rank, _)| rank)
    }

    pub(in crate::engine) fn all_finished(&self) -> bool {
        self.states.len() == self.ranks
    }

    pub(in crate::engine) const fn all_completed(&self) -> bool {
        self.completed == self.ranks
    }

    /// What those ended with that finished, by rank.
    pub(in crate::engine) fn states(&self) -> impl Iterator<Item = Digest> {
        self.states.values().copied()
    }

    /// The milestone that every rank has reached.
    pub(in crate::engine) fn reached(&self) -> Option<Milestone> {
        *self.reached.keys().next()?
    }

    /// The step that every rank has come to by its own reports.
    pub(in crate::engine) fn step(&self) -> Step {
        let steps = self.iter().map(|member| member.step);
        steps.min().unwrap_or_default()
    }

    /// The step of the rank that has come furthest.
    pub(in crate::engine) const fn furthest(&self) -> Step {
        self.furthest
    }
}

impl PartialEq for Members {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter()) && self.states == other.states
    }
}

impl From<Vec<Line>> for Members {
    fn from(lines: Vec<Line>) -> Self {
        let mut members = Self::default().renewed(lines.len());
        for (rank, line) in (0..).map(Rank).zip(lines) {
            members.hear(rank, |member| {
                *member = Member {
                    reached: line.reached,
                    step: line.step,
                    pid: line.pid,
                    finished: line.finished.map(|(why, _)| why),
                    gone: line.gone,
                };
            });
            let state = line.finished.map(|(_, state)| (rank, state));
            members.states.extend(state);
        }
        members
    }
}

impl From<Members> for Vec<Line> {
    fn from(members: Members) -> Self {
        let ranks = (0..).map(Rank).zip(members.iter());
        let lines = ranks.map(|(rank, member)| Line {
            reached: member.reached,
            step: member.step,
            pid: member.pid,
            finished: member.finished.zip(members.states.get(&rank).copied()),
            gone: member.gone,
        });
        lines.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MILESTONES: [Milestone; 4] = [
        Milestone::Going,
        Milestone::Formed,
        Milestone::Loaded,
        Milestone::Stepped,
    ];

    proptest! {
        #[test]
        fn its_sums_are_those_of_its_members(
            ranks in 0..5usize,
            heard in prop::collection::vec((0..6u32, 0..6usize, 0..4u64), 0..30),
        ) {
            let mut members = Members::default().renewed(9);
            members.hear(Rank(8), |member| member.gone = true);
            members.finish(Rank(3), Finish::Stopped, Step(9), Digest([1; 32]));
            let mut members = members.renewed(ranks);
            let mut list = vec![*NEW; ranks];
            for (rank, what, step) in heard {
                let known = list.get_mut(rank as usize);
                let (rank, step) = (Rank(rank), Step(step));
                let is_known = known.is_some();
                let mut other = Member::default();
                let known = known.unwrap_or(&mut other);
                match what {
                    4 => {
                        known.gone = true;
                        prop_assert_eq!(members.hear(rank, |member| member.gone = true), is_known);
                    }
                    5 => {
                        let why = if step.0 > 1 { Finish::Completed } else { Finish::Stopped };
                        (known.reached, known.step, known.finished) = (Some(Milestone::Finished), step, Some(why));
                        members.finish(rank, why, step, Digest([2; 32]));
                    }
                    at => {
                        (known.reached, known.step) = (Some(MILESTONES[at]), step);
                        members.hear(rank, |member| (member.reached, member.step) = (Some(MILESTONES[at]), step));
                    }
                }
                prop_assert!(members.iter().eq(&list));
                prop_assert_eq!(members.get(rank), list.get(rank.0 as usize));
                prop_assert_eq!(members.reached(), list.iter().map(|it| it.reached).min().flatten());
                prop_assert_eq!(members.step(), list.iter().map(|it| it.step).min().unwrap_or_default());
                prop_assert_eq!(members.furthest(), list.iter().map(|it| it.step).max().unwrap_or_default());
                let first = list.iter().position(Member::broke);
                prop_assert_eq!(members.first_broken().map(|rank| rank.0 as usize), first);
                prop_assert_eq!(members.all_finished(), list.iter().all(|it| it.finished.is_some()));
                let completed = |it: &Member| it.finished == Some(Finish::Completed);
                prop_assert_eq!(members.all_completed(), list.iter().all(completed));
                let text = serde_json::to_string(&members).unwrap();
                let read: Members = serde_json::from_str(&text).unwrap();
                prop_assert_eq!(read.furthest(), members.furthest());
                prop_assert_eq!(read.reached(), members.reached());
                prop_assert_eq!(read.states().count(), list.iter().filter(|it| it.finished.is_some()).count());
                prop_assert_eq!(read, members.clone());
            }
        }
    }
}
