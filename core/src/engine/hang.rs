//! Hangs: a phase took too long, or ranks lost a peer and nobody says why.
//!
//! A deadline that passed is judged only when every node of the gang has shown its pages since, or
//! had the time to; then [`crate::blame`] says who did not arrive.

use super::state::{Gang, Run};
use super::{Engine, Fact, NodeState, Placement, RunState, Rung};
use crate::blame::{Suspect, blame};
use crate::by_rank::ByRank;
use crate::cause::Cause;
use crate::flight::{Page, Phase};
use crate::hang::deadline::Clock;
use crate::hang::pace::Pace;
use crate::hang::rules::{Heard, Pause};
use crate::hang::stacks;
use crate::hang::straggler::Stragglers;
use crate::id::{Generation, NodeId, Rank, RunId, Step};
use crate::ladder::{self, evict};
use crate::layout::Layout;
use crate::node_set::NodeSet;
use crate::report::Milestone;
use crate::spec::seconds;
use crate::time::{Duration, Instant};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// More suspects than this name nobody.
const SUSPECTS: usize = 16;

/// A gang that stands still without a rank that stands out.
const fn nobody_knows(phase: Phase) -> Cause {
    Cause::GangHung {
        phase,
        suspects: Vec::new(),
        group: None,
    }
}

/// What this life of the engine sees of one run; none of it is journaled.
#[derive(Debug, Default)]
pub(super) struct Watch {
    pub(super) generation: Generation,
    pub(super) pages: ByRank<Page>,
    /// Since when the pulse of each rank is the one of its page.
    pub(super) beating: ByRank<Instant>,
    /// Nodes of the gang that cannot be reached.
    pub(super) away: BTreeSet<NodeId>,
    /// The placement whose nodes those are.
    away_of: Option<Arc<Placement>>,
    /// Most steps by the pages of this generation.
    pub(super) step: Step,
    /// When that was first seen.
    pub(super) moved_at: Instant,
    /// Where each rank is, how fast the gang and its ranks are.
    pub(super) clock: Clock,
    pub(super) pace: Pace<(Layout, bool, u32)>,
    pub(super) stragglers: Stragglers,
    /// Samples of a step, and the step since which that is so: while the batch grows, steps take longer.
    pub(super) batch: (u32, Step),
    /// Whether the gang has done a step since its pace was judged.
    pub(super) is_news: bool,
    /// How often ranks were seen saving, and how many saves there were.
    pub(super) seen_saving: u64,
    pub(super) saves: u64,
    /// What was heard of each log rule in this generation.
    pub(super) heard: BTreeMap<u32, Heard>,
    /// When these have nothing to hear.
    pub(super) pause: Pause,
    /// Whether no node of the gang can be reached.
    pub(super) dark: bool,
    /// When a node of the gang could be reached again after none could.
    pub(super) lit_at: Instant,
}

impl Watch {
    /// Turns to a new generation.
    pub(super) fn follow(&mut self, run: &Run, gang: &Gang, now: Instant) {
        if self.generation != gang.generation {
            self.beating.clear();
            self.clock.clear();
            self.stragglers.clear();
            self.heard.clear();
            self.pause.clear();
            let (batch, _) = self.batch;
            self.pace.begin((run.spec.layout, run.async_off, batch));
            self.generation = gang.generation;
            self.step = gang.first_step();
            self.batch = (batch, self.step);
            self.moved_at = now;
        }
    }
}

