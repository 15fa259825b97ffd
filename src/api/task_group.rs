//! The kind `TaskGroup`: one group of tasks, its limit and its pipeline. [`super::bounds`] holds the bounds of its
//! fields.

use super::{Condition, Duration, EnvVar, Size};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::time;

/// A TaskGroup states the limit of one group of tasks, such as a customer, an API key or a website, and how the
/// operator runs their pipeline. Only `concurrency` is required.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[allow(clippy::duplicated_attributes, reason = "columns have types, also the same")]
#[kube(
    group = "taskgroup.io",
    version = "v1alpha1",
    kind = "TaskGroup",
    namespaced,
    derive = "PartialEq",
    doc = "A TaskGroup is one group of tasks with its own limit. The operator keeps a queue for it, and workers that run its tasks at exactly that limit.",
    status = "TaskGroupStatus",
    shortname = "tg",
    scale(
        spec_replicas_path = ".spec.concurrency",
        status_replicas_path = ".status.concurrency",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "QUEUE", type_ = "string", json_path = ".status.queue"),
    printcolumn(name = "CONCURRENCY", type_ = "integer", json_path = ".spec.concurrency"),
    printcolumn(name = "INFLIGHT", type_ = "integer", json_path = ".status.inFlight"),
    printcolumn(name = "PENDING", type_ = "integer", json_path = ".status.pending"),
    printcolumn(name = "DEAD", type_ = "integer", json_path = ".status.deadLettered"),
    printcolumn(name = "WORKERS", type_ = "string", json_path = ".status.workers"),
    printcolumn(
        name = "READY",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "RATE", type_ = "string", json_path = ".status.rate", priority = 1),
    printcolumn(
        name = "HANDLER",
        type_ = "string",
        json_path = ".spec.handlerRef.name",
        priority = 1
    ),
    printcolumn(name = "STREAM", type_ = "string", json_path = ".status.stream", priority = 1),
    printcolumn(
        name = "REASON",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
pub struct TaskGroupSpec {
    /// Name of the queue. Publishers send tasks to `tasks.<namespace>.<queue>.<task-id>`. Defaults to the name of the
    /// TaskGroup. Can't be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    /// Most tasks of this group in flight at once, across all pods. A change applies within a second, without a new
    /// pod, and interrupts no running task.
    pub concurrency: i64,
    /// Most task starts per period, across all pods. Without it, only `concurrency` limits how fast tasks start. A
    /// change applies within a second to the tasks that start next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimit>,
    /// `true` starts no more tasks. Running tasks finish, and the queue still accepts tasks.
    #[serde(default)]
    pub suspend: bool,
    /// Time limits. Write durations in hours, minutes, seconds and milliseconds, such as `500ms`, `90s` or `1h30m`. A
    /// change applies within a second to the tasks that start next.
    #[serde(default)]
    pub timeouts: Timeouts,
    /// Retries of failed attempts. A task in back-off holds no slot. It waits for a random time of up to
    /// `initialDelay * multiplier ^ (attempts - 1)`, but at most `maxDelay`. A change applies within a second to the
    /// attempts that fail next.
    #[serde(default)]
    pub retry: Retry,
    /// Dead letters: what happens to a task that failed permanently, ran out of attempts, or expired.
    #[serde(default)]
    pub dead_letter: DeadLetter,
    /// Environment variables of the container `handler`. They override those of the same name in the handler's
    /// template. A change rolls the worker pods.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<EnvVar>,
    /// TaskHandler that runs the tasks. A change rolls the worker pods.
    #[serde(default)]
    pub handler_ref: HandlerRef,
    /// Worker pods. A group has `concurrency / maxInflightPerPod` of them, rounded up, and at most 500.
    #[serde(default)]
    pub workers: Workers,
    /// Storage of the queue in JetStream.
    #[serde(default)]
    pub storage: Storage,
    /// Fate of the queued tasks when the TaskGroup is deleted. `Delete` deletes them. `Retain` keeps the stream for a
    /// later TaskGroup of the same name. `Drain` accepts no new tasks, runs the queued ones, and then deletes the
    /// stream. `DeleteIfEmpty` continues as before until the queue is empty, and then deletes the stream.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
}

impl TaskGroupSpec {
    /// A spec with this concurrency, and the defaults for all else.
    pub fn new(concurrency: i64) -> Self {
        Self {
            queue: None,
            concurrency,
            rate_limit: None,
            suspend: false,
            timeouts: Timeouts::default(),
            retry: Retry::default(),
            dead_letter: DeadLetter::default(),
            env: Vec::new(),
            handler_ref: HandlerRef::default(),
            workers: Workers::default(),
            storage: Storage::default(),
            deletion_policy: DeletionPolicy::default(),
        }
    }
}

/// Time limits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Timeouts {
    /// Time limit of one attempt in the handler. Then the worker aborts the attempt, and it counts as failed.
    pub task: Duration,
    /// Time after which JetStream redelivers the tasks of a dead worker to another. It is independent of `task`,
    /// because a worker renews its lease on every task that it runs.
    pub ack_wait: Duration,
    /// Longest time that a task may wait, counted from its publication. A task that waited longer does not start, or
    /// start again, and becomes a dead letter.
    pub expire: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            task: Duration::seconds(30),
            ack_wait: Duration::seconds(30),
            expire: Duration::seconds(0),
        }
    }
}

impl Timeouts {
    /// Checked `expire`. `None` means never.
    pub fn expire(&self) -> Option<time::Duration> {
        Some(self.expire.checked()).filter(|expire| !expire.is_zero())
    }
}

