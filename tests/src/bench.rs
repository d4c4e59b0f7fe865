//! Benches: each prints its figures as a table in Markdown, with what they are measured against.

pub mod checkpoint;
pub mod overhead;
pub mod recovery;
pub mod torchrun;
pub mod worker;

use std::time::Duration;

/// Median of some spans.
pub fn median(spans: &[Duration]) -> Duration {
    let mut sorted = spans.to_vec();
    sorted.sort();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

/// Largest of some spans.
pub fn largest(spans: &[Duration]) -> Duration {
    spans.iter().max().copied().unwrap_or_default()
}

/// Milliseconds with one decimal.
pub fn millis(span: Duration) -> String {
    format!("{:.1}", span.as_secs_f64() * 1e3)
}
