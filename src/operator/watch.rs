//! What is reconciled when: changes of TaskGroups, TaskHandlers and Deployments, of streams and
//! consumers, of the backlog, and of the connection to NATS.

use super::{
    Args, backlog, cancel,
    context::{Context, Settings, Stores},
    drops,
    error::ApplyError,
    metrics::{self, Metrics},
    observe,
    reconcile::{self, Next},
    retries::WatchBackoff,
    startup::scoped,
    status::find,
};
use crate::{
    admin::Health,
    api::{ConditionStatus, ConditionType, TaskGroup, TaskHandler},
    broker::{self, Broker, BrokerError, BrokerEvent},
    protocol::{StreamName, keys::FIELD_MANAGER},
    relay::Relay,
    supervisor::Supervisor,
};
use futures::{Stream, StreamExt};
use k8s_openapi::api::apps::v1::Deployment;
use kube::{
    Client, ResourceExt,
    runtime::{
        WatchStreamExt,
        controller::{self, Action, Controller},
        reflector::{self, ObjectRef, Store, store::Writer},
        watcher,
    },
};
use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::{sync::CancellationToken, time::DelayQueue};

/// A request that was heard is under way: look once more when it must be through.
const LOOK_TWICE: Duration = Duration::from_secs(1);

/// How long one watch request lasts before it is made anew.
const WATCH_SECONDS: u32 = 30;

/// Pages of a first list.
const PAGE: u32 = 500;

/// Starts the controller and all services around it.
#[allow(clippy::too_many_arguments)]
pub fn start(
    services: &mut Supervisor,
    client: Client,
    broker: Broker,
    settings: Settings,
    metrics: Metrics,
    args: &Args,
    health: Health,
    shutdown: CancellationToken,
) {
    let namespace = args.watch_namespace.as_deref();
    let (triggers, triggered) = mpsc::unbounded_channel();
    let (groups, group_writer) = reflector::store();
    let (handlers, handler_writer) = reflector::store();
    let (deployments, deployment_writer) = reflector::store();
    let stores = Stores {
        groups: groups.clone(),
        handlers,
        deployments,
    };
    let ctx = Arc::new(Context::new(
        client.clone(),
        broker,
        settings,
        stores,
        metrics,
        triggers,
    ));

    let group_stream = watch_groups(&client, namespace, group_writer, ctx.clone());
    let handler_stream = watcher(scoped::<TaskHandler>(&client, namespace), watch_config())
        .backoff(WatchBackoff::default())
        .modify(|handler| handler.managed_fields_mut().clear())
        .reflect(handler_writer)
        .touched_objects();
    let deployment_stream = watch_deployments(&client, namespace, deployment_writer, ctx.clone());

    services.background("backlog sweep", done(backlog::run(ctx.clone())));
    services.background("NATS connection", done(follow_link(ctx.clone(), health)));
    services.background("JetStream events", follow_events(ctx.clone()));
    services.background("group counts", done(count_groups(ctx.clone())));
    services.background("cancellation", cancel::run(ctx.clone()));
    services.background("dropped tasks", drops::run(ctx.clone()));
    let relay = Relay::new(
        ctx.broker.clone(),
        {
            let ctx = ctx.clone();
            Arc::new(move |queue| ctx.owner(queue))
        },
        ctx.shared_streams.clone(),
        ctx.metrics.relay.clone(),
    );
    services.background("relay backlog", done(relay.clone().measure(ctx.settings.backlog_interval)));
    services.graceful("relay", done(run_relay(relay, ctx.clone(), shutdown.clone())));

    let controller = Controller::for_stream(group_stream, groups.clone())
        .with_config(controller::Config::default().concurrency(args.concurrency))
        .owns_stream(deployment_stream)
        .watches_stream(handler_stream, move |handler| users_of(&groups, &handler))
        .reconcile_on(UnboundedReceiverStream::new(triggered))
        .graceful_shutdown_on(shutdown.clone().cancelled_owned())
        .run(
            move |group, ctx| {
                let shutdown = shutdown.clone();
                async move {
                    tokio::select! {
                        biased;
                        () = ctx.ready() => measured(group, ctx).await,
                        () = shutdown.cancelled() => Ok(Action::await_change()),
                    }
                }
            },
            on_error,
            ctx.clone(),
        );
    services.graceful("controller", async move {
        controller
            .for_each(|result| async move {
                match result {
                    Err(controller::Error::QueueError(error)) => {
                        tracing::warn!(%error, "a watch of the Kubernetes API broke; trying again");
                    }
                    // What came of a reconcile was said already.
                    Err(error) => tracing::debug!(%error, "controller"),
                    Ok(_) => {}
                }
            })
            .await;
        Ok(())
    });
}

