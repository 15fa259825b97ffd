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
        self.patch_finalizers(group, &finalizers, None).await
    }

    /// Removes our finalizer: Kubernetes then deletes the TaskGroup and what it owns.
    pub async fn remove_finalizer(&self, group: &TaskGroup) -> Result<(), ApplyError> {
        let others = group.finalizers().iter().filter(|name| *name != FINALIZER);
        let others: Vec<_> = others.cloned().collect();
        let mut removed = self.patch_finalizers(group, &others, None).await;
        if let Err(ApplyError::Kube { source, .. }) = &removed
            && has_code(source, 422)
        {
            removed = self
                .patch_finalizers(group, &others, Some(self.allowed_spec(group).await?))
                .await;
        }
        match removed {
            Ok(_) => Ok(()),
            Err(ApplyError::Kube { source, .. }) if has_code(&source, 404) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// A patch that makes the spec of a TaskGroup one that the schema allows. Before Kubernetes 1.30, the API server takes
    /// no change of an object whose spec a newer schema refuses, not even the end of its finalizers. The TaskGroup would
    /// hold its namespace for good.
    async fn allowed_spec(&self, group: &TaskGroup) -> Result<Value, ApplyError> {
        let kind = ApiResource::erase::<TaskGroup>(&());
        let key = GroupKey::of(group);
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &key.namespace, &kind);
        let raw = api.get_opt(&key.name).await;
        let raw = raw.map_err(ApplyError::kube(format!("read TaskGroup {key}")))?;
        let spec = raw.map(|raw| raw.data["spec"].clone()).unwrap_or_default();
        // In a merge patch, null removes a field.
        let without = |object: &Value| -> serde_json::Map<_, _> {
            let fields = object.as_object().into_iter().flatten();
            fields.map(|(field, _)| (field.clone(), Value::Null)).collect()
        };
        let mut allowed = without(&spec);
        allowed.insert("concurrency".into(), json!(1));
        // Neither can be changed.
        if let Some(queue) = spec.get("queue").filter(|queue| queue.is_string()) {
            allowed.insert("queue".into(), queue.clone());
        }
        let mut storage = without(&spec["storage"]);
        storage.insert("type".into(), json!(group.spec.storage.type_));
        allowed.insert("storage".into(), storage.into());
        Ok(allowed.into())
    }

    async fn patch_finalizers(
        &self,
        group: &TaskGroup,
        finalizers: &[String],
        spec: Option<Value>,
    ) -> Result<Option<Arc<TaskGroup>>, ApplyError> {
        let key = GroupKey::of(group);
        // The resource version makes the patch fail, to be tried again, where others changed the list meanwhile.
        let mut patch = json!({"metadata": {"finalizers": finalizers, "resourceVersion": group.resource_version()}});
        if let Some(spec) = spec {
            patch["spec"] = spec;
        }
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

fn has_code(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}
