//! The rendezvous stores that this agent hosts: one small key-value store per run, for its newest
//! generation only.
//!
//! A newer generation is a new, empty store: whoever waits in the old one is told so at once. The
//! workers' c10d groups find each other here. Sizes are bounded, so that no peer can fill the
//! agent's memory. Knows nothing of sockets; `store_service` does.

use rebloom_core::id::{Generation, RunId};
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{oneshot, watch};

/// Longest key, in bytes.
pub const MOST_KEY: usize = 1024;
/// Longest value, in bytes.
pub const MOST_VALUE: usize = 1 << 20;
/// Most keys of one store.
pub const MOST_KEYS: usize = 1 << 20;
/// Most bytes of one store, keys and values together.
pub const MOST_BYTES: usize = 128 << 20;

/// Why a store does not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The generation is over, or was never opened here.
    #[error("the store of run {run} is not open for generation {asked} (open: {open})")]
    NotOpen {
        /// Of which run.
        run: RunId,
        /// Which generation was asked for.
        asked: Generation,
        /// Which one is open; 0 for none.
        open: Generation,
    },
    /// A key or value is too long, or the store is full.
    #[error("{0}")]
    TooLarge(&'static str),
    /// An addition to a value that is not a number, or beyond its range.
    #[error("key `{key}` does not hold a number that this can be added to")]
    NotANumber {
        /// Which key.
        key: String,
    },
    /// The key was not set in time.
    #[error("key `{key}` was not set within {waited:?}")]
    TimedOut {
        /// Which key.
        key: String,
        /// How long it was waited for.
        waited: Duration,
    },
}

#[derive(Debug, Default)]
struct Store {
    generation: Generation,
    values: BTreeMap<String, Vec<u8>>,
    bytes: usize,
    waiting: BTreeMap<String, Vec<oneshot::Sender<Vec<u8>>>>,
}

impl Store {
    fn put(&mut self, key: &str, value: Vec<u8>) -> Result<(), StoreError> {
        if key.len() > MOST_KEY {
            return Err(StoreError::TooLarge("the key is longer than 1024 bytes"));
        }
        if value.len() > MOST_VALUE {
            return Err(StoreError::TooLarge("the value is longer than 1 MiB"));
        }
        let old = self.values.get(key).map(|old| key.len() + old.len());
        let bytes = self.bytes - old.unwrap_or(0) + key.len() + value.len();
        if bytes > MOST_BYTES || (old.is_none() && self.values.len() >= MOST_KEYS) {
            return Err(StoreError::TooLarge("the store is full"));
        }
        self.bytes = bytes;
        for waiter in self.waiting.remove(key).unwrap_or_default() {
            // A waiter that gave up meanwhile misses nothing.
            drop(waiter.send(value.clone()));
        }
        self.values.insert(key.to_owned(), value);
        Ok(())
    }
}

/// Every store that this agent hosts.
#[derive(Debug)]
pub struct Stores {
    runs: Mutex<BTreeMap<RunId, Store>>,
    opened: watch::Sender<()>,
}

impl Default for Stores {
    fn default() -> Self {
        Self {
            runs: Mutex::default(),
            opened: watch::Sender::new(()),
        }
    }
}

impl Stores {
    /// Opens a new, empty store for a generation and drops those of older ones. Does nothing where
    /// this or a newer one is open.
    pub fn open(&self, run: &RunId, generation: Generation) {
        let mut runs = self.lock();
        if runs
            .get(run)
            .is_none_or(|store| store.generation < generation)
        {
            runs.insert(
                run.clone(),
                Store {
                    generation,
                    ..Store::default()
                },
            );
            drop(runs);
            self.opened.send_replace(());
        }
    }

    /// Drops the store of a run if it is older than this generation, whose store is elsewhere.
    pub fn close_below(&self, run: &RunId, generation: Generation) {
        let mut runs = self.lock();
        if runs
            .get(run)
            .is_some_and(|store| store.generation < generation)
        {
            runs.remove(run);
        }
    }

    /// Whether the store of exactly this generation is open here.
    pub fn hosts(&self, run: &RunId, generation: Generation) -> bool {
        self.lock()
            .get(run)
            .is_some_and(|store| store.generation == generation)
    }

    /// Waits until the store of a generation is open: a peer may be told to go a moment before this
    /// agent is told to host. An older generation is refused at once.
    pub async fn ready(
        &self,
        run: &RunId,
        generation: Generation,
        patience: Duration,
    ) -> Result<(), StoreError> {
        let mut opened = self.opened.subscribe();
        let wait = async {
            loop {
                let open = self
                    .lock()
                    .get(run)
                    .map_or(Generation(0), |store| store.generation);
                if open >= generation {
                    return;
                }
                if opened.changed().await.is_err() {
                    return;
                }
            }
        };
        // Out of patience or not: whether it is open now is what counts.
        drop(tokio::time::timeout(patience, wait).await);
        self.within(run, generation, |_| Ok(()))
    }

