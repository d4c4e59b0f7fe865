//! Core's own notion of time: a number of nanoseconds on the caller's clock.
//!
//! Which clock is the driver's business. The controller's counts from the Unix epoch and never goes
//! back; an agent and its workers share the node's monotonic clock, so that a deadline which a
//! worker wrote into its flight page means the same to its agent.

use serde::{Deserialize, Serialize};
use std::ops::{Add, Sub};
pub use std::time::Duration;

/// A moment, in nanoseconds on the caller's clock.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Instant(u64);

impl Instant {
    /// The beginning of the caller's clock.
    pub const ZERO: Self = Self(0);

    /// A moment from nanoseconds.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the beginning of the caller's clock.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Time passed since `earlier`; zero where `earlier` is later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Self;
    fn add(self, span: Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)),
        )
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;
    fn sub(self, span: Duration) -> Self {
        Self(
            self.0
                .saturating_sub(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)),
        )
    }
}
