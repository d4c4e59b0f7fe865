//! Placement: where the ranks of a gang go. Pure, and the same for the same past.
//!
//! A gang is placed whole or not at all (S4), on nodes of one kind of GPU, never on a node that is
//! held back (S3), never on a slot that another run has or may still have (S2). A tensor group stays
//! inside a node, the stages of a model copy stay as near as they can (node, rack, fabric), copies go
//! across. Seats that can be kept are kept, and what has to go elsewhere goes to as few nodes as
//! possible, beside the rest of its gang, so that whole nodes stay free as spares.
//!
//! [`Floor`] is an index, not a record: it is made again from the engine's state at any time. What it
//! takes to place a gang does not grow with the number of nodes, only with the size of the gang.

mod floor;
mod holding;
mod queue;
mod rack;
mod seats;
mod slots;
mod spares;

pub use floor::{Floor, Standing};
pub use queue::Waiting;
pub use seats::Want;
pub use slots::Slots;
pub use spares::{Reliability, spares};
