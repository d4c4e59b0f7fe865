//! The process of one rank, whatever it trains: the link to its agent, the rendezvous store behind it,
//! and the driver of `rebloom_core::member`.
//!
//! What is done with a command is the business of a [`Work`]: the worker's trains BLOOM, that of the tests
//! only counts. Nothing is decided in here, and nothing in here knows a model or a collective.

pub mod arguments;
mod driver;
mod fence;
mod link;
mod snapshots;
pub mod store;
mod work;

pub use driver::{LOOK, Options, StartError, run};
pub use fence::Fence;
pub use snapshots::Snapshots;
pub use work::{Done, Place, Saved, Snapped, Teller, Work};
