//! The one place that reads a clock.

use rebloom_core::time::Instant;
use rustix::time::{ClockId, clock_gettime};
use std::time::{Instant as Started, SystemTime};

/// The node's monotonic clock, the same for every process of the node, in nanoseconds since its boot.
pub fn monotonic() -> Instant {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    let nanos = u64::try_from(now.tv_nsec).unwrap_or_default();
    Instant::from_nanos(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
}

/// The time of day, in nanoseconds since the Unix epoch: it may be set back.
pub fn wall() -> Instant {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    Instant::ZERO + since.unwrap_or_default()
}

/// Nanoseconds since the Unix epoch that never go back: read from the wall once, then carried on by
/// the monotonic clock, and never below a floor such as the last moment in a journal.
#[derive(Debug, Clone, Copy)]
pub struct Wall {
    base: Instant,
    started: Started,
}

impl Wall {
    /// A clock that begins now, or at `floor` where that is later.
    pub fn starting_at_least(floor: Instant) -> Self {
        Self {
            base: floor.max(wall()),
            started: Started::now(),
        }
    }

    /// The present moment.
    pub fn now(&self) -> Instant {
        self.base + self.started.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rebloom_core::time::Duration;

    #[test]
    fn a_wall_clock_does_not_fall_below_its_floor() {
        let floor = Wall::starting_at_least(Instant::ZERO).now() + Duration::from_secs(3600);
        let wall = Wall::starting_at_least(floor);
        let first = wall.now();
        assert!(first >= floor);
        assert!(wall.now() >= first);
    }

    #[test]
    fn the_monotonic_clock_does_not_go_back() {
        let first = monotonic();
        assert!(monotonic() >= first);
    }
}
