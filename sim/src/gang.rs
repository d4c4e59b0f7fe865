//! Collectives: a gang forms through the store of its generation and steps all together or not at
//! all; who loses a neighbour learns of it soon, the others only when told or timed out.

use crate::storage::Saved;
use crate::training;
use crate::worker::{Doing, Outcome};
use crate::world::{Happening, World};
use rebloom_core::cause::Blamed;
use rebloom_core::id::{Rank, Step};
use rebloom_core::member::Trouble;
use std::collections::{BTreeMap, BTreeSet};

/// One formed gang.
#[derive(Debug)]
struct Gang {
    members: BTreeMap<Rank, u32>,
    gone: BTreeSet<Rank>,
    arrived: BTreeMap<Rank, Arrival>,
    /// Its number of ranks.
    size: u32,
}

/// A rank that waits for the others in a step.
#[derive(Debug, Clone, Copy)]
struct Arrival {
    pid: u32,
    action: u64,
    saved: Saved,
    stop: bool,
    evaluates: bool,
}

/// Every formed gang.
#[derive(Debug, Default)]
pub(crate) struct Gangs {
    all: BTreeMap<u64, Gang>,
    last: u64,
}

impl World {
    /// Whether two nodes reach each other.
    pub(crate) fn reach(&self, a: usize, b: usize) -> bool {
        let (from, to) = (&self.nodes[a], &self.nodes[b]);
        a == b || (from.is_on && to.is_on && !from.is_isolated && !to.is_isolated)
    }

    /// A rank looks for its generation's store and shows up there; again until it gets through.
    pub(crate) fn form_tried(&mut self, pid: u32, action: u64) {
        let Some(process) = self.processes.get(&pid).filter(|p| p.action == action) else {
            return;
        };
        let (node, rank, run) = (process.node, process.rank, process.run.clone());
        let generation = process.generation();
        let address = self.nodes[node]
            .agent
            .as_ref()
            .and_then(|agent| agent.routes.get(&run));
        let address = address
            .filter(|(of, _)| *of == generation)
            .map(|(_, address)| address);
        let host = address.and_then(|to| self.nodes.iter().position(|n| n.address() == *to));
        let host = host.filter(|host| self.reach(node, *host));
        let agent = host.and_then(|host| self.nodes[host].agent.as_mut());
        let agent = agent.filter(|agent| !agent.is_frozen);
        let store = agent.and_then(|agent| agent.stores.get_mut(&run));
        let Some((_, there)) = store.filter(|(of, _)| *of == generation) else {
            let pause = self.random.millis(5, 40);
            self.after(pause, Happening::FormTried { pid, action });
            return;
        };
        there.insert(rank, pid);
        let there = there.clone();
        let size = process_world(self, pid);
        let forms = |pid: &u32| {
            let process = self.processes.get(pid);
            process.is_some_and(|p| p.doing == Doing::Forming && p.generation() == generation)
        };
        if there.len() < size as usize || !there.values().all(forms) {
            return;
        }
        self.gangs.last += 1;
        let id = self.gangs.last;
        for pid in there.values() {
            let takes = self.random.micros(500, 12_000);
            if let Some(process) = self.processes.get_mut(pid) {
                process.gang = Some(id);
                let (pid, action) = (*pid, process.action);
                self.after(
                    takes,
                    Happening::ActionDone {
                        pid,
                        action,
                        outcome: Outcome::Formed,
                    },
                );
            }
        }
        let gang = Gang {
            members: there,
            gone: BTreeSet::new(),
            arrived: BTreeMap::new(),
            size,
        };
        self.gangs.all.insert(id, gang);
        self.note(
            "gang",
            format_args!("{run} g{generation} forms with {size} ranks"),
        );
    }

    /// The store went away with its agent.
    pub(crate) fn break_store(&mut self, host: usize, there: impl Iterator<Item = u32>) {
        let name = self.nodes[host].name();
        for pid in there {
            let Some(process) = self.processes.get(&pid) else {
                continue;
            };
            if process.doing == Doing::Forming && process.gang.is_none() {
                let error = format!("the store on {name} is gone");
                let trouble = if self.random.once_in(2) {
                    Trouble::PeerLost { error }
                } else {
                    Trouble::Error {
                        error,
                        blamed: Blamed::Infrastructure,
                    }
                };
                let (action, outcome) = (process.action, Outcome::Trouble(trouble));
                let seen = self.random.millis(1, 50);
                self.after(
                    seen,
                    Happening::ActionDone {
                        pid,
                        action,
                        outcome,
                    },
                );
            }
        }
    }

