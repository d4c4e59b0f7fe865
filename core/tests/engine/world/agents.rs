//! The agents of the fleet: what they remember, and how they and their ranks obey orders.

use super::World;
use rebloom_core::cause::Exit;
use rebloom_core::checkpoint::MANIFEST_VERSION;
use rebloom_core::flight::{Page, Phase};
use rebloom_core::hang::rules::Match;
use rebloom_core::id::{Digest, Generation, NodeId, Rank, RunId, Session, Slot, Step};
use rebloom_core::ladder::gate::Nccl;
use rebloom_core::order::{Order, Start, Stop};
use rebloom_core::report::{Milestone, RankEvent, Report};
use rebloom_core::snapshot::Piece;
use std::collections::{BTreeMap, VecDeque};

#[derive(Debug, Clone)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) slot: Slot,
    pub(crate) generation: Generation,
    pub(crate) milestone: Milestone,
    pub(crate) page: Page,
    pub(crate) alive: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Local {
    pub(crate) generation: Generation,
    pub(crate) start: Option<Start>,
    pub(crate) ranks: BTreeMap<Rank, Process>,
    pub(crate) stop: Option<(Generation, Stop)>,
    /// What lies in the node's memory.
    pub(crate) snapshots: Vec<Piece>,
    /// What each beat says that ranks wrote.
    pub(crate) said: Vec<Match>,
}

#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) slots: u32,
    pub(crate) gpus: usize,
    pub(crate) nccl: Option<Nccl>,
    pub(crate) identity: Digest,
    pub(crate) session: Option<Session>,
    pub(crate) runs: BTreeMap<RunId, Local>,
    /// Reports that no engine has taken in yet.
    pub(crate) unsent: VecDeque<Report>,
}

impl World {
    pub(crate) fn obey(&mut self, name: &NodeId, order: Order) {
        let agent = self.agents.get_mut(name).unwrap();
        match order {
            Order::Start(start) => {
                let local = agent.runs.entry(start.gang.spec.name.clone()).or_default();
                if start.gang.generation <= local.generation {
                    return;
                }
                local.generation = start.gang.generation;
                local.stop = None;
                let seat = |rank: &Rank| start.seats.iter().find(|seat| seat.rank == *rank);
                local.ranks.retain(|rank, process| {
                    let stays = seat(rank).is_some_and(|seat| seat.slot == process.slot);
                    process.alive && stays && !start.gang.fresh_processes
                });
                for seat in &start.seats {
                    let process = local.ranks.entry(seat.rank).or_insert_with(|| {
                        self.next_pid += 1;
                        Process {
                            pid: self.next_pid,
                            slot: seat.slot,
                            generation: start.gang.generation,
                            milestone: Milestone::Going,
                            page: Page::default(),
                            alive: true,
                        }
                    });
                    process.generation = start.gang.generation;
                    process.milestone = Milestone::Going;
                    let step = start
                        .gang
                        .resume
                        .map_or(Step(0), |checkpoint| checkpoint.step);
                    let (generation, phase) = (start.gang.generation, Phase::Init);
                    process.page = Page {
                        generation,
                        step,
                        phase,
                        ..Page::default()
                    };
                }
                local.start = Some(start);
            }
            Order::Stop {
                run,
                generation,
                how,
                ..
            } => {
                let local = agent.runs.entry(run.clone()).or_default();
                if generation < local.generation {
                    return;
                }
                local.generation = generation;
                local.stop = Some((generation, how));
                if how == Stop::Now {
                    for (rank, process) in &mut local.ranks {
                        if std::mem::take(&mut process.alive) {
                            let event = RankEvent::Exited {
                                exit: Exit::Signal(9),
                                noticed_after_nanos: None,
                            };
                            let (run, generation) = (run.clone(), process.generation);
                            agent.unsent.push_back(Report::Rank {
                                run,
                                generation,
                                rank: *rank,
                                event,
                            });
                        }
                    }
                }
                if local.ranks.values().all(|process| !process.alive) {
                    agent.unsent.push_back(Report::Stopped { run, generation });
                }
            }
            Order::Kill {
                run,
                generation,
                rank,
                ..
            } => {
                let local = agent.runs.entry(run).or_default();
                let process = local.ranks.get_mut(&rank);
                if let Some(process) = process.filter(|p| p.generation == generation) {
                    process.alive = false;
                }
            }
            Order::Seal { manifest, .. } => {
                let error = self.disk_full.then(|| "no space left on device".to_owned());
                let (run, checkpoint) = (manifest.run.clone(), manifest.id);
                assert_eq!(manifest.version, MANIFEST_VERSION);
                assert!(manifest.is_whole());
                if error.is_none() && !self.storage.contains(&manifest) {
                    self.storage.push(*manifest);
                }
                agent.unsent.push_back(Report::Sealed {
                    run,
                    checkpoint,
                    error,
                });
            }
            Order::Prune {
                run, checkpoints, ..
            } => {
                self.storage
                    .retain(|m| m.run != run || !checkpoints.contains(&m.id));
            }
        }
    }

    /// Ranks of a whole gang that runs one generation form, load and do a first step.
    pub(super) fn come_to_life(&mut self) {
        if !self.obedient {
            return;
        }
        let runs: Vec<_> = self
            .engine
            .runs(self.now)
            .into_iter()
            .map(|view| view.spec)
            .collect();
        for spec in runs {
            let run = spec.name.clone();
            let locals = || {
                self.agents
                    .values()
                    .filter_map(|agent| agent.runs.get(&run))
            };
            let newest = locals()
                .map(|local| local.generation)
                .max()
                .unwrap_or_default();
            let ranks = locals().flat_map(|local| local.ranks.values());
            let going = ranks.filter(|p| p.alive && p.generation == newest);
            if going.count() < spec.layout.world() as usize {
                continue;
            }
            for (name, agent) in &mut self.agents {
                let rots = self.rots.as_ref().filter(|(node, _)| node == name);
                let Some(local) = agent.runs.get_mut(&run) else {
                    continue;
                };
                for (rank, process) in &mut local.ranks {
                    if process.generation != newest || process.milestone != Milestone::Going {
                        continue;
                    }
                    let resume = local.start.as_ref().and_then(|start| start.gang.resume);
                    if let Some((checkpoint, (_, unsound))) = resume.zip(rots) {
                        process.milestone = Milestone::Formed;
                        let unsound = unsound.clone();
                        agent.unsent.push_back(Report::Rank {
                            run: run.clone(),
                            generation: newest,
                            rank: *rank,
                            event: RankEvent::LoadRefused {
                                checkpoint,
                                unsound,
                            },
                        });
                        continue;
                    }
                    process.milestone = Milestone::Stepped;
                    let loaded = process.page.step;
                    process.page.step = Step(loaded.0 + 1);
                    process.page.phase = Phase::Step;
                    for milestone in [
                        Milestone::Going,
                        Milestone::Formed,
                        Milestone::Loaded,
                        Milestone::Stepped,
                    ] {
                        let is_step = milestone == Milestone::Stepped;
                        let step = if is_step { process.page.step } else { loaded };
                        let event = RankEvent::Reached {
                            milestone,
                            step,
                            pid: process.pid,
                        };
                        agent.unsent.push_back(Report::Rank {
                            run: run.clone(),
                            generation: newest,
                            rank: *rank,
                            event,
                        });
                    }
                }
            }
        }
    }
}
