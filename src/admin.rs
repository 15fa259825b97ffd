//! The admin server of every long-running subcommand: `/livez`, `/readyz` and `/metrics`.

use crate::telemetry::LogFormat;
use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// How long the open requests may take at the end.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

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

/// How the process is. Cheap to clone; all clones share one state.
#[derive(Clone, Debug)]
pub struct Health(Arc<Mutex<Condition>>);

#[derive(Debug)]
struct Condition {
    not_ready: Option<String>,
    dead: Option<String>,
}

impl Health {
    /// Alive, and not ready yet because of `reason`.
    pub fn starting(reason: impl Into<String>) -> Self {
        Self(Arc::new(Mutex::new(Condition {
            not_ready: Some(reason.into()),
            dead: None,
        })))
    }

    /// Marks the process as ready.
    pub fn ready(&self) {
        self.0.lock().not_ready = None;
    }

    /// Marks the process as not ready, because of `reason`.
    pub fn not_ready(&self, reason: impl Into<String>) {
        self.0.lock().not_ready = Some(reason.into());
    }

    /// Marks the process as dead for good, because of `reason`. The first reason stays.
    pub fn dead(&self, reason: impl Into<String>) {
        self.0.lock().dead.get_or_insert_with(|| reason.into());
    }

    /// Why the process is not ready; `None` when it is.
    pub fn not_ready_because(&self) -> Option<String> {
        let state = self.0.lock();
        state.dead.clone().or_else(|| state.not_ready.clone())
    }

    /// Why the process is dead; `None` while it is alive.
    pub fn dead_because(&self) -> Option<String> {
        self.0.lock().dead.clone()
    }
}

#[derive(Clone)]
struct Admin {
    health: Health,
    registry: Arc<Registry>,
}

/// The three pages. A subcommand may add its own.
pub fn app(health: Health, registry: Arc<Registry>) -> Router {
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(Admin { health, registry })
}

/// Listens on the address of the admin server.
///
/// # Errors
/// An address that can't be listened on.
pub async fn listen(addr: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(addr).await.map_err(|error| {
        anyhow::anyhow!(
            "--admin-addr: can't listen on {addr}: {error}; name a free address, for example 127.0.0.1:9797"
        )
    })
}

/// Serves `app` until `shutdown`, and then for [`LAST_ANSWERS`] at most until all open requests are answered. A connection
/// that somebody holds open does not keep the process.
///
/// # Errors
/// A listener that fails.
pub async fn serve(listener: TcpListener, app: Router, shutdown: CancellationToken) -> anyhow::Result<()> {
    let too_long = async {
        shutdown.cancelled().await;
        tokio::time::sleep(LAST_ANSWERS).await;
    };
    let server = axum::serve(listener, app).with_graceful_shutdown(shutdown.clone().cancelled_owned());
    tokio::select! {
        ended = async { server.await } => Ok(ended?),
        () = too_long => {
            tracing::debug!("the admin server had connections open at the end");
            Ok(())
        }
    }
}

async fn livez(State(admin): State<Admin>) -> impl IntoResponse {
    page(admin.health.dead_because())
}

async fn readyz(State(admin): State<Admin>) -> impl IntoResponse {
    page(admin.health.not_ready_because())
}

fn page(problem: Option<String>) -> (StatusCode, String) {
    match problem {
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
