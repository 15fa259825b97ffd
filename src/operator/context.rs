//! What all reconciles share.

use super::{
    backlog::{self, Backlog},
    closing::Closings,
    desired::PodSettings,
    known::Known,
    metrics::Metrics,
    reconcile::NATS_GRACE,
    retries::Retries,
    validate,
    written::Written,
};
use crate::{
    api::{TaskGroup, TaskHandler},
    broker::{Broker, SharedStreams},
    protocol::{Queue, StreamName},
    relay::Owner,
};
use k8s_openapi::api::apps::v1::Deployment;
use kube::{
    Client, Resource, ResourceExt,
    runtime::{
        events::{Event, Recorder},
        reflector::{ObjectRef, Store},
    },
};
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::mpsc::UnboundedSender;

/// Settings of this installation.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its name.
    pub instance: String,
    /// What its worker pods have in common.
    pub pods: PodSettings,
    /// Time between two sweeps over the backlog.
    pub backlog_interval: Duration,
    /// Time after which a group that nothing happened to is checked in full.
    pub resync_interval: Duration,
    /// Hosts and networks that callbacks may go to.
    pub callback_allow: Vec<String>,
    /// The only namespace that is watched; all where none is named.
    pub watch_namespace: Option<String>,
    /// Copies of the streams that all groups share.
    pub shared_replicas: u8,
}

/// What all reconciles share.
pub struct Context {
    /// Kubernetes.
    pub client: Client,
    /// NATS.
    pub broker: Broker,
    /// Settings of this installation.
    pub settings: Settings,
    /// All TaskGroups, as the watch shows them.
    pub groups: Store<TaskGroup>,
    /// All TaskHandlers.
    pub handlers: Store<TaskHandler>,
    /// All worker Deployments.
    pub deployments: Store<Deployment>,
    /// TaskGroups that we wrote.
    pub written_groups: Written<TaskGroup>,
    /// Deployments that we wrote.
    pub written_deployments: Written<Deployment>,
    /// What we know of the broker.
    pub known: Known,
    /// What is to be said about the backlog.
    pub backlog: Backlog,
    /// What is said about groups that are closed.
    pub closings: Closings,
    /// Who failed how often.
    pub retries: Retries,
    /// What is counted.
    pub metrics: Metrics,
    generations: Mutex<HashMap<String, i64>>,
    shown: tokio::sync::OnceCell<()>,
    groups_shown: tokio::sync::watch::Sender<bool>,
    /// The streams that all groups share.
    pub shared_streams: SharedStreams,
    recorder: Recorder,
    triggers: UnboundedSender<ObjectRef<TaskGroup>>,
}

/// What the watches show.
pub struct Stores {
    /// All TaskGroups.
    pub groups: Store<TaskGroup>,
    /// All TaskHandlers.
    pub handlers: Store<TaskHandler>,
    /// All worker Deployments.
    pub deployments: Store<Deployment>,
}

impl Context {
    /// Everything together; what is sent to `triggers` is reconciled.
    pub fn new(
        client: Client,
        broker: Broker,
        settings: Settings,
        stores: Stores,
        metrics: Metrics,
        triggers: UnboundedSender<ObjectRef<TaskGroup>>,
    ) -> Self {
        let shared_streams = SharedStreams::new(broker.clone(), &settings.instance, settings.shared_replicas);
        Self {
            recorder: Recorder::new(client.clone(), "taskgroup-operator".into()),
            client,
            broker,
            settings,
            groups: stores.groups,
            handlers: stores.handlers,
            deployments: stores.deployments,
            written_groups: Written::default(),
            written_deployments: Written::default(),
            known: Known::default(),
            backlog: Backlog::default(),
            closings: Closings::default(),
            retries: Retries::default(),
            metrics,
            generations: Mutex::default(),
            shown: tokio::sync::OnceCell::new(),
            groups_shown: tokio::sync::watch::Sender::new(false),
            shared_streams,
            triggers,
        }
    }

    /// Waits until it is known what there is: a watch that has not shown everything yet, or a
    /// connection that is still being made, would look like something missing.
    pub async fn ready(&self) {
        // Through a cell, as a store wakes only one of those that wait for it.
        self.shown
            .get_or_init(|| async {
                // A store whose watch has ended never becomes ready: then the operator is about to stop.
                let _ = self.groups.wait_until_ready().await;
                let _ = self.handlers.wait_until_ready().await;
                let _ = self.deployments.wait_until_ready().await;
            })
            .await;
        self.broker.settled(NATS_GRACE).await;
    }

    /// The watch has shown all TaskGroups.
    pub fn groups_are_shown(&self) {
        self.groups_shown.send_replace(true);
    }

    /// Waits for that. Not by the store itself, which would wake either us or the controller.
    pub async fn wait_for_groups(&self) {
        // The sender lives as long as we do.
        let _ = self.groups_shown.subscribe().wait_for(|shown| *shown).await;
    }

    /// Has a group reconciled soon.
    pub fn trigger(&self, group: ObjectRef<TaskGroup>) {
        // Nobody listens any more only when the operator stops.
        let _ = self.triggers.send(group);
    }

    /// Has all groups reconciled soon that have this stream, or want it.
    pub fn trigger_stream(&self, stream: &StreamName) {
        for group in backlog::groups_of(&self.groups.state(), stream) {
            self.trigger(group);
        }
    }

    /// Has all groups reconciled soon.
    pub fn trigger_all(&self) {
        for group in self.groups.state() {
            self.trigger(ObjectRef::from_obj(group.as_ref()));
        }
    }

    /// The generation of a group's Deployment that was seen in step with what we applied last.
    pub fn known_generation(&self, group_uid: &str) -> Option<i64> {
        self.generations
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(group_uid)
            .copied()
    }

    /// A group's Deployment is in step at this generation.
    pub fn remember_generation(&self, group_uid: &str, generation: i64) {
        self.generations
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(group_uid.to_owned(), generation);
    }

    /// Forgets a group that is gone. Others may have waited for its queue.
    pub fn forget(&self, group: &TaskGroup) {
        let stream = validate::queue(group).stream();
        self.known.remove(&stream);
        self.backlog.remove(&stream);
        self.closings.remove(&stream);
        if let Some(uid) = group.uid() {
            self.generations
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(&uid);
        }
    }

    /// Publishes Events about a group. One that can't be published is logged: it must not stop the work.
    pub async fn publish(&self, group: &TaskGroup, events: Vec<Event>) {
        for event in events {
            if let Err(error) = self.recorder.publish(&event, &group.object_ref(&())).await {
                tracing::warn!(%error, reason = event.reason, "an Event can't be published");
            }
        }
    }

    /// Publishes an Event that is not to be counted as a repetition of one before: its note is news.
    pub async fn publish_anew(&self, group: &TaskGroup, event: &Event) {
        let recorder = Recorder::new(self.client.clone(), "taskgroup-operator".into());
        if let Err(error) = recorder.publish(event, &group.object_ref(&())).await {
            tracing::warn!(%error, reason = event.reason, "an Event can't be published");
        }
    }

    /// Who owns a queue, for the relay.
    pub fn owner(&self, queue: &Queue) -> Owner {
        let is_watched = |namespace: &String| *namespace == queue.namespace;
        if self.groups.find(|group| validate::queue(group) == *queue).is_some() {
            Owner::Known
        } else if self.settings.watch_namespace.as_ref().is_none_or(is_watched) {
            Owner::Nobody
        } else {
            Owner::Unknown
        }
    }
}
