//! Orders: what each node is told, derived from what shall be.
//!
//! An order goes out once per link and again over a new one; agents do nothing the second time. What
//! was told is not part of the state.

use super::state::{Gang, Run};
use super::{Command, Engine, RunState};
use crate::cause::Cause;
use crate::checkpoint::{CheckpointId, Manifest};
use crate::id::{Generation, NodeId, RunId, Session};
use crate::order::{Order, Seat, Start, Stop};
use crate::spec::{RunSpec, seconds};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The last order that a node was given about a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    /// To run a generation.
    Start(Generation),
    /// To stop up to a generation.
    Stop(Generation, Stop),
}

/// What the orders to start a gang have in common: they differ in their seats alone.
struct Sheet {
    spec: Arc<RunSpec>,
    store_address: String,
}

/// What the nodes of a run were told last, and over which link; in the order of the nodes.
type Sent = Vec<(NodeId, (Session, Told))>;

/// What was ordered over which link.
#[derive(Debug, Default)]
pub(super) struct Desk {
    told: BTreeMap<RunId, Sent>,
    seals: BTreeMap<(RunId, CheckpointId), (NodeId, Session)>,
    prunes: BTreeMap<RunId, BTreeSet<CheckpointId>>,
    /// Runs with files to see to, and no node that can be reached.
    keeperless: BTreeSet<RunId>,
    /// Nodes with ranks of runs that nobody here knows, by run.
    strays: BTreeMap<RunId, BTreeMap<NodeId, Generation>>,
}

impl Desk {
    pub(super) fn adopt(&mut self, run: &RunId, node: &NodeId, session: Session, told: Told) {
        let of_run = self.told.entry(run.clone()).or_default();
        match of_run.binary_search_by(|(known, _)| known.cmp(node)) {
            Ok(at) => of_run[at].1 = (session, told),
            Err(at) => of_run.insert(at, (node.clone(), (session, told))),
        }
    }

    pub(super) fn stray(&mut self, node: &NodeId, run: &RunId, generation: Generation) {
        let of_run = self.strays.entry(run.clone()).or_default();
        of_run.insert(node.clone(), generation);
    }

    /// Says of which runs there were strays on the node.
    pub(super) fn forget_strays(&mut self, node: &NodeId) -> Vec<RunId> {
        let mut runs = Vec::new();
        for (run, nodes) in &mut self.strays {
            if nodes.remove(node).is_some() {
                runs.push(run.clone());
            }
        }
        self.strays.retain(|_, nodes| !nodes.is_empty());
        runs
    }

    /// Nodes on which ranks of a run may hold slots though nobody here knows it (S2).
    pub(super) fn strays_of(&self, run: &RunId) -> Option<&BTreeMap<NodeId, Generation>> {
        self.strays.get(run)
    }

    /// Says whether that was one.
    pub(super) fn stray_stopped(
        &mut self,
        node: &NodeId,
        run: &RunId,
        generation: Generation,
    ) -> bool {
        let Some(nodes) = self.strays.get_mut(run) else {
            return false;
        };
        let is_it = nodes.get(node).is_some_and(|stray| *stray <= generation);
        if is_it {
            nodes.remove(node);
        }
        self.strays.retain(|_, nodes| !nodes.is_empty());
        is_it
    }

    pub(super) fn has_prunes(&self, run: &RunId) -> bool {
        self.prunes.contains_key(run)
    }

    /// Notes whether there is somebody to see to the files of a run.
    pub(super) fn keeps(&mut self, run: &RunId, has_keeper: bool) {
        if has_keeper {
            self.keeperless.remove(run);
        } else {
            self.keeperless.insert(run.clone());
        }
    }

