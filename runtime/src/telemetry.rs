//! What a binary says of itself: log lines on standard error, and errors with all their reasons.

use crate::clock;
use rebloom_core::time::{Duration, Instant};
use std::collections::BTreeMap;
use std::error::Error;
use std::io::{IsTerminal, stderr};
use std::sync::{Mutex, PoisonError};
use tracing_subscriber::EnvFilter;

/// The filter in `RUST_LOG` cannot be read.
#[derive(Debug, thiserror::Error)]
#[error(
    "RUST_LOG holds {value:?}, which is not a log filter: {error}; use for example `info` or `info,rebloom_agent=debug`"
)]
pub struct BadFilter {
    value: String,
    error: String,
}

/// Sends log lines to standard error, `info` and above unless `RUST_LOG` says otherwise; as JSON
/// objects where `json` is set. A second call changes nothing.
pub fn start(json: bool) -> Result<(), BadFilter> {
    let value = std::env::var("RUST_LOG").unwrap_or_default();
    let value = if value.is_empty() {
        "info".to_owned()
    } else {
        value
    };
    let filter = EnvFilter::try_new(&value).map_err(|error| BadFilter {
        error: error.to_string(),
        value,
    })?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(stderr)
        .with_ansi(stderr().is_terminal());
    // (It fails where a subscriber is set already, as in tests.)
    drop(if json {
        lines.json().try_init()
    } else {
        lines.compact().try_init()
    });
    Ok(())
}

/// An error and its reasons in one line, each said once.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(reason) = next {
        let reason_text = reason.to_string();
        if !text.ends_with(&reason_text) {
            text = format!("{text}: {reason_text}");
        }
        next = reason.source();
    }
    text
}

/// Lets a line through once per key and span of time, so that hostile or broken peers cannot fill
/// the log. It remembers a bounded number of keys.
#[derive(Debug)]
pub struct Seldom<K> {
    every: Duration,
    seen: Mutex<BTreeMap<K, (Instant, u64)>>,
}

const MOST_KEYS: usize = 1024;

impl<K: Ord> Seldom<K> {
    /// One line a key in each span of `every`.
    pub const fn new(every: Duration) -> Self {
        Self {
            every,
            seen: Mutex::new(BTreeMap::new()),
        }
    }

    /// Whether to log now; if so, how many times this key was held back since it was last logged.
    pub fn admit(&self, key: K) -> Option<u64> {
        self.admit_at(key, clock::monotonic())
    }

    fn admit_at(&self, key: K, now: Instant) -> Option<u64> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((last, held)) = seen.get_mut(&key) {
            if now.since(*last) < self.every {
                *held += 1;
                return None;
            }
            let told = *held;
            (*last, *held) = (now, 0);
            return Some(told);
        }
        if seen.len() >= MOST_KEYS {
            seen.retain(|_, (last, _)| now.since(*last) < self.every);
            if seen.len() >= MOST_KEYS {
                return None;
            }
        }
        seen.insert(key, (now, 0));
        Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_let_through_once_in_a_span() {
        let seldom = Seldom::new(Duration::from_secs(10));
        let at = |seconds| Instant::ZERO + Duration::from_secs(seconds);
        assert_eq!(seldom.admit_at("a", at(0)), Some(0));
        assert_eq!(seldom.admit_at("a", at(1)), None);
        assert_eq!(seldom.admit_at("b", at(1)), Some(0));
        assert_eq!(seldom.admit_at("a", at(9)), None);
        assert_eq!(seldom.admit_at("a", at(10)), Some(2));
    }

    #[test]
    fn strangers_cannot_make_it_grow() {
        let seldom = Seldom::new(Duration::from_secs(10));
        let admitted = (0..5000).filter(|key| seldom.admit_at(*key, Instant::ZERO).is_some());
        assert_eq!(admitted.count(), MOST_KEYS);
        let later = Instant::ZERO + Duration::from_secs(11);
        assert_eq!(seldom.admit_at(9000, later), Some(0));
    }

    #[test]
    fn a_chain_says_each_reason_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot begin")]
        struct Outer(#[source] std::io::Error);
        let error = Outer(std::io::Error::other("no room"));
        assert_eq!(chain(&error), "cannot begin: no room");
    }
}
