//! What a test lets the ranks of a run do: die, train, save and finish.

use super::{Process, World, digest, millis};
use rebloom_core::cause::Exit;
use rebloom_core::checkpoint::{CheckpointId, Shard};
use rebloom_core::flight::{Counter, Page, Phase};
use rebloom_core::id::{Generation, NodeId, Rank, RunId, Step};
use rebloom_core::report::{Finish, Milestone, RankEvent, Report};
use rebloom_core::snapshot::Piece;

impl World {
    pub(crate) fn rank_event(&mut self, run: &RunId, rank: u32, event: RankEvent) {
        let (_, generation) = self.where_is(run, rank);
        self.event_of(run, rank, generation, event);
    }

    /// The same of a generation that may be over by now.
    pub(crate) fn event_of(
        &mut self,
        run: &RunId,
        rank: u32,
        generation: Generation,
        event: RankEvent,
    ) {
        let (name, _) = self.where_is(run, rank);
        let (run, rank) = (run.clone(), Rank(rank));
        self.report(
            &name,
            Report::Rank {
                run,
                generation,
                rank,
                event,
            },
        );
    }

    /// The agent of a rank, and the generation its process is in; a dead one where none lives.
    fn where_is(&self, run: &RunId, rank: u32) -> (NodeId, Generation) {
        let agents = self.agents.iter();
        let found = agents.filter_map(|(name, agent)| {
            let process = agent.runs.get(run)?.ranks.get(&Rank(rank))?;
            Some((process.alive, process.generation, name.clone()))
        });
        let (_, generation, name) = found.max().unwrap();
        (name, generation)
    }

    /// kill -9 of ranks; the agents notice after 10 ms. All of them die before anybody notices.
    pub(crate) fn kill(&mut self, run: &RunId, ranks: &[u32]) {
        for rank in ranks {
            let (name, generation) = self.where_is(run, *rank);
            self.process(run, *rank).alive = false;
            let (run, rank) = (run.clone(), Rank(*rank));
            let event = RankEvent::Exited {
                exit: Exit::Signal(9),
                noticed_after_nanos: Some(10_000_000),
            };
            let report = Report::Rank {
                run,
                generation,
                rank,
                event,
            };
            self.agents.get_mut(&name).unwrap().unsent.push_back(report);
        }
        self.settle();
    }

    pub(crate) fn process(&mut self, run: &RunId, rank: u32) -> &mut Process {
        self.living(run, rank).unwrap()
    }

    /// The process of a rank, if it lives.
    fn living(&mut self, run: &RunId, rank: u32) -> Option<&mut Process> {
        let processes = self
            .agents
            .values_mut()
            .filter_map(|agent| agent.runs.get_mut(run));
        let mut processes = processes.flat_map(|local| local.ranks.iter_mut());
        let is_it = |found: &(&Rank, &mut Process)| found.0.0 == rank && found.1.alive;
        processes.find(is_it).map(|(_, process)| process)
    }

    pub(crate) fn for_each_process(
        &mut self,
        run: &RunId,
        mut act: impl FnMut(Rank, &mut Process),
    ) {
        for local in self
            .agents
            .values_mut()
            .filter_map(|agent| agent.runs.get_mut(run))
        {
            local
                .ranks
                .iter_mut()
                .for_each(|(rank, process)| act(*rank, process));
        }
    }

    /// The living ranks do steps up to this one, and their pages say so.
    pub(crate) fn train(&mut self, run: &RunId, step: u64) {
        self.for_each_process(run, |_, process| {
            process.page.step = Step(step);
            process.page.samples = step * 8;
            process.page.loss = 2.0;
            process.page.phase = Phase::Step;
        });
        self.pass(millis(100));
    }

    /// Every rank writes its shard of this step.
    pub(crate) fn save(&mut self, run: &RunId, step: u64) -> CheckpointId {
        let id = CheckpointId {
            step: Step(step),
            generation: self.generation(run),
        };
        let world = self.view(run).spec.layout.world();
        (0..world).for_each(|rank| self.save_shard(run, rank, id));
        id
    }

    pub(crate) fn save_shard(&mut self, run: &RunId, rank: u32, checkpoint: CheckpointId) {
        let name = self.node_of(run, rank);
        let shard = Shard {
            rank: Rank(rank),
            file: format!("rank-{rank:05}.safetensors"),
            bytes: 10,
            hash: digest(7),
        };
        let samples = checkpoint.step.0 * 8;
        self.report(
            &name,
            Report::ShardSaved {
                run: run.clone(),
                checkpoint,
                samples,
                shard,
            },
        );
    }

    /// Every rank leaves its shard of this step in memory, and a replica where its agent was told to.
    pub(crate) fn snap(&mut self, run: &RunId, step: u64) -> CheckpointId {
        let id = CheckpointId {
            step: Step(step),
            generation: self.generation(run),
        };
        let world = self.view(run).spec.layout.world();
        (0..world).for_each(|rank| self.snap_shard(run, rank, id));
        id
    }

    pub(crate) fn snap_shard(&mut self, run: &RunId, rank: u32, checkpoint: CheckpointId) {
        let name = self.node_of(run, rank);
        let piece = Piece {
            checkpoint,
            layout: self.view(run).spec.layout,
            samples: checkpoint.step.0 * 8,
            shard: Shard {
                rank: Rank(rank),
                file: format!("rank-{rank:05}.safetensors"),
                bytes: 10,
                hash: digest(u8::try_from(rank).unwrap()),
            },
        };
        let local = &self.agents[&name].runs[run];
        let keeper = local.start.as_ref().and_then(|start| start.replica.clone());
        let at = keeper.map(|keeper| keeper.node);
        for at in std::iter::once(name.clone()).chain(at) {
            let agent = self.agents.get_mut(&at).unwrap();
            let local = agent.runs.entry(run.clone()).or_default();
            local.snapshots.push(piece.clone());
            let (run, piece) = (run.clone(), piece.clone());
            self.report(&name, Report::SnapshotHeld { run, piece, at });
        }
    }

    /// Every rank stops where it was told to, with this step done and saved.
    pub(crate) fn finish_turn(&mut self, run: &RunId, step: u64) {
        self.finish(run, Finish::Stopped, step);
    }

    pub(crate) fn finish(&mut self, run: &RunId, why: Finish, step: u64) {
        let world = self.view(run).spec.layout.world();
        // What the first say may end the processes of the others.
        for rank in 0..world {
            let Some(process) = self.living(run, rank) else {
                continue;
            };
            process.milestone = Milestone::Finished;
            let state = digest(u8::try_from(rank).unwrap());
            self.rank_event(
                run,
                rank,
                RankEvent::Finished {
                    why,
                    step: Step(step),
                    state,
                },
            );
        }
        for rank in 0..world {
            let Some(process) = self.living(run, rank) else {
                continue;
            };
            process.alive = false;
            let event = RankEvent::Exited {
                exit: Exit::Code(0),
                noticed_after_nanos: None,
            };
            self.rank_event(run, rank, event);
        }
    }
}

/// Sets one counter of a page: `entered` operations begun, `done` finished.
pub(crate) fn count(
    page: &mut Page,
    channel: rebloom_core::flight::Channel,
    entered: u64,
    done: u64,
) {
    let at = rebloom_core::flight::Channel::ALL
        .iter()
        .position(|c| *c == channel)
        .unwrap();
    page.counters[at] = Counter { entered, done };
}
