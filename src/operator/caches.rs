//! What the watches show: the TaskGroups with their index, the TaskHandlers, and the worker Deployments.

use super::{
    Group, Handler,
    deployments::{DeploymentCache, ObservedDeployment},
    index::{self, GroupKey, Index, Readiness},
    mutation_cache::MutationCache,
    status::find,
};
use crate::{
    api::{ConditionStatus, ConditionType, TaskGroup},
    protocol::{Queue, keys},
};
use k8s_openapi::api::apps::v1::Deployment;
use kube::runtime::{
    reflector::{ObjectRef, Store},
    watcher::Event,
};
use std::{collections::BTreeSet, sync::Arc};
use tokio::sync::{OnceCell, watch};

/// What the watches show. Only the watches write here, and the writes of `apply` whose result they have not shown yet.
pub struct Caches {
    groups: Store<Group>,
    index: Index,
    written: MutationCache,
    handlers: Store<Handler>,
    deployments: DeploymentCache,
    groups_shown: watch::Sender<bool>,
    all_shown: OnceCell<()>,
}

impl Caches {
    /// Reads the TaskGroups and TaskHandlers from these stores.
    pub fn new(groups: Store<Group>, handlers: Store<Handler>) -> Self {
        Self {
            groups,
            index: Index::default(),
            written: MutationCache::default(),
            handlers,
            deployments: DeploymentCache::default(),
            groups_shown: watch::Sender::new(false),
            all_shown: OnceCell::new(),
        }
    }

    /// Waits until the watches have shown everything: before, whatever they have not shown yet would look missing.
    pub async fn shown(&self) {
        // Through a cell, because a store wakes only one of those that wait for it.
        self.all_shown
            .get_or_init(|| async {
                // A store whose watch has ended never becomes ready: then the operator is about to stop.
                let _ = self.groups.wait_until_ready().await;
                let _ = self.handlers.wait_until_ready().await;
                self.deployments.shown().await;
            })
            .await;
    }

    /// Waits until the watch has shown all TaskGroups. Not by the store itself, which would wake either us or the
    /// controller.
    pub async fn groups_shown(&self) {
        // The sender lives as long as the caches.
        let _ = self.groups_shown.subscribe().wait_for(|shown| *shown).await;
    }

    /// Takes note of what the watch of the TaskGroups shows, after its store did. Returns the groups that share a queue with
    /// the group that changed: they may wait for it.
    pub fn group_watched(&self, event: &Event<Group>) -> BTreeSet<GroupKey> {
        self.written.watched(event);
        match event {
            Event::Init => self.index.begin_list(),
            Event::InitApply(group) => {
                self.index
                    .listed(GroupKey::of(group), index::references(group), readiness(group));
            }
            Event::InitDone => {
                self.index.end_list();
                self.groups_shown.send_replace(true);
            }
            Event::Apply(group) => {
                return self
                    .index
                    .apply(&GroupKey::of(group), index::references(group), readiness(group));
            }
            Event::Delete(group) => return self.index.delete(&GroupKey::of(group)),
        }
        BTreeSet::new()
    }

    /// Takes note of what the watch of the Deployments shows.
    pub fn deployment_watched(&self, event: &Event<Deployment>) {
        self.deployments.watched(event);
    }

    /// Which groups use a queue or a handler.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// A TaskGroup as the watch shows it.
    pub fn group(&self, key: &GroupKey) -> Option<Arc<Group>> {
        self.groups.get(&key.reference())
    }

    /// All TaskGroups. Only startup, a reconnect to NATS, and the sweep may walk over them.
    pub fn all_groups(&self) -> Vec<Arc<Group>> {
        self.groups.state()
    }

    /// The readable TaskGroups that have or want a queue.
    pub fn groups_of_queue(&self, queue: &Queue) -> impl Iterator<Item = Arc<Group>> + use<'_> {
        let keys = self.index.groups_of_queue(queue).into_iter();
        keys.filter_map(|key| self.group(&key)).filter(|group| group.0.is_ok())
    }

    /// A TaskHandler.
    pub fn handler(&self, namespace: &str, name: &str) -> Option<Arc<Handler>> {
        self.handlers.get(&ObjectRef::new(name).within(namespace))
    }

    /// The worker Deployment of a group.
    pub fn deployment(&self, group: &GroupKey) -> Option<Arc<ObservedDeployment>> {
        self.deployments.get(&group.namespace, &keys::deployment(&group.name))
    }

    /// What we wrote of a group, if it is newer than what the watch shows.
    pub fn newer_than(&self, watched: &Group) -> Option<Arc<TaskGroup>> {
        self.written.newer_than(watched)
    }

    /// Remembers what a write of a TaskGroup returned.
    pub fn group_written(&self, group: Arc<TaskGroup>) {
        self.written.remember(group);
    }

    /// Forgets what we wrote of a group that we let go.
    pub fn group_let_go(&self, key: &GroupKey) {
        self.written.forget(key);
    }

    /// Our writes of Deployments.
    pub fn deployments(&self) -> &DeploymentCache {
        &self.deployments
    }
}

fn readiness(group: &Group) -> Readiness {
    let status = group.0.as_ref().ok().and_then(|group| group.status.as_ref());
    match status.and_then(|status| find(status, ConditionType::Ready)) {
        Some(ready) if ready.status == ConditionStatus::True.as_str() => Readiness::Ready,
        Some(_) => Readiness::NotReady,
        None => Readiness::Unknown,
    }
}
