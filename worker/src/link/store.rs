//! The rendezvous store in the agent, as c10d calls it: blocking, and over when the fence goes up.

use crate::comm::{Store, StoreError, Watch};
use rebloom_core::id::RunId;
use rebloom_proto::wire::store_client::StoreClient;
use rebloom_proto::wire::{
    StoreAddRequest, StoreCheckRequest, StoreCompareSetRequest, StoreCountRequest,
    StoreDeleteRequest, StoreGetRequest, StorePlace, StoreSetRequest,
};
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;
use tokio::runtime::Handle;
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

/// How long one request waits for a key before it asks again.
const WAIT: Duration = Duration::from_secs(5);
/// How often the fence is looked at.
const LOOK: Duration = Duration::from_millis(4);
/// How long to wait before asking an agent again that cannot be reached.
const AGAIN: Duration = Duration::from_millis(50);

/// The store of one generation.
#[derive(Debug)]
pub struct AgentStore {
    runtime: Handle,
    client: StoreClient<Channel>,
    place: StorePlace,
    watch: Watch,
}

impl AgentStore {
    /// The store of the generation that `watch` names, behind the agent's socket.
    pub fn new(runtime: Handle, socket: &Path, run: &RunId, watch: Watch) -> Self {
        let inside = runtime.enter();
        let client = StoreClient::new(super::channel(socket));
        drop(inside);
        let place = StorePlace {
            run: run.as_str().to_owned(),
            generation: watch.generation.0,
        };
        Self {
            runtime,
            client,
            place,
            watch,
        }
    }

    /// Asks until there is an answer, the store says no, or the generation is fenced. An agent that
    /// is away for a moment is asked again, so a request may be done twice; c10d only ever writes a
    /// key once.
    fn ask<T, F>(
        &self,
        key: &str,
        request: impl Fn(StoreClient<Channel>, Option<StorePlace>) -> F,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<Response<T>, Status>> + Send + 'static,
    {
        loop {
            let (answered, answer) = channel();
            let request = request(self.client.clone(), Some(self.place.clone()));
            let task = self.runtime.spawn(async move {
                // Nobody waits any more where the fence went up.
                drop(answered.send(request.await));
            });
            let status = loop {
                match answer.recv_timeout(LOOK) {
                    Ok(Ok(answer)) => return Ok(answer.into_inner()),
                    Ok(Err(status)) => break status,
                    Err(_) if self.watch.fenced() => {
                        task.abort();
                        return Err(StoreError::Fenced(key.to_owned()));
                    }
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => {
                        return Err(StoreError::Broken("the worker's link ended".to_owned()));
                    }
                }
            };
            if self.watch.fenced() {
                return Err(StoreError::Fenced(key.to_owned()));
            }
            match status.code() {
                Code::DeadlineExceeded => {}
                Code::Unavailable | Code::Unknown | Code::Cancelled => std::thread::sleep(AGAIN),
                _ => return Err(StoreError::Broken(status.message().to_owned())),
            }
        }
    }
}

impl Store for AgentStore {
    fn set(&self, key: &str, value: &[u8]) -> Result<(), StoreError> {
        let (name, value) = (key.to_owned(), value.to_vec());
        self.ask(key, move |mut client, place| {
            let request = StoreSetRequest {
                place,
                key: name.clone(),
                value: value.clone(),
            };
            async move { client.set(request).await }
        })?;
        Ok(())
    }

    fn get(&self, key: &str) -> Result<Vec<u8>, StoreError> {
        let name = key.to_owned();
        let timeout_ms = u64::try_from(WAIT.as_millis()).unwrap_or(u64::MAX);
        let reply = self.ask(key, move |mut client, place| {
            let request = StoreGetRequest {
                place,
                key: name.clone(),
                timeout_ms,
            };
            async move { client.get(request).await }
        })?;
        Ok(reply.value)
    }

    fn check(&self, key: &str) -> Result<bool, StoreError> {
        let keys = vec![key.to_owned()];
        let reply = self.ask(key, move |mut client, place| {
            let request = StoreCheckRequest {
                place,
                keys: keys.clone(),
            };
            async move { client.check(request).await }
        })?;
        Ok(reply.all)
    }

    fn add(&self, key: &str, amount: i64) -> Result<i64, StoreError> {
        let name = key.to_owned();
        let reply = self.ask(key, move |mut client, place| {
            let request = StoreAddRequest {
                place,
                key: name.clone(),
                amount,
            };
            async move { client.add(request).await }
        })?;
        Ok(reply.value)
    }

    fn compare_set(
        &self,
        key: &str,
        expected: &[u8],
        desired: &[u8],
    ) -> Result<Vec<u8>, StoreError> {
        let (name, expected, desired) = (key.to_owned(), expected.to_vec(), desired.to_vec());
        let reply = self.ask(key, move |mut client, place| {
            let (expected, desired) = (expected.clone(), desired.clone());
            let request = StoreCompareSetRequest {
                place,
                key: name.clone(),
                expected,
                desired,
            };
            async move { client.compare_set(request).await }
        })?;
        Ok(reply.value)
    }

    fn delete(&self, key: &str) -> Result<bool, StoreError> {
        let name = key.to_owned();
        let reply = self.ask(key, move |mut client, place| {
            let request = StoreDeleteRequest {
                place,
                key: name.clone(),
            };
            async move { client.delete(request).await }
        })?;
        Ok(reply.deleted)
    }

    fn count(&self) -> Result<u64, StoreError> {
        let reply = self.ask("", move |mut client, place| {
            let request = StoreCountRequest { place };
            async move { client.count(request).await }
        })?;
        Ok(reply.keys)
    }
}
