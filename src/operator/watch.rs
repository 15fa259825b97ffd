//! The watches of the Kubernetes API. Each keeps its cache current before the controller hears of a change.

use super::{Context, Group, Handler, index::GroupKey, kubernetes::trim, requeue::watch_backoff, startup::scoped};
use crate::protocol::keys::FIELD_MANAGER;
use futures::{Stream, StreamExt};
use k8s_openapi::api::apps::v1::Deployment;
use kube::{
    Client, Resource,
    runtime::{
        WatchStreamExt,
        reflector::{ObjectRef, store::Writer},
        watcher,
    },
};
use std::sync::Arc;

/// How long one watch request lasts before it is made anew. A watch that went blind, as one to a server that died without a
/// word, is noticed when it should have ended.
const WATCH_SECONDS: u32 = 30;

/// Pages of a first list: small enough that no page takes many MB.
const PAGE: u32 = 200;

fn config() -> watcher::Config {
    watcher::Config::default().page_size(PAGE).timeout(WATCH_SECONDS)
}

/// The TaskGroups as they change. An unreadable one does not stop the watch of the others.
pub fn groups(
    client: &Client,
    writer: Writer<Group>,
    ctx: Arc<Context>,
) -> impl Stream<Item = Result<Group, watcher::Error>> + Send + use<> {
    let mut lists = Lists::default();
    watcher(
        scoped::<Group>(client, ctx.settings.watch_namespace.as_deref()),
        config(),
    )
    .backoff(watch_backoff())
    .modify(|group| trim(group.meta_mut()))
    .reflect(writer)
    .inspect(move |event| {
        let Ok(event) = event else { return };
        let rivals = ctx.caches.group_watched(event);
        ctx.triggers.groups(&rivals);
        lists.watched(event, &ctx);
        ctx.metrics.count_groups(ctx.caches.index().counts());
        if let watcher::Event::Delete(group) = event {
            ctx.memory.forget(&GroupKey::of(group));
        }
    })
    .touched_objects()
}

/// The TaskHandlers as they change.
pub fn handlers(
    client: &Client,
    writer: Writer<Handler>,
    ctx: Arc<Context>,
) -> impl Stream<Item = Result<Handler, watcher::Error>> + Send + use<> {
    let mut lists = Lists::default();
    watcher(
        scoped::<Handler>(client, ctx.settings.watch_namespace.as_deref()),
        config(),
    )
    .backoff(watch_backoff())
    .modify(|handler| trim(handler.meta_mut()))
    .reflect(writer)
    .inspect(move |event| {
        let Ok(event) = event else { return };
        if let watcher::Event::Apply(handler) | watcher::Event::InitApply(handler) = event
            && let Err(unreadable) = &handler.0
        {
            let handler = GroupKey::of(handler);
            tracing::warn!(%handler, "the TaskHandler can't be read: {}", unreadable.error);
        }
        lists.watched(event, &ctx);
    })
    .touched_objects()
}

/// The worker Deployments as they change.
pub fn deployments(
    client: &Client,
    ctx: Arc<Context>,
) -> impl Stream<Item = Result<Deployment, watcher::Error>> + Send + use<> {
    let ours = format!("app.kubernetes.io/managed-by={FIELD_MANAGER}");
    let namespace = ctx.settings.watch_namespace.clone();
    let mut lists = Lists::default();
    watcher(
        scoped::<Deployment>(client, namespace.as_deref()),
        config().labels(&ours),
    )
    .backoff(watch_backoff())
    .inspect(move |event| {
        if let Ok(event) = event {
            ctx.caches.deployment_watched(event);
            lists.watched(event, &ctx);
        }
    })
    .touched_objects()
}

/// Notices that a watch has listed everything anew, as its last place is too old for the server.
///
/// The caches show nothing of a list before it is complete, but kube triggers reconciles of the objects on each page as it
/// comes. They see what was there before. Nothing triggers those that concern what vanished meanwhile. So a list that is
/// complete triggers a reconcile of every group, as a new connection to NATS does.
#[derive(Default)]
struct Lists {
    first_is_complete: bool,
}

impl Lists {
    fn watched<K>(&mut self, event: &watcher::Event<K>, ctx: &Context) {
        if matches!(event, watcher::Event::InitDone) && std::mem::replace(&mut self.first_is_complete, true) {
            ctx.triggers.all(&ctx.caches);
        }
    }
}

/// The groups that refer to a handler.
pub fn groups_of(ctx: &Context, handler: &Handler) -> Vec<ObjectRef<Group>> {
    let (namespace, name) = (handler.meta().namespace.as_deref(), handler.meta().name.as_deref());
    let groups = ctx
        .caches
        .index()
        .groups_of_handler(namespace.unwrap_or_default(), name.unwrap_or_default());
    groups.iter().map(GroupKey::reference).collect()
}
