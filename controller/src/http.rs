//! `/metrics` for Prometheus and `/healthz` for whoever restarts what does not answer.

use crate::links::Links;
use crate::meter::{Meter, Seen};
use crate::owner::Handle;
use crate::refusals::Refusals;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::time::timeout;

/// An owner that does not answer by then is stuck, or its disk is.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// What can be observed.
#[derive(Debug, Clone)]
pub(crate) struct Observed {
    pub(crate) handle: Handle,
    pub(crate) links: Arc<Links>,
    pub(crate) meter: Arc<Meter>,
    pub(crate) refusals: Arc<Refusals>,
}

impl Observed {
    async fn see(&self) -> Option<Seen> {
        let view = self
            .handle
            .view(|engine, now| (engine.runs(now), engine.nodes(), engine.refusals().clone()));
        let (runs, nodes, dropped) = timeout(ANSWER_WITHIN, view).await.ok()?.ok()?;
        let mut refusals = self.refusals.counts();
        for (kind, count) in dropped {
            *refusals.entry(kind).or_default() += count;
        }
        Some(Seen {
            runs,
            nodes,
            refusals,
            links: self.links.open(),
        })
    }
}

pub(crate) async fn serve(listener: TcpListener, observed: Observed) -> io::Result<()> {
    let routes = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(health))
        .with_state(observed);
    axum::serve(listener, routes).await
}

const STUCK: (StatusCode, &str) = (
    StatusCode::SERVICE_UNAVAILABLE,
    "the engine does not answer\n",
);

async fn metrics(State(observed): State<Observed>) -> impl IntoResponse {
    let Some(seen) = observed.see().await else {
        return Err(STUCK);
    };
    let text = observed.meter.render(&seen).map_err(|_| STUCK)?;
    Ok(([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text))
}

async fn health(State(observed): State<Observed>) -> impl IntoResponse {
    match timeout(ANSWER_WITHIN, observed.handle.view(|_, _| ())).await {
        Ok(Ok(())) => (StatusCode::OK, "ok\n"),
        Ok(Err(_)) | Err(_) => STUCK,
    }
}
