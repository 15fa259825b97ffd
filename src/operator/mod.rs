//! The operator: keeps a stream, a consumer and a worker Deployment in step with every TaskGroup.
//!
//! A file per step of a reconcile (`reconcile` calls them in order): `observe` (I/O), `validate`,
//! `desired` and `plan` (pure), `apply` (I/O), `status` and `notices` (pure); `ending` is what a
//! deletion does. `backlog` counts tasks; `watch` says what is reconciled when; `known`, `written`
//! and `retries` are what is remembered between two reconciles.

pub mod apply;
mod args;
pub mod backlog;
pub mod cancel;
pub mod closing;
pub mod context;
pub mod desired;
pub mod drops;
pub mod ending;
pub mod error;
pub mod known;
pub mod metrics;
pub mod notices;
pub mod observe;
pub mod plan;
pub mod reconcile;
pub mod retries;
pub mod startup;
pub mod status;
pub mod validate;
pub mod watch;
pub mod written;

pub use args::Args;
pub use context::Context;

use crate::{
    admin::{self, Health},
    broker::Broker,
    supervisor::Supervisor,
    telemetry::LogFormat,
};
use anyhow::Context as _;
use context::Settings;
use desired::PodSettings;
use http::{HeaderValue, header};
use metrics::Metrics;
use prometheus_client::registry::Registry;
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// What the operator calls itself towards the API server, for its audit log.
pub const USER_AGENT: &str = concat!("taskgroup-operator/", env!("CARGO_PKG_VERSION"));

/// Longest silence of the API server within a request: half as long again as a quiet watch lasts.
pub const READ_TIMEOUT: Duration = Duration::from_secs(45);

/// Runs the operator until `shutdown`; what is under way then is finished first.
///
/// # Errors
/// Arguments that can't be used, or a Kubernetes configuration that can't be found. That Kubernetes
/// or NATS can't be reached is no error: it waits for them.
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
/// Arguments that can't be used.
pub async fn run_with(client: kube::Client, args: Args, shutdown: CancellationToken) -> anyhow::Result<()> {
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let health = Health::starting("starting");
    let mut services = Supervisor::new(health.clone(), shutdown.clone());
    let listener = admin::listen(args.serve.admin_addr).await?;
    let address = listener.local_addr()?;
    let app = admin::app(health.clone(), Arc::new(registry));
    services.graceful("admin server", admin::serve(listener, app, shutdown.clone()));
    tracing::info!(%address, instance = args.instance, "operator started");

    let broker = Broker::connect(&args.nats, "operator").await?;
    let crds = startup::wait_for_crds(&client, args.watch_namespace.as_deref(), &health);
    tokio::select! {
        () = crds => {}
        () = shutdown.cancelled() => return Ok(()),
    }
    watch::start(
        &mut services,
        client,
        broker.clone(),
        settings(&args),
        metrics,
        &args,
        health,
        shutdown,
    );
    let result = services.run().await;
    broker.close().await;
    tracing::info!("operator stopped");
    result
}

fn settings(args: &Args) -> Settings {
    let nats_url = if args.worker_nats_url.is_empty() {
        &args.nats.nats_url
    } else {
        &args.worker_nats_url
    };
    Settings {
        instance: args.instance.clone(),
        pods: PodSettings {
            image: args.worker_image.clone(),
            nats_url: nats_url.join(","),
            nats_creds_secret: args.worker_nats_creds_secret.clone(),
            log_format: match args.serve.log_format {
                LogFormat::Text => "text",
                LogFormat::Json => "json",
            },
        },
        backlog_interval: Duration::from_secs(args.backlog_interval),
        resync_interval: Duration::from_secs(args.resync_interval),
        callback_allow: args.callback_allow.clone(),
        watch_namespace: args.watch_namespace.clone(),
        shared_replicas: args.shared_stream_replicas,
    }
}
