//! The drivers around the engine: what it is told comes in here, what it wants done goes out.
//!
//! One task owns the engine and its journal ([`owner`]); agents, admins and metrics reach it through
//! a handle. Nothing in this crate decides about runs or nodes, and nothing acts on what is not in
//! the journal yet.

pub mod config;
mod http;
mod links;
mod meter;
mod owner;
mod past;
mod patterns;
mod refusals;
mod service;

use crate::config::Config;
use crate::http::Observed;
use crate::links::Links;
use crate::meter::Meter;
use crate::owner::{Handle, Owner};
use crate::refusals::Refusals;
use rebloom_core::time::Instant;
use rebloom_runtime::clock::Wall;
use rebloom_runtime::journal::{self, Journal, Writer};
use rebloom_runtime::shutdown::Shutdown;
use rebloom_runtime::tls::{self, Role, ServerTls};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;

/// Why the controller cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Keys or certificates.
    #[error(transparent)]
    Tls(#[from] tls::Error),
    /// The journal cannot be read or written. Nothing is done that is not written down first.
    #[error(transparent)]
    Journal(#[from] journal::Error),
    /// The journal holds something that this version does not understand.
    #[error(
        "{what} of the journal is not understood, a newer version may have written it: {error}"
    )]
    Past {
        /// Which entry.
        what: String,
        /// What is wrong with it.
        error: serde_json::Error,
    },
    /// A port cannot be listened on.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why not.
        error: io::Error,
    },
    /// The system gives no thread.
    #[error("cannot start: {0}")]
    System(io::Error),
    /// A server ended.
    #[error("the {which} server ended: {error}")]
    Server {
        /// Which.
        which: &'static str,
        /// Why.
        error: String,
    },
}

/// A controller that has read its past and listens.
#[derive(Debug)]
pub struct Controller {
    owner: Owner,
    grpc: TcpListener,
    http: TcpListener,
    tls: ServerTls,
    started: Instant,
    handle: Handle,
    links: Arc<Links>,
    meter: Arc<Meter>,
    refusals: Arc<Refusals>,
}

impl Controller {
    /// Reads the journal, then listens.
    pub async fn start(config: &Config, mut journal: impl Journal) -> Result<Self, Error> {
        let tls = ServerTls::load(&config.tls, &Role::Controller)?;
        let past = past::read(&mut journal, config.limits.clone())?;
        let clock = Wall::starting_at_least(past.last);
        let writer = Writer::start(journal).map_err(Error::System)?;
        let refusals = Arc::new(Refusals::new());
        let links = Arc::new(Links::new(refusals.clone()));
        let meter = Arc::new(Meter::new());
        let (owner, handle) = Owner::new(
            past,
            clock,
            writer,
            links.clone(),
            meter.clone(),
            config.snapshot_every,
        );
        Ok(Self {
            owner,
            grpc: listen(config.listen).await?,
            http: listen(config.metrics).await?,
            tls,
            started: clock.now(),
            handle,
            links,
            meter,
            refusals,
        })
    }

    /// Where agents and admins reach it.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.grpc.local_addr()
    }

    /// Where its metrics are.
    pub fn metrics_address(&self) -> io::Result<SocketAddr> {
        self.http.local_addr()
    }

    /// Serves until it is asked to end, or something makes it impossible to go on.
    pub async fn run(self, shutdown: Shutdown) -> Result<(), Error> {
        let Self {
            owner,
            grpc,
            http,
            tls,
            started,
            handle,
            links,
            meter,
            refusals,
        } = self;
        let strangers = refusals.clone();
        let connections = tls::listen(grpc, &tls, move |address, why, error| {
            let who = address.map_or_else(|| "nobody".to_owned(), |address| address.to_string());
            strangers.count(why.label(), &who, &format_args!("{why} ({error})"));
        });
        let grpc = service::serve(
            connections,
            service::Parts {
                handle: handle.clone(),
                links: links.clone(),
                refusals: refusals.clone(),
                started,
            },
        );
        let observed = Observed {
            handle,
            links: links.clone(),
            meter,
            refusals,
        };
        let http = http::serve(http, observed);
        // The owner comes first: when it ends, everything it was told is in the journal.
        let ended = tokio::select! {
            biased;
            ended = owner.run(shutdown) => ended.map_err(Error::from),
            ended = grpc => Err(Error::Server { which: "gRPC", error: end(ended.err()) }),
            ended = http => Err(Error::Server { which: "metrics", error: end(ended.err()) }),
        };
        links.close_all();
        ended
    }
}

fn end(error: Option<impl std::error::Error>) -> String {
    error.map_or_else(
        || "no reason given".to_owned(),
        |e| rebloom_runtime::telemetry::chain(&e),
    )
}

async fn listen(address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address)
        .await
        .map_err(|error| Error::Listen { address, error })
}