impl Engine {
    /// Notes whether the nodes of a gang can be reached, and forgets a run without one.
    pub(super) fn watch(&mut self, id: &RunId) {
        let run = self.state.runs.get(id);
        let Some((run, gang)) = run.and_then(|run| Some((run, run.gang.as_ref()?))) else {
            self.watches.remove(id);
            self.judging.remove(id);
            return;
        };
        let is_new = !self.watches.contains(id);
        let links = &self.links;
        let watch = self.watches.get_or_default(id);
        watch.follow(run, gang, self.now);
        let is_known = |placement: &Arc<_>| Arc::ptr_eq(placement, &gang.placement);
        if !watch.away_of.as_ref().is_some_and(is_known) {
            let before = watch.away_of.replace(Arc::clone(&gang.placement));
            let nodes = &gang.placement.nodes;
            let is_away = |node: &&NodeId| links.get(node).is_none_or(|link| link.open().is_none());
            // What is known of those that stay is up to date.
            watch.away.retain(|node| nodes.contains(node));
            let new: Vec<_> = match &before {
                Some(before) => nodes
                    .difference(&before.nodes)
                    .filter(is_away)
                    .cloned()
                    .collect(),
                None => nodes.iter().filter(is_away).cloned().collect(),
            };
            watch.away.extend(new);
        }
        let dark = watch.away.len() == gang.placement.nodes.len();
        // After a replay every gang was out of sight until now.
        if !dark && (watch.dark || is_new) {
            watch.lit_at = self.now;
        }
        watch.dark = dark;
        if gang.overdue.is_some() || gang.symptom.is_some() {
            self.judging.insert(id.clone());
        } else {
            self.judging.remove(id);
        }
    }

    /// Takes in that a node on which a run has something can be reached, or cannot.
    pub(super) fn watch_node(&mut self, id: &RunId, node: &NodeId, is_open: bool) {
        let gang = self.state.runs.get(id).and_then(|run| run.gang.as_ref());
        let Some((gang, watch)) = gang.zip(self.watches.get_mut(id)) else {
            return;
        };
        if is_open || !gang.placement.nodes.contains(node) {
            watch.away.remove(node);
        } else {
            watch.away.insert(node.clone());
        }
    }

    /// Whether a node has beaten since.
    fn has_shown(&self, node: &NodeId, since: Instant) -> bool {
        let beat = self.links.get(node).and_then(|link| link.beat);
        beat.is_some_and(|at| at > since)
    }

    /// Steps done by the generation in force.
    pub(super) fn step(&self, id: &RunId) -> Step {
        let Some(run) = self.state.runs.get(id) else {
            return Step(0);
        };
        let Some(gang) = &run.gang else {
            return run
                .newest_sealed()
                .map_or(Step(0), |checkpoint| checkpoint.step);
        };
        let said = gang.members.furthest();
        let watch = self
            .watches
            .get(id)
            .filter(|watch| watch.generation == gang.generation);
        let seen = watch.map_or(Step(0), |watch| watch.step);
        gang.first_step().max(said).max(seen)
    }

    /// Opens an incident where the gang has come to a standstill.
    pub(super) fn watch_gang(&mut self, id: &RunId) {
        let Some((run, watch)) = self.state.runs.get(id).zip(self.watches.get(id)) else {
            return;
        };
        let Some(gang) = &run.gang else { return };
        if watch.dark || !watch.away.is_empty() {
            return;
        }
        let patience = self.limits.beat_every * 2;
        if let Some(overdue) = &gang.overdue {
            let since = overdue.at.max(watch.lit_at);
            // Whether a process runs at all is seen only once its pulse had the time to move.
            let pulsed = watch.lit_at + patience;
            let shown = |node: &NodeId| self.has_shown(node, since) && self.has_shown(node, pulsed);
            if gang.placement.nodes.iter().all(shown) || self.now >= since + 2 * patience {
                self.judge_hang(id);
            }
        } else if let Some((at, phase)) = gang.symptom {
            let since = at.max(watch.lit_at);
            let shown = |node: &NodeId| self.has_shown(node, since);
            if gang.placement.nodes.iter().all(shown) && self.now >= since + patience {
                let cause = nobody_knows(phase);
                self.broke(id, cause, (at, at), Rung::Reform);
            }
        } else if let Some((rule, breach, _)) = self.rule_due(id).filter(|due| due.2 <= self.now) {
            self.rule_broken(id, rule, breach);
        } else if let Some((phase, by)) = self.milestone_due(id)
            && by <= self.now
        {
            let now = self.now;
            self.broke(id, nobody_knows(phase), (now, now), Rung::Restart);
        }
    }

