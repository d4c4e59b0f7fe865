//! Which process is which rank: what a peer on the unix socket is checked against.

use rebloom_core::id::{Rank, RunId};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The living ranks by the id of their process.
#[derive(Debug, Default)]
pub struct Roster(Mutex<BTreeMap<u32, (RunId, Rank)>>);

impl Roster {
    /// A process was started or adopted.
    pub fn add(&self, pid: u32, run: RunId, rank: Rank) {
        self.lock().insert(pid, (run, rank));
    }

    /// A process has ended.
    pub fn remove(&self, pid: u32) {
        self.lock().remove(&pid);
    }

    /// Whose process it is; none where it is not a rank of this agent.
    pub fn find(&self, pid: u32) -> Option<(RunId, Rank)> {
        self.lock().get(&pid).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, (RunId, Rank)>> {
        // Single inserts and removals leave nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
