//! Checks and types a TaskGroup by itself.

use super::{Invalid, Problems};
use crate::{
    api::{self, DeletionPolicy, EnvVar, RateLimit, Size, StorageType, TaskGroup, bounds},
    broker,
    protocol::{Queue, settings::WorkerSettings},
};
use kube::ResourceExt;
use serde_json::json;
use std::time;

/// A TaskGroup that the operator can build.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidGroup {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`.
    pub uid: String,
    /// Namespace and queue.
    pub queue: Queue,
    /// Most tasks in flight at once.
    pub concurrency: i64,
    /// Whether no more tasks start.
    pub suspend: bool,
    /// Settings that are live in the workers.
    pub settings: WorkerSettings,
    /// Time limit of one attempt.
    pub task_timeout: time::Duration,
    /// Time without a heartbeat after which JetStream redelivers a task.
    pub ack_wait: time::Duration,
    /// Most task starts per period.
    pub rate: Option<RateLimit>,
    /// Longest time that a task may wait. Zero is unlimited.
    pub expire: time::Duration,
    /// Environment of the handler.
    pub env: Vec<EnvVar>,
    /// Name of the TaskHandler.
    pub handler: String,
    /// Most tasks of one pod.
    pub max_inflight_per_pod: i64,
    /// Storage of the queue.
    pub storage: ValidStorage,
    /// Fate of the queued tasks when the group is deleted.
    pub deletion_policy: DeletionPolicy,
}

/// Storage of a queue. -1 is no limit, as in JetStream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidStorage {
    /// Medium of the stream.
    pub storage: broker::Storage,
    /// Copies of the stream.
    pub replicas: i64,
    /// Most tasks.
    pub max_tasks: i64,
    /// Most bytes.
    pub max_bytes: i64,
    /// Largest task in bytes.
    pub max_task_size: i64,
    /// Time during which a task id is remembered.
    pub duplicate_window: time::Duration,
}

/// The queue of a group, whatever else is wrong with the group.
pub fn queue(group: &TaskGroup) -> Queue {
    Queue::new(group.namespace().unwrap_or_default(), queue_name(group))
}

fn queue_name(group: &TaskGroup) -> &str {
    let name = group.metadata.name.as_deref().unwrap_or_default();
    group.spec.queue.as_deref().unwrap_or(name)
}

/// Checks a TaskGroup by itself.
///
/// # Errors
/// Everything that is wrong with the group, not only the first problem.
pub fn group(group: &TaskGroup) -> Result<ValidGroup, Invalid> {
    let spec = &group.spec;
    let queue = queue(group);
    let object = json!({"metadata": {"name": group.metadata.name}, "spec": spec});
    let mut problems = Problems(bounds::TASK_GROUP.check(&object));
    let stream = group.status.as_ref().and_then(|status| status.stream.as_deref());
    if stream.is_some_and(|stream| stream != queue.stream().as_str()) {
        problems.add("", bounds::QUEUE_IS_FIXED);
    }
    problems.done()?;
    let name = group.name_any();
    Ok(ValidGroup {
        settings: WorkerSettings::of(&name, spec),
        name,
        uid: group.uid().unwrap_or_default(),
        queue,
        concurrency: spec.concurrency,
        suspend: spec.suspend,
        task_timeout: spec.timeouts.task.checked(),
        ack_wait: spec.timeouts.ack_wait.checked(),
        rate: spec.rate_limit.clone(),
        expire: spec.timeouts.expire.checked(),
        env: spec.env.clone(),
        handler: spec.handler_ref.name.clone(),
        max_inflight_per_pod: spec.workers.max_inflight_per_pod,
        storage: storage(&spec.storage),
        deletion_policy: spec.deletion_policy,
    })
}

fn storage(storage: &api::Storage) -> ValidStorage {
    ValidStorage {
        storage: match storage.type_ {
            StorageType::File => broker::Storage::File,
            StorageType::Memory => broker::Storage::Memory,
        },
        replicas: storage.replicas,
        max_tasks: limit(storage.max_tasks),
        max_bytes: limit(bytes(&storage.max_bytes)),
        max_task_size: limit(bytes(&storage.max_task_size)),
        duplicate_window: storage.duplicate_window.checked(),
    }
}

/// A size that was checked, so that it can be read.
fn bytes(size: &Size) -> i64 {
    size.parse().unwrap_or_default()
}

/// JetStream writes no limit as -1, and a TaskGroup as 0.
fn limit(most: i64) -> i64 {
    if most == 0 { -1 } else { most }
}
