//! What the binaries share: the clock, the flight page and, by feature, what only some of them need.

pub mod clock;
pub mod flight;
