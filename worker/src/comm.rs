//! Groups of ranks: who waits for whom, counted in the flight page, and ended by a fence.
//!
//! No wait in here polls. A watcher thread looks at the fence every few milliseconds and, when it
//! went up, fails every connection of the generation, which ends each wait as the death of a peer
//! would. (A wait for a GPU looks at its event, and a fence ends that as well.) Forming is bounded the same way. What a rank does between waits is not this module's
//! business, and it never decides what happens after a failure.

mod forming;
mod groups;
pub mod spent;
mod store;

pub use crate::shim::{Cut, Device, Parts};
pub use groups::{Group, Groups, Pending};
pub use rebloom_rank::store::{Store, StoreError};
pub use store::{FileStore, MemoryStore};

use crate::shim::ShimError;
use rebloom_core::id::Generation;
use rebloom_runtime::flight::Recorder;

/// Why a wait for other ranks came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommError {
    /// The generation was fenced.
    #[error("generation {0} is fenced")]
    Fenced(Generation),
    /// A peer went away, or a connection broke.
    #[error("{0}")]
    PeerLost(String),
}

/// A generation and the flight page that says whether it is over.
#[derive(Debug, Clone, Copy)]
pub struct Watch {
    /// The page.
    pub recorder: &'static Recorder,
    /// The generation.
    pub generation: Generation,
}

impl Watch {
    /// Whether the generation is over.
    pub fn fenced(self) -> bool {
        self.recorder.fence() > self.generation
    }

    /// What a failed wait was: a fence if there is one, as it also breaks connections.
    pub fn failure(self, error: &str) -> CommError {
        if self.fenced() {
            CommError::Fenced(self.generation)
        } else {
            CommError::PeerLost(error.to_owned())
        }
    }

    fn judge<T>(self, outcome: Result<T, ShimError>) -> Result<T, CommError> {
        outcome.map_err(|error| self.failure(&error.0))
    }
}