async fn done(service: impl Future<Output = ()>) -> anyhow::Result<()> {
    service.await;
    Ok(())
}

/// A watch that went blind, as one to a server that died without a word, is noticed when it should
/// have ended.
fn watch_config() -> watcher::Config {
    watcher::Config::default().page_size(PAGE).timeout(WATCH_SECONDS)
}

fn watch_groups(
    client: &Client,
    namespace: Option<&str>,
    writer: Writer<TaskGroup>,
    ctx: Arc<Context>,
) -> impl Stream<Item = Result<TaskGroup, watcher::Error>> + Send + use<> {
    let config = watch_config();
    watcher(scoped::<TaskGroup>(client, namespace), config)
        .backoff(WatchBackoff::default())
        .modify(|group| group.managed_fields_mut().clear())
        .reflect(writer)
        .inspect(move |event| {
            let Ok(event) = event else { return };
            ctx.written_groups.watched(event);
            if matches!(event, watcher::Event::InitDone) {
                ctx.groups_are_shown();
            }
            // Whoever waits for the queue of a group that goes or gives way is looked at.
            if let watcher::Event::Apply(group) | watcher::Event::Delete(group) = event {
                for rival in observe::rivals(&ctx, group) {
                    ctx.trigger(rival);
                }
            }
        })
        .touched_objects()
}

fn watch_deployments(
    client: &Client,
    namespace: Option<&str>,
    writer: Writer<Deployment>,
    ctx: Arc<Context>,
) -> impl Stream<Item = Result<Deployment, watcher::Error>> + Send + use<> {
    let ours = format!("app.kubernetes.io/managed-by={FIELD_MANAGER}");
    let config = watch_config().labels(&ours);
    watcher(scoped::<Deployment>(client, namespace), config)
        .backoff(WatchBackoff::default())
        .modify(|deployment| deployment.managed_fields_mut().clear())
        .reflect(writer)
        .inspect(move |event| {
            if let Ok(event) = event {
                ctx.written_deployments.watched(event);
            }
        })
        .touched_objects()
}

/// Runs the relay once it is known who owns which queue: before that, no task can be said to have none.
async fn run_relay(relay: Relay, ctx: Arc<Context>, shutdown: CancellationToken) {
    tokio::select! {
        () = ctx.wait_for_groups() => relay.run(shutdown).await,
        () = shutdown.cancelled() => {}
    }
}

fn users_of(groups: &Store<TaskGroup>, handler: &TaskHandler) -> Vec<ObjectRef<TaskGroup>> {
    groups
        .state_filter(|group| {
            group.namespace() == handler.namespace() && group.spec.handler_ref.name == handler.name_any()
        })
        .into_iter()
        .map(|group| ObjectRef::from_obj(group.as_ref()))
        .collect()
}

/// A reconcile with its metrics around it.
async fn measured(group: Arc<TaskGroup>, ctx: Arc<Context>) -> Result<Action, ApplyError> {
    let start = Instant::now();
    let result = reconcile::reconcile(group, ctx.clone()).await;
    let label = if result.is_ok() { "success" } else { "error" };
    ctx.metrics
        .reconciles
        .get_or_create(&metrics::Outcome { result: label })
        .inc();
    ctx.metrics.duration.observe(start.elapsed().as_secs_f64());
    result
}

#[allow(clippy::needless_pass_by_value)] // the controller's signature
fn on_error(group: Arc<TaskGroup>, error: &ApplyError, ctx: Arc<Context>) -> Action {
    tracing::warn!(group = %reconcile::name(&group), reason = error.reason(), "{}", error.advice());
    let (namespace, name) = (group.namespace().unwrap_or_default(), group.name_any());
    ctx.retries
        .action(&namespace, &name, Next::BackOff, ctx.settings.resync_interval)
}

