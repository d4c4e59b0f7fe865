//! What the engine wants done.

use super::view::RunState;
use super::{Seating, Ticket};
use crate::id::{Generation, NodeId, RunId, Session};
use crate::order::Order;
use crate::spec::Flaw;
use serde::{Deserialize, Serialize};

/// Why the engine does not do what it was asked: data, not an error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// The spec cannot run.
    #[error("the run spec does not fit: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Flaws(Vec<Flaw>),
    /// There is a run of that name, and it is not over or has another spec.
    #[error("run {0} exists already and is {1}; choose another name")]
    RunExists(RunId, RunState),
    /// No such run.
    #[error("there is no run {0}")]
    NoSuchRun(RunId),
    /// No such node.
    #[error("there is no node {0}")]
    NoSuchNode(NodeId),
    /// The run is in a state in which that makes no sense.
    #[error("run {0} is {1}; {2}")]
    WrongState(RunId, RunState, String),
    /// A node with this name is known by another key.
    #[error(
        "node {0} is known by another identity; remove it first, or give this agent its own name"
    )]
    OtherIdentity(NodeId),
    /// The rule of health cannot be one.
    #[error("{0}")]
    BadRule(String),
    /// There is no such rule of health.
    #[error("there is no rule {0}")]
    NoSuchRule(String),
    /// Draining would leave a run without room.
    #[error("no room for the ranks of run {0} elsewhere")]
    NoRoom(RunId),
}

/// What the engine answers an admin.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Done, or begun.
    Done {
        /// What happened, in one sentence.
        message: String,
        /// The generation in force, where a run is concerned.
        generation: Option<Generation>,
    },
    /// For a dry run: what would happen.
    WouldPlace {
        /// Where each rank would be; empty where the run would wait for room.
        seating: Vec<Seating>,
        /// What it would do, in one sentence.
        message: String,
    },
    /// Not done.
    Refused(Refusal),
}

/// What the engine wants done, in order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command<Record> {
    /// Append to the journal; on disk before any later command is carried out.
    Persist(Record),
    /// Send an order over a link; dropped if the link is gone, since a join brings it again.
    Send {
        /// To which node.
        node: NodeId,
        /// Over which link.
        session: Session,
        /// What.
        order: Order,
    },
    /// Close a link whose join was refused.
    Refuse {
        /// Which link.
        session: Session,
        /// Why.
        refusal: Refusal,
    },
    /// Answer an admin.
    Answer {
        /// Which question.
        ticket: Ticket,
        /// The answer.
        answer: Answer,
    },
}
