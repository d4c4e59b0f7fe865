//! The controller over real TLS on 127.0.0.1, with agents played by the test.

#![allow(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test that cannot go on fails, and picks what it waits for"
)]

mod doubt;
mod fleet;
mod journaling;
mod links;
mod process;
mod strangers;
mod training;