/// Says whether we are ready, and has all groups looked at when NATS came back (anything may have
/// changed, or all be lost) or stays away (they say so).
async fn follow_link(ctx: Arc<Context>, readiness: Health) {
    let mut link = ctx.broker.link();
    loop {
        let now = *link.borrow_and_update();
        ctx.metrics.nats_up.set(i64::from(now.up));
        if now.up {
            ctx.known.all_changed();
            ctx.trigger_all();
            prepare(&ctx, &readiness, link.clone()).await;
        } else {
            readiness.not_ready(unreachable(&ctx));
            tokio::select! {
                _ = link.changed() => continue,
                () = tokio::time::sleep(reconcile::NATS_GRACE) => ctx.trigger_all(),
            }
        }
        if link.changed().await.is_err() {
            return;
        }
    }
}

fn unreachable(ctx: &Context) -> String {
    ctx.broker
        .check()
        .err()
        .map_or_else(|| "NATS came back".to_owned(), |error: BrokerError| error.to_string())
}

/// Makes the shared streams; ready once they are there. Returns early when the link changes; that is
/// seen by this receiver only, so that the caller's shows the change, too.
async fn prepare(ctx: &Context, readiness: &Health, mut link: tokio::sync::watch::Receiver<broker::Link>) {
    loop {
        match ctx.shared_streams.ensure().await {
            Ok(()) => return readiness.ready(),
            Err(error) => {
                tracing::warn!("waiting: {error}");
                readiness.not_ready(error.to_string());
            }
        }
        let now = *link.borrow();
        tokio::select! {
            _ = link.wait_for(|link| *link != now) => return,
            () = tokio::time::sleep(reconcile::NATS_GRACE) => {}
        }
    }
}

/// Has those groups looked at whose stream or consumer somebody else changed.
async fn follow_events(ctx: Arc<Context>) -> anyhow::Result<()> {
    let mut events = Box::pin(broker::events(&ctx.broker).await?);
    // The streams that are looked at again in a moment, each with the news that came since.
    let mut soon = HashMap::<StreamName, bool>::new();
    let mut timers = DelayQueue::new();
    loop {
        tokio::select! {
            event = events.next() => {
                let Some(BrokerEvent::Changed(stream)) = event else { return Ok(()) };
                tracing::debug!(%stream, "somebody changed it");
                // Many workers may close a group at once: one look per second shows what came of it.
                match soon.entry(stream) {
                    Entry::Occupied(mut news) => *news.get_mut() = true,
                    Entry::Vacant(none) => {
                        look_at(&ctx, none.key());
                        timers.insert(none.key().clone(), LOOK_TWICE);
                        none.insert(false);
                    }
                }
            }
            Some(stream) = timers.next() => {
                let stream = stream.into_inner();
                look_at(&ctx, &stream);
                if soon.insert(stream.clone(), false) == Some(true) {
                    timers.insert(stream, LOOK_TWICE);
                } else {
                    soon.remove(&stream);
                }
            }
        }
    }
}

fn look_at(ctx: &Context, stream: &StreamName) {
    ctx.known.changed(stream);
    ctx.trigger_stream(stream);
}

/// Counts the groups for the metrics, now and then.
async fn count_groups(ctx: Arc<Context>) {
    static LABELS: OnceLock<[metrics::Ready; 3]> = OnceLock::new();
    let labels = LABELS.get_or_init(|| ["true", "false", "unknown"].map(|ready| metrics::Ready { ready }));
    loop {
        let mut counts = [0_i64; 3];
        for group in ctx.groups.state() {
            let ready = group
                .status
                .as_ref()
                .and_then(|status| find(status, ConditionType::Ready));
            counts[match ready.map(|condition| condition.status) {
                Some(ConditionStatus::True) => 0,
                Some(_) => 1,
                None => 2,
            }] += 1;
        }
        for (label, count) in labels.iter().zip(counts) {
            ctx.metrics.groups.get_or_create(label).set(count);
        }
        tokio::time::sleep(ctx.settings.backlog_interval).await;
    }
}
