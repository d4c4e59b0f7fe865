//! Waiting for a condition with a bound: never for a moment, never for ever.

use anyhow::{Result, bail};
use std::time::{Duration, Instant};

/// Polls `look` until it gives a value, and fails with `what` after `within`.
pub fn until<T>(
    what: &str,
    within: Duration,
    look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    until_every(Duration::from_millis(5), what, within, look)
}

/// The same, looking so often only: for what costs something to look at.
pub fn until_every<T>(
    pause: Duration,
    what: &str,
    within: Duration,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let end = Instant::now() + within;
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if Instant::now() > end {
            bail!("{what}: did not come about within {within:?}");
        }
        std::thread::park_timeout(pause);
    }
}
