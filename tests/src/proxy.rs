//! A wire between an agent and the controller that can be cut and healed.

use anyhow::Result;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A TCP relay on 127.0.0.1. Cut, it drops what is connected and refuses what comes.
#[derive(Debug)]
pub struct Proxy {
    /// Where to connect instead of the target.
    pub address: SocketAddr,
    whole: Arc<watch::Sender<bool>>,
}

impl Proxy {
    /// Relays to `target` from now on.
    pub async fn to(target: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let whole = Arc::new(watch::Sender::new(true));
        let wire = Arc::clone(&whole);
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let mut state = wire.subscribe();
                if !*state.borrow_and_update() {
                    continue;
                }
                tokio::spawn(async move {
                    let Ok(mut far) = TcpStream::connect(target).await else {
                        return;
                    };
                    tokio::select! {
                        _ = copy_bidirectional(&mut near, &mut far) => {}
                        _ = state.wait_for(|whole| !whole) => {}
                    }
                });
            }
        });
        Ok(Self { address, whole })
    }

    /// Cuts the wire.
    pub fn cut(&self) {
        self.whole.send_replace(false);
    }

    /// Heals it.
    pub fn heal(&self) {
        self.whole.send_replace(true);
    }
}
