//! Orders: what each node is told, derived from what shall be.
//!
//! An order goes out once per link and again over a new one; agents do nothing the second time. What
//! was told is not part of the state.

use super::links::{Link, LinkAt};
use super::state::{Gang, Run};
use super::{Command, Engine, Record, RunState};
use crate::by_name::ByName;
use crate::cause::Cause;
use crate::checkpoint::{CheckpointId, Manifest};
use crate::id::{Generation, NodeId, RunId, Session};
use crate::order::{GangStart, Order, Start, Stop};
use crate::snapshot::Peer;
use crate::spec::seconds;
use crate::time::{Duration, Instant};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// A disk may lose with its power what it had said was written. Files are removed only when the record of
/// the checkpoint that replaces them is older than that: else that would be forgotten, and these gone.
const SETTLES: Duration = Duration::from_secs(1);

/// The last order that a node was given about a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    /// To run a generation.
    Start(Generation),
    /// To stop up to a generation.
    Stop(Generation, Stop),
}

/// What a node was told last about a run.
#[derive(Debug)]
struct Line {
    node: NodeId,
    link: Option<LinkAt>,
    /// Over which link, and what; none where it was told nothing yet.
    told: Option<(Session, Told)>,
}

/// What the orders to start a gang have in common.
struct Sheet<'a> {
    run: &'a Run,
    gang: &'a Gang,
    start: Arc<GangStart>,
    /// Which of the gang's nodes is next.
    next: usize,
    /// Whose agent keeps the replicas of each node.
    keepers: BTreeMap<NodeId, Peer>,
}

impl Sheet<'_> {
    /// Ranks of the generation before that are killed on a node, since they hang.
    fn kills(&self, node: &NodeId) -> impl Iterator<Item = Order> {
        let gang = self.gang;
        let hung = gang
            .kill
            .iter()
            .filter(move |rank| gang.node_of(**rank) == Some(node));
        hung.map(|rank| Order::Kill {
            run: self.run.spec.name.clone(),
            generation: gang.after,
            rank: *rank,
            cause: gang.cause.clone(),
        })
    }
}

/// What was ordered over which link.
#[derive(Debug, Default)]
pub(super) struct Desk {
    /// By run; the lines are in the order of the nodes.
    told: ByName<RunId, Vec<Line>>,
    seals: BTreeMap<(RunId, CheckpointId), (NodeId, Session)>,
    /// Files to be removed, and from when on.
    prunes: BTreeMap<RunId, BTreeMap<CheckpointId, Instant>>,
    /// Runs with files to see to, and no node that can be reached.
    keeperless: BTreeSet<RunId>,
    /// Nodes with ranks of runs that nobody here knows, by run.
    strays: BTreeMap<RunId, BTreeMap<NodeId, Generation>>,
}

impl Desk {
    fn adopt(&mut self, run: &RunId, line: Line) {
        let of_run = self.told.get_or_default(run);
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

    /// The files of these checkpoints are to be removed, but not at once.
    pub(super) fn prune(&mut self, run: &RunId, checkpoints: &[CheckpointId], now: Instant) {
        let due = now + SETTLES;
        let of_run = self.prunes.entry(run.clone()).or_default();
        of_run.extend(checkpoints.iter().map(|checkpoint| (*checkpoint, due)));
    }

    /// When the next files of a run are to be removed.
    pub(super) fn next_prune(&self, run: &RunId) -> Option<Instant> {
        self.prunes.get(run)?.values().min().copied()
    }

    /// Takes those whose moment has come.
    fn due_prunes(&mut self, run: &RunId, now: Instant) -> Vec<CheckpointId> {
        let Some(of_run) = self.prunes.get_mut(run) else {
            return Vec::new();
        };
        let due = of_run.iter().filter(|(_, due)| **due <= now);
        let due = due.map(|(checkpoint, _)| *checkpoint).collect();
        of_run.retain(|_, due| *due > now);
        if of_run.is_empty() {
            self.prunes.remove(run);
        }
        due
    }
}

impl Engine {
    /// Takes in that a node is doing what it would be told.
    pub(super) fn is_told(&mut self, id: &RunId, node: &NodeId, session: Session, told: Told) {
        if let Some(link) = self.links.find(node) {
            let node = node.clone();
            let line = Line {
                node,
                link: Some(link),
                told: Some((session, told)),
            };
            self.desk.adopt(id, line);
        }
    }

    /// Sends every order about a run that has not gone out over the present links.
    pub(super) fn write_orders(&mut self, id: &RunId) {
        let mut lines = self.desk.told.remove(id).unwrap_or_default();
        let news = self.compare(&mut lines, &self.wanted(id));
        if !news.is_empty() {
            let news: Vec<_> = news.into_iter().map(|at| &lines[at]).collect();
            let mut out = std::mem::take(&mut self.out);
            self.orders(id, &news, &mut out);
            self.out = out;
        }
        if !lines.is_empty() {
            self.desk.told.insert(id.clone(), lines);
        }
    }

