//! What the engine is told.

use crate::health::Mode;
use crate::health::edited::EditedRule;
use crate::id::{Digest, NodeId, RunId, Session};
use crate::layout::Layout;
use crate::order::Stop;
use crate::report::{Beat, Join, Report};
use crate::spec::RunSpec;
use serde::{Deserialize, Serialize};

/// Names one question of an admin, so that its answer finds the way back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ticket(pub u64);

/// What an admin asks for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    /// Run this. With `dry_run`, only say whether and where it would run.
    Submit {
        /// What.
        spec: Box<RunSpec>,
        /// Whether nothing is to be started.
        dry_run: bool,
    },
    /// Stop a run; it can be resumed.
    Stop {
        /// Which.
        run: RunId,
        /// How.
        how: Stop,
    },
    /// Let a stopped, failed or parked run go on, with fresh budgets.
    Resume {
        /// Which.
        run: RunId,
        /// The layout to go on in; none means the one it had.
        layout: Option<Layout>,
    },
    /// Place nothing new on a node.
    Cordon {
        /// Which.
        node: NodeId,
    },
    /// Use a node again; also lifts what automation withdrew.
    Uncordon {
        /// Which.
        node: NodeId,
    },
    /// Cordon a node and move its ranks elsewhere, each run at a step boundary.
    Drain {
        /// Which.
        node: NodeId,
        /// Whether nothing is to be moved: only say what would be.
        dry_run: bool,
    },
    /// Add or change a rule of health.
    SetRule {
        /// The rule.
        rule: EditedRule,
    },
    /// Change whether a rule of health acts.
    SetRuleMode {
        /// Its name.
        name: String,
        /// Whether it acts.
        mode: Mode,
    },
    /// Remove a rule of health, or set one that is built in back to its default.
    UnsetRule {
        /// Its name.
        name: String,
    },
}

/// What the engine is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// An admin asks.
    Ask {
        /// For the way back.
        ticket: Ticket,
        /// What.
        ask: Ask,
    },
    /// An agent opened a link and says what it is and runs.
    Joined {
        /// The driver's number for this link; it only grows.
        session: Session,
        /// SHA-256 of the public key that the agent proved to hold.
        identity: Digest,
        /// What it says.
        join: Join,
    },
    /// An agent's link is closed.
    Left {
        /// Whose.
        node: NodeId,
        /// Which link.
        session: Session,
    },
    /// An agent's sign of life.
    Beat {
        /// Whose.
        node: NodeId,
        /// Over which link.
        session: Session,
        /// What it says.
        beat: Beat,
    },
    /// An agent reports.
    Report {
        /// Which.
        node: NodeId,
        /// Over which link.
        session: Session,
        /// What it says.
        report: Report,
    },
}
