//! Orders: what each node is told, derived from what shall be.
//!
//! An order goes out once per link and again over a new one; agents do nothing the second time. What
//! was told is not part of the state.

use super::state::{Gang, Run};
use super::{Command, Engine};
use crate::cause::Cause;
use crate::checkpoint::{CheckpointId, Manifest};
use crate::id::{Generation, NodeId, RunId, Session};
use crate::order::{Order, Seat, Start, Stop};
use crate::spec::seconds;
use std::collections::{BTreeMap, BTreeSet};

/// The last order that a node was given about a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    /// To run a generation.
    Start(Generation),
    /// To stop up to a generation.
    Stop(Generation, Stop),
}

/// What was ordered over which link.
#[derive(Debug, Default)]
pub(super) struct Desk {
    told: BTreeMap<(RunId, NodeId), (Session, Told)>,
    seals: BTreeMap<(RunId, CheckpointId), (NodeId, Session)>,
    prunes: BTreeMap<RunId, BTreeSet<CheckpointId>>,
    /// Ranks of runs that nobody here knows, by node.
    strays: BTreeMap<(NodeId, RunId), Generation>,
}

impl Desk {
    pub(super) fn adopt(&mut self, run: &RunId, node: &NodeId, session: Session, told: Told) {
        self.told
            .insert((run.clone(), node.clone()), (session, told));
    }

    pub(super) fn stray(&mut self, node: &NodeId, run: &RunId, generation: Generation) {
        self.strays.insert((node.clone(), run.clone()), generation);
    }

    pub(super) fn forget_strays(&mut self, node: &NodeId) {
        self.strays.retain(|(at, _), _| at != node);
    }

    /// Whether ranks of unknown runs other than `run` may hold slots of a node (S2).
    pub(super) fn has_strays(&self, node: &NodeId, run: &RunId) -> bool {
        self.strays
            .keys()
            .any(|(at, stray)| at == node && stray != run)
    }

    pub(super) fn stray_stopped(&mut self, node: &NodeId, run: &RunId, generation: Generation) {
        let key = (node.clone(), run.clone());
        if self
            .strays
            .get(&key)
            .is_some_and(|stray| *stray <= generation)
        {
            self.strays.remove(&key);
        }
    }

    pub(super) fn prune(&mut self, run: &RunId, checkpoints: Vec<CheckpointId>) {
        self.prunes
            .entry(run.clone())
            .or_default()
            .extend(checkpoints);
    }

    pub(super) fn prune_again(&mut self, run: &RunId, checkpoint: CheckpointId) {
        self.prunes
            .entry(run.clone())
            .or_default()
            .insert(checkpoint);
    }
}

impl Engine {
    /// Sends every order that has not gone out over the present links.
    pub(super) fn write_orders(&mut self) {
        let mut told = BTreeMap::new();
        let mut news = Vec::new();
        for (key, what) in self.wanted() {
            let before = self.desk.told.get(&key).copied();
            match self.session(&key.1) {
                Some(session) => {
                    if before != Some((session, what)) {
                        news.push((session, self.orders(&key.1, &key.0, what), key.1.clone()));
                    }
                    told.insert(key, (session, what));
                }
                None => told.extend(before.map(|before| (key, before))),
            }
        }
        self.desk.told = told;
        for (session, orders, node) in news {
            orders
                .into_iter()
                .for_each(|order| self.send(&node, session, order));
        }
    }

    /// What each node shall have been told about each run.
    fn wanted(&self) -> Vec<((RunId, NodeId), Told)> {
        let mut wanted = Vec::new();
        for (id, run) in &self.state.runs {
            if let Some(gang) = run.gang.as_ref().filter(|_| run.broken.is_none()) {
                let told = match (&run.stop, &run.moving) {
                    (Some(stop), _) => Told::Stop(gang.generation, stop.how),
                    (None, Some(_)) => Told::Stop(gang.generation, Stop::Safely),
                    (None, None) => Told::Start(gang.generation),
                };
                let nodes = gang
                    .nodes
                    .iter()
                    .filter(|node| !gang.fenced.contains(*node));
                wanted.extend(nodes.map(|node| ((id.clone(), node.clone()), told)));
            }
            for (node, owed) in &run.owed {
                if run
                    .gang
                    .as_ref()
                    .is_some_and(|gang| gang.nodes.contains(node))
                {
                    continue;
                }
                let leaves_by = owed.since + seconds(run.spec.deadlines.exit);
                let is_leaving = owed.leaving && self.now < leaves_by;
                let how = if is_leaving { Stop::Safely } else { Stop::Now };
                wanted.push(((id.clone(), node.clone()), Told::Stop(owed.generation, how)));
            }
        }
        for ((node, run), generation) in &self.desk.strays {
            wanted.push((
                (run.clone(), node.clone()),
                Told::Stop(*generation, Stop::Now),
            ));
        }
        wanted
    }

