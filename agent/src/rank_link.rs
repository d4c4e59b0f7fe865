//! The `RankLink` service: words of the workers in, words to the workers out, over a unix socket that
//! only the agent's own user can open.
//!
//! The kernel says which process is at the other end; it must be the one that the hello names, and
//! it speaks for that rank only. Every word goes to the driver, which acknowledges it once the
//! supervisor has taken it in. Decides nothing.

use crate::driver::Input;
use crate::process::Stat;
use crate::roster::Roster;
use crate::store_service::peer_pid;
use rebloom_core::id::{Rank, RunId};
use rebloom_core::word::{FromWorker, Hello};
use rebloom_proto::rank::{FromRank, ToRank};
use rebloom_proto::wire;
use rebloom_proto::wire::rank_link_server::RankLink;
use rebloom_runtime::telemetry::Seldom;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

/// Words to one worker that may be under way; few are ever said.
const MOST_UNDER_WAY: usize = 256;
/// How long a new connection may take to say hello.
const HELLO_WITHIN: Duration = Duration::from_secs(10);

/// One connection of a worker, as the driver keeps it.
#[derive(Debug, Clone)]
pub struct Connection {
    /// Its number; it only grows.
    pub number: u64,
    /// To the worker.
    pub words: mpsc::Sender<ToRank>,
}

/// The service.
#[derive(Debug)]
pub struct RankLinkService {
    inputs: mpsc::Sender<Input>,
    roster: Arc<Roster>,
    connections: AtomicU64,
    refused: Seldom<u32>,
}

impl RankLinkService {
    /// A service that tells the driver.
    pub fn new(inputs: mpsc::Sender<Input>, roster: Arc<Roster>) -> Self {
        let refused = Seldom::new(Duration::from_secs(60));
        Self {
            inputs,
            roster,
            connections: AtomicU64::new(0),
            refused,
        }
    }

    /// The hello of a new connection, checked against what the kernel says.
    async fn hello(
        &self,
        peer: Option<u32>,
        words: &mut Streaming<wire::FromRank>,
    ) -> Result<(Hello, u64), Status> {
        let peer = peer.ok_or_else(|| Status::permission_denied("not a process of this node"))?;
        let first = tokio::time::timeout(HELLO_WITHIN, words.message())
            .await
            .map_err(|_| Status::deadline_exceeded("no hello came"))??
            .ok_or_else(|| Status::invalid_argument("no hello came"))?;
        let FromRank { sequence, word } = parse(first)?;
        let FromWorker::Hello(hello) = word else {
            return Err(Status::invalid_argument("the first word has to be a hello"));
        };
        if hello.pid != peer {
            return Err(Status::permission_denied(format!(
                "process {peer} is not {}",
                hello.pid
            )));
        }
        match self.roster.find(peer) {
            Some((run, rank)) if (&run, rank) != (&hello.run, hello.rank) => {
                let text = format!("process {peer} is rank {rank} of run {run}");
                Err(Status::permission_denied(text))
            }
            Some(_) => Ok((hello, sequence)),
            // It may be left of a last life that could not write it down; the supervisor judges.
            None if leads_its_session(peer) => Ok((hello, sequence)),
            None => Err(Status::permission_denied(format!(
                "process {peer} is not a rank"
            ))),
        }
    }
}

/// As every rank does.
fn leads_its_session(pid: u32) -> bool {
    matches!(Stat::read(pid), Ok(Some(stat)) if stat.session == pid)
}

fn parse(word: wire::FromRank) -> Result<FromRank, Status> {
    FromRank::try_from(word).map_err(|error| Status::invalid_argument(error.to_string()))
}

#[tonic::async_trait]
impl RankLink for RankLinkService {
    type AttachStream = Pin<Box<dyn Stream<Item = Result<wire::ToRank, Status>> + Send>>;

    async fn attach(
        &self,
        request: Request<Streaming<wire::FromRank>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let peer = peer_pid(&request);
        let mut incoming = request.into_inner();
        let (hello, sequence) = match self.hello(peer, &mut incoming).await {
            Ok(hello) => hello,
            Err(status) => {
                if let Some(held) = self.refused.admit(peer.unwrap_or_default()) {
                    tracing::warn!(
                        pid = peer,
                        reason = status.message(),
                        held,
                        "refused a worker"
                    );
                }
                return Err(status);
            }
        };
        let (words, outgoing) = mpsc::channel(MOST_UNDER_WAY);
        let number = self.connections.fetch_add(1, Ordering::Relaxed);
        let connection = Connection { number, words };
        let whose = (hello.run.clone(), hello.rank, hello.pid);
        let pump = Pump {
            inputs: self.inputs.clone(),
            whose,
            connection,
        };
        tokio::spawn(pump.run(incoming, FromWorker::Hello(hello), sequence));
        let outgoing = ReceiverStream::new(outgoing).map(|word| Ok(word.into()));
        Ok(Response::new(Box::pin(outgoing)))
    }
}

/// Carries the words of one connection to the driver.
struct Pump {
    inputs: mpsc::Sender<Input>,
    whose: (RunId, Rank, u32),
    connection: Connection,
}

impl Pump {
    async fn run(self, mut incoming: Streaming<wire::FromRank>, hello: FromWorker, sequence: u64) {
        let mut next = Some((hello, sequence));
        while let Some((word, sequence)) = next {
            let input = Input::Said {
                whose: self.whose.clone(),
                connection: self.connection.clone(),
                sequence,
                word,
            };
            if self.inputs.send(input).await.is_err() {
                return;
            }
            next = tokio::select! {
                word = Self::next(&mut incoming, &self.whose) => word,
                () = self.connection.words.closed() => None,
            };
        }
        let input = Input::HungUp {
            whose: self.whose,
            number: self.connection.number,
        };
        // The driver is only gone when the agent ends.
        drop(self.inputs.send(input).await);
    }

    /// The next word; none where the connection is over or what came is malformed.
    async fn next(
        incoming: &mut Streaming<wire::FromRank>,
        (run, rank, pid): &(RunId, Rank, u32),
    ) -> Option<(FromWorker, u64)> {
        let word = incoming.message().await.ok().flatten()?;
        match parse(word) {
            Ok(FromRank { sequence, word }) => Some((word, sequence)),
            Err(error) => {
                let reason = error.message();
                tracing::warn!(%run, %rank, pid, reason, "a worker does not make sense; hung up");
                None
            }
        }
    }
}

/// Why the unix socket cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {path}: {error}")]
pub struct CannotListen {
    path: String,
    error: std::io::Error,
}

/// Listens on the socket, in place of one that a last life left; connections of other users are
/// dropped.
pub fn listen(
    path: &Path,
) -> Result<impl Stream<Item = std::io::Result<UnixStream>> + use<>, CannotListen> {
    let bind = || {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        // Its directory is closed to others, so nobody is early between these two lines.
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(listener)
    };
    let listener = bind().map_err(|error| CannotListen {
        path: path.display().to_string(),
        error,
    })?;
    let own = rustix::process::geteuid().as_raw();
    Ok(
        UnixListenerStream::new(listener).filter(move |stream| match stream {
            Ok(stream) => stream.peer_cred().is_ok_and(|peer| peer.uid() == own),
            Err(_) => true,
        }),
    )
}
