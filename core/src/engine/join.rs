//! A join: an agent says what it is, what it remembers and what runs on it.
//!
//! The truth is taken from the agent before it is commanded: this engine's journal may be older than
//! the world (it lost its last moments, or another life wrote them). Ranks that run the generation
//! in force are adopted as they are.

use super::orders::Told;
use super::state::Run;
use super::{CheckpointState, Command, Engine, Fact, Refusal};
use crate::cause::Cause;
use crate::checkpoint::Manifest;
use crate::id::{Digest, NodeId, Rank, RunId, Session};
use crate::report::{Join, Remembered};
use crate::time::Instant;

impl Engine {
    pub(super) fn joined(&mut self, session: Session, identity: Digest, join: Join) {
        let node = join.facts.node.clone();
        let known = self.state.nodes.get(&node);
        if known.is_some_and(|known| known.identity != identity) {
            self.count("other_identity");
            let refusal = Refusal::OtherIdentity(node);
            return self.out.push_back(Command::Refuse { session, refusal });
        }
        if self
            .links
            .get(&node)
            .is_some_and(|link| link.session >= Some(session))
        {
            return self.count("stale_link");
        }
        let (is_lost, is_news) = known.map_or((false, true), |known| {
            (known.lost, *known.facts != join.facts)
        });
        if is_news {
            self.tell(Fact::NodeEnrolled {
                facts: join.facts,
                identity,
            });
        }
        if is_lost {
            self.tell(Fact::NodeReturned { node: node.clone() });
        }
        self.links.joined(&node, session, self.now);
        for run in self.desk.forget_strays(&node) {
            self.rehold(&run);
            self.agenda.reorder(&run);
        }
        self.node_changed(&node, false);
        let mentioned: Vec<_> = join
            .runs
            .iter()
            .map(|remembered| remembered.run.clone())
            .collect();
        self.memory_lost(&node);
        for remembered in join.runs {
            self.remembers(&node, session, &remembered);
        }
        self.check_forgotten(&node, &mentioned);
    }

    fn remembers(&mut self, node: &NodeId, session: Session, remembered: &Remembered) {
        let Remembered {
            run: id,
            generation,
            ranks,
            sealed,
            snapshots,
        } = remembered;
        let (id, generation) = (id.clone(), *generation);
        self.agenda.reorder(&id);
        let Some(run) = self.state.runs.get(&id) else {
            if self
                .state
                .floors
                .get(&id)
                .is_none_or(|floor| *floor < generation)
            {
                let (run, node) = (id.clone(), node.clone());
                self.tell(Fact::GenerationSeen {
                    run,
                    generation,
                    node,
                    alive: false,
                });
            }
            if !ranks.is_empty() {
                self.desk.stray(node, &id, generation);
                self.rehold(&id);
                self.agenda.reorder(&id);
            }
            return;
        };
        let is_newer = generation > run.generation;
        let has_gang = run
            .gang
            .as_ref()
            .is_some_and(|gang| gang.placement.nodes.contains(node));
        let is_owed = run
            .owed
            .get(node)
            .is_some_and(|owed| owed.generation >= generation);
        let alive = !ranks.is_empty() && (is_newer || !has_gang);
        let learns = generation > run.floor;
        if learns || (alive && !is_owed) {
            let (run, node) = (id.clone(), node.clone());
            self.tell(Fact::GenerationSeen {
                run,
                generation,
                node,
                alive,
            });
        }
        for manifest in sealed.iter().rev() {
            self.learn(&id, manifest);
        }
        self.remembers_snapshots(node, &id, snapshots);
        if has_gang && is_newer {
            self.went_missing(&id, node);
        } else if has_gang {
            self.adopt(node, session, remembered);
        }
    }

