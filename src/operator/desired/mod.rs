//! Pure, and can't fail: what a group's stream, consumer and Deployment should be.

#[cfg(test)]
mod tests;

use super::validate::{Run, ValidGroup, ValidHandler};
use crate::{
    api::{HANDLER_CONTAINER, WORKER_ADMIN_PORT, WORKER_CONTAINER},
    broker::{ConsumerConfig, Discard, Retention, StreamConfig},
    names::{self, keys},
    settings::{Rate, WorkerSettings},
};
use serde_json::{Map, Value, json};
use std::{collections::BTreeMap, hash::Hasher, time::Duration};

/// Where the Secret with the NATS credentials is mounted in the worker container.
const CREDENTIALS_DIR: &str = "/etc/taskgroup/nats";

/// What all worker pods of this installation have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodSettings {
    /// Image of the worker container.
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

/// The stream of a group. A `closed` one takes no new tasks.
pub fn stream(group: &ValidGroup, instance: &str, closed: bool) -> StreamConfig {
    let storage = &group.storage;
    StreamConfig {
        name: group.queue.stream().as_str().into(),
        shared: None,
        subjects: vec![if closed {
            group.queue.closed_subjects()
        } else {
            group.queue.subjects()
        }],
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
    ConsumerConfig::workers(group.concurrency, group.ack_wait, metadata)
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
        "app.kubernetes.io/managed-by": names::FIELD_MANAGER,
    });
    merge(&mut labels, &json!(selector(&group.name)));
    let mut deployment = json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": names::deployment(&group.name),
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
            "template": template(group, handler, pods, &labels),
        },
    });
    let hash = hash(&deployment);
    merge(
        &mut deployment,
        &json!({"metadata": {"annotations": {keys::APPLIED: hash}}}),
    );
    deployment
}

fn template(group: &ValidGroup, handler: &ValidHandler, pods: &PodSettings, labels: &Value) -> Value {
    let mut metadata = Value::Object(handler.template.metadata.clone().unwrap_or_default());
    merge(&mut metadata, &json!({"labels": labels}));

    let mut spec = handler.template.spec.clone();
    spec.entry("enableServiceLinks").or_insert(json!(false));
    if !spec.contains_key("serviceAccountName") {
        spec.entry("automountServiceAccountToken").or_insert(json!(false));
    }
    let wanted = spec
        .get("terminationGracePeriodSeconds")
        .and_then(Value::as_u64)
        .unwrap_or(0);
    spec.insert(
        "terminationGracePeriodSeconds".into(),
        json!(grace_period(group.task_timeout).max(wanted)),
    );
    if let Some(secret) = &pods.nats_creds_secret {
        let volume = json!({"name": "taskgroup-nats", "secret": {"secretName": secret}});
        push(&mut spec, "volumes", volume);
    }

    let mut containers = match spec.remove("containers") {
        Some(Value::Array(containers)) => containers,
        _ => Vec::new(),
    };
    if let Some(handler) = named(&mut containers, HANDLER_CONTAINER) {
        add_env(handler, group);
        wait_for_worker(handler);
    }
    let ours = worker_container(group, handler, pods);
    match named(&mut containers, WORKER_CONTAINER) {
        // What the user says of it stays, but for what makes it the worker.
        Some(theirs) => {
            let mut worker = ours.clone();
            merge(&mut worker, theirs);
            for field in ["name", "image", "args", "env", "ports"] {
                if let Some(value) = ours.get(field) {
                    worker[field] = value.clone();
                }
            }
            *theirs = worker;
        }
        None => containers.push(ours),
    }
    spec.insert("containers".into(), Value::Array(containers));
    json!({"metadata": metadata, "spec": spec})
}

