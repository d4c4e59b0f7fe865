//! Checks the safety invariants on the state itself; the simulator does so after every event.
//!
//! What can be said from outside, by watching what runs where, the simulator checks by itself; these
//! are the promises that the state makes.

use super::state::Run;
use super::{Engine, NodeState};
use crate::health::fleet::most_withdrawn;
use crate::id::{NodeId, RunId, Slot};
use std::collections::BTreeMap;
use std::fmt;

/// A safety invariant that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Its name in `ARCHITECTURE.md`: `S2`.
    pub invariant: &'static str,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.what)
    }
}

/// Every violation of S1, S2, S3, S4, S6 and S8 in the engine's state; none is right. S3 is judged at
/// the moment of placing, S8 at that of withdrawing: call this after every event.
pub fn judge(engine: &Engine) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut report = |invariant, what| found.push(Violation { invariant, what });
    let mut slots: BTreeMap<(&NodeId, Slot), &RunId> = BTreeMap::new();
    for (id, run) in engine.state.runs.iter() {
        one_unfenced(id, run, &mut report);
        whole(id, run, &mut report);
        sealed(id, run, &mut report);
        usable(engine, id, run, &mut report);
        let seats = run.gang.iter().flat_map(|gang| gang.placement.seats());
        for (node, slot) in seats.map(|seat| (seat.node, seat.slot)) {
            if let Some(other) = slots.insert((node, slot), id) {
                report(
                    "S2",
                    format!("slot {slot} of {node} is given to {other} and to {id}"),
                );
            }
            let slots = engine
                .state
                .nodes
                .get(node)
                .map_or(0, |node| node.facts.slots);
            if slot.0 >= slots {
                report("S2", format!("slot {slot} of {node} does not exist"));
            }
        }
    }
    for (id, run) in engine.state.runs.iter() {
        for (node, owed) in &run.owed {
            for slot in &owed.slots {
                // What an agent tells of the past can come after the placing.
                let is_news = |other: &&RunId| *other != id && engine.placed.contains(*other);
                let other = slots.get(&(node, *slot)).copied().filter(is_news);
                if let Some(other) = other {
                    let what =
                        format!("slot {slot} of {node} is given to {other}, {id} may be on it");
                    report("S2", what);
                }
            }
        }
    }
    few_withdrawn(engine, &mut report);
    found
}

/// S8: what automation withdrew is no more than its share of the fleet.
fn few_withdrawn(engine: &Engine, report: &mut impl FnMut(&'static str, String)) {
    let (nodes, share) = (engine.state.nodes.len(), engine.limits.withdraw_share);
    let verdicts = engine.state.health.charts().map(|(_, chart)| chart.verdict);
    let withdrawn = verdicts.filter(|verdict| verdict.withdraws()).count();
    if engine.ward.withdrew && withdrawn > most_withdrawn(nodes, share) {
        report("S8", format!("{withdrawn} of {nodes} nodes are withdrawn"));
    }
}

/// S1: the gang in force shares a node with every older gang that might still step, so that it
/// cannot step before that one is fenced.
fn one_unfenced(id: &RunId, run: &Run, report: &mut impl FnMut(&'static str, String)) {
    let Some(gang) = &run.gang else { return };
    for old in &run.older {
        if old.generation > gang.generation {
            continue; // learned after placing; the next placement is above it
        }
        if old.nodes.is_disjoint(&gang.placement.nodes) {
            let (old, new) = (old.generation, gang.generation);
            report(
                "S1",
                format!("{id}: generation {new} was placed while {old} may step"),
            );
        }
    }
}

/// S4: every rank has one seat, in order, and a tensor group is on one node.
fn whole(id: &RunId, run: &Run, report: &mut impl FnMut(&'static str, String)) {
    let Some(gang) = &run.gang else { return };
    let layout = run.spec.layout;
    if !layout
        .ranks()
        .eq(gang.placement.seats().map(|seat| seat.rank))
    {
        return report(
            "S4",
            format!("{id}: generation {} is not whole", gang.generation),
        );
    }
    for rank in layout.ranks() {
        let first = layout.tensor_group(rank).first().copied();
        if first.and_then(|first| gang.node_of(first)) != gang.node_of(rank) {
            report(
                "S4",
                format!("{id}: the tensor group of rank {rank} is on two nodes"),
            );
        }
    }
}

/// S6: a gang that has not loaded yet is told nothing but sealed state.
fn sealed(id: &RunId, run: &Run, report: &mut impl FnMut(&'static str, String)) {
    let Some(gang) = run.gang.as_ref().filter(|_| run.broken.is_none()) else {
        return;
    };
    let Some(resume) = gang.resume.filter(|_| gang.reached.is_none()) else {
        return;
    };
    if let Some(restore) = gang.snapshot.as_deref() {
        let ranks = restore.shards.iter().map(|(shard, _)| shard.rank);
        if restore.id != resume
            || restore.layout != run.spec.layout
            || !run.spec.layout.ranks().eq(ranks)
        {
            let at = resume.directory();
            report(
                "S6",
                format!("{id}: resumes from snapshot {at}, which is not whole"),
            );
        }
        return;
    }
    // One that was rejected after the order went out is refused by the ranks.
    if run.checkpoint_state(resume).is_none() {
        report(
            "S6",
            format!(
                "{id}: resumes from {}, which was never sealed",
                resume.directory()
            ),
        );
    }
}

/// S3: what the last event placed is on nodes that can be reached and that nobody holds back.
fn usable(engine: &Engine, id: &RunId, run: &Run, report: &mut impl FnMut(&'static str, String)) {
    let Some(gang) = run.gang.as_ref().filter(|_| engine.placed.contains(id)) else {
        return;
    };
    for node in gang.placement.nodes.iter() {
        let is_cordoned = engine
            .state
            .nodes
            .get(node)
            .is_none_or(|node| node.cordoned);
        let is_withdrawn = engine.state.health.verdict(node).withdraws();
        if is_cordoned || is_withdrawn || engine.node_state(node) != NodeState::Ready {
            report(
                "S3",
                format!("{id}: generation {} was placed on {node}", gang.generation),
            );
        }
    }
}
