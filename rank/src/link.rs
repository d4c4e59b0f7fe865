//! The link to the agent: words both ways over its unix socket.
//!
//! A word is said again after a reconnect until the agent acknowledged it. The link reconnects for
//! ever; how long to live without an agent is the member's decision.

use rebloom_core::word::{FromWorker, ToWorker};
use rebloom_proto::rank::{FromRank, ToRank};
use rebloom_proto::wire;
use rebloom_proto::wire::rank_link_client::RankLinkClient;
use rebloom_runtime::clock::monotonic;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Status, Streaming};

const SHORTEST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// What comes over the link.
#[derive(Debug)]
pub(crate) enum Heard {
    /// The agent can be reached: the next thing said must be a hello.
    Back,
    /// The agent is gone.
    Lost,
    /// A word.
    Word(ToWorker),
}

/// A channel to whoever listens on a unix socket, not connected yet.
pub(crate) fn channel(socket: &Path) -> Channel {
    let socket = socket.to_owned();
    let connector = tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move {
            UnixStream::connect(socket)
                .await
                .map(hyper_util::rt::TokioIo::new)
        }
    });
    // The address names nobody: the connector knows where to go.
    Endpoint::from_static("http://agent").connect_with_connector_lazy(connector)
}

/// Words that the agent has not acknowledged yet.
#[derive(Debug, Default)]
struct Unheard {
    words: VecDeque<(u64, FromWorker)>,
    last: u64,
}

impl Unheard {
    fn add(&mut self, word: FromWorker) -> FromRank {
        self.last += 1;
        self.words.push_back((self.last, word.clone()));
        FromRank {
            sequence: self.last,
            word,
        }
    }

    fn acknowledged(&mut self, sequence: u64) {
        self.words.retain(|(number, _)| *number != sequence);
    }

    /// What a new connection begins with: the hello, then everything else again, under new numbers. A
    /// hello of an older connection is not said again.
    fn again(&mut self, hello: FromWorker) -> Vec<FromRank> {
        let old = std::mem::take(&mut self.words)
            .into_iter()
            .map(|(_, word)| word);
        let old: Vec<_> = old
            .filter(|word| !matches!(word, FromWorker::Hello(_)))
            .collect();
        std::iter::once(hello)
            .chain(old)
            .map(|word| self.add(word))
            .collect()
    }
}

/// Keeps the link for as long as anybody can say something; `hear` is told what comes.
pub(crate) async fn keep(
    socket: PathBuf,
    mut said: UnboundedReceiver<FromWorker>,
    hear: impl Fn(Heard),
) {
    let mut unheard = Unheard::default();
    let mut pause = SHORTEST_PAUSE;
    loop {
        // Whoever listens there is the agent; nothing is said before it does.
        if UnixStream::connect(&socket).await.is_ok() {
            hear(Heard::Back);
            let began = monotonic();
            let end = converse(channel(&socket), &mut said, &mut unheard, &hear).await;
            hear(Heard::Lost);
            match end {
                End::Silence => return,
                End::Broken(status) => tracing::warn!(%status, "the link to the agent broke"),
            }
            if monotonic().since(began) > LONGEST_PAUSE {
                pause = SHORTEST_PAUSE;
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

enum End {
    /// Nobody is left who could say anything.
    Silence,
    Broken(Status),
}

async fn converse(
    channel: Channel,
    said: &mut UnboundedReceiver<FromWorker>,
    unheard: &mut Unheard,
    hear: &impl Fn(Heard),
) -> End {
    // What was said before the hello waits for it.
    let hello = loop {
        match said.recv().await {
            Some(hello @ FromWorker::Hello(_)) => break hello,
            Some(word) => drop(unheard.add(word)),
            None => return End::Silence,
        }
    };
    let (out, outgoing) = unbounded_channel::<wire::FromRank>();
    for word in unheard.again(hello) {
        send(&out, word);
    }
    let mut client =
        RankLinkClient::new(channel).max_decoding_message_size(rebloom_proto::MAX_MESSAGE);
    let mut incoming = match client.attach(UnboundedReceiverStream::new(outgoing)).await {
        Ok(response) => response.into_inner(),
        Err(status) => return End::Broken(status),
    };
    loop {
        tokio::select! {
            word = said.recv() => match word {
                Some(word) => send(&out, unheard.add(word)),
                None => return End::Silence,
            },
            word = next(&mut incoming) => match word {
                Ok(ToRank::Ack(sequence)) => unheard.acknowledged(sequence),
                Ok(ToRank::Word(word)) => hear(Heard::Word(word)),
                Err(status) => return End::Broken(status),
            },
        }
    }
}

fn send(out: &UnboundedSender<wire::FromRank>, word: FromRank) {
    // Where the call is over its answer stream ends too, and the word is said again.
    drop(out.send(word.into()));
}

async fn next(incoming: &mut Streaming<wire::ToRank>) -> Result<ToRank, Status> {
    let message = incoming
        .next()
        .await
        .ok_or_else(|| Status::unavailable("it hung up"))??;
    ToRank::try_from(message).map_err(|error| Status::data_loss(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rebloom_core::id::{Generation, Rank, RunId, Step};
    use rebloom_core::report::Milestone;
    use rebloom_core::word::Hello;

    fn hello(generation: u64) -> FromWorker {
        FromWorker::Hello(Hello {
            run: RunId::new("a").unwrap(),
            rank: Rank(0),
            pid: 7,
            generation: Generation(generation),
            milestone: Milestone::Going,
        })
    }

    fn reached(step: u64) -> FromWorker {
        let milestone = Milestone::Loaded;
        FromWorker::Reached {
            generation: Generation(1),
            milestone,
            step: Step(step),
        }
    }

    #[test]
    fn what_was_not_heard_is_said_again_after_the_hello() {
        let mut unheard = Unheard::default();
        let first = unheard.again(hello(0));
        assert_eq!(
            first,
            [FromRank {
                sequence: 1,
                word: hello(0)
            }]
        );
        assert_eq!(unheard.add(reached(5)).sequence, 2);
        assert_eq!(unheard.add(reached(6)).sequence, 3);
        unheard.acknowledged(2);
        let again = unheard.again(hello(1));
        let words: Vec<_> = again
            .into_iter()
            .map(|word| (word.sequence, word.word))
            .collect();
        assert_eq!(words, [(4, hello(1)), (5, reached(6))]);
        unheard.acknowledged(5);
        unheard.acknowledged(4);
        assert_eq!(unheard.again(hello(2)).len(), 1);
    }
}
