//! What crosses the wire: the messages of `rebloom/v1/*.proto` and their conversion to core's types.
//!
//! Drivers speak core's types (and [`link`], [`rank`], [`admin`] for the framing around them); the
//! messages in [`wire`] appear only where one is sent or received. Going out is `From<core>`;
//! coming in is `TryFrom<wire>`, which refuses what is missing, unknown or out of bounds with a
//! [`Malformed`] that names the field. Nothing here decides anything about a run.

pub mod admin;
mod cause;
mod check;
mod checkpoint;
mod eval;
mod flight;
pub mod health;
pub mod link;
mod order;
pub mod rank;
mod report;
mod rules;
pub mod snapshot;
mod spec;
mod view;

pub use check::{MAX_LIST, MAX_TEXT, Malformed};

/// Messages, clients and servers as generated from the .proto files.
#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::use_self,
    clippy::wildcard_enum_match_arm,
    reason = "generated code"
)]
pub mod wire {
    include!(concat!(env!("OUT_DIR"), "/rebloom.v1.rs"));
}

/// The descriptors of every message and service, for the reflection service.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/rebloom.v1.bin"));

/// The largest message that a client or server should take.
pub const MAX_MESSAGE: usize = 32 << 20;
