//! What an agent's driver does: it carries out commands of the supervisor, starts processes, and
//! brings what they say, and how they end, back as events. It decides nothing.

use super::SeenExit;
use crate::options::{Fault, Planted};
use crate::show;
use crate::wire::{Payload, Side};
use crate::worker::Process;
use crate::world::{Happening, World};
use rebloom_core::cause::Exit;
use rebloom_core::flight::Sighting;
use rebloom_core::id::{Generation, Rank, RunId, Slot};
use rebloom_core::supervisor::{Command, Event};
use rebloom_core::time::Duration;
use rebloom_core::word::{FromWorker, ToWorker};
use std::collections::BTreeMap;

impl World {
    pub(super) fn do_for_agent(&mut self, at: usize, life: u64, command: Command) -> Duration {
        if let Some(what) = show::agent_command(&command) {
            let name = self.nodes[at].name();
            self.note(&name, format_args!("{what}"));
        }
        let quick = self.random.micros(2, 60);
        match command {
            Command::Remember(memory) => {
                self.nodes[at].memory = memory;
                self.random.micros(100, 6000)
            }
            Command::Spawn {
                run,
                rank,
                slot,
                generation,
                ..
            } => self.spawn(at, life, (run, rank), slot, generation),
            Command::Tell { run, rank, word } => {
                if let Some(pid) = self.nodes[at].pages.get(&(run, rank)).copied() {
                    self.tell_worker(at, life, pid, word);
                }
                quick
            }
            Command::Fence {
                run, rank, below, ..
            } => {
                if let Some(pid) = self.nodes[at].pages.get(&(run, rank)).copied() {
                    self.raise_fence(pid, below);
                }
                quick
            }
            Command::StopSafely {
                run,
                rank,
                generation,
                ..
            } => {
                let pid = self.nodes[at].pages.get(&(run, rank));
                if let Some(process) = pid.and_then(|pid| self.processes.get_mut(pid)) {
                    process.stop_generation = generation;
                }
                quick
            }
            Command::Kill { pid, .. } => {
                self.end_process(pid, Exit::Signal(9));
                quick
            }
            Command::OpenStore { run, generation } => {
                if let Some(agent) = self.agent(at, life) {
                    agent.stores.insert(run, (generation, BTreeMap::new()));
                }
                quick
            }
            Command::RouteStore {
                run,
                generation,
                address,
            } => {
                if let Some(agent) = self.agent(at, life) {
                    agent.routes.insert(run, (generation, address));
                }
                quick
            }
            Command::WriteManifest {
                directory: _,
                manifest,
            } => {
                let (run, checkpoint) = (manifest.run.clone(), manifest.id);
                let error = self.storage.seal((*manifest).clone()).err();
                if error.is_none() {
                    self.check_manifest(&manifest);
                }
                self.tell_agent(
                    at,
                    life,
                    Event::ManifestWritten {
                        run,
                        checkpoint,
                        error,
                    },
                );
                self.random.micros(500, 20_000)
            }
            Command::Prune {
                run,
                directory: _,
                checkpoints,
            } => {
                checkpoints
                    .iter()
                    .for_each(|id| self.storage.remove(&run, *id));
                quick
            }
            Command::Replicate { run, piece, to } => {
                self.replicate(at, life, run, piece, to);
                quick
            }
            Command::DropSnapshots { run, after } => {
                self.nodes[at].snapshots.drop_after(&run, after);
                quick
            }
            Command::ReadPages => {
                let Some(agent) = &self.nodes[at].agent else {
                    return quick;
                };
                let pulse = self.now.as_nanos() / 1_000_000;
                let pages = agent.supervisor.living().filter_map(|(run, rank, pid, _)| {
                    let process = self.processes.get_mut(&pid)?;
                    if !process.is_stopped {
                        process.page.pulse = pulse;
                    }
                    let page = process.page.clone();
                    Some((run, Sighting { rank, page }))
                });
                let pages = Event::Pages(pages.collect());
                self.tell_agent(at, life, pages);
                quick
            }
            Command::Beat(beat) => {
                self.send_up(at, life, Payload::Beat(beat));
                quick
            }
            Command::Rejoin => {
                let wire = self.agent(at, life).and_then(|agent| agent.wire);
                if let Some(wire) = wire {
                    self.wire_breaks(wire, Side::Agent);
                }
                quick
            }
            Command::Report { sequence, report } => {
                self.send_up(at, life, Payload::Report { sequence, report });
                quick
            }
        }
    }

