//! I/O: what the operator writes to Kubernetes about TaskGroups: finalizer, status, and Events.

use super::{Group, error::ApplyError, index::GroupKey};
use crate::{
    api::{TaskGroup, TaskGroupStatus},
    protocol::keys::FINALIZER,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{ApiResource, Patch, PatchParams},
    core::DynamicObject,
    runtime::events::{Event, Recorder},
};
use serde_json::{Value, json};
use std::sync::Arc;

/// The reporter of our Events.
const REPORTER: &str = "taskgroup-operator";

/// Writes to Kubernetes.
pub struct Kubernetes {
    client: Client,
    recorder: Recorder,
}

impl Kubernetes {
    /// Writes through this client.
    pub fn new(client: Client) -> Self {
        Self {
            recorder: Recorder::new(client.clone(), REPORTER.into()),
            client,
        }
    }

    /// The API of the namespaced kind `K`.
    pub fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// A TaskGroup as the API server has it, without parsing it. `None` for one that is gone.
    pub async fn get_raw(&self, group: &Group) -> Result<Option<DynamicObject>, ApplyError> {
        let key = GroupKey::of(group);
        let kind = ApiResource::erase::<TaskGroup>(&());
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &key.namespace, &kind);
        api.get_opt(&key.name)
            .await
            .map_err(ApplyError::kube(format!("read TaskGroup {key}")))
    }

    /// Adds our finalizer: the TaskGroup does not vanish before its stream is cleaned up. Returns the TaskGroup as
    /// written, if it can be read.
    pub async fn add_finalizer(&self, group: &TaskGroup) -> Result<Option<Arc<TaskGroup>>, ApplyError> {
        let mut finalizers = group.finalizers().to_vec();
        finalizers.push(FINALIZER.into());
        self.set_finalizers(group, finalizers).await
    }

    /// Removes our finalizer: Kubernetes then deletes the TaskGroup and what it owns.
    pub async fn remove_finalizer(&self, group: &TaskGroup) -> Result<(), ApplyError> {
        let others = group.finalizers().iter().filter(|name| *name != FINALIZER);
        match self.set_finalizers(group, others.cloned().collect()).await {
            Ok(_) => Ok(()),
            Err(ApplyError::Kube { source, .. }) if is_not_found(&source) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn set_finalizers(
        &self,
        group: &TaskGroup,
        finalizers: Vec<String>,
    ) -> Result<Option<Arc<TaskGroup>>, ApplyError> {
        let key = GroupKey::of(group);
        // The resource version makes the patch fail, to be tried again, where others changed the list meanwhile.
        let patch = json!({"metadata": {"finalizers": finalizers, "resourceVersion": group.resource_version()}});
        let patched = self
            .api::<Group>(&key.namespace)
            .patch(&key.name, &PatchParams::default(), &Patch::Merge(&patch))
            .await;
        patched
            .map(readable)
            .map_err(ApplyError::kube(format!("set the finalizer of TaskGroup {key}")))
    }

    /// Writes a status, unless it is there already. Returns the TaskGroup as written, if it can be read.
    pub async fn write_status(
        &self,
        group: &TaskGroup,
        status: &TaskGroupStatus,
    ) -> Result<Option<Arc<TaskGroup>>, ApplyError> {
        if group.status.as_ref() == Some(status) {
            return Ok(None);
        }
        let key = GroupKey::of(group);
        // Fields that are not set are written as null, which removes them.
        let patch: Value = json!({"status": status});
        let patched = self
            .api::<Group>(&key.namespace)
            .patch_status(&key.name, &PatchParams::default(), &Patch::Merge(&patch))
            .await;
        patched
            .map(readable)
            .map_err(ApplyError::kube(format!("write the status of TaskGroup {key}")))
    }

    /// Publishes Events about a group. One that can't be published is logged: it must not stop the work.
    pub async fn publish(&self, group: &TaskGroup, events: Vec<Event>) {
        for event in events {
            if let Err(error) = self.recorder.publish(&event, &group.object_ref(&())).await {
                tracing::warn!(%error, reason = event.reason, "an Event can't be published");
            }
        }
    }

    /// Publishes an Event that does not count as a repetition of an earlier one: its note is news.
    pub async fn publish_anew(&self, group: &TaskGroup, event: &Event) {
        let recorder = Recorder::new(self.client.clone(), REPORTER.into());
        if let Err(error) = recorder.publish(event, &group.object_ref(&())).await {
            tracing::warn!(%error, reason = event.reason, "an Event can't be published");
        }
    }
}

/// What a write returned, without what nobody reads.
fn readable(written: Group) -> Option<Arc<TaskGroup>> {
    let mut group = written.0.ok()?;
    trim(&mut group.metadata);
    Some(Arc::new(group))
}

/// Drops the parts of an object's metadata that nobody reads. They are the largest.
pub fn trim(metadata: &mut k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) {
    metadata.managed_fields = None;
    if let Some(annotations) = &mut metadata.annotations {
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    }
}

fn is_not_found(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}
