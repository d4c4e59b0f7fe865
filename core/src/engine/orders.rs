//! Orders: what each node is told, derived from what shall be.
//!
//! An order goes out once per link and again over a new one; agents do nothing the second time. What
//! was told is not part of the state.

use super::links::{Link, LinkAt};
use super::state::{Gang, Run};
use super::{Command, Engine, RunState};
use crate::cause::Cause;
use crate::checkpoint::{CheckpointId, Manifest};
use crate::id::{Generation, NodeId, RunId, Session};
use crate::order::{Order, Seat, Start, Stop};
use crate::snapshot::{Peer, Recall};
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
    /// Whose agent keeps the replicas of each node.
    keepers: BTreeMap<NodeId, Peer>,
}

/// What a node was told last about a run.
#[derive(Debug)]
struct Line {
    node: NodeId,
    link: LinkAt,
    session: Session,
    told: Told,
}

/// What was ordered over which link.
#[derive(Debug, Default)]
pub(super) struct Desk {
    /// By run; the lines are in the order of the nodes.
    told: BTreeMap<RunId, Vec<Line>>,
    seals: BTreeMap<(RunId, CheckpointId), (NodeId, Session)>,
    prunes: BTreeMap<RunId, BTreeSet<CheckpointId>>,
    /// Runs with files to see to, and no node that can be reached.
    keeperless: BTreeSet<RunId>,
    /// Nodes with ranks of runs that nobody here knows, by run.
    strays: BTreeMap<RunId, BTreeMap<NodeId, Generation>>,
}

impl Desk {
    fn adopt(&mut self, run: &RunId, line: Line) {
        let of_run = self.told.entry(run.clone()).or_default();
        match of_run.binary_search_by(|known| known.node.cmp(&line.node)) {
            Ok(at) => of_run[at] = line,
            Err(at) => of_run.insert(at, line),
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
    /// Takes in that a node is doing what it would be told.
    pub(super) fn is_told(&mut self, id: &RunId, node: &NodeId, session: Session, told: Told) {
        if let Some(link) = self.links.find(node) {
            let node = node.clone();
            let line = Line {
                node,
                link,
                session,
                told,
            };
            self.desk.adopt(id, line);
        }
    }

    /// Sends every order about a run that has not gone out over the present links.
    pub(super) fn write_orders(&mut self, id: &RunId) {
        let before = self.desk.told.remove(id).unwrap_or_default();
        let (told, news) = self.compare(before, self.wanted(id));
        if !told.is_empty() {
            self.desk.told.insert(id.clone(), told);
        }
        if news.is_empty() {
            return;
        }
        let run = self.state.runs.get(id);
        let gang = run.and_then(|run| Some((run, run.gang.as_ref()?)));
        let sheet = gang.and_then(|(run, gang)| self.sheet(run, gang));
        let seats = gang.map_or_else(Vec::new, |(_, gang)| seats(gang));
        let mut seats = seats.into_iter().peekable();
        let mut orders = Vec::with_capacity(news.len());
        for (session, node, told) in news {
            while seats.next_if(|(seated, _)| **seated < node).is_some() {}
            let here = seats.next_if(|(seated, _)| **seated == node);
            let here = here.map(|(_, seats)| seats).unwrap_or_default();
            let order = match (told, gang.zip(sheet.as_ref())) {
                (Told::Start(_), Some(((run, gang), sheet))) => {
                    let kills = kills(run, gang, &node);
                    orders.extend(kills.map(|kill| (session, node.clone(), kill)));
                    let recalls = self.recalls(gang, &node, &here);
                    let keeper = sheet.keepers.get(&node).cloned();
                    start(run, gang, sheet, here, (recalls, keeper))
                }
                (Told::Start(_), None) => continue,
                (Told::Stop(generation, how), _) => stop(id, run, generation, how),
            };
            orders.push((session, node, order));
        }
        for (session, node, order) in orders {
            self.send(node, session, order);
        }
    }

    /// What the nodes of a run will have been told, and what of it is new to them.
    fn compare(
        &self,
        before: Vec<Line>,
        wanted: Vec<(&NodeId, Told)>,
    ) -> (Vec<Line>, Vec<(Session, NodeId, Told)>) {
        let doubts = self.doubts_until().is_some();
        let mut before = before.into_iter().peekable();
        let (mut lines, mut news) = (Vec::with_capacity(wanted.len()), Vec::new());
        for (node, told) in wanted {
            while before.next_if(|line| line.node < *node).is_some() {}
            let known = before.next_if(|line| line.node == *node);
            let link = known.as_ref().map(|line| line.link);
            let Some(link) = link.or_else(|| self.links.find(node)) else {
                continue;
            };
            let Some(session) = self.links.at(link).and_then(Link::open) else {
                lines.extend(known);
                continue;
            };
            let is_known = |line: &Line| (line.session, line.told) == (session, told);
            if !known.as_ref().is_some_and(is_known) {
                if doubts && matches!(told, Told::Start(_)) {
                    // The journal may have lost that a newer generation runs elsewhere (S1).
                    lines.extend(known);
                    continue;
                }
                news.push((session, node.clone(), told));
            }
            let node = known.map_or_else(|| node.clone(), |line| line.node);
            lines.push(Line {
                node,
                link,
                session,
                told,
            });
        }
        (lines, news)
    }

    /// What the orders of a gang have in common.
    fn sheet(&self, run: &Run, gang: &Gang) -> Option<Sheet> {
        let store = self.state.nodes.get(&gang.placement.store_node)?;
        Some(Sheet {
            spec: run.spec_to_run()?,
            store_address: store.facts.store_address.clone(),
            keepers: self.keepers(run, gang),
        })
    }

    /// What each node shall have been told about a run, in the order of the nodes.
    fn wanted(&self, id: &RunId) -> Vec<(&NodeId, Told)> {
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
                wanted.extend(nodes.map(|node| (node, told)));
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
                insert(&mut wanted, node, Told::Stop(owed.generation, how));
            }
        }
        for (node, generation) in self.desk.strays_of(id).into_iter().flatten() {
            insert(&mut wanted, node, Told::Stop(*generation, Stop::Now));
        }
        wanted
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
            node.clone(),
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
            node.clone(),
            session,
            Order::Prune {
                run,
                directory,
                checkpoints,
            },
        );
    }

    fn send(&mut self, node: NodeId, session: Session, order: Order) {
        self.out.push_back(Command::Send {
            node,
            session,
            order,
        });
    }
}

