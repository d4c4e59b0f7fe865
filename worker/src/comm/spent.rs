//! How long this process has waited for others, by channel: what a step costs besides computing.

use rebloom_core::flight::Channel;
use rebloom_runtime::clock::monotonic;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

static NANOS: [AtomicU64; Channel::ALL.len()] = [const { AtomicU64::new(0) }; Channel::ALL.len()];

fn of(channel: Channel) -> &'static AtomicU64 {
    let at = Channel::ALL.iter().position(|&other| other == channel);
    &NANOS[at.unwrap_or_default()]
}

/// Waits, and counts the time in `channel`.
pub(crate) fn waiting<T>(channel: Option<Channel>, wait: impl FnOnce() -> T) -> T {
    let Some(channel) = channel else {
        return wait();
    };
    let began = monotonic();
    let outcome = wait();
    add(channel, monotonic().since(began));
    outcome
}

/// Counts a wait that is over.
pub(crate) fn add(channel: Channel, span: Duration) {
    let nanos = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
    of(channel).fetch_add(nanos, Ordering::Relaxed);
}

/// What was waited in each channel since this was last asked.
pub fn take() -> impl Iterator<Item = (Channel, Duration)> {
    Channel::ALL.into_iter().map(|channel| {
        let nanos = of(channel).swap(0, Ordering::Relaxed);
        (channel, Duration::from_nanos(nanos))
    })
}
