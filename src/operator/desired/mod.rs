//! Pure, and can't fail: what a group's stream, consumer and Deployment should be.

mod json;
mod pod;
#[cfg(test)]
mod tests;

use self::json::merge;
use super::validate::{ValidGroup, ValidHandler};
use crate::{
    broker::{ConsumerConfig, Discard, Retention, StreamConfig},
    protocol::{
        keys,
        settings::{Rate, WorkerSettings},
    },
};
use serde_json::{Value, json};
use std::{collections::BTreeMap, hash::Hasher, time::Duration};

/// What all worker pods of this installation have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodSettings {
    /// Image of the worker's and the installing container.
    pub image: String,
    /// NATS as the pods reach it.
    pub nats_url: String,
    /// Secret with the NATS credentials, in the group's namespace.
    pub nats_creds_secret: Option<String>,
    /// How the workers log.
    pub log_format: &'static str,
}

/// Pods that a group needs at its limit: `concurrency / maxInflightPerPod`, rounded up.
pub fn replicas(group: &ValidGroup) -> i32 {
    let per_pod = group.max_inflight_per_pod.max(1);
    // Validation bounds the result by `limits::MAX_PODS`.
    i32::try_from((group.concurrency + per_pod - 1) / per_pod).unwrap_or(i32::MAX)
}

/// Most tasks of one pod. More than its even share: while a pod is away, the others reach the limit
/// that the broker holds over all of them.
pub fn max_inflight(group: &ValidGroup) -> i64 {
    group.max_inflight_per_pod.min(group.concurrency)
}

/// A rate limit for people: `2/1s`, or `2/1s+10` with more than one start saved up.
pub fn rate(rate: &Rate) -> String {
    let per = jiff::SignedDuration::from_millis(i64::try_from(rate.per_ms).unwrap_or(i64::MAX));
    let burst = if rate.burst > 1 {
        format!("+{}", rate.burst)
    } else {
        String::new()
    };
    format!("{}/{per:#}{burst}", rate.tasks)
}

/// The mark on everything of a group in JetStream.
pub fn owner_metadata(group: &ValidGroup, instance: &str) -> BTreeMap<String, String> {
    BTreeMap::from([
        (keys::INSTANCE.into(), instance.into()),
        (keys::NAMESPACE.into(), group.queue.namespace.clone()),
        (keys::NAME.into(), group.name.clone()),
        (keys::UID.into(), group.uid.clone()),
    ])
}

/// The stream of a group. A `draining` one takes no new tasks.
pub fn stream(group: &ValidGroup, instance: &str, draining: bool) -> StreamConfig {
    let storage = &group.storage;
    StreamConfig {
        name: group.queue.stream().as_str().into(),
        shared: None,
        subjects: if draining {
            group.queue.draining_subjects()
        } else {
            group.queue.subjects()
        },
        retention: Retention::WorkQueue,
        storage: storage.storage,
        discard: Discard::New,
        num_replicas: storage.replicas,
        max_msgs: storage.max_tasks,
        max_bytes: storage.max_bytes,
        max_msg_size: storage.max_task_size,
        duplicate_window: storage.duplicate_window,
        metadata: owner_metadata(group, instance),
    }
}

/// The consumer of a group.
pub fn consumer(group: &ValidGroup, instance: &str, callback_allow: &[String]) -> ConsumerConfig {
    let mut metadata = owner_metadata(group, instance);
    metadata.insert(keys::SETTINGS.into(), settings(group, callback_allow).to_json());
    ConsumerConfig::workers(group.queue.consumer(), group.concurrency, group.ack_wait, metadata)
}

/// What the workers of a group keep to.
fn settings(group: &ValidGroup, callback_allow: &[String]) -> WorkerSettings {
    let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    WorkerSettings {
        group: group.name.clone(),
        max_inflight: u32::try_from(max_inflight(group)).unwrap_or(u32::MAX),
        task_timeout_ms: ms(group.task_timeout),
        max_attempts: group.retry.max_attempts,
        dead_letter: group.dead_letter,
        initial_delay_ms: ms(group.retry.initial_delay),
        max_delay_ms: ms(group.retry.max_delay),
        multiplier: group.retry.multiplier,
        max_retry_after_ms: ms(group.retry.max_retry_after),
        expire_ms: ms(group.expire),
        rate: group.rate,
        callback_allow: callback_allow.to_vec(),
    }
}

/// Labels by which the worker pods of a group are found.
pub fn selector(group: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(keys::GROUP.into(), group.into())])
}

/// The worker Deployment of a group, as it is applied.
pub fn deployment(group: &ValidGroup, handler: &ValidHandler, pods: &PodSettings) -> Value {
    let mut labels = json!({
        "app.kubernetes.io/name": "taskgroup-worker",
        "app.kubernetes.io/managed-by": keys::FIELD_MANAGER,
    });
    merge(&mut labels, &json!(selector(&group.name)));
    let mut deployment = json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": keys::deployment(&group.name),
            "namespace": group.queue.namespace,
            "labels": labels,
            "ownerReferences": [{
                "apiVersion": "taskgroup.io/v1alpha1",
                "kind": "TaskGroup",
                "name": group.name,
                "uid": group.uid,
                "controller": true,
                "blockOwnerDeletion": true,
            }],
        },
        "spec": {
            "replicas": replicas(group),
            // Thousands of groups: keep few old ReplicaSets of each.
            "revisionHistoryLimit": 2,
            "selector": {"matchLabels": selector(&group.name)},
            "template": pod::template(group, handler, pods, &labels),
        },
    });
    let hash = hash(&deployment);
    merge(
        &mut deployment,
        &json!({"metadata": {"annotations": {keys::APPLIED: hash}}}),
    );
    deployment
}

/// The same for the same content in every version of this program (objects are kept sorted).
fn hash(value: &Value) -> String {
    let mut hasher = fnv::FnvHasher::default();
    hasher.write(value.to_string().as_bytes());
    format!("{:016x}", hasher.finish())
}