    /// The orders that lines which are news become.
    fn orders(&self, id: &RunId, news: &[&Line], out: &mut VecDeque<Command<Record>>) {
        let is_start = |line: &&Line| matches!(line.told, Some((_, Told::Start(_))));
        let run = self.state.runs.get(id);
        let starting = run.filter(|_| news.iter().any(is_start));
        let mut sheet = starting.and_then(|run| self.sheet(run, run.gang.as_ref()?));
        out.reserve(news.len());
        for Line { node, told, .. } in news {
            let Some((session, told)) = *told else {
                continue;
            };
            let mut send = |order| {
                out.push_back(Command::Send {
                    node: node.clone(),
                    session,
                    order,
                });
            };
            match (told, &mut sheet) {
                (Told::Start(_), Some(sheet)) => {
                    sheet.kills(node).for_each(&mut send);
                    if let Some(start) = self.start(sheet, node) {
                        send(Order::Start(start));
                    }
                }
                (Told::Start(_), None) => {}
                (Told::Stop(generation, how), _) => send(stop(id, run, generation, how)),
            }
        }
    }

    /// What the orders of a gang have in common.
    fn sheet<'a>(&self, run: &'a Run, gang: &'a Gang) -> Option<Sheet<'a>> {
        let store = self.state.nodes.get(&gang.placement.store_node)?;
        let start = GangStart {
            spec: run.spec_to_run()?,
            generation: gang.generation,
            store_node: gang.placement.store_node.clone(),
            store_address: store.facts.store_address.clone(),
            resume: gang.resume,
            evaluated: run.evaluated(gang.resume),
            fresh_processes: gang.fresh,
            async_off: run.async_off,
            cause: gang.cause.clone(),
        };
        Some(Sheet {
            run,
            gang,
            start: Arc::new(start),
            next: 0,
            keepers: self.keepers(run, gang),
        })
    }

    /// The start of one node; nodes are asked for in order.
    fn start(&self, sheet: &mut Sheet<'_>, node: &NodeId) -> Option<Start> {
        let placement = &sheet.gang.placement;
        let nodes = placement.nodes.get(sheet.next..).unwrap_or_default();
        sheet.next += nodes.iter().take_while(|seated| *seated < node).count();
        if placement.nodes.get(sheet.next) != Some(node) {
            return None;
        }
        let seats = placement.shared_row(sheet.next);
        Some(Start {
            gang: Arc::clone(&sheet.start),
            snapshot: self.recalls(sheet.gang, node, &seats),
            replica: sheet.keepers.get(node).cloned(),
            seats,
        })
    }

    /// Turns the lines of a run to what is wanted; says which of them are news to their nodes.
    fn compare(&self, lines: &mut Vec<Line>, wanted: &[(&NodeId, Told)]) -> Vec<usize> {
        let fits = |(line, (node, _)): (&Line, &(&NodeId, Told))| line.node == **node;
        if lines.len() != wanted.len() || !lines.iter().zip(wanted).all(fits) {
            *lines = align(std::mem::take(lines), wanted);
        }
        let doubts = self.doubts_until().is_some();
        let mut news = Vec::with_capacity(lines.len());
        for (at, (line, (_, told))) in lines.iter_mut().zip(wanted).enumerate() {
            line.link = line.link.or_else(|| self.links.find(&line.node));
            let link = line.link.and_then(|link| self.links.at(link));
            let Some(session) = link.and_then(Link::open) else {
                continue;
            };
            // (The journal may have lost that a newer generation runs elsewhere (S1).)
            let waits = doubts && matches!(told, Told::Start(_));
            let told = Some((session, *told));
            if line.told != told && !waits {
                line.told = told;
                news.push(at);
            }
        }
        news
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
                let nodes = &gang.placement.nodes;
                wanted.reserve(nodes.len() + run.owed.len());
                let nodes = nodes.iter().filter(|node| !gang.fenced.contains(*node));
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
        let checkpoints = self.desk.due_prunes(run, self.now);
        if checkpoints.is_empty() {
            return;
        }
        let run = run.clone();
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

/// A line for each node of whom something is wanted: its own of before, or a new one.
fn align(before: Vec<Line>, wanted: &[(&NodeId, Told)]) -> Vec<Line> {
    let mut before = before.into_iter().peekable();
    let lines = wanted.iter().map(|(node, _)| {
        while before.next_if(|line| line.node < **node).is_some() {}
        let known = before.next_if(|line| line.node == **node);
        known.unwrap_or_else(|| Line {
            node: (*node).clone(),
            link: None,
            told: None,
        })
    });
    lines.collect()
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
