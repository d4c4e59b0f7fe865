//! The `Store` service: on the unix socket for this node's workers, over TCP with mutual TLS for the
//! agents of other nodes.
//!
//! A worker may only ask for its own run. Its requests go to the store of the agent that hosts the
//! generation: this one, or another over a kept channel. An agent's requests are never passed on.

use crate::roster::Roster;
use crate::store::{StoreError, Stores};
use rebloom_core::id::{Generation, NodeId, RunId};
use rebloom_proto::wire::store_client::StoreClient;
use rebloom_proto::wire::store_server::Store;
use rebloom_proto::wire::{
    StoreAddReply, StoreAddRequest, StoreCheckReply, StoreCheckRequest, StoreCompareSetReply,
    StoreCompareSetRequest, StoreCountReply, StoreCountRequest, StoreDeleteReply,
    StoreDeleteRequest, StoreGetReply, StoreGetRequest, StorePlace, StoreSetReply, StoreSetRequest,
};
use rebloom_runtime::tls::{ClientTls, Role, peer_role};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tonic::transport::Channel;
use tonic::transport::server::UdsConnectInfo;
use tonic::{Request, Response, Status};

/// How long a request waits for its store to be opened: the host may be told a moment later.
const OPENS_WITHIN: Duration = Duration::from_secs(10);
/// How long an answer of another agent may take beyond what the request itself waits for.
const ANSWERS_WITHIN: Duration = Duration::from_secs(15);
/// The longest wait for a key.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);
/// Channels to other agents that are kept.
const MOST_CHANNELS: usize = 64;

/// Where the requests of this node's workers go.
#[derive(Debug)]
pub struct Routes {
    tls: ClientTls,
    node: NodeId,
    routes: Mutex<BTreeMap<RunId, (Generation, String)>>,
    channels: Mutex<BTreeMap<String, Channel>>,
}

impl Routes {
    /// No routes yet; `tls` is shown to other agents.
    pub fn new(tls: ClientTls, node: NodeId) -> Self {
        Self {
            tls,
            node,
            routes: Mutex::default(),
            channels: Mutex::default(),
        }
    }

    /// Sends requests of this generation to the agent at `address`; an older one does not come back.
    pub fn set(&self, run: RunId, generation: Generation, address: String) {
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        if routes
            .get(&run)
            .is_none_or(|(known, _)| *known <= generation)
        {
            routes.insert(run, (generation, address));
        }
    }

    fn channel(&self, run: &RunId, generation: Generation) -> Result<Option<Channel>, Status> {
        let route = {
            let routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
            routes.get(run).cloned()
        };
        let Some((_, address)) = route.filter(|(known, _)| *known == generation) else {
            return Ok(None);
        };
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = channels.get(&address) {
            return Ok(Some(channel.clone()));
        }
        let endpoint = self
            .tls
            .endpoint(&address, &Role::Agent(self.node.clone()))
            .map_err(|error| Status::internal(error.to_string()))?;
        if channels.len() >= MOST_CHANNELS {
            channels.clear();
        }
        let channel = endpoint.connect_lazy();
        channels.insert(address, channel.clone());
        Ok(Some(channel))
    }
}

/// Who comes in, and what they may do.
#[derive(Debug, Clone)]
pub enum Door {
    /// This node's workers, on the unix socket.
    Workers {
        /// Who they are.
        roster: Arc<Roster>,
        /// Where their requests go.
        routes: Arc<Routes>,
    },
    /// Agents of other nodes.
    Agents,
}

/// The service behind one of the doors.
#[derive(Debug, Clone)]
pub struct StoreService {
    stores: Arc<Stores>,
    door: Door,
}

/// Where a request goes after it was let in.
enum Target {
    Here(RunId, Generation),
    There(StoreClient<Channel>),
}

impl StoreService {
    /// A service on the agent's stores.
    pub fn new(stores: Arc<Stores>, door: Door) -> Self {
        Self { stores, door }
    }

    async fn target<T>(
        &self,
        request: &Request<T>,
        place: Option<&StorePlace>,
        patience: Duration,
    ) -> Result<Target, Status> {
        let place = place.ok_or_else(|| Status::invalid_argument("place: is missing"))?;
        let run = RunId::new(&place.run)
            .map_err(|error| Status::invalid_argument(format!("place.run: {error}")))?;
        let generation = Generation(place.generation);
        match &self.door {
            Door::Workers { roster, routes } => {
                let own = peer_pid(request).and_then(|pid| roster.find(pid));
                if own.is_none_or(|(own, _)| own != run) {
                    return Err(Status::permission_denied(
                        "not a rank of this run on this node",
                    ));
                }
                if !self.stores.hosts(&run, generation)
                    && let Some(channel) = routes.channel(&run, generation)?
                {
                    return Ok(Target::There(StoreClient::new(channel)));
                }
            }
            Door::Agents => match peer_role(request)? {
                Role::Agent(_) => {}
                role @ (Role::Controller | Role::Admin(_)) => {
                    return Err(Status::permission_denied(format!("{role} is not an agent")));
                }
            },
        }
        self.stores
            .ready(&run, generation, patience)
            .await
            .map_err(status)?;
        Ok(Target::Here(run, generation))
    }
}