    /// Runs whose files are being sealed by a node, or wait for any node to be removed.
    pub(super) fn files_at(&self, node: &NodeId) -> Vec<RunId> {
        let seals = self.seals.iter().filter(|(_, (at, _))| at == node);
        let seals = seals.map(|((run, _), _)| run);
        seals
            .chain(&self.keeperless)
            .chain(self.prunes.keys())
            .cloned()
            .collect()
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
    /// Sends every order about a run that has not gone out over the present links.
    pub(super) fn write_orders(&mut self, id: &RunId) {
        let before = self.desk.told.remove(id).unwrap_or_default();
        let wanted = self.wanted(id);
        let (mut told, mut news) = (Vec::with_capacity(wanted.len()), Vec::new());
        for (node, what) in wanted {
            let known = before.binary_search_by(|(known, _)| known.cmp(&node));
            let before = known.ok().map(|at| before[at].1);
            match self.session(&node) {
                Some(session) => {
                    if before != Some((session, what)) {
                        news.push((session, node.clone(), what));
                    }
                    told.push((node, (session, what)));
                }
                None => told.extend(before.map(|before| (node, before))),
            }
        }
        if !told.is_empty() {
            told.sort_by(|(a, _), (b, _)| a.cmp(b));
            self.desk.told.insert(id.clone(), told);
        }
        if news.is_empty() {
            return;
        }
        let mut seats = self.seats(id);
        let sheet = self.sheet(id);
        for (session, node, what) in news {
            let seats = seats.remove(&node).unwrap_or_default();
            let orders = self.orders(&node, id, what, (seats, sheet.as_ref()));
            let orders = orders.into_iter();
            orders.for_each(|order| self.send(&node, session, order));
        }
    }

    /// What the orders of a gang have in common.
    fn sheet(&self, id: &RunId) -> Option<Sheet> {
        let run = self.state.runs.get(id)?;
        let store = self
            .state
            .nodes
            .get(&run.gang.as_ref()?.placement.store_node)?;
        Some(Sheet {
            spec: run.spec_to_run()?,
            store_address: store.facts.store_address.clone(),
        })
    }

    /// Seats of a run by node.
    fn seats(&self, id: &RunId) -> BTreeMap<NodeId, Vec<Seat>> {
        let gang = self.state.runs.get(id).and_then(|run| run.gang.as_ref());
        let mut seats: BTreeMap<NodeId, Vec<Seat>> = BTreeMap::new();
        for chunk in gang
            .map_or(&[][..], |gang| &gang.placement.seats)
            .chunk_by(|a, b| a.node == b.node)
        {
            let Some(first) = chunk.first() else { continue };
            let here = chunk.iter().map(|seat| Seat {
                rank: seat.rank,
                slot: seat.slot,
            });
            match seats.get_mut(&first.node) {
                Some(seats) => seats.extend(here),
                None => {
                    seats.insert(first.node.clone(), here.collect());
                }
            }
        }
        seats
    }

    /// What each node shall have been told about a run.
    fn wanted(&self, id: &RunId) -> Vec<(NodeId, Told)> {
        let mut wanted = Vec::new();
        if let Some(run) = self.state.runs.get(id) {
            if let Some(gang) = run.gang.as_ref().filter(|_| run.broken.is_none()) {
                let told = match &run.stop {
                    Some(stop) => Told::Stop(gang.generation, stop.how),
                    None if run.leaves_by_itself().is_some() => {
                        Told::Stop(gang.generation, Stop::Safely)
                    }
                    None => Told::Start(gang.generation),
                };
                let nodes = gang.placement.nodes.iter();
                let nodes = nodes.filter(|node| !gang.fenced.contains(*node));
                wanted.extend(nodes.map(|node| (node.clone(), told)));
            }
            for (node, owed) in &run.owed {
                if run
                    .gang
                    .as_ref()
                    .is_some_and(|gang| gang.placement.nodes.contains(node))
                {
                    continue;
                }
                let leaves_by = owed.since + seconds(run.spec.deadlines.exit);
                let is_leaving = owed.leaving && self.now < leaves_by;
                let how = if is_leaving { Stop::Safely } else { Stop::Now };
                wanted.push((node.clone(), Told::Stop(owed.generation, how)));
            }
        }
        for (node, generation) in self.desk.strays_of(id).into_iter().flatten() {
            wanted.push((node.clone(), Told::Stop(*generation, Stop::Now)));
        }
        wanted
    }

    fn orders(
        &self,
        node: &NodeId,
        id: &RunId,
        told: Told,
        (seats, sheet): (Vec<Seat>, Option<&Sheet>),
    ) -> Vec<Order> {
        let run = self.state.runs.get(id);
        match told {
            Told::Start(_) => {
                let gang = run.and_then(|run| Some((run, run.gang.as_ref()?)));
                gang.zip(sheet)
                    .map(|(gang, sheet)| Self::start(gang, sheet, node, seats))
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
                    }) => moving.cause.clone(),
                    Some(Run {
                        yielding: Some(yielding),
                        ..
                    }) => Cause::Preempted {
                        by: yielding.by.clone(),
                    },
                    Some(run) if !run.is_live() || run.state == RunState::Pending => {
                        run.why.clone()
                    }
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

    fn start(
        (run, gang): (&Run, &Gang),
        sheet: &Sheet,
        node: &NodeId,
        seats: Vec<Seat>,
    ) -> Vec<Order> {
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
        let start = Start {
            spec: Arc::clone(&sheet.spec),
            generation: gang.generation,
            seats,
            store_node: gang.placement.store_node.clone(),
            store_address: sheet.store_address.clone(),
            resume: gang.resume,
            fresh_processes: gang.fresh,
            async_off: run.async_off,
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