    /// A rank has computed its part and waits for the others.
    pub(crate) fn step_entered(&mut self, pid: u32, action: u64) {
        let Some(process) = self.processes.get_mut(&pid).filter(|p| p.action == action) else {
            return;
        };
        let soon = Happening::ActionDone {
            pid,
            action,
            outcome: Outcome::Trouble(Trouble::PeerLost {
                error: "connection closed".to_owned(),
            }),
        };
        if let Some(blamed) = process.trouble.take() {
            let error = "made up".to_owned();
            return self.action_done(
                pid,
                action,
                Outcome::Trouble(Trouble::Error { error, blamed }),
            );
        }
        process.count(|counter| counter.entered += 1);
        let arrival = Arrival {
            pid,
            action,
            saved: process.saved,
            stop: process.stop_generation == process.generation(),
            evaluates: process.doing == Doing::Evaluating,
        };
        let rank = process.rank;
        let Some(id) = process.gang else {
            return self.after(std::time::Duration::ZERO, soon);
        };
        let Some(gang) = self.gangs.all.get_mut(&id) else {
            return;
        };
        gang.arrived.insert(rank, arrival);
        if neighbours(rank, gang.size)
            .into_iter()
            .any(|rank| gang.gone.contains(&rank))
        {
            let notices = self.random.millis(2, 60);
            self.after(notices, soon);
        }
        self.try_step(id);
    }

    /// The gang steps once all its ranks have arrived and reach each other.
    fn try_step(&mut self, id: u64) {
        let Some(gang) = self.gangs.all.get(&id) else {
            return;
        };
        let nodes: BTreeSet<usize> = gang
            .members
            .values()
            .filter_map(|pid| self.processes.get(pid).map(|process| process.node))
            .collect();
        let reached = nodes
            .iter()
            .all(|a| nodes.iter().all(|b| self.reach(*a, *b)));
        // Who is stopped sends nothing on, also where it had arrived before.
        let runs = |pid: &u32| !self.processes.get(pid).is_some_and(|p| p.is_stopped);
        let all_run = gang.members.values().all(runs);
        if gang.arrived.len() < gang.size as usize || !gang.gone.is_empty() || !reached || !all_run
        {
            return;
        }
        let Some(gang) = self.gangs.all.get_mut(&id) else {
            return;
        };
        let arrived = std::mem::take(&mut gang.arrived);
        let one = arrived
            .values()
            .find_map(|arrival| self.processes.get(&arrival.pid)?.go.as_ref());
        let Some(layout) = one.map(|go| go.spec.layout) else {
            return;
        };
        let reduced = training::reduce(layout, arrived.values().map(|arrival| arrival.saved));
        let stop = arrived.values().any(|arrival| arrival.stop);
        let mut doings = arrived.values().map(|it| (it.saved.step, it.evaluates));
        let first = doings.next();
        let pids: Vec<u32> = arrived.values().map(|arrival| arrival.pid).collect();
        if doings.any(|doing| Some(doing) != first) {
            self.checks
                .violated("T1: ranks of one gang are at different steps".to_owned());
        }
        let process = pids.first().and_then(|pid| self.processes.get(pid));
        if let Some((step, false)) = first
            && let Some((run, generation)) = process.map(|p| (p.run.clone(), p.generation()))
        {
            self.check_gang_step(&run, generation, Step(step.0 + 1));
        }
        for Arrival {
            pid,
            action,
            saved,
            stop: _,
            evaluates,
        } in arrived.into_values()
        {
            let Some(go) = self.processes.get(&pid).and_then(|p| p.go.as_ref()) else {
                continue;
            };
            let outcome = if evaluates {
                Outcome::Evaluated(training::evaluation(reduced, saved))
            } else if let Some(spike) = training::spike(&go.spec, saved) {
                Outcome::Trouble(Trouble::Spiked(spike))
            } else {
                Outcome::Stepped(training::step(&go.spec, reduced, saved), stop)
            };
            let takes = self.random.micros(100, 4000);
            self.after(
                takes,
                Happening::ActionDone {
                    pid,
                    action,
                    outcome,
                },
            );
        }
    }

    /// A process is gone, or has given its groups up.
    pub(crate) fn leave_gang(&mut self, pid: u32) {
        let Some(process) = self.processes.get_mut(&pid) else {
            return;
        };
        let (rank, Some(id)) = (process.rank, process.gang.take()) else {
            return;
        };
        let Some(gang) = self.gangs.all.get_mut(&id) else {
            return;
        };
        gang.gone.insert(rank);
        gang.arrived.remove(&rank);
        gang.members.remove(&rank);
        let waiting = neighbours(rank, gang.size)
            .into_iter()
            .filter_map(|rank| gang.arrived.get(&rank));
        let waiting: Vec<Arrival> = waiting.copied().collect();
        if gang.members.is_empty() {
            self.gangs.all.remove(&id);
        }
        for Arrival { pid, action, .. } in waiting {
            let error = "connection closed".to_owned();
            let outcome = Outcome::Trouble(Trouble::PeerLost { error });
            let notices = self.random.millis(2, 60);
            self.after(
                notices,
                Happening::ActionDone {
                    pid,
                    action,
                    outcome,
                },
            );
        }
    }

    /// A network came back: what waited for it goes on.
    pub(crate) fn retry_gangs(&mut self) {
        let ids: Vec<u64> = self.gangs.all.keys().copied().collect();
        ids.into_iter().for_each(|id| self.try_step(id));
    }
}

fn process_world(world: &World, pid: u32) -> u32 {
    let go = world
        .processes
        .get(&pid)
        .and_then(|process| process.go.as_ref());
    go.map_or(u32::MAX, |go| go.spec.layout.world())
}

/// The ring neighbours of a rank.
fn neighbours(rank: Rank, size: u32) -> [Rank; 2] {
    [Rank((rank.0 + 1) % size), Rank((rank.0 + size - 1) % size)]
}
