//! Takes connections and shakes hands on each, away from those that are served already.
//!
//! Strangers cost a bounded number of tasks for a bounded time, are told apart by reason, and never
//! stop the listener; neither does running out of file descriptors.

use super::ServerTls;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;

const HANDSHAKE_WITHIN: Duration = Duration::from_secs(5);
const HANDSHAKES_AT_ONCE: usize = 256;
const PAUSE_WHEN_OUT_OF_RESOURCES: Duration = Duration::from_millis(100);

/// Why a connection did not come about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refused {
    /// What was sent is not TLS.
    Garbage,
    /// No certificate, or none that the cluster's authority signed and that is in date.
    Certificate,
    /// The handshake was not done in time, or the other side went away.
    Incomplete,
    /// The system could not take the connection.
    System,
}

impl Refused {
    /// The CamelCase name, for metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Garbage => "Garbage",
            Self::Certificate => "Certificate",
            Self::Incomplete => "Incomplete",
            Self::System => "System",
        }
    }

    fn from_error(error: &io::Error) -> Self {
        match error
            .get_ref()
            .and_then(|error| error.downcast_ref::<rustls::Error>())
        {
            Some(
                rustls::Error::NoCertificatesPresented
                | rustls::Error::InvalidCertificate(_)
                | rustls::Error::AlertReceived(_),
            ) => Self::Certificate,
            Some(_) => Self::Garbage,
            None => Self::Incomplete,
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Garbage => "it does not speak TLS 1.3",
            Self::Certificate => "it has no certificate of this cluster, or does not accept ours",
            Self::Incomplete => "it did not finish the handshake",
            Self::System => "the system could not take it",
        })
    }
}

/// Connections whose other side has shown a certificate of the cluster.
pub type Connections = ReceiverStream<io::Result<TlsStream<TcpStream>>>;

/// Listens until the connections are dropped. `refused` is told of each stranger: its address, where
/// that is known, the reason, and what exactly was wrong.
pub fn listen(
    listener: TcpListener,
    tls: &ServerTls,
    refused: impl Fn(Option<IpAddr>, Refused, &io::Error) + Send + Sync + 'static,
) -> Connections {
    let (sender, receiver) = mpsc::channel(16);
    let acceptor = TlsAcceptor::from(tls.0.clone());
    tokio::spawn(take_all(listener, acceptor, Arc::new(refused), sender));
    ReceiverStream::new(receiver)
}

type Sender = mpsc::Sender<io::Result<TlsStream<TcpStream>>>;

async fn take_all(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    refused: Arc<impl Fn(Option<IpAddr>, Refused, &io::Error) + Send + Sync + 'static>,
    sender: Sender,
) {
    let room = Arc::new(Semaphore::new(HANDSHAKES_AT_ONCE));
    loop {
        let next = async {
            let permit = room.clone().acquire_owned().await;
            (listener.accept().await, permit)
        };
        let (accepted, permit) = tokio::select! {
            next = next => next,
            () = sender.closed() => return,
        };
        let (stream, address): (TcpStream, SocketAddr) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                refused(None, Refused::System, &error);
                sleep(PAUSE_WHEN_OUT_OF_RESOURCES).await;
                continue;
            }
        };
        let (acceptor, refused, sender) = (acceptor.clone(), refused.clone(), sender.clone());
        tokio::spawn(async move {
            let shaken = async {
                stream.set_nodelay(true)?;
                acceptor.accept(stream).await
            };
            let outcome = match timeout(HANDSHAKE_WITHIN, shaken).await {
                Ok(outcome) => outcome,
                Err(_) => Err(io::ErrorKind::TimedOut.into()),
            };
            drop(permit);
            match outcome {
                // (That the server is gone is no matter to anyone any more.)
                Ok(stream) => drop(sender.send(Ok(stream)).await),
                Err(error) => refused(Some(address.ip()), Refused::from_error(&error), &error),
            }
        });
    }
}
