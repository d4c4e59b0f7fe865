//! Faults that strike where it hurts: while a run recovers, while a checkpoint is sealed, the spare
//! first, the controller that has just come back, and between any two writes of its journal.

use crate::options::Bias;
use crate::world::{Happening, World};
use rebloom_core::engine::{Fact, Placement};
use rebloom_core::id::{NodeId, RunId};

impl World {
    fn is_biased(&self, bias: Bias) -> bool {
        self.calm.is_none() && self.options.biases.contains(&bias)
    }

    /// The controller has written something down.
    pub(crate) fn provoke(&mut self, before: Option<&Placement>, fact: &Fact) {
        if self.options.biases.is_empty() || self.calm.is_some() {
            return;
        }
        if let Fact::Placed {
            placement, rung, ..
        } = fact
        {
            self.provoke_by_placing(before, placement, rung.is_some());
        } else if let Fact::ShardSaved { run, .. } | Fact::CheckpointSealed { run, .. } = fact
            && self.is_biased(Bias::Seal)
            && self.random.once_in(12)
        {
            let nodes = self.nodes_of(run);
            self.ambush(&nodes, 60_000);
        }
        if !self.is_biased(Bias::Journal) || !self.random.once_in(8) {
            return;
        }
        let recovers = self.controller.engine.as_ref().is_some_and(|engine| {
            let now = self.controller_now();
            let runs = engine.runs(now).into_iter();
            let mut incidents = runs.flat_map(|run| run.incidents);
            incidents.any(|incident| incident.closed.is_none())
        });
        if recovers {
            let life = self.controller.life();
            self.after(
                std::time::Duration::ZERO,
                Happening::ControllerDies { life },
            );
        }
    }

    fn provoke_by_placing(
        &mut self,
        before: Option<&Placement>,
        placement: &Placement,
        recovers: bool,
    ) {
        let nodes = || placement.seats().map(|seat| seat.node.clone());
        let is_old = |node: &NodeId| before.is_some_and(|before| before.nodes.contains(node));
        let new: Vec<NodeId> = nodes().filter(|node| !is_old(node)).collect();
        if self.is_biased(Bias::Spare) && !new.is_empty() && self.random.once_in(2) {
            self.ambush(&new, 3_000_000);
        } else if self.is_biased(Bias::Recovery) && recovers && self.random.once_in(2) {
            let all: Vec<NodeId> = nodes().collect();
            self.ambush(&all, 2_000_000);
        }
    }

    /// A controller has come up.
    pub(crate) fn provoke_takeover(&mut self) {
        if self.is_biased(Bias::Takeover) && self.now.as_nanos() > 0 && self.random.once_in(2) {
            self.ambush(&[], 3_000_000);
        }
    }

    /// Lets a fault strike nodes within `most` microseconds, often much sooner.
    fn ambush(&mut self, nodes: &[NodeId], most: u64) {
        let most = if self.random.once_in(2) {
            most
        } else {
            most / 50
        };
        let delay = self.random.micros(0, most);
        let at = nodes
            .iter()
            .filter_map(|id| self.nodes.iter().position(|node| node.id == *id));
        let nodes = at.collect();
        self.after(delay, Happening::Ambush { nodes });
    }

    /// The fault of an ambush: one, now and then two at once.
    pub(crate) fn spring(&mut self, nodes: Vec<usize>) {
        if self.calm.is_some() {
            return;
        }
        self.aim = nodes;
        self.strike_once();
        self.aim.clear();
    }

    /// One fault out of those that this world knows; two where they come in pairs.
    pub(crate) fn strike_once(&mut self) {
        let many = if self.is_biased(Bias::Pair) && self.random.once_in(2) {
            2
        } else {
            1
        };
        let is_free = self.aim.is_empty() && self.is_biased(Bias::Spare) && self.random.once_in(3);
        if is_free {
            self.aim = self.free_nodes();
        }
        for _ in 0..many {
            if let Some(fault) = self.random.pick(&self.options.faults.clone()) {
                self.commit(fault);
            }
        }
        if is_free {
            self.aim.clear();
        }
    }

    /// Nodes on which no run is placed.
    fn free_nodes(&self) -> Vec<usize> {
        let is_free = |at: &usize| {
            let used = self.checks.runs.keys().flat_map(|run| self.nodes_of(run));
            !used.into_iter().any(|node| node == self.nodes[*at].id)
        };
        (0..self.nodes.len()).filter(is_free).collect()
    }

    fn nodes_of(&self, run: &RunId) -> Vec<NodeId> {
        let placement = self.checks.placement(run);
        placement
            .into_iter()
            .flat_map(|placement| placement.seats())
            .map(|seat| seat.node.clone())
            .collect()
    }
}
