//! The operator keeps a stream, a consumer, and a worker Deployment in sync with every TaskGroup.
//!
//! A TaskGroup passes these files, from the watch to its status: `watch` (I/O) → `controller` → `reconcile`, which calls
//! the steps: `observe` (I/O) → `validate` → `lifecycle` → `desired` → `plan` (all pure) → `apply` (I/O) → `status`
//! (pure) → `kubernetes` (one status patch). `caches` with `index` hold what the watches show, and `memory` what is
//! remembered about each group between two reconciles. The other files are services beside the controller; `services` starts
//! them all.

pub mod apply;
mod args;
pub mod backlog;
mod caches;
mod cancel;
mod context;
mod controller;
mod deployments;
pub mod desired;
mod drops;
mod error;
mod events;
mod index;
mod kubernetes;
pub mod lifecycle;
mod link;
mod memory;
mod metrics;
mod mutation_cache;
mod notices;
pub mod observe;
pub mod plan;
mod reconcile;
mod refusal;
mod requeue;
mod services;
mod startup;
pub mod status;
mod subject;
mod sweep;
mod throttle;
mod triggers;
pub mod validate;
mod watch;

pub use args::Args;
use context::Context;

use crate::{
    admin::{self, Health},
    api::{TaskGroup, TaskHandler},
    broker::Broker,
    supervisor::Supervisor,
};
use anyhow::Context as _;
use http::{HeaderValue, header};
use kube::core::DeserializeGuard;
use metrics::Metrics;
use prometheus_client::registry::Registry;
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// A TaskGroup as the watch shows it, readable or not.
pub type Group = DeserializeGuard<TaskGroup>;

/// A TaskHandler as the watch shows it, readable or not.
pub type Handler = DeserializeGuard<TaskHandler>;

/// The name of the operator towards the API server, for its audit log.
pub const USER_AGENT: &str = concat!("taskgroup-operator/", env!("CARGO_PKG_VERSION"));

/// Longest silence of the API server within a request: half as long again as a quiet watch lasts.
pub const READ_TIMEOUT: Duration = Duration::from_secs(45);

/// How long NATS may be away before the groups say so: a restart is not worth thousands of writes.
const NATS_GRACE: Duration = Duration::from_secs(5);

/// Runs the operator until `shutdown`, and then until nothing is under way any more.
///
/// # Errors
/// Arguments that can't be used, a Kubernetes configuration that can't be found, or a service that failed. The operator waits
/// for Kubernetes and NATS where it can't reach them.
pub async fn run(args: Args, shutdown: CancellationToken) -> anyhow::Result<()> {
    let mut config = kube::Config::infer().await.context(
        "no Kubernetes to talk to: run this in a pod with a service account, or set KUBECONFIG to a kubeconfig file",
    )?;
    // A request that is never answered would hold up its group, or blind a watch, for good.
    config.read_timeout = Some(READ_TIMEOUT);
    let name = HeaderValue::from_static(USER_AGENT);
    config.headers.push((header::USER_AGENT, name));
    let client = kube::Client::try_from(config).context("the Kubernetes configuration can't be used")?;
    run_with(client, args, shutdown).await
}

/// Runs the operator against the given Kubernetes; see [`run`].
///
/// # Errors
/// Arguments that can't be used, or a service that failed.
pub async fn run_with(client: kube::Client, args: Args, shutdown: CancellationToken) -> anyhow::Result<()> {
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let health = Health::starting("starting");
    let mut supervisor = Supervisor::new(health.clone(), shutdown.clone());
    let listener = admin::listen(args.serve.admin_addr).await?;
    let address = listener.local_addr()?;
    let app = admin::app(health.clone(), Arc::new(registry));
    supervisor.graceful("admin server", admin::serve(listener, app, shutdown.clone()));
    tracing::info!(%address, instance = args.instance, "operator started");

    let broker = Broker::connect(&args.nats, "operator").await?;
    let crds = startup::wait_for_crds(&client, args.watch_namespace.as_deref(), &health);
    tokio::select! {
        () = crds => {}
        () = shutdown.cancelled() => return Ok(()),
    }
    services::start(&mut supervisor, client, broker.clone(), args, metrics, health, shutdown);
    let result = supervisor.run().await;
    broker.close().await;
    tracing::info!("operator stopped");
    result
}
