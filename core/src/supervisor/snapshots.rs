//! What ranks leave in this node's memory, which is the agent's: it is told of, sent to a peer, and dropped
//! when a generation goes on from before it.

use super::{Command, Supervisor};
use crate::id::{Rank, RunId, Step};
use crate::order::Start;
use crate::report::Report;
use crate::snapshot::Piece;

impl Supervisor {
    /// What a rank left in memory is told of, and goes to the peer that keeps it too.
    pub(super) fn snapped(&mut self, run: RunId, rank: Rank, pid: u32, piece: Piece) {
        let known = self.runs.get(&run);
        let Some(peer) = known.and_then(|known| known.snapped(rank, pid, &piece)) else {
            return;
        };
        if let Some(to) = peer {
            let (run, piece) = (run.clone(), piece.clone());
            self.commands
                .push_back(Command::Replicate { run, piece, to });
        }
        let at = self.config.node.clone();
        self.report(Report::SnapshotHeld { run, piece, at });
    }
}

/// What a new generation drops: steps after the one that it begins with never came about.
pub(super) fn drops(start: &Start) -> Option<Command> {
    start.gang.spec.checkpoint.snapshot?;
    Some(Command::DropSnapshots {
        run: start.gang.spec.name.clone(),
        after: start.gang.resume.map_or(Step(0), |resume| resume.step),
    })
}
