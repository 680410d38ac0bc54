//! Metrics, health and the status page over HTTP. Read-only: there is nothing here that changes anything.

use super::{Report, metrics};
use crate::pipeline::{RelayerError, Shared, Sight};
use axum::{
    Json, Router,
    extract::State,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;

const PAGE: &str = include_str!("page/status.html");
const STYLE: &str = include_str!("page/status.css");
const SCRIPT: &str = include_str!("page/status.js");

/// What is told, from before there is a chain to tell of.
#[derive(Clone)]
pub(crate) struct Served {
    pub(crate) sight: Arc<Sight>,
    /// As soon as the tasks run.
    pub(crate) running: Arc<OnceLock<Arc<Shared>>>,
    pub(crate) reports: watch::Receiver<Arc<Report>>,
}

/// Listens; where, and what then answers.
pub(crate) async fn serve(
    listen: SocketAddr,
    served: Served,
    stop: CancellationToken,
) -> Result<(SocketAddr, impl Future<Output = Result<(), RelayerError>> + Send + 'static), RelayerError> {
    let refused = |error: std::io::Error| {
        let taken = error.kind() == std::io::ErrorKind::AddrInUse;
        let hint = if taken { "; another relayer, or another program, is there: choose another port" } else { "" };
        RelayerError::NotReady(format!("can't listen on {listen} ([http] listen): {error}{hint}"))
    };
    let listener = TcpListener::bind(listen).await.map_err(refused)?;
    let address = listener.local_addr().map_err(refused)?;
    metrics::install();
    let routes = Router::new()
        .route("/", get(async || part("text/html; charset=utf-8", PAGE)))
        .route("/status.css", get(async || part("text/css; charset=utf-8", STYLE)))
        .route("/status.js", get(async || part("text/javascript; charset=utf-8", SCRIPT)))
        .route("/api/status", get(status))
        .route("/metrics", get(async || part("text/plain; version=0.0.4; charset=utf-8", metrics::install().render())))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(served);
    let serving = async move {
        let ended = axum::serve(listener, routes).with_graceful_shutdown(async move { stop.cancelled().await }).await;
        ended.map_err(|error| RelayerError::NotReady(format!("the HTTP server failed: {error}")))
    };
    Ok((address, serving))
}

/// A part of the page. Nothing from elsewhere is loaded, and nothing may frame it.
fn part(kind: &'static str, body: impl IntoResponse) -> Response {
    let policy = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    let headers: [(HeaderName, HeaderValue); 4] = [
        (header::CONTENT_TYPE, HeaderValue::from_static(kind)),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy)),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    (headers, body).into_response()
}

async fn status(State(served): State<Served>) -> Response {
    let report = served.reports.borrow().clone();
    part("application/json", Json(report.as_ref().clone()).into_response().into_body())
}

/// Whether the process works at all; if not, starting it anew may help.
async fn healthz(State(served): State<Served>) -> Response {
    verdict(&silent(&served))
}

/// Tasks that are stuck.
fn silent(served: &Served) -> Vec<String> {
    let silent = served.running.get().map(|shared| shared.silent_tasks()).unwrap_or_default();
    silent.iter().map(|(task, time)| format!("task {task} has been silent for {} s", time.as_secs())).collect()
}

/// Whether it does what it should now. That may be for others to mend: a node, the database.
async fn readyz(State(served): State<Served>) -> Response {
    let mut reasons = silent(&served);
    let lost = served.sight.lost();
    let report = served.reports.borrow().clone();
    if report.at == 0 && lost.is_none() {
        let waits = served.sight.trouble().map_or_else(String::new, |why| format!(": {why}"));
        reasons.push(format!("starting{waits}"));
    }
    reasons.extend(lost);
    reasons.extend(report.blocked.iter().cloned());
    verdict(&reasons)
}

fn verdict(reasons: &[String]) -> Response {
    if reasons.is_empty() {
        return part("text/plain; charset=utf-8", "ok\n");
    }
    let mut response = part("text/plain; charset=utf-8", reasons.join("\n") + "\n");
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    response
}