    /// Sets a key.
    pub fn set(
        &self,
        run: &RunId,
        generation: Generation,
        key: &str,
        value: Vec<u8>,
    ) -> Result<(), StoreError> {
        self.within(run, generation, |store| store.put(key, value))
    }

    /// The value of a key, waiting until it is set.
    pub fn get(
        &self,
        run: &RunId,
        generation: Generation,
        key: &str,
        patience: Duration,
    ) -> impl Future<Output = Result<Vec<u8>, StoreError>> + Send + use<> {
        enum Found {
            Now(Vec<u8>),
            Later(oneshot::Receiver<Vec<u8>>),
        }
        let found = self.within(run, generation, |store| {
            if let Some(value) = store.values.get(key) {
                return Ok(Found::Now(value.clone()));
            }
            if key.len() > MOST_KEY || store.waiting.len() >= MOST_KEYS {
                return Err(StoreError::TooLarge("no room for another waiter"));
            }
            let waiters = store.waiting.entry(key.to_owned()).or_default();
            waiters.retain(|waiter| !waiter.is_closed());
            let (sender, receiver) = oneshot::channel();
            waiters.push(sender);
            Ok(Found::Later(receiver))
        });
        let closed = StoreError::NotOpen {
            run: run.clone(),
            asked: generation,
            open: generation.next(),
        };
        let late = StoreError::TimedOut {
            key: key.to_owned(),
            waited: patience,
        };
        async move {
            match found? {
                Found::Now(value) => Ok(value),
                Found::Later(receiver) => match tokio::time::timeout(patience, receiver).await {
                    Ok(Ok(value)) => Ok(value),
                    // The store was dropped with its waiters.
                    Ok(Err(_)) => Err(closed),
                    Err(_) => Err(late),
                },
            }
        }
    }

    /// Whether all of the keys are set.
    pub fn check(
        &self,
        run: &RunId,
        generation: Generation,
        keys: &[String],
    ) -> Result<bool, StoreError> {
        self.within(run, generation, |store| {
            Ok(keys.iter().all(|key| store.values.contains_key(key)))
        })
    }

    /// Adds to the decimal number in a key and returns the sum; an absent key counts as 0.
    pub fn add(
        &self,
        run: &RunId,
        generation: Generation,
        key: &str,
        amount: i64,
    ) -> Result<i64, StoreError> {
        self.within(run, generation, |store| {
            let bad = || StoreError::NotANumber {
                key: key.chars().take(80).collect(),
            };
            let old = match store.values.get(key) {
                None => 0,
                Some(value) => std::str::from_utf8(value)
                    .ok()
                    .and_then(|t| t.parse().ok())
                    .ok_or_else(bad)?,
            };
            let sum = amount.checked_add(old).ok_or_else(bad)?;
            store.put(key, sum.to_string().into_bytes())?;
            Ok(sum)
        })
    }

    /// Sets a key if it holds what is expected (nothing, if that is empty); returns what it holds
    /// then, and `expected` where it is absent and was not, as c10d wants it.
    pub fn compare_set(
        &self,
        run: &RunId,
        generation: Generation,
        key: &str,
        [expected, desired]: [Vec<u8>; 2],
    ) -> Result<Vec<u8>, StoreError> {
        self.within(run, generation, |store| match store.values.get(key) {
            Some(value) if *value != expected => Ok(value.clone()),
            None if !expected.is_empty() => Ok(expected),
            Some(_) | None => store.put(key, desired.clone()).map(|()| desired),
        })
    }

    /// Removes a key and says whether there was one.
    pub fn delete(
        &self,
        run: &RunId,
        generation: Generation,
        key: &str,
    ) -> Result<bool, StoreError> {
        self.within(run, generation, |store| {
            let value = store.values.remove(key);
            store.bytes -= value.as_ref().map_or(0, |value| key.len() + value.len());
            Ok(value.is_some())
        })
    }

    /// The number of keys.
    pub fn count(&self, run: &RunId, generation: Generation) -> Result<u64, StoreError> {
        self.within(run, generation, |store| Ok(store.values.len() as u64))
    }

