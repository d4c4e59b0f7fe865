//! The agent as a whole: the real binary, real worker processes, real links, and a controller that
//! says what a test tells it to.
#![allow(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test that meets what it does not expect fails right there"
)]

mod cluster;
mod doors;
mod gpus;
mod nccl;
mod probe;
mod process;
mod ranks;
mod standby;