/// Rate at which tasks start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RateLimit {
    /// Tasks that may start within `per`. In any window of that length, at most `tasks + burst` tasks start. Together
    /// with `per`, at most 10000 tasks may start per second.
    // Users have to write it. Only a worker may read a rate limit without it.
    #[serde(default = "one")]
    #[schemars(!default)]
    pub tasks: i64,
    /// Period over which the starts are spread.
    #[serde(default = "one_second")]
    pub per: Duration,
    /// Starts that the group saves up while no task waits. As many tasks start at once when they arrive.
    #[serde(default = "one")]
    pub burst: i64,
}

fn one_second() -> Duration {
    Duration::seconds(1)
}

fn one() -> i64 {
    1
}

/// Retries of failed attempts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Retry {
    /// Most attempts of one task, including the first. After the last, the task becomes a dead letter.
    pub max_attempts: i64,
    /// Longest back-off after the first attempt.
    pub initial_delay: Duration,
    /// Longest back-off after any attempt. At least `initialDelay`.
    pub max_delay: Duration,
    /// Factor by which the longest back-off grows after each further attempt.
    pub multiplier: f64,
    /// Longest time that a handler's 429 or 503 with `Retry-After` throttles the group.
    pub max_retry_after: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            max_attempts: 5,
            initial_delay: Duration::seconds(1),
            max_delay: "5m".into(),
            multiplier: 2.0,
            max_retry_after: "1h".into(),
        }
    }
}

impl Retry {
    /// Checked `maxAttempts`.
    pub fn max_attempts(&self) -> u32 {
        u32::try_from(self.max_attempts).unwrap_or(1)
    }
}

/// Dead letters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct DeadLetter {
    /// `true` keeps dead tasks in the stream `TASKGROUP_DEAD`, with the reason. `false` drops and counts them.
    pub enabled: bool,
}

impl Default for DeadLetter {
    fn default() -> Self {
        Self { enabled: true }
    }
}

/// Reference to a TaskHandler.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HandlerRef {
    /// Name of a TaskHandler in the namespace of the group.
    pub name: String,
}

impl Default for HandlerRef {
    fn default() -> Self {
        Self { name: "default".into() }
    }
}

/// Worker pods.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Workers {
    /// Most tasks that one pod runs at once. A change applies without rolling the pods, but changes how many there
    /// are.
    pub max_inflight_per_pod: i64,
}

impl Default for Workers {
    fn default() -> Self {
        Self {
            max_inflight_per_pod: 100,
        }
    }
}

/// Storage of a queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Storage {
    /// Medium of the stream. `File` survives a restart of NATS, and `Memory` does not. Can't be changed.
    #[serde(rename = "type")]
    pub type_: StorageType,
    /// NATS servers that keep a copy of the queue. More than 1 needs a NATS cluster of at least that many servers.
    pub replicas: i64,
    /// Most tasks in the queue, or 0 for no limit. A full queue refuses new tasks and drops none.
    pub max_tasks: i64,
    /// Largest size of the queue, in bytes or as a quantity such as `1Gi`. A full queue refuses new tasks and drops
    /// none.
    pub max_bytes: Size,
    /// Largest size of one task with its headers, in bytes or as a quantity such as `1Mi`.
    pub max_task_size: Size,
    /// Time during which JetStream treats a second task with the same `Nats-Msg-Id` as a duplicate and drops it.
    pub duplicate_window: Duration,
}

impl Default for Storage {
    fn default() -> Self {
        Self {
            type_: StorageType::File,
            replicas: 1,
            max_tasks: 0,
            max_bytes: Size("0".into()),
            max_task_size: Size("1Mi".into()),
            duplicate_window: "2m".into(),
        }
    }
}

/// Medium of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum StorageType {
    /// Disks of the NATS servers.
    #[default]
    File,
    /// Memory of the NATS servers.
    Memory,
}

/// Fate of the queued tasks when the TaskGroup is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    /// The tasks are deleted.
    #[default]
    Delete,
    /// The stream stays.
    Retain,
    /// The tasks run first, and the queue accepts no new ones.
    Drain,
    /// The deletion waits until the queue is empty.
    DeleteIfEmpty,
}

/// State of a TaskGroup, as the operator observed it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TaskGroupStatus {
    /// Generation of the spec that this status describes.
    pub observed_generation: Option<i64>,
    /// Conditions of the group, with the reason for each.
    #[serde(default)]
    #[schemars(schema_with = "super::condition::schema")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// Queue in use. Publishers send tasks to `tasks.<namespace>.<queue>.<task-id>`.
    pub queue: Option<String>,
    /// JetStream stream of the group.
    pub stream: Option<String>,
    /// Limit that the broker enforces at present.
    pub concurrency: Option<i64>,
    /// Rate limit in use, such as `2/1s`.
    pub rate: Option<String>,
    /// Worker pods that the group should have.
    pub replicas: Option<i32>,
    /// Worker pods that are ready, and that the group should have, such as `1/2`.
    pub workers: Option<String>,
    /// Label selector of the worker pods.
    pub selector: Option<String>,
    /// Most tasks that each pod runs at once.
    pub max_inflight: Option<i64>,
    /// Tasks that wait in the queue. The operator counts them about every 10 seconds, as it counts `inFlight` and
    /// `deadLettered`.
    pub pending: Option<i64>,
    /// Tasks in flight. May exceed `spec.concurrency` for a moment after it was lowered.
    pub in_flight: Option<i64>,
    /// Tasks in back-off, which hold no slot. `pending` does not include them.
    pub delayed: Option<i64>,
    /// Tasks of this group in the dead-letter stream.
    pub dead_lettered: Option<i64>,
}
