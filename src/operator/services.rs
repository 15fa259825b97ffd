//! Starts the services of the operator.

use super::{
    Args, Context,
    caches::Caches,
    cancel,
    context::Settings,
    controller::{self, Inputs},
    desired::PodSettings,
    drops, events,
    kubernetes::Kubernetes,
    link,
    memory::Memory,
    metrics::Metrics,
    sweep,
    triggers::Triggers,
};
use crate::{
    admin::Health,
    broker::{Broker, SharedStreams},
    protocol::Queue,
    relay::{Owner, Relay},
    supervisor::Supervisor,
    telemetry::LogFormat,
};
use kube::{Client, runtime::reflector::store::Writer};
use std::{sync::Arc, time::Duration};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Starts all services. `supervisor` runs them.
pub fn start(
    supervisor: &mut Supervisor,
    client: Client,
    broker: Broker,
    args: Args,
    metrics: Metrics,
    health: Health,
    shutdown: CancellationToken,
) {
    let settings = settings(&args);
    let (sender, triggered) = mpsc::unbounded_channel();
    let inputs = Inputs {
        groups: Writer::new(()),
        handlers: Writer::new(()),
        triggered,
    };
    let ctx = Arc::new(Context {
        kubernetes: Kubernetes::new(client.clone()),
        shared_streams: SharedStreams::new(broker.clone(), &settings.instance, args.shared_stream_replicas),
        broker,
        caches: Caches::new(inputs.groups.as_reader(), inputs.handlers.as_reader()),
        memory: Memory::default(),
        triggers: Triggers::new(sender),
        settings,
        metrics,
    });
    supervisor.background("backlog sweep", sweep::run(ctx.clone()));
    supervisor.background("NATS connection", link::run(ctx.clone(), health));
    supervisor.background("JetStream events", events::run(ctx.clone()));
    supervisor.background("cancellation", cancel::run(ctx.clone()));
    supervisor.background("dropped tasks", drops::run(ctx.clone()));
    start_relay(supervisor, &ctx, shutdown.clone());
    supervisor.graceful("controller", controller::run(ctx, client, inputs, args, shutdown));
}

fn start_relay(supervisor: &mut Supervisor, ctx: &Arc<Context>, shutdown: CancellationToken) {
    let owners = ctx.clone();
    let relay = Relay::new(
        ctx.broker.clone(),
        Arc::new(move |queue| owner(&owners, queue)),
        ctx.shared_streams.clone(),
        ctx.metrics.relay.clone(),
    );
    let measure = relay.clone().measure(ctx.settings.backlog_interval);
    supervisor.background("relay backlog", async move {
        measure.await;
        Ok(())
    });
    let ctx = ctx.clone();
    supervisor.graceful("relay", async move {
        tokio::select! {
            // Only a list of all groups can tell that a queue has none.
            () = ctx.caches.groups_shown() => relay.run(shutdown).await,
            () = shutdown.cancelled() => {}
        }
        Ok(())
    });
}

/// Who owns a queue.
fn owner(ctx: &Context, queue: &Queue) -> Owner {
    let is_watched = |namespace: &String| *namespace == queue.namespace;
    if !ctx.caches.index().groups_of_queue(queue).is_empty() {
        Owner::Known
    } else if ctx.settings.watch_namespace.as_ref().is_none_or(is_watched) {
        Owner::Nobody
    } else {
        Owner::Unknown
    }
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
    }
}