    fn judge_hang(&mut self, id: &RunId) {
        let Some((run, watch)) = self.state.runs.get(id).zip(self.watches.get(id)) else {
            return;
        };
        let Some((gang, overdue)) = run
            .gang
            .as_ref()
            .and_then(|g| Some((g, g.overdue.as_ref()?)))
        else {
            return;
        };
        let (rank, phase, heard) = (overdue.rank, overdue.phase, overdue.at);
        let page = watch
            .pages
            .get(rank)
            .filter(|page| page.generation == gang.generation);
        let is_done = gang
            .members
            .get(rank)
            .is_some_and(|member| member.finished.is_some());
        // What an agent said again to a controller that came back may be long over, which only a page that came
        // after it can tell.
        let is_fresh = |node: &NodeId| self.has_shown(node, heard);
        let page = page.filter(|_| gang.node_of(rank).is_some_and(is_fresh));
        let at = overdue.step.or(overdue.seen);
        let has_moved = |page: &Page| page.phase != phase || at.is_some_and(|at| at != page.step);
        if is_done || page.is_some_and(has_moved) {
            return self.tell(Fact::OverdueDropped { run: id.clone() });
        }
        let is_booked = matches!(run.state, RunState::Running | RunState::Stopping);
        let began = if is_booked {
            watch.moved_at.min(heard)
        } else {
            heard
        };
        let suspects = self.suspects(run, gang, watch);
        let named = match suspects.as_slice() {
            [suspect] => gang
                .node_of(suspect.rank)
                .map(|node| (suspect, node.clone())),
            _ => None,
        };
        match named {
            Some((suspect, node)) => {
                let (rank, channel) = (suspect.rank, suspect.channel);
                let cause = Cause::RankHung {
                    rank,
                    node,
                    phase,
                    channel,
                };
                self.broke(id, cause, (began, heard), Rung::Reform);
            }
            None => {
                let ranks: Vec<_> = suspects.iter().map(|suspect| suspect.rank).collect();
                let few = ranks.len() <= SUSPECTS;
                let suspects = if few { ranks } else { Vec::new() };
                let group = evict::shared(run.spec.layout, &suspects).map(|(group, _)| group);
                let cause = Cause::GangHung {
                    phase,
                    suspects,
                    group,
                };
                let rung = ladder::first(&cause, &run.ladder.tries);
                self.broke(id, cause, (began, heard), rung);
            }
        }
    }

    /// Who may hold the gang up: whom the others wait for, and where that is not one alone, who of those
    /// stands somewhere else than the rest.
    pub(super) fn suspects(&self, run: &Run, gang: &Gang, watch: &Watch) -> Vec<Suspect> {
        let still = self.still(gang, watch);
        let mut suspects = blame(run.spec.layout, gang.generation, &watch.pages, &still);
        // Who has finished holds nobody up.
        let is_done = |rank| {
            gang.members
                .get(rank)
                .is_some_and(|it| it.finished.is_some())
        };
        if !suspects.iter().all(|suspect| is_done(suspect.rank)) {
            suspects.retain(|suspect| !is_done(suspect.rank));
        }
        if suspects.len() <= 1 {
            return suspects;
        }
        let is_mine = |page: &Page| page.generation == gang.generation;
        let has_come = |suspect: &&Suspect| watch.pages.get(suspect.rank).is_some_and(is_mine);
        if !suspects.iter().all(|suspect| has_come(&suspect)) {
            // Where some have not even shown themselves in this generation, it is one of these.
            let absent = suspects.iter().filter(|suspect| !has_come(suspect));
            return absent.copied().collect();
        }
        let mine = watch.pages.iter().filter(|(_, page)| is_mine(page));
        let groups = stacks::of_pages(mine);
        let odd = stacks::odd_ones_out(&groups);
        let both: Vec<_> = suspects
            .iter()
            .filter(|s| odd.contains(&s.rank))
            .copied()
            .collect();
        if both.len() == 1 { both } else { suspects }
    }

