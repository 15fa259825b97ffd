//! A TaskGroup, checked by itself.

use super::{Invalid, Problems};
use crate::{
    api::{self, DeletionPolicy, EnvVar, StorageType, TaskGroup, limits},
    broker,
    names::{MAX_LABEL, Queue, is_dns_label},
};
use kube::ResourceExt;
use std::{collections::HashSet, time};

/// A TaskGroup that can be built.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidGroup {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`.
    pub uid: String,
    /// Namespace and queue.
    pub queue: Queue,
    /// Tasks in flight at once.
    pub concurrency: i64,
    /// Whether nothing new starts.
    pub suspend: bool,
    /// Longest time of one attempt.
    pub task_timeout: time::Duration,
    /// After how long without a sign of life a delivery is void.
    pub ack_wait: time::Duration,
    /// Attempts of one task.
    pub max_attempts: u32,
    /// Whether dead tasks are kept.
    pub dead_letter: bool,
    /// Environment of the handler.
    pub env: Vec<EnvVar>,
    /// Name of the TaskHandler.
    pub handler: String,
    /// Most tasks of one pod.
    pub max_inflight_per_pod: i64,
    /// How the queue keeps its tasks.
    pub storage: ValidStorage,
    /// What happens to the queued tasks at the end.
    pub deletion_policy: DeletionPolicy,
}

/// How the queue keeps its tasks; -1 is no limit, as JetStream has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidStorage {
    /// Where.
    pub storage: broker::Storage,
    /// Copies.
    pub replicas: i64,
    /// Most tasks.
    pub max_tasks: i64,
    /// Most bytes.
    pub max_bytes: i64,
    /// Largest task in bytes.
    pub max_task_size: i64,
    /// How long a task's id is remembered.
    pub duplicate_window: time::Duration,
}

/// The queue of a group, whatever else is wrong with it.
pub fn queue(group: &TaskGroup) -> Queue {
    Queue::new(group.namespace().unwrap_or_default(), queue_name(group))
}

/// Whether two groups want the same queue.
pub fn share_a_queue(one: &TaskGroup, other: &TaskGroup) -> bool {
    one.metadata.namespace == other.metadata.namespace && queue_name(one) == queue_name(other)
}

fn queue_name(group: &TaskGroup) -> &str {
    let name = group.metadata.name.as_deref().unwrap_or_default();
    group.spec.queue.as_deref().unwrap_or(name)
}

/// Checks a TaskGroup by itself.
///
/// # Errors
/// All that is wrong with it, not only the first.
pub fn group(group: &TaskGroup) -> Result<ValidGroup, Invalid> {
    let mut problems = Problems::default();
    let spec = &group.spec;
    let name = group.name_any();
    let queue = queue(group);

    if name.len() > limits::MAX_NAME || name.contains('.') {
        problems.add(
            "metadata.name",
            format!(
                "{name:?} is too long or has dots: at most {} characters without dots",
                limits::MAX_NAME
            ),
        );
    }
    if !is_dns_label(&queue.name) {
        problems.add(
            "spec.queue",
            format!(
                "{:?} is not a DNS label: at most {MAX_LABEL} of a-z, 0-9 and -, no - at the ends",
                queue.name
            ),
        );
    }
    if let Some(stream) = group.status.as_ref().and_then(|status| status.stream.as_deref())
        && stream != queue.stream().as_str()
    {
        problems.add(
            "spec.queue",
            format!(
                "can't be changed, the tasks in stream {stream} would be left behind: set it back, or make another \
                 TaskGroup with the queue {}",
                queue.name
            ),
        );
    }
    let concurrency = problems.range("spec.concurrency", spec.concurrency, (1, limits::MAX_CONCURRENCY));
    let max_inflight_per_pod = problems.range(
        "spec.workers.maxInflightPerPod",
        spec.workers.max_inflight_per_pod,
        (1, limits::MAX_INFLIGHT_PER_POD),
    );
    if concurrency > limits::MAX_PODS * max_inflight_per_pod.max(1) {
        problems.add(
            "spec.concurrency",
            format!(
                "{concurrency} needs more than {} pods of {max_inflight_per_pod}: raise \
                 spec.workers.maxInflightPerPod or lower spec.concurrency",
                limits::MAX_PODS
            ),
        );
    }
    let max_attempts = problems.range(
        "spec.retry.maxAttempts",
        spec.retry.max_attempts,
        (1, limits::MAX_ATTEMPTS),
    );
    if spec.handler_ref.name.is_empty() {
        problems.add(
            "spec.handlerRef.name",
            "is empty: name a TaskHandler, or leave it out for `default`",
        );
    }
    check_env(&spec.env, &mut problems);

    let valid = ValidGroup {
        name,
        uid: group.uid().unwrap_or_default(),
        queue,
        concurrency,
        suspend: spec.suspend,
        task_timeout: problems.duration("spec.timeouts.task", &spec.timeouts.task, limits::TASK, "1ms to 24h"),
        ack_wait: problems.duration(
            "spec.timeouts.ackWait",
            &spec.timeouts.ack_wait,
            limits::ACK_WAIT,
            "2s to 1h",
        ),
        max_attempts: u32::try_from(max_attempts).unwrap_or(1),
        dead_letter: spec.dead_letter.enabled,
        env: spec.env.clone(),
        handler: spec.handler_ref.name.clone(),
        max_inflight_per_pod,
        storage: storage(&spec.storage, &mut problems),
        deletion_policy: spec.deletion_policy,
    };
    problems.done(valid)
}

