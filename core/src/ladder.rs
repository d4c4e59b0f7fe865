//! The recovery ladder: which rung comes next for a fault, and when there is none left.
//!
//! Six rungs, from the cheapest to the last: survivors re-form in place; all ranks are restarted; nodes
//! are replaced; ranks are relaunched with asynchronous kernel launches off; data parallelism shrinks;
//! the run is parked. The cause picks where to begin, budgets say how often a rung is tried without
//! progress, gates say whether it can be tried at all. Nothing in here looks at a fleet.

pub mod evict;
pub mod gate;
pub mod shape;

use crate::cause::Cause;
use crate::spec::Recovery;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One step of the recovery ladder, lowest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rung {
    /// Survivors keep their process and re-form; what is lost is started anew.
    Reform,
    /// Every rank is started anew, on the same nodes.
    Restart,
    /// Ranks leave the node at fault, or the nodes of a whole parallel group where blame is not sharp.
    Replace,
    /// Every rank is started anew with asynchronous kernel launches off.
    AsyncOff,
    /// The run goes on with fewer copies of the model.
    Shrink,
    /// The run is parked with its evidence.
    Park,
}

impl Rung {
    /// Every rung, lowest first.
    pub const ALL: [Self; 6] = [
        Self::Reform,
        Self::Restart,
        Self::Replace,
        Self::AsyncOff,
        Self::Shrink,
        Self::Park,
    ];

    /// The CamelCase name: metric label, heading.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Reform => "Reform",
            Self::Restart => "Restart",
            Self::Replace => "Replace",
            Self::AsyncOff => "AsyncOff",
            Self::Shrink => "Shrink",
            Self::Park => "Park",
        }
    }

    /// How often it may be tried in a row without progress; parking is always left.
    pub const fn budget(self, recovery: &Recovery) -> u32 {
        match self {
            Self::Reform => recovery.reform,
            Self::Restart => recovery.restart,
            Self::Replace => recovery.replace,
            Self::AsyncOff => recovery.async_off,
            Self::Shrink => recovery.shrink,
            Self::Park => u32::MAX,
        }
    }
}

/// Hangs that speak against the same node, after which ranks leave it.
const SAME: u32 = 2;

/// What was tried already, and which of the special rungs can be taken at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing<'a> {
    /// Tries of each rung since the last progress.
    pub tries: &'a BTreeMap<Rung, u32>,
    /// Recoveries, progress or not, since the newest checkpoint was sealed.
    pub unsealed: u32,
    /// Hangs since the last clean spell.
    pub hangs: u32,
    /// How many of these, the present one too, spoke against the same node: by a rank on it, or by a group
    /// that has one there.
    pub blamed: u32,
    /// Whether turning asynchronous launches off can be tried and is not in force.
    pub may_async_off: bool,
    /// Whether a smaller layout is allowed.
    pub may_shrink: bool,
}

/// Where recovery from a root cause begins. A gang in which no single rank stands out is restarted
/// once; if that leads nowhere, the parallel group that the suspects share leaves its nodes. Ranks whose
/// replicas differ get new processes.
pub fn first(cause: &Cause, tries: &BTreeMap<Rung, u32>) -> Rung {
    if let Cause::GangHung { group, .. } = cause {
        let was_restarted = tries.get(&Rung::Restart).is_some_and(|tries| *tries > 0);
        if was_restarted && group.is_some() {
            Rung::Replace
        } else {
            Rung::Restart
        }
    } else if matches!(
        cause,
        Cause::NodeLost { .. } | Cause::NodeFaulty { .. } | Cause::StorageMisread { .. }
    ) {
        Rung::Replace
    } else if matches!(
        cause,
        Cause::CleanSpell { .. }
            | Cause::RoomToGrow { .. }
            | Cause::Slower { .. }
            | Cause::NodeSlow { .. }
            // What flipped may be anywhere in its process.
            | Cause::ReplicasDiffer { .. }
    ) {
        Rung::Restart
    } else {
        Rung::Reform
    }
}

/// The rung to take for a cause: the first from `from` on that has budget left and can be tried.
/// Causes that are exempt take `from` as it is and spend no rung; without a checkpoint in between even
/// these come to an end, unless they were planned.
pub fn climb(cause: &Cause, from: Rung, recovery: &Recovery, standing: &Standing<'_>) -> Rung {
    if cause.is_fault() && standing.unsealed >= recovery.unsealed {
        return Rung::Park;
    }
    if !cause.climbs() {
        return from;
    }
    let tries = |rung: Rung| standing.tries.get(&rung).copied().unwrap_or_default();
    let is_hang = cause.is_hang();
    let is_open = |rung: Rung| {
        let is_possible = match rung {
            Rung::AsyncOff => is_hang && standing.may_async_off,
            Rung::Shrink => standing.may_shrink,
            Rung::Reform | Rung::Restart | Rung::Replace | Rung::Park => true,
        };
        is_possible && tries(rung) < rung.budget(recovery)
    };
    // Hangs that come back after progress never spend a lower rung; the pattern itself is the sign. Where it is
    // the same node again, that leaves first; where it did not help, it is the launches.
    if is_hang && standing.blamed == SAME && is_open(Rung::Replace) {
        return Rung::Replace;
    }
    if is_hang && standing.hangs > recovery.hangs && is_open(Rung::AsyncOff) {
        return Rung::AsyncOff;
    }
    let is_same = is_hang && standing.blamed > SAME;
    let from = if is_same {
        from.max(Rung::Replace)
    } else {
        from
    };
    let mut left = Rung::ALL.into_iter().filter(|rung| *rung >= from);
    left.find(|rung| is_open(*rung)).unwrap_or(Rung::Park)
}
