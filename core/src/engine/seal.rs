//! Checkpoints: collected shard by shard, sealed when every rank has reported, removed when old.
//!
//! A checkpoint whose shards are all known is sealed even if its generation has ended meanwhile: the
//! files are whole. One that lacks a shard when its generation ends never comes about.

use super::state::{Run, Save};
use super::{CheckpointState, Engine, Fact, RunState, Rung};
use crate::cause::Cause;
use crate::checkpoint::{CheckpointId, MANIFEST_VERSION, Manifest, Shard};
use crate::id::{NodeId, Rank, RunId};
use crate::report::Milestone;

impl Engine {
    pub(super) fn shard_saved(
        &mut self,
        node: &NodeId,
        id: &RunId,
        checkpoint: CheckpointId,
        samples: u64,
        shard: Shard,
    ) {
        let Some(run) = self.state.runs.get(id) else {
            return self.count("unknown_run");
        };
        if !is_saving(run, node, checkpoint, shard.rank) {
            return self.count("stale_shard");
        }
        let save = run.saves.iter().find(|save| save.id == checkpoint);
        match save {
            Some(save) if save.samples != samples => return self.count("contradicting_shard"),
            Some(save) if save.shards.contains_key(&shard.rank) => return,
            Some(_) | None => {}
        }
        self.tell(Fact::ShardSaved {
            run: id.clone(),
            checkpoint,
            samples,
            shard,
        });
    }

    pub(super) fn shard_failed(
        &mut self,
        node: &NodeId,
        id: &RunId,
        checkpoint: CheckpointId,
        rank: Rank,
        error: String,
    ) {
        let Some(run) = self.state.runs.get(id) else {
            return self.count("unknown_run");
        };
        if !is_saving(run, node, checkpoint, rank) {
            return self.count("stale_shard");
        }
        self.save_failed(id, checkpoint, Some(rank), error);
    }

    pub(super) fn manifest_written(
        &mut self,
        id: &RunId,
        checkpoint: CheckpointId,
        error: Option<String>,
    ) {
        let Some(run) = self.state.runs.get(id) else {
            return self.count("unknown_run");
        };
        let save = run.saves.iter().find(|save| save.id == checkpoint);
        let Some(samples) = save.filter(|save| save.is_whole()).map(|save| save.samples) else {
            return self.count("stale_seal");
        };
        match error {
            None => {
                let watch = self.watches.get_mut(id);
                if let Some(watch) = watch.filter(|_| !run.is_leaving()) {
                    watch.saved();
                }
                self.tell(Fact::CheckpointSealed {
                    run: id.clone(),
                    checkpoint,
                    samples,
                });
                self.pass_milepost(id);
            }
            Some(error) => self.save_failed(id, checkpoint, None, error),
        }
    }

    fn save_failed(
        &mut self,
        id: &RunId,
        checkpoint: CheckpointId,
        rank: Option<Rank>,
        error: String,
    ) {
        let is_last = self.state.runs.get(id).is_some_and(|run| {
            let generation = run.gang.as_ref().map(|gang| gang.generation);
            generation == Some(checkpoint.generation) && checkpoint.step.0 >= run.spec.train.steps
        });
        self.tell(Fact::CheckpointFailed {
            run: id.clone(),
            checkpoint,
        });
        let cause = Cause::SaveFailed {
            step: checkpoint.step,
            rank,
            error,
        };
        let at = (self.now, self.now);
        if is_last {
            // What is not saved is not done.
            return self.broke(id, cause, at, Rung::Reform);
        }
        let step = self.step(id);
        self.tell(Fact::IncidentOpened {
            run: id.clone(),
            cause,
            began: at.0,
            heard: at.1,
            step,
            rung: None,
        });
    }

    /// Takes the seal orders and the removals of a run forward.
    pub(super) fn keep_checkpoints(&mut self, id: &RunId) {
        let Some(run) = self.state.runs.get(id) else {
            return;
        };
        let whole = run.saves.iter().filter(|save| save.is_whole());
        let manifests: Vec<_> = whole.map(|save| manifest(id, save)).collect();
        let old = prunable(run);
        if manifests.is_empty() && old.is_empty() && !self.desk.has_prunes(id) {
            return self.desk.keeps(id, true);
        }
        let store = run.gang.as_ref().map(|gang| &gang.placement.store_node);
        let reachable = |node: &&NodeId| self.session(node).is_some();
        let keeper = store.filter(reachable).or_else(|| self.links.any_open());
        let Some(keeper) = keeper.cloned() else {
            return self.desk.keeps(id, false);
        };
        let directory = run.spec.checkpoint.directory.clone();
        self.desk.keeps(id, true);
        for manifest in manifests {
            self.order_seal(&keeper, &directory, manifest);
        }
        if !old.is_empty() {
            self.desk.prune(id, &old, self.now);
            self.tell(Fact::CheckpointsPruned {
                run: id.clone(),
                checkpoints: old,
            });
        }
        self.order_prune(&keeper, id, directory);
    }
}

/// Whether a shard of this checkpoint is expected of this rank on this node (S10).
fn is_saving(run: &Run, node: &NodeId, checkpoint: CheckpointId, rank: Rank) -> bool {
    run.gang.as_ref().is_some_and(|gang| {
        checkpoint.generation == gang.generation && gang.node_of(rank) == Some(node)
    }) && run.checkpoint_state(checkpoint).is_none()
        && !run.garbage.contains(&checkpoint)
        && !run.pruned.contains(&checkpoint)
}

fn manifest(id: &RunId, save: &Save) -> Manifest {
    Manifest {
        version: MANIFEST_VERSION,
        run: id.clone(),
        id: save.id,
        layout: save.layout,
        samples: save.samples,
        shards: save.shards.values().cloned().collect(),
    }
}

/// Checkpoints whose files can go: sealed ones beyond those to keep, unsound ones older than all of
/// them, and failed ones that nobody writes to any more. Never the newest sealed one, and no sealed one at
/// all before the gang has loaded: what it loads may turn out to be unsound.
fn prunable(run: &Run) -> Vec<CheckpointId> {
    let is_sealed = |state| state == CheckpointState::Sealed;
    let sealed: Vec<_> = run
        .held
        .iter()
        .filter(|h| is_sealed(h.state))
        .map(|h| h.id)
        .collect();
    let surplus = sealed
        .len()
        .saturating_sub(run.spec.checkpoint.keep.max(1) as usize);
    let oldest_kept = sealed.get(surplus);
    let has_loaded = match &run.gang {
        Some(gang) => gang.reached >= Some(Milestone::Loaded),
        None => run.state == RunState::Completed,
    };
    let held = run.held.iter().map(|held| held.id);
    let held = held.filter(|id| has_loaded && oldest_kept.is_some_and(|kept| id < kept));
    let newest = run
        .saves
        .iter()
        .map(|save| save.id)
        .chain(sealed.last().copied())
        .max();
    let is_live = |id: &CheckpointId| {
        run.gang.as_ref().is_some_and(|gang| {
            let same = id.generation == gang.generation;
            let settling = !same && gang.reached < Some(Milestone::Loaded);
            settling || (same && newest.is_none_or(|newest| newest <= *id))
        })
    };
    let garbage = run.garbage.iter().copied().filter(|id| !is_live(id));
    held.chain(garbage).collect()
}
