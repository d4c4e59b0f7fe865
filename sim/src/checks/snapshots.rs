//! What a run goes on from where that lies in memory.

use super::{Checks, Seen};
use crate::storage::digest;
use rebloom_core::checkpoint::{CheckpointId, Shard};
use rebloom_core::engine::Placement;
use rebloom_core::id::{NodeId, Rank, RunId};
use rebloom_core::layout::Layout;
use rebloom_core::snapshot::Restore;

impl Seen {
    /// A snapshot is whole, of one step, and what every rank had then; whether it is still there shows when
    /// it is loaded.
    pub(super) fn check_restore(
        &self,
        run: &RunId,
        resume: Option<CheckpointId>,
        restore: Option<&Restore>,
        (layout, placement): (Layout, &Placement),
    ) -> Option<String> {
        let restore = restore?;
        let truth = |rank| self.true_state(layout, rank, restore.id.step);
        let is_true = |(rank, (shard, _)): (Rank, &(Shard, NodeId))| {
            shard.rank == rank && truth(rank).is_some_and(|it| digest(it) == shard.hash)
        };
        let is_sound = resume == Some(restore.id)
            && restore.layout == layout
            && restore.shards.len() == placement.ranks()
            && layout.ranks().zip(&restore.shards).all(is_true);
        let at = restore.id.directory();
        (!is_sound).then(|| format!("S6: {run} is to go on from {at}, which no gang had"))
    }
}

impl Checks {
    /// Counts what memory was good for.
    pub(super) fn note_restore(&mut self, restore: &Restore, placement: &Placement) {
        let seats = placement.seats().zip(&restore.shards);
        let is_own = seats.into_iter().all(|(seat, (_, at))| seat.node == at);
        self.recalls[0] += 1;
        self.recalls[1] += u64::from(!is_own);
    }
}