    /// Takes in what the agent says of the ranks it should have in the generation in force.
    fn adopt(&mut self, node: &NodeId, session: Session, remembered: &Remembered) {
        let id = &remembered.run;
        let gang = self.state.runs.get(id).and_then(|run| run.gang.as_ref());
        let Some(gang) = gang else { return };
        let generation = gang.generation;
        let mut news = Vec::new();
        let (mut is_adopted, mut is_missing) = (remembered.generation == generation, false);
        for (rank, member) in gang.on(node) {
            let status = remembered.ranks.iter().find(|status| status.rank == rank);
            match status {
                Some(status) if status.generation == generation => {
                    if member.reached < Some(status.milestone)
                        && status.milestone < crate::report::Milestone::Finished
                        && status.pid != 0
                    {
                        news.push(Fact::RankReached {
                            run: id.clone(),
                            generation,
                            rank,
                            milestone: status.milestone,
                            step: member.step.max(gang.first_step()),
                            pid: status.pid,
                        });
                    }
                }
                Some(_) => is_adopted = false,
                None if member.finished.is_some() || member.gone => {}
                None if remembered.generation < generation => is_adopted = false,
                // Sent, never seen: its process may be about to start, or its end about to be said.
                None if member.reached.is_none() => is_adopted = false,
                None => is_missing = true,
            }
        }
        news.into_iter().for_each(|fact| self.tell(fact));
        if is_missing {
            self.went_missing(id, node);
        } else if is_adopted {
            self.is_told(id, node, session, Told::Start(generation));
        }
    }

    /// Runs that the agent does not remember at all though it was seen running them: it lost its
    /// memory and with it its ranks.
    fn check_forgotten(&mut self, node: &NodeId, mentioned: &[RunId]) {
        let forgot = |run: &Run| {
            run.gang.as_ref().is_some_and(|gang| {
                gang.on(node).any(|(_, member)| {
                    member.reached.is_some() && member.finished.is_none() && !member.gone
                })
            })
        };
        let mut forgotten = self.floor.on(node);
        forgotten
            .retain(|id| !mentioned.contains(id) && self.state.runs.get(id).is_some_and(forgot));
        forgotten.iter().for_each(|id| self.went_missing(id, node));
    }

    fn went_missing(&mut self, id: &RunId, node: &NodeId) {
        let gang = self.state.runs.get(id).and_then(|run| run.gang.as_ref());
        let lacks = gang.and_then(|gang| {
            let mut on = gang.on(node);
            on.find(|(_, member)| member.finished.is_none() && !member.gone)
                .map(|(rank, _)| rank)
        });
        let rank = lacks.unwrap_or(Rank(0));
        let began = match self.links.get(node) {
            // Whatever happened, happened while this engine was not there to see it.
            Some(link) if link.previous.is_none() => self.last_seen(id),
            Some(link) => link.heard_before,
            None => self.now,
        };
        let node = node.clone();
        self.fault(id, Cause::RanksMissing { node, rank }, began);
    }

    /// When a run was last known to train, by the journal alone.
    fn last_seen(&self, id: &RunId) -> Instant {
        let Some(run) = self.state.runs.get(id) else {
            return self.now;
        };
        let gang = run.gang.as_ref().map(|gang| gang.reached_at);
        gang.max(Some(run.trained_at)).unwrap_or(self.now)
    }

    /// Takes in a sealed checkpoint that lies on storage and that the journal does not know.
    fn learn(&mut self, id: &RunId, manifest: &Manifest) {
        let Some(run) = self.state.runs.get(id) else {
            return;
        };
        let is_sound = manifest.is_known()
            && manifest.run == *id
            && manifest.is_whole()
            && manifest.id.step.0 <= run.spec.train.steps;
        if !is_sound {
            return self.count("foreign_manifest");
        }
        let mine = manifest.id.generation > run.first;
        let is_known = run.checkpoint_state(manifest.id).is_some();
        let was_pruned = run.pruned.contains(&manifest.id);
        let sealed = run
            .held
            .iter()
            .filter(|held| held.state == CheckpointState::Sealed);
        let room = sealed.count() < run.spec.checkpoint.keep as usize;
        let is_newer = run
            .newest_sealed()
            .is_none_or(|newest| newest < manifest.id);
        if is_known || !mine {
            return;
        }
        if !was_pruned && (room || is_newer) {
            let (run, checkpoint, samples) = (id.clone(), manifest.id, manifest.samples);
            self.tell(Fact::CheckpointSealed {
                run,
                checkpoint,
                samples,
            });
        } else {
            self.desk.prune(id, &[manifest.id], self.now);
        }
    }
}
