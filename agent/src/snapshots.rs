//! Snapshots that this agent keeps: the `Snapshots` service, and the way of a shard to another agent.
//!
//! On the unix socket a rank has its shard brought here; over TCP with mutual TLS agents read what lies here,
//! and leave replicas. A shard that comes is hashed on the way, and kept only where it is what its head says.
//! A shard that is read is sent as it lies there: whoever gets it checks it.

use crate::roster::Roster;
use crate::store_service::peer_pid;
use rebloom_core::checkpoint::MANIFEST_VERSION;
use rebloom_core::id::{NodeId, RunId};
use rebloom_core::snapshot::{Peer, Piece};
use rebloom_proto::snapshot::Kept;
use rebloom_proto::wire::snapshot_part::{Head, What};
use rebloom_proto::wire::snapshots_client::SnapshotsClient;
use rebloom_proto::wire::snapshots_server::Snapshots;
use rebloom_proto::wire::{
    BringSnapshotReply, BringSnapshotRequest, KeepSnapshotReply, ReadSnapshotRequest, SnapshotPart,
};
use rebloom_runtime::shard_hash::ShardHash;
use rebloom_runtime::snapshots::{Error, Memory};
use rebloom_runtime::tls::{ClientTls, Role, peer_role};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufWriter};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

/// Bytes of a part.
const PART: usize = 1 << 20;
/// Parts of a shard that wait for the wire.
const WAITING: usize = 4;
/// Shards that are on their way to another agent at a time: the ranks need the wires too.
const AT_ONCE: usize = 2;

/// Channels to other agents that are kept.
const MOST_CHANNELS: usize = 16;

/// This node's memory, and its way to those of others.
#[derive(Debug)]
pub struct Shelves {
    memory: Memory,
    tls: ClientTls,
    channels: Mutex<BTreeMap<(NodeId, String), Channel>>,
    sending: Semaphore,
    aside: AtomicU64,
}

impl Shelves {
    /// Keeps what lies in `memory`; `tls` is shown to other agents.
    pub fn new(memory: Memory, tls: ClientTls) -> Self {
        Self {
            memory,
            tls,
            channels: Mutex::default(),
            sending: Semaphore::new(AT_ONCE),
            aside: AtomicU64::new(0),
        }
    }

    /// What lies here.
    pub const fn memory(&self) -> &Memory {
        &self.memory
    }

    /// The way to another agent: there are few of them, and a new one costs a handshake.
    fn client(&self, peer: &Peer) -> Result<SnapshotsClient<Channel>, Status> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (peer.node.clone(), peer.address.clone());
        if let Some(channel) = channels.get(&key) {
            return Ok(SnapshotsClient::new(channel.clone()));
        }
        let role = Role::Agent(peer.node.clone());
        let endpoint = self.tls.endpoint(&peer.address, &role);
        let endpoint = endpoint.map_err(|error| Status::internal(error.to_string()))?;
        if channels.len() >= MOST_CHANNELS {
            channels.clear();
        }
        let channel = endpoint.connect_lazy();
        channels.insert(key, channel.clone());
        Ok(SnapshotsClient::new(channel))
    }

    /// Sends a shard to the agent that keeps it too; returns once it has it.
    ///
    /// # Errors
    /// What it, or the way to it, said.
    pub async fn send(&self, run: &RunId, piece: &Piece, to: &Peer) -> Result<(), Status> {
        // (It is never closed.)
        let _turn = self.sending.acquire().await.ok();
        let head = SnapshotPart {
            what: Some(What::Head(Head {
                run: run.as_str().to_owned(),
                piece: Some(piece.clone().into()),
            })),
        };
        let parts = self.parts(run, piece).await?;
        // What breaks off here is found too short there.
        let parts = parts.map_while(Result::ok);
        let all = tokio_stream::once(head).chain(parts);
        self.client(to)?.keep(all).await?;
        Ok(())
    }

    /// Brings a shard here from the agent that has it.
    async fn bring(&self, kept: &Kept, from: &Peer) -> Result<(), Status> {
        let request = ReadSnapshotRequest {
            run: kept.run.as_str().to_owned(),
            piece: Some(kept.piece.clone().into()),
        };
        let parts = self.client(from)?.read(request).await?.into_inner();
        self.take(kept, parts).await
    }

    /// The bytes of a shard that lies here, in parts.
    async fn parts(
        &self,
        run: &RunId,
        piece: &Piece,
    ) -> Result<ReceiverStream<Result<SnapshotPart, Status>>, Status> {
        if !self.memory.holds(run, piece) {
            let at = piece.checkpoint.directory();
            let text = format!("{at}/{} does not lie here", piece.shard.file);
            return Err(Status::not_found(text));
        }
        let path = self.memory.shard(run, piece);
        let mut file = File::open(&path).await.map_err(broken(&path))?;
        let (parts, stream) = mpsc::channel(WAITING);
        tokio::spawn(async move {
            loop {
                let mut data = vec![0; PART];
                let part = match file.read(&mut data).await {
                    Ok(0) => return,
                    Ok(many) => {
                        data.truncate(many);
                        let what = Some(What::Data(data));
                        Ok(SnapshotPart { what })
                    }
                    Err(error) => Err(broken(&path)(error)),
                };
                // Whoever reads no further has said why.
                if parts.send(part).await.is_err() {
                    return;
                }
            }
        });
        Ok(ReceiverStream::new(stream))
    }

    /// Writes a shard that comes in parts: aside, then under its name where it is what it was said to be.
    async fn take(
        &self,
        kept: &Kept,
        parts: impl Stream<Item = Result<SnapshotPart, Status>> + Unpin,
    ) -> Result<(), Status> {
        let Kept { run, piece } = kept;
        let bytes = piece.shard.bytes;
        let directory = self.memory.prepare(run, piece.checkpoint, bytes);
        let directory = directory.map_err(|error| {
            let text = error.to_string();
            if matches!(error, Error::NoRoom { .. }) {
                Status::resource_exhausted(text)
            } else {
                Status::internal(text)
            }
        })?;
        // Two may bring the same at once.
        let number = self.aside.fetch_add(1, Ordering::Relaxed);
        let aside = directory.join(format!(".{}.{number}.tmp", piece.shard.file));
        let written = write(&aside, piece, parts).await;
        let placed = match written {
            Ok(()) => tokio::fs::rename(&aside, self.memory.shard(run, piece))
                .await
                .map_err(broken(&aside)),
            Err(status) => Err(status),
        };
        if let Err(status) = placed {
            // It may not even be there; what counts is the first error.
            drop(tokio::fs::remove_file(&aside).await);
            return Err(status);
        }
        let (memory, run, piece) = (self.memory.clone(), run.clone(), piece.clone());
        // It also removes what is too old, which takes a while where that is much.
        let kept = tokio::task::spawn_blocking(move || memory.keep(&run, &piece)).await;
        let kept = kept.map_err(|error| Status::internal(error.to_string()))?;
        kept.map_err(|error| Status::internal(error.to_string()))
    }
}

