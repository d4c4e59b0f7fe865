//! How facts change a gang: placed, followed from milestone to milestone, retired.

use crate::cause::Cause;
use crate::engine::snapshots::tier;
use crate::engine::state::{Broken, Claim, Gang, Members, OldGang, Owed, Run, Turn};
use crate::engine::{Fact, RunState, Rung, Spend};
use crate::id::{Generation, NodeId, Rank, Slot};
use crate::layout::Layout;
use crate::node_set::NodeSet;
use crate::order::Seat;
use crate::report::Milestone;
use crate::time::{Duration, Instant};
use std::collections::BTreeSet;
use std::sync::Arc;

impl Run {
    pub(super) fn placed(&mut self, at: Instant, fact: &Fact) {
        let Fact::Placed {
            generation,
            layout,
            placement,
            async_off,
            every_steps,
            rung,
            resume,
            snapshot,
            fresh,
            kill,
            cause,
            ..
        } = fact
        else {
            return;
        };
        let nodes = &placement.nodes;
        let members = self.retire(at, false, nodes);
        let members = members.renewed(placement.ranks());
        if *layout != self.spec.layout || self.async_off != *async_off {
            // Another pace, which says nothing about nodes.
            self.search = None;
        }
        if *layout != self.spec.layout {
            self.forget_pace();
        }
        self.resized(*layout);
        if self.async_off != *async_off {
            self.async_off = *async_off;
            self.ladder.calm_since = at;
        }
        let broken = self.broken.take();
        if let Some(rung) = rung {
            self.climbed(*rung, cause, broken.as_ref());
        }
        if let (Cause::LossSpiked { .. }, Some(resume)) = (cause, resume)
            && !self.tried.contains(resume)
        {
            self.tried.push(*resume);
        }
        let recovers = self.open_incident().is_some();
        if let Some(incident) = self.incidents.back_mut().filter(|_| recovers) {
            incident.rung = incident.rung.max(*rung);
            incident.recovered_by = Some(*generation);
            incident.resumed_from = *resume;
            incident.tier = tier(snapshot.as_deref(), placement);
            let from = resume.map_or(0, |checkpoint| checkpoint.step.0);
            let lost = broken.map_or(0, |broken| broken.step.0.saturating_sub(from));
            incident.lost_steps += lost;
            self.book.lose(lost);
        }
        let after = std::mem::replace(&mut self.generation, *generation);
        self.floor = self.floor.max(*generation);
        (self.moving, self.yielding, self.claim) = (None, None, None);
        if self.state == RunState::Pending {
            self.turn = Turn {
                since: at,
                waited: at.since(self.turn.since),
            };
        }
        self.why = cause.clone();
        self.state = if recovers {
            RunState::Recovering
        } else {
            RunState::Starting
        };
        self.spend(
            at,
            Some(if recovers {
                Spend::Reform
            } else {
                Spend::Starting
            }),
        );
        self.book
            .hold(u32::try_from(placement.ranks()).unwrap_or(u32::MAX));
        self.drop_partial_saves();
        self.owed.retain(|node, _| !nodes.contains(node));
        if let Some(search) = &mut self.search {
            search.placed(nodes);
        }
        self.gang = Some(Gang {
            generation: *generation,
            placement: Arc::clone(placement),
            rung: *rung,
            every_steps: *every_steps,
            resume: *resume,
            snapshot: snapshot.clone(),
            fresh: *fresh,
            kill: kill.clone(),
            after,
            cause: cause.clone(),
            members,
            reached: None,
            reached_at: at,
            dead: false,
            symptom: None,
            overdue: None,
            fenced: BTreeSet::new(),
        });
    }

    /// The gang leaves its place and waits: for room, or for a run of a higher priority.
    pub(super) fn unplaced(&mut self, at: Instant) {
        let leaving = self
            .gang
            .as_ref()
            .is_some_and(|gang| gang.members.all_finished());
        let nodes = self
            .gang
            .as_ref()
            .map(|gang| Arc::clone(&gang.placement.nodes));
        let is_stalled = self.yielding.is_none() && self.open_incident().is_some();
        match self.yielding.take() {
            Some(yielding) => self.why = Cause::Preempted { by: yielding.by },
            None => self.claim = nodes.map(|nodes| Claim { nodes, at }),
        }
        self.retire(at, leaving, &NodeSet::default());
        self.drop_partial_saves();
        self.state = RunState::Pending;
        self.turn = Turn {
            since: at,
            waited: Duration::ZERO,
        };
        let spend = if is_stalled {
            Spend::Stalled
        } else {
            Spend::Waiting
        };
        self.spend(at, Some(spend));
    }

