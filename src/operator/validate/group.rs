//! A TaskGroup, checked by itself.

use super::{Invalid, Problems};
use crate::{
    api::{self, DeletionPolicy, EnvVar, StorageType, TaskGroup, limits},
    broker,
    protocol::{
        Queue,
        settings::Rate,
        subject::{MAX_LABEL, is_dns_label},
    },
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
    /// How many tasks may start per time.
    pub rate: Option<Rate>,
    /// How long a task may wait; zero is for ever.
    pub expire: time::Duration,
    /// What happens after a failed attempt.
    pub retry: ValidRetry,
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

/// What happens after a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ValidRetry {
    /// Attempts of one task.
    pub max_attempts: u32,
    /// Longest wait after the first one.
    pub initial_delay: time::Duration,
    /// Longest wait after any.
    pub max_delay: time::Duration,
    /// How much longer the longest wait is after each further one.
    pub multiplier: f64,
    /// Longest time that a handler closes the group.
    pub max_retry_after: time::Duration,
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
        rate: spec.rate_limit.as_ref().map(|rate| rate_limit(rate, &mut problems)),
        expire: expire(&spec.timeouts.expire, &mut problems),
        retry: retry(&spec.retry, &mut problems),
        dead_letter: spec.dead_letter.enabled,
        env: spec.env.clone(),
        handler: spec.handler_ref.name.clone(),
        max_inflight_per_pod,
        storage: storage(&spec.storage, &mut problems),
        deletion_policy: spec.deletion_policy,
    };
    problems.done(valid)
}

fn rate_limit(rate: &api::RateLimit, problems: &mut Problems) -> Rate {
    let tasks = problems.range("spec.rateLimit.tasks", rate.tasks, limits::RATE_TASKS);
    let per = problems.duration("spec.rateLimit.per", &rate.per, limits::RATE_PER, "1s to 24h");
    if u128::try_from(tasks).unwrap_or(0) * 1000 > u128::try_from(limits::MAX_RATE).unwrap_or(0) * per.as_millis() {
        problems.add(
            "spec.rateLimit",
            format!(
                "{tasks} tasks per {} are more than {} per second: lower spec.rateLimit.tasks, or remove spec.rateLimit",
                rate.per,
                limits::MAX_RATE
            ),
        );
    }
    let burst = problems.range("spec.rateLimit.burst", rate.burst, limits::RATE_BURST);
    Rate {
        tasks: u64::try_from(tasks).unwrap_or(1),
        per_ms: u64::try_from(per.as_millis()).unwrap_or(u64::MAX),
        burst: u64::try_from(burst).unwrap_or(1),
    }
}

fn expire(expire: &api::Duration, problems: &mut Problems) -> time::Duration {
    if expire.parse().is_ok_and(|expire| expire.is_zero()) {
        return time::Duration::ZERO;
    }
    problems.duration(
        "spec.timeouts.expire",
        expire,
        limits::EXPIRE,
        "1s to 720h, or 0s for never",
    )
}

fn retry(retry: &api::Retry, problems: &mut Problems) -> ValidRetry {
    let max_attempts = problems.range("spec.retry.maxAttempts", retry.max_attempts, (1, limits::MAX_ATTEMPTS));
    let (low, high) = limits::MULTIPLIER;
    if !(low..=high).contains(&retry.multiplier) {
        problems.add(
            "spec.retry.multiplier",
            format!("{} is out of range: write {low} to {high}", retry.multiplier),
        );
    }
    let mut delay = |field: &str, value: &api::Duration| {
        problems.duration(
            &format!("spec.retry.{field}"),
            value,
            limits::RETRY_DELAY,
            "10ms to 24h",
        )
    };
    let (initial_delay, max_delay) = (
        delay("initialDelay", &retry.initial_delay),
        delay("maxDelay", &retry.max_delay),
    );
    if max_delay < initial_delay {
        problems.add(
            "spec.retry.maxDelay",
            format!(
                "{} is less than spec.retry.initialDelay ({}): raise the one or lower the other",
                retry.max_delay, retry.initial_delay
            ),
        );
    }
    ValidRetry {
        max_attempts: u32::try_from(max_attempts).unwrap_or(1),
        initial_delay,
        max_delay,
        multiplier: retry.multiplier,
        max_retry_after: problems.duration(
            "spec.retry.maxRetryAfter",
            &retry.max_retry_after,
            limits::RETRY_AFTER,
            "1s to 24h",
        ),
    }
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
