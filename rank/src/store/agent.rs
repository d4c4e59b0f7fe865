//! The rendezvous store in the agent, behind its socket: blocking, and over when the fence goes up.

use super::{Store, StoreError};
use crate::fence::Fence;
use crate::link;
use rebloom_core::id::{Generation, RunId};
use rebloom_proto::wire::store_client::StoreClient;
use rebloom_proto::wire::{
    StoreAddRequest, StoreCheckRequest, StoreCompareSetRequest, StoreCountRequest,
    StoreDeleteRequest, StoreGetRequest, StorePlace, StoreSetRequest,
};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

/// How long one request waits for a key before it is made again.
const WAIT: Duration = Duration::from_secs(5);
/// How long to wait before asking an agent again that cannot be reached: it may be starting anew.
const AGAIN: Duration = Duration::from_millis(50);

/// The store of one generation.
#[derive(Debug)]
pub struct AgentStore {
    runtime: Handle,
    client: StoreClient<Channel>,
    place: StorePlace,
    generation: Generation,
    fence: Arc<Fence>,
}

impl AgentStore {
    /// The store of a generation, behind the agent's socket. `runtime` is driven by a thread of its own.
    pub fn new(
        runtime: Handle,
        socket: &Path,
        run: &RunId,
        generation: Generation,
        fence: Arc<Fence>,
    ) -> Self {
        let inside = runtime.enter();
        let client = StoreClient::new(link::channel(socket));
        drop(inside);
        let place = StorePlace {
            run: run.as_str().to_owned(),
            generation: generation.0,
        };
        Self {
            runtime,
            client,
            place,
            generation,
            fence,
        }
    }

    fn place(&self) -> Option<StorePlace> {
        Some(self.place.clone())
    }

    /// Asks until there is an answer, the store says no, or the generation is fenced. What may be done
    /// twice is asked again when the agent is away for a moment.
    fn ask<T>(
        &self,
        key: &str,
        repeats: bool,
        mut request: impl AsyncFnMut(StoreClient<Channel>) -> Result<Response<T>, Status>,
    ) -> Result<T, StoreError> {
        let fenced = || StoreError::Fenced(key.to_owned());
        self.runtime.block_on(async {
            loop {
                let status = tokio::select! {
                    answer = request(self.client.clone()) => match answer {
                        Ok(answer) => return Ok(answer.into_inner()),
                        Err(status) => status,
                    },
                    () = self.fence.over(self.generation) => return Err(fenced()),
                };
                let code = status.code();
                let is_away = [Code::Unavailable, Code::Unknown, Code::Cancelled].contains(&code);
                if self.fence.is_over(self.generation) {
                    return Err(fenced());
                }
                if !(repeats && (is_away || code == Code::DeadlineExceeded)) {
                    return Err(StoreError::Broken(status.message().to_owned()));
                }
                if is_away {
                    tokio::time::sleep(AGAIN).await;
                }
            }
        })
    }
}

impl Store for AgentStore {
    fn set(&self, key: &str, value: &[u8]) -> Result<(), StoreError> {
        self.ask(key, true, async |mut client| {
            let (key, value) = (key.to_owned(), value.to_vec());
            client
                .set(StoreSetRequest {
                    place: self.place(),
                    key,
                    value,
                })
                .await
        })?;
        Ok(())
    }

    fn get(&self, key: &str) -> Result<Vec<u8>, StoreError> {
        let timeout_ms = u64::try_from(WAIT.as_millis()).unwrap_or(u64::MAX);
        let reply = self.ask(key, true, async |mut client| {
            let (place, key) = (self.place(), key.to_owned());
            client
                .get(StoreGetRequest {
                    place,
                    key,
                    timeout_ms,
                })
                .await
        })?;
        Ok(reply.value)
    }

    fn check(&self, key: &str) -> Result<bool, StoreError> {
        let reply = self.ask(key, true, async |mut client| {
            let keys = vec![key.to_owned()];
            client
                .check(StoreCheckRequest {
                    place: self.place(),
                    keys,
                })
                .await
        })?;
        Ok(reply.all)
    }

    fn add(&self, key: &str, amount: i64) -> Result<i64, StoreError> {
        // (A sum whose answer was lost would count twice.)
        let reply = self.ask(key, false, async |mut client| {
            let key = key.to_owned();
            client
                .add(StoreAddRequest {
                    place: self.place(),
                    key,
                    amount,
                })
                .await
        })?;
        Ok(reply.value)
    }

    fn compare_set(
        &self,
        key: &str,
        expected: &[u8],
        desired: &[u8],
    ) -> Result<Vec<u8>, StoreError> {
        let reply = self.ask(key, true, async |mut client| {
            let (place, key) = (self.place(), key.to_owned());
            let (expected, desired) = (expected.to_vec(), desired.to_vec());
            client
                .compare_set(StoreCompareSetRequest {
                    place,
                    key,
                    expected,
                    desired,
                })
                .await
        })?;
        Ok(reply.value)
    }

    fn delete(&self, key: &str) -> Result<bool, StoreError> {
        let reply = self.ask(key, true, async |mut client| {
            let key = key.to_owned();
            client
                .delete(StoreDeleteRequest {
                    place: self.place(),
                    key,
                })
                .await
        })?;
        Ok(reply.deleted)
    }

    fn count(&self) -> Result<u64, StoreError> {
        let reply = self.ask("", true, async |mut client| {
            client
                .count(StoreCountRequest {
                    place: self.place(),
                })
                .await
        })?;
        Ok(reply.keys)
    }
}