fn worker_container(group: &ValidGroup, handler: &ValidHandler, pods: &PodSettings) -> Value {
    let handler_url = match &handler.run {
        Run::Http { port, path } => format!("http://127.0.0.1:{port}{path}"),
        Run::Upstream { url } => url.clone(),
    };
    let mut env = vec![
        json!({"name": "TASKGROUP_NAMESPACE", "value": group.queue.namespace}),
        json!({"name": "TASKGROUP_QUEUE", "value": group.queue.name}),
        json!({"name": "HANDLER_URL", "value": handler_url}),
        json!({"name": "NATS_URL", "value": pods.nats_url}),
        json!({"name": "LOG_FORMAT", "value": pods.log_format}),
    ];
    let mut mounts = Vec::new();
    if pods.nats_creds_secret.is_some() {
        env.push(json!({"name": "NATS_CREDS", "value": format!("{CREDENTIALS_DIR}/nats.creds")}));
        mounts.push(json!({"name": "taskgroup-nats", "mountPath": CREDENTIALS_DIR, "readOnly": true}));
    }
    let probe = |path: &str, period: u32| {
        json!({
            "httpGet": {"path": path, "port": WORKER_ADMIN_PORT},
            "periodSeconds": period,
            "timeoutSeconds": 5,
        })
    };
    json!({
        "name": WORKER_CONTAINER,
        "image": pods.image,
        "args": ["worker"],
        "env": env,
        "volumeMounts": mounts,
        "ports": [{"name": "tg-admin", "containerPort": WORKER_ADMIN_PORT, "protocol": "TCP"}],
        "readinessProbe": probe("/readyz", 2),
        "livenessProbe": probe("/livez", 20),
        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "runAsNonRoot": true,
            "runAsUser": 65532,
            "capabilities": {"drop": ["ALL"]},
        },
    })
}

/// The group's variables come after the template's, and win over one of the same name.
fn add_env(container: &mut Value, group: &ValidGroup) {
    if group.env.is_empty() {
        return;
    }
    let mut env = match container.get_mut("env").map(Value::take) {
        Some(Value::Array(env)) => env,
        _ => Vec::new(),
    };
    env.retain(|theirs| {
        group
            .env
            .iter()
            .all(|ours| theirs.get("name") != Some(&json!(ours.name)))
    });
    env.extend(group.env.iter().map(|variable| json!(variable)));
    container["env"] = Value::Array(env);
}

/// Kubernetes stops all containers of a pod at once; the handler has to outlive the tasks that the
/// worker still finishes. The worker answers `/drained` when it is done, and the kubelet waits for
/// that before it stops the handler.
fn wait_for_worker(handler: &mut Value) {
    let hook = json!({"httpGet": {"path": "/drained", "port": WORKER_ADMIN_PORT}});
    if handler.pointer("/lifecycle/preStop").is_none() {
        merge(handler, &json!({"lifecycle": {"preStop": hook}}));
    }
}

/// How long a pod may take to finish its tasks. In three steps, not exactly `timeouts.task` plus
/// slack, as a change of this field rolls the pods and a change of `timeouts.task` must not.
fn grace_period(task_timeout: Duration) -> u64 {
    const SLACK: u64 = 30;
    const STEPS: [u64; 2] = [5 * 60, 3600];
    let needed = task_timeout.as_secs() + SLACK;
    STEPS.into_iter().find(|step| *step >= needed).unwrap_or(24 * 3600 + 60)
}

fn named<'a>(containers: &'a mut [Value], name: &str) -> Option<&'a mut Value> {
    containers
        .iter_mut()
        .find(|container| container.get("name").is_some_and(|found| found == name))
}

fn push(object: &mut Map<String, Value>, field: &str, item: Value) {
    match object.get_mut(field) {
        Some(Value::Array(items)) => items.push(item),
        _ => {
            object.insert(field.into(), json!([item]));
        }
    }
}

/// `with` over `base`, objects field by field.
fn merge(base: &mut Value, with: &Value) {
    match (base, with) {
        (Value::Object(base), Value::Object(with)) => {
            for (field, value) in with {
                merge(base.entry(field).or_insert(Value::Null), value);
            }
        }
        (base, with) => *base = with.clone(),
    }
}

/// The same for the same content in every version of this program (objects are kept sorted).
fn hash(value: &Value) -> String {
    let mut hasher = fnv::FnvHasher::default();
    hasher.write(value.to_string().as_bytes());
    format!("{:016x}", hasher.finish())
}