    fn orders(&self, node: &NodeId, id: &RunId, told: Told) -> Vec<Order> {
        let run = self.state.runs.get(id);
        match told {
            Told::Start(_) => {
                let gang = run.and_then(|run| Some((run, run.gang.as_ref()?)));
                gang.map(|(run, gang)| self.start(run, gang, node))
                    .unwrap_or_default()
            }
            Told::Stop(generation, how) => {
                let cause = match run {
                    Some(Run {
                        stop: Some(stop), ..
                    }) => stop.cause.clone(),
                    Some(Run {
                        moving: Some(moving),
                        ..
                    }) => Cause::NodeDrained {
                        node: moving.node.clone(),
                    },
                    Some(run) if !run.is_live() => run.why.clone(),
                    Some(_) | None => Cause::Superseded,
                };
                vec![Order::Stop {
                    run: id.clone(),
                    generation,
                    how,
                    cause,
                }]
            }
        }
    }

    fn start(&self, run: &Run, gang: &Gang, node: &NodeId) -> Vec<Order> {
        let hung = gang
            .kill
            .iter()
            .filter(|rank| gang.node_of(**rank) == Some(node));
        let kills = hung.map(|rank| Order::Kill {
            run: run.spec.name.clone(),
            generation: gang.after,
            rank: *rank,
            cause: gang.cause.clone(),
        });
        let seats = gang
            .placement
            .seats
            .iter()
            .filter(|seat| seat.node == *node);
        let store_node = gang.placement.store_node.clone();
        let store = self.state.nodes.get(&store_node);
        let start = Start {
            spec: run.spec_to_run(),
            generation: gang.generation,
            seats: seats
                .map(|seat| Seat {
                    rank: seat.rank,
                    slot: seat.slot,
                })
                .collect(),
            store_address: store
                .map(|node| node.facts.store_address.clone())
                .unwrap_or_default(),
            store_node,
            resume: gang.resume,
            fresh_processes: gang.fresh,
            cause: gang.cause.clone(),
        };
        kills.chain([Order::Start(Box::new(start))]).collect()
    }

    pub(super) fn order_seal(&mut self, node: &NodeId, directory: &str, manifest: Manifest) {
        let Some(session) = self.session(node) else {
            return;
        };
        let key = (manifest.run.clone(), manifest.id);
        let asked = (node.clone(), session);
        if self.desk.seals.get(&key) == Some(&asked) {
            return;
        }
        self.desk.seals.retain(|(run, checkpoint), _| {
            let run = self.state.runs.get(run);
            run.is_some_and(|run| run.saves.iter().any(|save| save.id == *checkpoint))
        });
        self.desk.seals.insert(key, asked);
        let (directory, manifest) = (directory.to_owned(), Box::new(manifest));
        self.send(
            node,
            session,
            Order::Seal {
                directory,
                manifest,
            },
        );
    }

    pub(super) fn order_prune(&mut self, node: &NodeId, run: &RunId, directory: String) {
        let Some(session) = self.session(node) else {
            return;
        };
        let Some(checkpoints) = self.desk.prunes.remove(run) else {
            return;
        };
        let (run, checkpoints) = (run.clone(), checkpoints.into_iter().collect());
        self.send(
            node,
            session,
            Order::Prune {
                run,
                directory,
                checkpoints,
            },
        );
    }

    fn send(&mut self, node: &NodeId, session: Session, order: Order) {
        self.out.push_back(Command::Send {
            node: node.clone(),
            session,
            order,
        });
    }
}