/// Puts what is wanted of a node behind what is wanted of the nodes up to it.
fn insert<'a>(wanted: &mut Vec<(&'a NodeId, Told)>, node: &'a NodeId, told: Told) {
    let at = wanted.partition_point(|(other, _)| *other <= node);
    wanted.insert(at, (node, told));
}

/// Seats of a gang by node, in the order of the nodes. Ranks stay in order.
fn seats(gang: &Gang) -> Vec<(&NodeId, Vec<Seat>)> {
    let placement = &gang.placement;
    let each = placement.seats.len() / placement.nodes.len().max(1);
    let mut of_node: Vec<_> = placement
        .nodes
        .iter()
        .map(|node| (node, Vec::with_capacity(each)))
        .collect();
    // A name is found by where its text is, and read only where a seat has a text of its own.
    let text = |node: &NodeId| node.as_str().as_ptr();
    let mut by_text: Vec<_> = placement.nodes.iter().map(text).zip(0_usize..).collect();
    by_text.sort_unstable();
    for row in placement
        .seats
        .chunk_by(|a, b| text(&a.node) == text(&b.node))
    {
        let node = &row[0].node;
        let known = by_text.binary_search_by_key(&text(node), |(text, _)| *text);
        let at = match known {
            Ok(at) => by_text[at].1,
            Err(_) => of_node.partition_point(|(other, _)| *other < node),
        };
        of_node[at].1.extend(row.iter().map(|seat| Seat {
            rank: seat.rank,
            slot: seat.slot,
        }));
    }
    of_node
}

fn stop(id: &RunId, run: Option<&Run>, generation: Generation, how: Stop) -> Order {
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
        Some(run) if !run.is_live() || run.state == RunState::Pending => run.why.clone(),
        Some(_) | None => Cause::Superseded,
    };
    Order::Stop {
        run: id.clone(),
        generation,
        how,
        cause,
    }
}

/// Ranks of the generation before that are killed on a node, since they hang.
fn kills(run: &Run, gang: &Gang, node: &NodeId) -> impl Iterator<Item = Order> {
    let hung = gang
        .kill
        .iter()
        .filter(move |rank| gang.node_of(**rank) == Some(node));
    hung.map(move |rank| Order::Kill {
        run: run.spec.name.clone(),
        generation: gang.after,
        rank: *rank,
        cause: gang.cause.clone(),
    })
}

fn start(
    run: &Run,
    gang: &Gang,
    sheet: &Sheet,
    seats: Vec<Seat>,
    (snapshot, replica): (Vec<Recall>, Option<Peer>),
) -> Order {
    Order::Start(Box::new(Start {
        spec: Arc::clone(&sheet.spec),
        generation: gang.generation,
        seats,
        store_node: gang.placement.store_node.clone(),
        store_address: sheet.store_address.clone(),
        resume: gang.resume,
        snapshot,
        replica,
        evaluated: run.evaluated(gang.resume),
        fresh_processes: gang.fresh,
        async_off: run.async_off,
        cause: gang.cause.clone(),
    }))
}
