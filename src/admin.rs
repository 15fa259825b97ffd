//! `/livez`, `/readyz` and `/metrics`, the same for every long-running subcommand.

use crate::telemetry::LogFormat;
use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use prometheus_client::registry::Registry;
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Arguments of every long-running subcommand.
#[derive(Clone, Debug, clap::Args)]
pub struct ServeArgs {
    /// Address of the admin server, which serves /livez, /readyz and /metrics.
    #[arg(long, env = "ADMIN_ADDR", default_value = "0.0.0.0:9797", value_name = "IP:PORT")]
    pub admin_addr: SocketAddr,
    /// Format of the log lines.
    #[arg(long, env = "LOG_FORMAT", default_value = "text")]
    pub log_format: LogFormat,
    /// Log filter: a level, or levels per module.
    #[arg(long, env = "RUST_LOG", default_value = "info", value_name = "FILTER")]
    pub log: String,
}

/// Whether this process can do its work, and if not, why not. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Readiness(Arc<Mutex<Option<String>>>);

impl Readiness {
    /// Not ready yet, because of `reason`.
    pub fn waiting(reason: impl Into<String>) -> Self {
        Self(Arc::new(Mutex::new(Some(reason.into()))))
    }

    /// From now on ready.
    pub fn ready(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// From now on not ready, because of `reason`.
    pub fn not_ready(&self, reason: impl Into<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason.into());
    }

    /// Why not ready; `None` when ready.
    pub fn reason(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[derive(Clone)]
struct Admin {
    readiness: Readiness,
    registry: Arc<Registry>,
}

/// The three pages. A subcommand may add its own.
pub fn app(readiness: Readiness, registry: Arc<Registry>) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(Admin { readiness, registry })
}

/// Serves `app` until `shutdown`, and returns the address it listens on at once.
///
/// # Errors
/// An address that can't be listened on.
pub async fn serve(app: Router, addr: SocketAddr, shutdown: CancellationToken) -> anyhow::Result<SocketAddr> {
    Ok(start(app, addr, shutdown).await?.0)
}

/// As [`serve`], with the server's task: it ends when, after `shutdown`, all that was asked is answered.
///
/// # Errors
/// An address that can't be listened on.
pub async fn start(
    app: Router,
    addr: SocketAddr,
    shutdown: CancellationToken,
) -> anyhow::Result<(SocketAddr, JoinHandle<()>)> {
    let listener = tokio::net::TcpListener::bind(addr).await.map_err(|error| {
        anyhow::anyhow!(
            "--admin-addr: can't listen on {addr}: {error}; name a free address, for example 127.0.0.1:9797"
        )
    })?;
    let bound = listener.local_addr()?;
    let server = tokio::spawn(async move {
        let server = axum::serve(listener, app).with_graceful_shutdown(shutdown.cancelled_owned());
        if let Err(error) = server.await {
            tracing::error!(%error, "the admin server ended");
        }
    });
    Ok((bound, server))
}

async fn readyz(State(admin): State<Admin>) -> impl IntoResponse {
    match admin.readiness.reason() {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    }
}

async fn metrics(State(admin): State<Admin>) -> impl IntoResponse {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &admin.registry) {
        Ok(()) => (
            StatusCode::OK,
            [(
                header::CONTENT_TYPE,
                "application/openmetrics-text; version=1.0.0; charset=utf-8",
            )],
            text,
        ),
        Err(error) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            [(header::CONTENT_TYPE, "text/plain")],
            format!("{error}\n"),
        ),
    }
}