    fn within<T>(
        &self,
        run: &RunId,
        asked: Generation,
        act: impl FnOnce(&mut Store) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        match self.lock().get_mut(run) {
            Some(store) if store.generation == asked => act(store),
            other => Err(StoreError::NotOpen {
                run: run.clone(),
                asked,
                open: other.map_or(Generation(0), |store| store.generation),
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<RunId, Store>> {
        // No operation leaves a store half changed, so a poisoned lock still holds sound stores.
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    const LONG: Duration = Duration::from_secs(30);
    const G: Generation = Generation(3);

    fn open() -> (Arc<Stores>, RunId) {
        let stores = Arc::new(Stores::default());
        let run = RunId::new("r").unwrap();
        stores.open(&run, G);
        (stores, run)
    }

    #[tokio::test]
    async fn a_waiter_gets_the_value_that_is_set_later() {
        let (stores, run) = open();
        let waiting = stores.get(&run, G, "k", LONG);
        stores.set(&run, G, "k", b"v".to_vec()).unwrap();
        assert_eq!(waiting.await, Ok(b"v".to_vec()));
        assert_eq!(
            stores.get(&run, G, "k", Duration::ZERO).await,
            Ok(b"v".to_vec())
        );
        let late = stores.get(&run, G, "none", Duration::ZERO).await;
        assert!(matches!(late, Err(StoreError::TimedOut { .. })), "{late:?}");
    }

    #[tokio::test]
    async fn a_newer_generation_is_empty_and_sends_the_waiters_of_the_older_away() {
        let (stores, run) = open();
        stores.set(&run, G, "k", b"v".to_vec()).unwrap();
        stores.open(&run, G);
        assert_eq!(stores.count(&run, G), Ok(1), "opened twice is opened once");
        let waiting = stores.get(&run, G, "other", LONG);
        stores.open(&run, Generation(4));
        assert!(matches!(waiting.await, Err(StoreError::NotOpen { .. })));
        assert_eq!(stores.count(&run, Generation(4)), Ok(0));
        stores.open(&run, G);
        assert!(matches!(
            stores.ready(&run, G, LONG).await,
            Err(StoreError::NotOpen {
                open: Generation(4),
                ..
            })
        ));
        stores.close_below(&run, Generation(4));
        assert_eq!(stores.count(&run, Generation(4)), Ok(0));
        stores.close_below(&run, Generation(5));
        assert!(stores.count(&run, Generation(4)).is_err());
    }

    #[tokio::test]
    async fn a_peer_that_comes_before_the_store_waits_for_it() {
        let (stores, run) = open();
        let (early, name) = (Arc::clone(&stores), run.clone());
        let task = tokio::spawn(async move { early.ready(&name, Generation(4), LONG).await });
        tokio::task::yield_now().await;
        stores.open(&run, Generation(4));
        assert_eq!(task.await.unwrap(), Ok(()));
        assert!(
            stores
                .ready(&run, Generation(9), Duration::ZERO)
                .await
                .is_err()
        );
    }

    #[tokio::test]
    async fn numbers_add_up_and_comparisons_decide() {
        let (stores, run) = open();
        assert_eq!(stores.add(&run, G, "n", 3), Ok(3));
        assert_eq!(stores.add(&run, G, "n", -5), Ok(-2));
        assert_eq!(stores.get(&run, G, "n", LONG).await, Ok(b"-2".to_vec()));
        assert!(stores.add(&run, G, "n", i64::MIN).is_err());
        stores.set(&run, G, "text", b"x".to_vec()).unwrap();
        assert!(matches!(
            stores.add(&run, G, "text", 1),
            Err(StoreError::NotANumber { .. })
        ));

        let swap = |expected: &str, desired: &str| {
            let pair = [expected, desired].map(|text| text.as_bytes().to_vec());
            String::from_utf8(stores.compare_set(&run, G, "c", pair).unwrap()).unwrap()
        };
        assert_eq!(swap("a", "b"), "a", "absent, and something was expected");
        assert_eq!(stores.check(&run, G, &["c".to_owned()]), Ok(false));
        assert_eq!(swap("", "b"), "b");
        assert_eq!(swap("x", "y"), "b");
        assert_eq!(swap("b", "d"), "d");
        assert_eq!(
            stores.check(&run, G, &["c".to_owned(), "n".to_owned()]),
            Ok(true)
        );
        assert_eq!(stores.delete(&run, G, "c"), Ok(true));
        assert_eq!(stores.delete(&run, G, "c"), Ok(false));
    }

    #[test]
    fn nobody_fills_the_memory() {
        let (stores, run) = open();
        assert!(
            stores
                .set(&run, G, &"k".repeat(MOST_KEY + 1), Vec::new())
                .is_err()
        );
        assert!(stores.set(&run, G, "k", vec![0; MOST_VALUE + 1]).is_err());
        let fits = (0..200).filter(|i| {
            stores
                .set(&run, G, &format!("{i}"), vec![0; MOST_VALUE])
                .is_ok()
        });
        assert_eq!(fits.count(), 127, "the last MiB is taken by the keys");
        stores.delete(&run, G, "0").unwrap();
        assert!(stores.set(&run, G, "again", vec![0; MOST_VALUE]).is_ok());
    }
}
