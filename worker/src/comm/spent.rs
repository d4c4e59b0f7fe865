//! How long this process has waited for others, by channel, and how long it has computed, by part of a step.

use rebloom_core::flight::Channel;
use rebloom_runtime::clock::monotonic;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

static NANOS: [AtomicU64; Channel::ALL.len()] = [const { AtomicU64::new(0) }; Channel::ALL.len()];

/// What a step computes. What it waits for meanwhile is counted in the channels, not here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// Forward passes and losses.
    Forward,
    /// Backward passes, with what they compute again.
    Backward,
    /// Sums of gradients, their norm, and the update of the weights.
    Optimizer,
}

const PARTS: [Part; 3] = [Part::Forward, Part::Backward, Part::Optimizer];
static COMPUTED: [AtomicU64; PARTS.len()] = [const { AtomicU64::new(0) }; PARTS.len()];

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

/// Works, and counts in `part` what of the time was no wait. In a process of one rank; ranks that are threads of one
/// process would count each other's waits.
pub(crate) fn computing<T>(part: Part, work: impl FnOnce() -> T) -> T {
    let (began, waited) = (monotonic(), all());
    let outcome = work();
    let span = monotonic().since(began);
    let nanos = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
    let waited = all().saturating_sub(waited);
    COMPUTED[part as usize].fetch_add(nanos.saturating_sub(waited), Ordering::Relaxed);
    outcome
}

fn all() -> u64 {
    NANOS
        .iter()
        .map(|nanos| nanos.load(Ordering::Relaxed))
        .sum()
}

/// What was computed in each part since this was last asked.
pub fn take_computed() -> impl Iterator<Item = (Part, Duration)> {
    PARTS.into_iter().map(|part| {
        let nanos = COMPUTED[part as usize].swap(0, Ordering::Relaxed);
        (part, Duration::from_nanos(nanos))
    })
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
