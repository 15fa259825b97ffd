//! One worker process: starts its services, and winds them up when it is asked to stop.

use super::{
    Args, delivery,
    group::{Group, watch},
    handler::Handler,
    runtime::{Drained, ProcessReadiness, Runtime},
    subscriptions::Subscriptions,
};
use crate::{
    admin::{self, Health},
    broker::Broker,
    protocol::Queue,
    supervisor::Supervisor,
};
use prometheus_client::registry::Registry;
use std::{sync::Arc, time::Instant};
use tokio::{sync::mpsc, time};
use tokio_util::sync::CancellationToken;

/// Runs the tasks of `queues` by `handler` until `shutdown`, then finishes what runs and returns.
///
/// # Errors
/// Arguments that can't be used, or a service that failed.
pub async fn run(args: &Args, queues: Vec<Queue>, handler: Handler, shutdown: CancellationToken) -> anyhow::Result<()> {
    let health = Health::starting("starting");
    let (runtime, services) = start(args, queues, handler, health, shutdown).await?;
    let ended = services.run().await;
    runtime.broker().close().await;
    tracing::info!("stopped");
    ended
}

/// Starts the services of the process.
async fn start(
    args: &Args,
    queues: Vec<Queue>,
    handler: Handler,
    health: Health,
    shutdown: CancellationToken,
) -> anyhow::Result<(Arc<Runtime>, Supervisor)> {
    let broker = Broker::connect(&args.nats, "worker").await?;
    let mut registry = Registry::default();
    let runtime = Arc::new(Runtime::new(broker, handler, &mut registry, shutdown.clone()));
    let (groups, unsent): (Vec<_>, Vec<_>) = queues
        .into_iter()
        .map(|queue| Group::new(runtime.clone(), queue))
        .unzip();
    let readiness = ProcessReadiness::new(health.clone());
    let drained = Drained::default();
    let listener = admin::listen(args.serve.admin_addr).await?;
    for group in &groups {
        tracing::info!(
            queue = %group.queue(),
            handler = %runtime.handler(),
            admin = %listener.local_addr()?,
            "worker started"
        );
    }

    // Each service is a task of its own, so that what wakes one up does not have all of them look.
    let mut services = Supervisor::new(health.clone(), shutdown);
    let app = admin::app(health, Arc::new(registry)).merge(drained.page());
    let admin_shutdown = CancellationToken::new();
    services.graceful("admin server", admin::serve(listener, app, admin_shutdown.clone()));
    // Before the groups read their settings, so that no notice of a change is missed.
    let subscriptions = Subscriptions::open(runtime.clone(), groups.iter().cloned()).await?;
    services.background("subscriptions", async move {
        subscriptions.serve().await;
        Ok(())
    });
    let gate = runtime.clone();
    services.background("gate", async move {
        gate.gate().keep().await;
        Ok(())
    });
    let (stopped, stopping) = mpsc::unbounded_channel();
    for (group, unsent) in groups.iter().zip(unsent) {
        let (settings, acks) = (group.clone(), group.clone());
        services.background("settings", async move {
            watch(settings).await;
            Ok(())
        });
        services.background("acks", async move {
            unsent.send(acks).await;
            Ok(())
        });
        let pull_loop = delivery::pull_loop(group.clone(), readiness.of(group.queue()));
        let stopped = stopped.clone();
        services.graceful("pull loop", async move {
            let _ = stopped.send(pull_loop.await);
            Ok(())
        });
    }
    drop(stopped);
    let last = runtime.clone();
    services.graceful("wind-up", async move {
        wind_up(&last, &groups, &drained, stopping).await;
        admin_shutdown.cancel();
        Ok(())
    });
    Ok((runtime, services))
}

/// Waits for the end of all groups, and then for what outlives their tasks.
async fn wind_up(
    runtime: &Runtime,
    groups: &[Arc<Group>],
    drained: &Drained,
    mut stopped: mpsc::UnboundedReceiver<Instant>,
) {
    let mut stop_at = Instant::now();
    while let Some(group) = stopped.recv().await {
        stop_at = stop_at.max(group);
    }
    // Another worker makes a callback that is not made by then.
    let _ = time::timeout_at(stop_at.into(), runtime.callbacks().finished()).await;
    for group in groups {
        group.rate().close().await;
    }
    drained.finish().await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        admin::ServeArgs,
        broker::NatsArgs,
        telemetry::LogFormat,
        worker::{AttemptResult, HandlerArgs},
    };

    /// A worker that finds no NATS, with one more service.
    async fn ended_by(service: impl Future<Output = anyhow::Result<()>> + Send + 'static) -> (String, Health) {
        let args = Args {
            nats: NatsArgs {
                nats_url: vec!["nats://127.0.0.1:1".into()],
                nats_creds: None,
            },
            serve: ServeArgs {
                admin_addr: ([127, 0, 0, 1], 0).into(),
                log_format: LogFormat::Text,
                log: "warn".into(),
            },
            namespace: "crawl".into(),
            queue: "acme".into(),
            handler: HandlerArgs::default(),
            no_env: true,
        };
        let handler = Handler::InProcess(Arc::new(|_| Box::pin(async { AttemptResult::TimedOut })));
        let queues = vec![Queue::new("crawl", "acme"), Queue::new("crawl", "initech")];
        let health = Health::starting("starting");
        let started = start(&args, queues, handler, health.clone(), CancellationToken::new()).await;
        let (runtime, mut services) = started.expect("a worker");
        services.background("one more", service);
        let error = services.run().await.expect_err("it ended early");
        assert!(runtime.stopping().is_cancelled(), "nothing new starts");
        (format!("{error:#}"), health)
    }

    #[tokio::test]
    async fn a_service_that_ends_or_panics_ends_the_worker_and_is_named() {
        for (panics, says) in [
            (false, "the service \"one more\" ended unexpectedly"),
            (true, "the service \"one more\" failed"),
        ] {
            let (error, health) = ended_by(async move {
                assert!(!panics, "no such luck");
                Ok(())
            })
            .await;
            assert!(error.starts_with(says), "{error}");
            assert_eq!(health.dead_because(), Some(error), "/livez");
        }
    }
}
