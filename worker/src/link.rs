//! The link to this rank's agent: words both ways, and the rendezvous store.
//!
//! It lives on a thread of its own with a small runtime, so that training never waits for it. A link
//! that breaks is opened again for ever: the hello comes first, then every word that the agent has
//! not acknowledged, in order. Decides nothing; when to give up is the member's business.

mod store;

pub use store::AgentStore;

use crate::comm::Watch;
use hyper_util::rt::TokioIo;
use rebloom_core::id::{Generation, RunId};
use rebloom_core::report::Milestone;
use rebloom_core::word::{FromWorker, Hello, ToWorker};
use rebloom_proto::rank::{FromRank, ToRank};
use rebloom_proto::wire;
use rebloom_proto::wire::rank_link_client::RankLinkClient;
use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::runtime::{Handle, Runtime};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::{Channel, Endpoint};

/// Between two attempts to reach the agent: short, since the agent is on this node.
const TRY_AGAIN: Duration = Duration::from_millis(100);
/// How long leaving may take to bring the last words home.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// Words that wait for their ack. More than a worker ever says without an agent, as its saves wait
/// for one another; beyond it the oldest goes.
const MOST_UNACKED: usize = 1024;

/// What the link hears.
#[derive(Debug)]
pub enum Heard {
    /// The agent says something.
    Word(ToWorker),
    /// The link is up.
    AgentBack,
    /// The link is down.
    AgentLost,
}

enum Tell {
    Word(FromWorker),
    Drained(oneshot::Sender<()>),
}

/// The worker's end of the link.
#[derive(Debug)]
pub struct Link {
    words: mpsc::UnboundedSender<Tell>,
    runtime: Runtime,
    channel: Channel,
    run: RunId,
}

impl std::fmt::Debug for Tell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Word(_) => "Word",
            Self::Drained(_) => "Drained",
        })
    }
}

impl Link {
    /// Opens the link over the agent's socket and keeps it open; `heard` gets what comes in.
    ///
    /// # Errors
    /// Where no runtime can be made.
    pub fn open(socket: &Path, hello: Hello, heard: Sender<Heard>) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("link")
            .enable_all()
            .build()?;
        let channel = {
            let _inside = runtime.enter();
            connect(socket)
        };
        let run = hello.run.clone();
        let (words, to_say) = mpsc::unbounded_channel();
        let speaker =
            Speaker { channel: channel.clone(), to_say, heard, hello, unacked: VecDeque::new(), sequence: 0 };
        runtime.spawn(speaker.run());
        Ok(Self { words, runtime, channel, run })
    }

    /// Says a word; kept until the agent has acknowledged it.
    pub fn say(&self, word: FromWorker) {
        // The speaker only ends with the link.
        drop(self.words.send(Tell::Word(word)));
    }

    /// The rendezvous store of a generation.
    pub fn store(&self, watch: Watch) -> AgentStore {
        AgentStore::new(self.runtime.handle().clone(), self.channel.clone(), self.run.clone(), watch)
    }

    /// The runtime of the link.
    pub fn handle(&self) -> &Handle {
        self.runtime.handle()
    }

    /// Waits, within bounds, until every word is acknowledged.
    pub fn drain(&self) {
        let (done, drained) = oneshot::channel();
        drop(self.words.send(Tell::Drained(done)));
        let waited = self.runtime.block_on(async { tokio::time::timeout(LAST_WORDS, drained).await });
        if waited.is_err() {
            tracing::warn!("leaving before the agent acknowledged the last words");
        }
    }
}

fn connect(socket: &Path) -> Channel {
    let socket: PathBuf = socket.to_owned();
    // The address is not looked at: every connection goes to the socket.
    Endpoint::from_static("http://agent").connect_with_connector_lazy(tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    }))
}

struct Speaker {
    channel: Channel,
    to_say: mpsc::UnboundedReceiver<Tell>,
    heard: Sender<Heard>,
    hello: Hello,
    unacked: VecDeque<FromRank>,
    sequence: u64,
}

impl Speaker {
    async fn run(mut self) {
        let mut waiting = Vec::new();
        loop {
            let ended = self.attach(&mut waiting).await;
            if self.to_say.is_closed() && self.to_say.is_empty() {
                return;
            }
            if let Err(status) = ended {
                tracing::debug!(reason = status.message(), "no link to the agent");
            }
            tokio::time::sleep(TRY_AGAIN).await;
        }
    }

    /// One connection, from its hello to its end.
    async fn attach(&mut self, waiting: &mut Vec<oneshot::Sender<()>>) -> Result<(), tonic::Status> {
        let (out, outgoing) = mpsc::unbounded_channel::<wire::FromRank>();
        let send = |word: FromRank| drop(out.send(word.into()));
        self.sequence += 1;
        send(FromRank { sequence: self.sequence, word: FromWorker::Hello(self.hello.clone()) });
        self.unacked.iter().cloned().for_each(send);
        let mut client = RankLinkClient::new(self.channel.clone())
            .max_decoding_message_size(rebloom_proto::MAX_MESSAGE);
        let mut incoming = client.attach(UnboundedReceiverStream::new(outgoing)).await?.into_inner();
        if self.heard.send(Heard::AgentBack).is_err() {
            return Ok(());
        }
        let ended = loop {
            tokio::select! {
                word = incoming.message() => match word {
                    Ok(Some(word)) => self.hear(word),
                    Ok(None) => break Ok(()),
                    Err(status) => break Err(status),
                },
                tell = self.to_say.recv() => match tell {
                    Some(Tell::Word(word)) => send(self.keep(word)),
                    Some(Tell::Drained(done)) => waiting.push(done),
                    None => break Ok(()),
                },
            }
            if self.unacked.is_empty() {
                for done in waiting.drain(..) {
                    // Who gave up waiting misses nothing.
                    drop(done.send(()));
                }
            }
        };
        drop(self.heard.send(Heard::AgentLost));
        ended
    }

    fn hear(&mut self, word: wire::ToRank) {
        match ToRank::try_from(word) {
            Ok(ToRank::Ack(sequence)) => {
                self.unacked.retain(|word| word.sequence > sequence);
            }
            Ok(ToRank::Word(word)) => drop(self.heard.send(Heard::Word(word))),
            Err(error) => tracing::warn!(%error, "the agent does not make sense"),
        }
    }

    /// Numbers a word, and remembers from it how far this rank has come for the next hello.
    fn keep(&mut self, word: FromWorker) -> FromRank {
        if let Some((generation, milestone)) = standing(&word) {
            self.hello.generation = generation;
            self.hello.milestone = milestone;
        }
        self.sequence += 1;
        let word = FromRank { sequence: self.sequence, word };
        // A hello is said anew on every connection.
        if !matches!(word.word, FromWorker::Hello(_)) {
            self.unacked.push_back(word.clone());
            if self.unacked.len() > MOST_UNACKED {
                self.unacked.pop_front();
            }
        }
        word
    }
}

fn standing(word: &FromWorker) -> Option<(Generation, Milestone)> {
    match word {
        FromWorker::Hello(hello) => Some((hello.generation, hello.milestone)),
        FromWorker::Reached { generation, milestone, step: _ } => Some((*generation, *milestone)),
        FromWorker::Finished { generation, .. } => Some((*generation, Milestone::Finished)),
        FromWorker::LoadRefused { .. }
        | FromWorker::Failed { .. }
        | FromWorker::Saved { .. }
        | FromWorker::SaveFailed { .. } => None,
    }
}