    fn send_up(&mut self, at: usize, life: u64, payload: Payload) {
        let linked = self.agent(at, life).filter(|agent| agent.is_linked);
        if let Some(wire) = linked.and_then(|agent| agent.wire) {
            self.send(wire, Side::Controller, payload);
        }
    }

    fn spawn(
        &mut self,
        at: usize,
        life: u64,
        (run, rank): (RunId, Rank),
        slot: Slot,
        generation: Generation,
    ) -> Duration {
        if self.nodes[at].spawns_fail && self.random.once_in(2) {
            let error = "out of memory".to_owned();
            self.tell_agent(at, life, Event::NotStarted { run, rank, error });
            return self.random.micros(200, 2000);
        }
        self.next_pid += 1;
        let (pid, started) = (self.next_pid, self.now.as_nanos());
        self.check_spawn(at, slot, generation);
        let name = self.nodes[at].name();
        self.note(
            &name,
            format_args!("{run} g{generation} rank {rank} on slot {slot} is pid {pid}"),
        );
        let slow = self.has(Fault::SlowRank) && self.random.once_in(10);
        let process = Process::new(
            (run.clone(), rank),
            (at, slot),
            (pid, started),
            generation,
            &self.options,
        );
        self.processes.insert(pid, process);
        self.nodes[at].pages.insert((run.clone(), rank), pid);
        self.tell_agent(
            at,
            life,
            Event::Started {
                run,
                rank,
                pid,
                started,
            },
        );
        let comes_up = if slow {
            self.random.millis(500, 1500)
        } else {
            self.random.millis(5, 120)
        };
        self.after(comes_up, Happening::WorkerConnect { pid });
        self.random.micros(500, 4000)
    }

    fn tell_worker(&mut self, at: usize, life: u64, pid: u32, word: ToWorker) {
        let delay = self.random.micros(20, 800);
        // (A lease would stop who ignores the fence.)
        let is_forgotten = matches!(
            self.options.planted,
            Some(Planted::LeaseForgotten | Planted::FenceIgnored)
        );
        let Some(agent) = self.agent(at, life) else {
            return;
        };
        let is_heard = matches!(word, ToWorker::Heard(_));
        if is_heard && is_forgotten {
            // A bug that was put in.
        } else if agent.connected.contains(&pid) {
            self.after(delay, Happening::WordTold { pid, word });
        } else if !is_heard {
            agent.kept.insert(pid, word);
        }
    }

    /// A worker found the socket; false where nobody listens there.
    pub(crate) fn agent_meets(&mut self, at: usize, pid: u32) -> Option<u64> {
        let life = self.nodes[at].life;
        let delay = self.random.micros(20, 800);
        let agent = self.agent(at, life)?;
        agent.connected.insert(pid);
        if let Some(word) = agent.kept.remove(&pid) {
            self.after(delay, Happening::WordTold { pid, word });
        }
        Some(life)
    }

    pub(crate) fn word_arrives(
        &mut self,
        (at, life): (usize, u64),
        pid: u32,
        sequence: u64,
        word: FromWorker,
    ) {
        if self.agent(at, life).is_none() {
            return;
        }
        let Some(process) = self.processes.get_mut(&pid) else {
            return;
        };
        process.words.retain(|(of, _)| *of != sequence);
        let (run, rank) = (process.run.clone(), process.rank);
        self.tell_agent(
            at,
            life,
            Event::Word {
                run,
                rank,
                pid,
                word,
            },
        );
    }

    pub(crate) fn exit_seen(&mut self, at: usize, life: u64, seen: SeenExit) {
        if let Some(agent) = self.agent(at, life) {
            agent.connected.remove(&seen.pid);
            agent.kept.remove(&seen.pid);
            let SeenExit {
                run,
                rank,
                pid,
                exit,
            } = seen;
            let event = Event::Exited {
                run,
                rank,
                pid,
                exit,
                noticed_after_nanos: Some(1000),
            };
            self.tell_agent(at, life, event);
        }
    }
}