    /// Counts an attempt where its cause spends a budget (S7, L4).
    pub(super) fn climbed(&mut self, rung: Rung, cause: &Cause, broken: Option<&Broken>) {
        if cause.spends_budget() {
            self.ladder.own += 1;
        } else if cause.climbs() {
            *self.ladder.tries.entry(rung).or_default() += 1;
        }
        self.ladder.unsealed += u32::from(cause.is_fault());
        for node in broken.into_iter().flat_map(|broken| &broken.avoid) {
            *self.ladder.blamed.entry(node.clone()).or_default() += 1;
        }
    }

    /// What was learned of another layout holds no more: steps may take several times as long.
    pub(super) fn forget_pace(&mut self) {
        self.timings.clear();
        (self.step_time, self.search) = (None, None);
    }

    /// From now on the gangs of the run look like this.
    fn resized(&mut self, layout: Layout) {
        let full = *self.full.get_or_insert(self.spec.layout);
        if self.spec.layout != layout {
            Arc::make_mut(&mut self.spec).layout = layout;
        }
        if full == layout {
            self.full = None;
        }
    }

    /// The gang is no longer in force: its nodes owe a word that nothing of it runs there, and
    /// until it is known to be unable to step it stands in the way of others (S1). Nodes that the
    /// next generation fences by starting on them owe nothing. Gives back what was known of its ranks.
    pub(super) fn retire(&mut self, now: Instant, leaving: bool, fenced: &NodeSet) -> Members {
        let Some(gang) = self.gang.take() else {
            return Members::default();
        };
        let generation = gang.generation;
        let nodes = &*gang.placement.nodes;
        // (Most gangs stay where they are.)
        let stays = std::ptr::eq(nodes, fenced);
        let left = gang.placement.rows().zip(nodes.places_in(fenced));
        let left = left.filter(|(_, place)| !stays && place.is_none());
        for ((node, row), _) in left {
            let member = |seat: &Seat| gang.members.get(seat.rank);
            let is_there = |seat: &&Seat| member(seat).is_some_and(|member| !member.gone);
            let mut there = row.iter().filter(is_there).peekable();
            if there.peek().is_none() || gang.fenced.contains(node) {
                continue;
            }
            let new = || Owed {
                generation,
                slots: BTreeSet::new(),
                ranks: BTreeSet::new(),
                since: now,
                leaving,
            };
            let owed = self.owed.entry(node.clone()).or_insert_with(new);
            owed.generation = owed.generation.max(generation);
            for seat in there {
                owed.slots.insert(seat.slot);
                owed.ranks.insert(seat.rank);
            }
        }
        if !gang.dead {
            self.older.push(OldGang {
                generation,
                nodes: Arc::clone(&gang.placement.nodes),
            });
        }
        gang.members
    }

    /// The ranks of this generation, if it is in force.
    pub(super) fn members(&mut self, generation: Generation) -> Option<&mut Members> {
        let gang = self.gang.as_mut();
        let gang = gang.filter(|gang| gang.generation == generation)?;
        Some(&mut gang.members)
    }

    /// A rank of this generation on a node means that the node has fenced all older ones there.
    pub(super) fn fenced_by_start(&mut self, generation: Generation, rank: Rank) {
        let gang = self
            .gang
            .as_ref()
            .filter(|gang| gang.generation == generation);
        let Some(node) = gang.and_then(|gang| gang.node_of(rank)) else {
            return;
        };
        self.older
            .retain(|old| old.generation >= generation || !old.nodes.contains(node));
    }

    pub(super) fn node_fenced(&mut self, generation: Generation, node: &NodeId) {
        if let Some(gang) = self
            .gang
            .as_mut()
            .filter(|gang| gang.generation <= generation)
            && gang.placement.nodes.contains(node)
        {
            gang.fenced.insert(node.clone());
            gang.dead = true;
        }
        if self
            .owed
            .get(node)
            .is_some_and(|owed| owed.generation <= generation)
        {
            self.owed.remove(node);
        }
        self.older
            .retain(|old| old.generation > generation || !old.nodes.contains(node));
    }

