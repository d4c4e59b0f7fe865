//! The rendezvous store of a generation, as the agent hosts or forwards it.

use crate::comm::{Store, StoreError, Watch};
use rebloom_core::id::RunId;
use rebloom_proto::wire;
use rebloom_proto::wire::store_client::StoreClient;
use std::time::Duration;
use tokio::runtime::Handle;
use tonic::transport::Channel;
use tonic::{Code, Status};

/// How long one request waits for a key; between two, the fence is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Requests in a row that may fail because the agent is away: it is restarted within seconds.
const MOST_FAILURES: u32 = 100;

/// A store behind the link to the agent.
#[derive(Debug)]
pub struct AgentStore {
    runtime: Handle,
    channel: Channel,
    run: RunId,
    watch: Watch,
}

impl AgentStore {
    pub(super) const fn new(runtime: Handle, channel: Channel, run: RunId, watch: Watch) -> Self {
        Self { runtime, channel, run, watch }
    }

    fn place(&self) -> Option<wire::StorePlace> {
        Some(wire::StorePlace { run: self.run.to_string(), generation: self.watch.generation.0 })
    }

    /// Asks until there is an answer or the generation is fenced. Every request of c10d but `add` may
    /// be repeated; an `add` that was lost on the way back would count twice, so it is not.
    fn ask<T>(
        &self,
        key: &str,
        repeats: bool,
        mut request: impl AsyncFnMut(&mut StoreClient<Channel>) -> Result<T, Status>,
    ) -> Result<T, StoreError> {
        let mut client = StoreClient::new(self.channel.clone());
        let mut failures = 0;
        loop {
            let status = match self.runtime.block_on(request(&mut client)) {
                Ok(answer) => return Ok(answer),
                Err(status) => status,
            };
            if self.watch.fenced() {
                return Err(StoreError::Fenced(key.to_owned()));
            }
            if repeats && status.code() == Code::DeadlineExceeded {
                continue;
            }
            failures += 1;
            if !repeats || status.code() != Code::Unavailable || failures > MOST_FAILURES {
                return Err(StoreError::Broken(format!("{key}: {}", status.message())));
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }
}

impl Store for AgentStore {
    fn set(&self, key: &str, value: &[u8]) -> Result<(), StoreError> {
        self.ask(key, true, async |store| {
            let (key, value) = (key.to_owned(), value.to_vec());
            store.set(wire::StoreSetRequest { place: self.place(), key, value }).await?;
            Ok(())
        })
    }

    fn get(&self, key: &str) -> Result<Vec<u8>, StoreError> {
        let timeout_ms = u64::try_from(LOOK_AGAIN.as_millis()).unwrap_or(u64::MAX);
        self.ask(key, true, async |store| {
            let place = self.place();
            let request = wire::StoreGetRequest { place, key: key.to_owned(), timeout_ms };
            Ok(store.get(request).await?.into_inner().value)
        })
    }

    fn check(&self, key: &str) -> Result<bool, StoreError> {
        self.ask(key, true, async |store| {
            let keys = vec![key.to_owned()];
            let request = wire::StoreCheckRequest { place: self.place(), keys };
            Ok(store.check(request).await?.into_inner().all)
        })
    }

    fn add(&self, key: &str, amount: i64) -> Result<i64, StoreError> {
        self.ask(key, false, async |store| {
            let request = wire::StoreAddRequest { place: self.place(), key: key.to_owned(), amount };
            Ok(store.add(request).await?.into_inner().value)
        })
    }

    fn compare_set(&self, key: &str, expected: &[u8], desired: &[u8]) -> Result<Vec<u8>, StoreError> {
        self.ask(key, true, async |store| {
            let request = wire::StoreCompareSetRequest {
                place: self.place(),
                key: key.to_owned(),
                expected: expected.to_vec(),
                desired: desired.to_vec(),
            };
            Ok(store.compare_set(request).await?.into_inner().value)
        })
    }

    fn delete(&self, key: &str) -> Result<bool, StoreError> {
        self.ask(key, true, async |store| {
            let request = wire::StoreDeleteRequest { place: self.place(), key: key.to_owned() };
            Ok(store.delete(request).await?.into_inner().deleted)
        })
    }

    fn count(&self) -> Result<u64, StoreError> {
        self.ask("(count)", true, async |store| {
            let request = wire::StoreCountRequest { place: self.place() };
            Ok(store.count(request).await?.into_inner().keys)
        })
    }
}