fn storage(storage: &api::Storage, problems: &mut Problems) -> ValidStorage {
    let max_task_size = problems.limit("spec.storage.maxTaskSize", &storage.max_task_size);
    if max_task_size > limits::MAX_TASK_SIZE {
        problems.add(
            "spec.storage.maxTaskSize",
            format!(
                "{} is out of range: NATS takes no message beyond 64Mi",
                storage.max_task_size
            ),
        );
    }
    let max_tasks = problems.range("spec.storage.maxTasks", storage.max_tasks, (0, i64::MAX));
    ValidStorage {
        storage: match storage.type_ {
            StorageType::File => broker::Storage::File,
            StorageType::Memory => broker::Storage::Memory,
        },
        replicas: problems.range("spec.storage.replicas", storage.replicas, limits::STREAM_REPLICAS),
        max_tasks: if max_tasks == 0 { -1 } else { max_tasks },
        max_bytes: problems.limit("spec.storage.maxBytes", &storage.max_bytes),
        max_task_size,
        duplicate_window: problems.duration(
            "spec.storage.duplicateWindow",
            &storage.duplicate_window,
            limits::DUPLICATE_WINDOW,
            "100ms to 24h",
        ),
    }
}

fn check_env(env: &[EnvVar], problems: &mut Problems) {
    if env.len() > limits::MAX_ENV {
        problems.add(
            "spec.env",
            format!("has {} variables: at most {}", env.len(), limits::MAX_ENV),
        );
    }
    let mut names = HashSet::new();
    for (index, variable) in env.iter().enumerate() {
        let field = format!("spec.env[{index}]");
        if !is_env_name(&variable.name) {
            problems.add(
                &format!("{field}.name"),
                format!(
                    "{:?} is no variable name: letters, digits, _, - and ., no digit first",
                    variable.name
                ),
            );
        }
        if !names.insert(&variable.name) {
            problems.add(&field, format!("{} is there twice: remove one of them", variable.name));
        }
        if variable.value.is_some() && variable.value_from.is_some() {
            problems.add(
                &field,
                format!("{} has both value and valueFrom: remove one of them", variable.name),
            );
        }
        if let Some(source) = &variable.value_from {
            let sources = [
                source.secret_key_ref.is_some(),
                source.config_map_key_ref.is_some(),
                source.field_ref.is_some(),
            ];
            if sources.iter().filter(|set| **set).count() != 1 {
                problems.add(
                    &format!("{field}.valueFrom"),
                    "names exactly one source: secretKeyRef, configMapKeyRef or fieldRef",
                );
            }
        }
    }
}

fn is_env_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    name.chars().all(allowed) && name.starts_with(|first: char| !first.is_ascii_digit())
}