    /// Ranks whose node has beaten for a while without their pulse moving.
    fn still(&self, gang: &Gang, watch: &Watch) -> BTreeSet<Rank> {
        let is_still = |(rank, changed): (Rank, &Instant)| {
            let pulse = watch.pages.get(rank).map_or(0, |page| page.pulse);
            let link = gang.node_of(rank).and_then(|node| self.links.get(node));
            let beat = link.and_then(|link| link.beat);
            let stood = *changed + self.limits.beat_every * 2;
            (pulse > 0 && beat.is_some_and(|beat| beat >= stood)).then_some(rank)
        };
        watch.beating.iter().filter_map(is_still).collect()
    }

    /// When the gang as a whole must have come further. Agents watch each rank; this is for what
    /// they cannot see, such as an order that never arrived.
    fn milestone_due(&self, id: &RunId) -> Option<(Phase, Instant)> {
        let (run, watch) = self.state.runs.get(id).zip(self.watches.get(id))?;
        let gang = run.gang.as_ref()?;
        let deadlines = &run.spec.deadlines;
        let (phase, within) = match gang.reached {
            None | Some(Milestone::Going) => (Phase::Init, deadlines.init),
            Some(Milestone::Formed) => (Phase::Load, deadlines.load),
            Some(Milestone::Loaded) => (Phase::Step, deadlines.step),
            Some(Milestone::Stepped | Milestone::Finished) => return None,
        };
        let slack = self.limits.silent_after * 2;
        Some((
            phase,
            gang.reached_at.max(watch.lit_at) + seconds(within) + slack,
        ))
    }

    /// When [`Self::watch_gang`] may come to something.
    pub(super) fn watch_deadlines(&self, id: &RunId) -> Vec<Instant> {
        let Some((run, watch)) = self.state.runs.get(id).zip(self.watches.get(id)) else {
            return Vec::new();
        };
        let Some(gang) = run.gang.as_ref().filter(|_| run.broken.is_none()) else {
            return Vec::new();
        };
        let patience: Duration = self.limits.beat_every * 2;
        let overdue = gang.overdue.as_ref().map(|overdue| overdue.at);
        let symptom = gang.symptom.map(|(at, _)| at);
        let judged = [
            overdue.map(|at| (at, 2 * patience)),
            symptom.map(|at| (at, patience)),
        ]
        .into_iter()
        .flatten()
        .map(|(at, patience)| at.max(watch.lit_at) + patience);
        let mut away = watch.away.iter();
        let lost = away.any(|node| self.node_state(node) == NodeState::Lost);
        let grace = lost.then(|| watch.lit_at + self.limits.rejoin_within);
        let dark = Some(&gang.placement.nodes).filter(|_| watch.dark);
        let dark = dark.and_then(|nodes| self.unfenced_until(nodes));
        let rule = self.rule_due(id).map(|(_, _, by)| by);
        let due = self
            .milestone_due(id)
            .map(|(_, by)| by)
            .into_iter()
            .chain(rule);
        judged.chain(grace).chain(dark).chain(due).collect()
    }

    /// Until when something may run on the first of these nodes that has not surely fenced itself, if
    /// nothing is heard of it; none where all of them have. (One node tells enough: a fleet has many.)
    pub(super) fn unfenced_until(&self, nodes: &NodeSet) -> Option<Instant> {
        let after = self.fence_after();
        let mut until = nodes.iter().map(|node| self.heard(node) + after);
        until.find(|until| *until > self.now)
    }
}