    /// The process of a rank of this generation has ended, or could not be started: its node had taken the
    /// generation on, and fenced all older ones.
    pub(super) fn gone(&mut self, generation: Generation, rank: Rank) {
        self.fenced_by_start(generation, rank);
        let owes = |(_, owed): &(&NodeId, &Owed)| {
            owed.generation == generation && owed.ranks.contains(&rank)
        };
        if let Some((node, _)) = self.owed.iter().find(owes) {
            self.older
                .retain(|old| old.generation >= generation || !old.nodes.contains(node));
        }
        if let Some(gang) = self.gang.as_mut().filter(|g| g.generation == generation)
            && gang.members.hear(rank, |member| member.gone = true)
        {
            gang.dead = true;
        }
        self.older.retain(|old| old.generation != generation);
        self.owed.retain(|_, owed| {
            if owed.generation == generation {
                owed.ranks.remove(&rank);
            }
            !owed.ranks.is_empty()
        });
    }

    /// What an agent remembers of this run; ranks that live in a generation that is not in force
    /// on their node are owed a stop.
    pub(super) fn seen(
        &mut self,
        at: Instant,
        generation: Generation,
        node: &NodeId,
        alive: Option<u32>,
    ) {
        self.floor = self.floor.max(generation);
        let Some(slots) = alive else { return };
        if generation > self.generation {
            match self
                .older
                .iter_mut()
                .find(|old| old.generation == generation)
            {
                Some(old) => {
                    Arc::make_mut(&mut old.nodes).insert(node.clone());
                }
                None => {
                    let nodes = Arc::new(NodeSet::from(vec![node.clone()]));
                    self.older.push(OldGang { generation, nodes });
                }
            }
        }
        let slots: BTreeSet<_> = (0..slots).map(Slot).collect();
        // No rank is known by number here, so only the node's own word settles it.
        let ranks = BTreeSet::from([Rank(u32::MAX)]);
        let owed = Owed {
            generation,
            slots,
            ranks,
            since: at,
            leaving: false,
        };
        self.owed.insert(node.clone(), owed);
    }

    /// Follows the milestone that the whole gang has reached.
    pub(super) fn advance(&mut self, at: Instant) {
        let Some(gang) = &mut self.gang else { return };
        let reached = gang.members.reached();
        if reached <= gang.reached {
            return;
        }
        let before = std::mem::replace(&mut gang.reached, reached);
        gang.reached_at = at;
        let step = gang.members.step();
        let passes = |milestone| before < Some(milestone) && reached >= Some(milestone);
        let recovers = self.state == RunState::Recovering;
        let repeats = gang.first_step() < self.ladder.best;
        if passes(Milestone::Formed) && recovers {
            self.spend(at, Some(Spend::Restore));
        }
        if passes(Milestone::Loaded) {
            self.misread.clear();
        }
        if passes(Milestone::Loaded) && self.state != RunState::Stopping {
            self.spend(
                at,
                Some(if recovers || repeats {
                    Spend::CatchUp
                } else {
                    Spend::Productive
                }),
            );
        }
        if passes(Milestone::Stepped) {
            if matches!(self.state, RunState::Starting | RunState::Recovering) {
                self.state = RunState::Running;
            }
            self.came_to(step);
        }
    }

    pub(super) fn ended(&mut self, at: Instant, state: RunState, cause: &Cause) {
        let finished = self
            .gang
            .as_ref()
            .filter(|gang| gang.members.all_finished());
        let is_completed = state == RunState::Completed;
        if let Some(gang) = finished.filter(|_| is_completed) {
            self.final_states = gang.members.states().collect();
        }
        let leaving = finished.is_some();
        if state == RunState::Parked
            && let Some(incident) = self.incidents.back_mut().filter(|i| i.closed.is_none())
        {
            incident.rung = Some(Rung::Park);
        }
        let is_given_up = matches!(state, RunState::Failed | RunState::Parked);
        let spend = if is_given_up {
            Spend::Stalled
        } else {
            Spend::Waiting
        };
        let spend = (!is_completed).then_some(spend);
        self.spend(at, spend);
        self.close_incident(at);
        self.retire(at, leaving, &NodeSet::default());
        self.drop_partial_saves();
        (self.stop, self.broken, self.moving) = (None, None, None);
        (self.yielding, self.claim) = (None, None);
        (self.state, self.why) = (state, cause.clone());
    }
}
