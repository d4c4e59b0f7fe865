//! Benches: each prints its figures as a table in Markdown, with what they are measured against.

pub mod checkpoint;
pub mod cluster;
pub mod fleet;
pub mod overhead;
pub mod recovery;
pub mod torchrun;
pub mod worker;

use anyhow::{Context, Result};
use std::time::Duration;

/// Median of some spans.
pub fn median(spans: &[Duration]) -> Duration {
    quantile(spans, 50)
}

/// The span that so many of a hundred do not exceed.
pub fn quantile(spans: &[Duration], percent: usize) -> Duration {
    let mut sorted = spans.to_vec();
    sorted.sort();
    let at = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(at).copied().unwrap_or_default()
}

/// Largest of some spans.
pub fn largest(spans: &[Duration]) -> Duration {
    spans.iter().max().copied().unwrap_or_default()
}

/// Milliseconds with one decimal.
pub fn millis(span: Duration) -> String {
    format!("{:.1}", span.as_secs_f64() * 1e3)
}

/// The load of this machine over one, five and fifteen minutes.
pub fn load() -> Result<String> {
    let text = std::fs::read_to_string("/proc/loadavg")?;
    let end = text.match_indices(' ').nth(2).context("three loads")?.0;
    Ok(text[..end].replace(' ', " / "))
}