/// The process at the other end of a unix socket, as the kernel knows it.
pub fn peer_pid<T>(request: &Request<T>) -> Option<u32> {
    let info = request.extensions().get::<UdsConnectInfo>()?;
    u32::try_from(info.peer_cred?.pid()?).ok()
}

fn status(error: StoreError) -> Status {
    let text = error.to_string();
    match error {
        StoreError::NotOpen { .. } => Status::failed_precondition(text),
        StoreError::TooLarge(_) => Status::resource_exhausted(text),
        StoreError::NotANumber { .. } => Status::invalid_argument(text),
        StoreError::TimedOut { .. } => Status::deadline_exceeded(text),
    }
}

fn onward<T>(message: T, wait: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(wait + ANSWERS_WITHIN);
    request
}

/// One call: let in, then done here or passed on.
macro_rules! call {
    ($self:ident, $request:ident, $method:ident, |$run:ident, $generation:ident, $it:ident| $here:expr) => {{
        let target = $self
            .target(&$request, $request.get_ref().place.as_ref(), OPENS_WITHIN)
            .await?;
        let $it = $request.into_inner();
        match target {
            Target::Here($run, $generation) => $here.map(Response::new).map_err(status),
            Target::There(mut client) => client.$method(onward($it, OPENS_WITHIN)).await,
        }
    }};
}

#[tonic::async_trait]
impl Store for StoreService {
    async fn set(
        &self,
        request: Request<StoreSetRequest>,
    ) -> Result<Response<StoreSetReply>, Status> {
        call!(self, request, set, |run, generation, it| {
            self.stores
                .set(&run, generation, &it.key, it.value)
                .map(|()| StoreSetReply {})
        })
    }

    async fn get(
        &self,
        request: Request<StoreGetRequest>,
    ) -> Result<Response<StoreGetReply>, Status> {
        let wait = Duration::from_millis(request.get_ref().timeout_ms).min(LONGEST_WAIT);
        let place = request.get_ref().place.as_ref();
        let target = self.target(&request, place, wait.min(OPENS_WITHIN)).await?;
        let it = request.into_inner();
        match target {
            Target::Here(run, generation) => {
                let value = self.stores.get(&run, generation, &it.key, wait).await;
                value
                    .map(|value| Response::new(StoreGetReply { value }))
                    .map_err(status)
            }
            Target::There(mut client) => client.get(onward(it, wait)).await,
        }
    }

    async fn check(
        &self,
        request: Request<StoreCheckRequest>,
    ) -> Result<Response<StoreCheckReply>, Status> {
        call!(self, request, check, |run, generation, it| {
            self.stores
                .check(&run, generation, &it.keys)
                .map(|all| StoreCheckReply { all })
        })
    }

    async fn add(
        &self,
        request: Request<StoreAddRequest>,
    ) -> Result<Response<StoreAddReply>, Status> {
        call!(self, request, add, |run, generation, it| {
            let sum = self.stores.add(&run, generation, &it.key, it.amount);
            sum.map(|value| StoreAddReply { value })
        })
    }

    async fn compare_set(
        &self,
        request: Request<StoreCompareSetRequest>,
    ) -> Result<Response<StoreCompareSetReply>, Status> {
        call!(self, request, compare_set, |run, generation, it| {
            let pair = [it.expected, it.desired];
            let held = self.stores.compare_set(&run, generation, &it.key, pair);
            held.map(|value| StoreCompareSetReply { value })
        })
    }

    async fn delete(
        &self,
        request: Request<StoreDeleteRequest>,
    ) -> Result<Response<StoreDeleteReply>, Status> {
        call!(self, request, delete, |run, generation, it| {
            let deleted = self.stores.delete(&run, generation, &it.key);
            deleted.map(|deleted| StoreDeleteReply { deleted })
        })
    }

    async fn count(
        &self,
        request: Request<StoreCountRequest>,
    ) -> Result<Response<StoreCountReply>, Status> {
        call!(self, request, count, |run, generation, _it| {
            self.stores
                .count(&run, generation)
                .map(|keys| StoreCountReply { keys })
        })
    }
}