async fn write(
    aside: &Path,
    piece: &Piece,
    mut parts: impl Stream<Item = Result<SnapshotPart, Status>> + Unpin,
) -> Result<(), Status> {
    let file = File::create(aside).await.map_err(broken(aside))?;
    let mut file = BufWriter::new(file);
    let mut hash = ShardHash::of_version(MANIFEST_VERSION);
    let mut left = piece.shard.bytes;
    while let Some(part) = parts.next().await {
        let Some(What::Data(data)) = part?.what else {
            return Err(Status::invalid_argument("a part without bytes"));
        };
        let many = data.len() as u64;
        left = left
            .checked_sub(many)
            .ok_or_else(|| Status::invalid_argument("the shard is longer than its head says"))?;
        hash.update(&data);
        file.write_all(&data).await.map_err(broken(aside))?;
    }
    file.flush().await.map_err(broken(aside))?;
    if left > 0 || hash.finish() != piece.shard.hash {
        return Err(Status::data_loss("the shard is not what its head says"));
    }
    Ok(())
}

fn broken(path: &Path) -> impl Fn(std::io::Error) -> Status {
    let path: PathBuf = path.to_owned();
    move |error| Status::internal(format!("{}: {error}", path.display()))
}

/// Who comes in.
#[derive(Debug, Clone)]
pub enum Door {
    /// This node's workers, on the unix socket.
    Workers(Arc<Roster>),
    /// Agents of other nodes.
    Agents,
}

/// The service behind one of the doors.
#[derive(Debug, Clone)]
pub struct SnapshotService {
    shelves: Arc<Shelves>,
    door: Door,
}

impl SnapshotService {
    /// A service on what this agent keeps.
    pub const fn new(shelves: Arc<Shelves>, door: Door) -> Self {
        Self { shelves, door }
    }

    /// Lets agents in, and nobody else.
    fn agent<T>(&self, request: &Request<T>) -> Result<NodeId, Status> {
        match &self.door {
            Door::Agents => match peer_role(request)? {
                Role::Agent(node) => Ok(node),
                role @ (Role::Controller | Role::Admin(_)) => {
                    Err(Status::permission_denied(format!("{role} is not an agent")))
                }
            },
            Door::Workers(_) => Err(Status::permission_denied("for agents only")),
        }
    }
}

fn malformed(error: rebloom_proto::Malformed) -> Status {
    Status::invalid_argument(error.to_string())
}

#[tonic::async_trait]
impl Snapshots for SnapshotService {
    async fn bring(
        &self,
        request: Request<BringSnapshotRequest>,
    ) -> Result<Response<BringSnapshotReply>, Status> {
        let Door::Workers(roster) = &self.door else {
            return Err(Status::permission_denied("for workers only"));
        };
        let own = peer_pid(&request).and_then(|pid| roster.find(pid));
        let (kept, from) = Kept::bring(request.into_inner()).map_err(malformed)?;
        if own != Some((kept.run.clone(), kept.piece.shard.rank)) {
            return Err(Status::permission_denied("not that rank of this run"));
        }
        self.shelves.bring(&kept, &from).await?;
        Ok(Response::new(BringSnapshotReply {}))
    }

    type ReadStream = ReceiverStream<Result<SnapshotPart, Status>>;

    async fn read(
        &self,
        request: Request<ReadSnapshotRequest>,
    ) -> Result<Response<Self::ReadStream>, Status> {
        self.agent(&request)?;
        let Kept { run, piece } = Kept::read(request.into_inner()).map_err(malformed)?;
        let parts = self.shelves.parts(&run, &piece).await?;
        Ok(Response::new(parts))
    }

    async fn keep(
        &self,
        request: Request<Streaming<SnapshotPart>>,
    ) -> Result<Response<KeepSnapshotReply>, Status> {
        let of = self.agent(&request)?;
        let mut parts = request.into_inner();
        let first = parts.message().await?.and_then(|part| part.what);
        let Some(What::Head(head)) = first else {
            return Err(Status::invalid_argument("a shard without a head"));
        };
        let kept = Kept::head(head).map_err(malformed)?;
        self.shelves.take(&kept, parts).await?;
        let (run, step) = (&kept.run, kept.piece.checkpoint.step);
        tracing::debug!(%run, %step, rank = %kept.piece.shard.rank, %of, "keeps a replica");
        Ok(Response::new(KeepSnapshotReply {}))
    }
}
