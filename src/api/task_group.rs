//! The kind `TaskGroup`: one group of tasks, its limit and its pipeline.

use super::{Condition, Duration, EnvVar, Size};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The bounds of the spec, stated in the schema and checked again by the operator.
pub mod limits {
    use std::time::Duration;

    /// Most tasks of one group at once.
    pub const MAX_CONCURRENCY: i64 = 100_000;
    /// Most tasks one pod runs at once.
    pub const MAX_INFLIGHT_PER_POD: i64 = 1_000;
    /// Most worker pods of one group: JetStream keeps 512 waiting pulls per consumer, one per pod.
    pub const MAX_PODS: i64 = 500;
    /// Most attempts of one task.
    pub const MAX_ATTEMPTS: i64 = 1_000;
    /// Most environment variables of one group.
    pub const MAX_ENV: usize = 256;
    /// Longest name of a TaskGroup: with `-workers` it has to fit a label.
    pub const MAX_NAME: usize = 55;
    /// Bounds of `timeouts.task`.
    pub const TASK: (Duration, Duration) = (Duration::from_millis(1), Duration::from_secs(24 * 3600));
    /// Bounds of `timeouts.ackWait`. Three heartbeats have to fit into it, with slack.
    pub const ACK_WAIT: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(3600));
    /// Bounds of `timeouts.expire`, where it is not 0.
    pub const EXPIRE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30 * 24 * 3600));
    /// Bounds of `retry.initialDelay` and `retry.maxDelay`.
    pub const RETRY_DELAY: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(24 * 3600));
    /// Bounds of `retry.multiplier`.
    pub const MULTIPLIER: (f64, f64) = (1.0, 100.0);
    /// Bounds of `retry.maxRetryAfter`.
    pub const RETRY_AFTER: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(24 * 3600));
    /// Bounds of `rateLimit.tasks`.
    pub const RATE_TASKS: (i64, i64) = (1, 10_000_000);
    /// Bounds of `rateLimit.per`. Starts are spread over it with a slack of half a percent, which below a
    /// second would be less than the jitter of a timer.
    pub const RATE_PER: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(24 * 3600));
    /// Bounds of `rateLimit.burst`.
    pub const RATE_BURST: (i64, i64) = (1, 100_000);
    /// Most starts per second: about what one queue delivers.
    pub const MAX_RATE: i64 = 10_000;
    /// Bounds of `storage.duplicateWindow`; JetStream takes no less than 100 ms.
    pub const DUPLICATE_WINDOW: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(24 * 3600));
    /// Bounds of `storage.replicas`, which are JetStream's.
    pub const STREAM_REPLICAS: (i64, i64) = (1, 5);
    /// Largest `storage.maxTaskSize` in bytes: NATS's own bound of a message's size.
    pub const MAX_TASK_SIZE: i64 = 64 << 20;
}

/// One group of tasks (a customer, an API key, a website, …) with a limit of its own.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "taskgroup.io",
    version = "v1alpha1",
    kind = "TaskGroup",
    namespaced,
    derive = "PartialEq",
    doc = "One group of tasks with a limit of its own: a queue, and workers that run its tasks at exactly that limit.",
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
    printcolumn(name = "READY", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "RATE", type_ = "string", json_path = ".status.rate", priority = 1),
    printcolumn(name = "HANDLER", type_ = "string", json_path = ".spec.handlerRef.name", priority = 1),
    printcolumn(name = "STREAM", type_ = "string", json_path = ".status.stream", priority = 1),
    printcolumn(
        name = "REASON",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason",
        priority = 1
    ),
    validation = Rule::new("size(self.metadata.name) <= 55 && !self.metadata.name.contains('.')")
        .message("metadata.name is at most 55 characters without dots: names in NATS and of pods are made of it"),
    validation = Rule::new("(has(self.spec.queue) ? self.spec.queue : self.metadata.name) == (has(oldSelf.spec.queue) ? oldSelf.spec.queue : oldSelf.metadata.name)")
        .message("spec.queue can't be changed, its tasks would be left behind: set it back, or make another TaskGroup with the new queue")
)]
#[x_kube(
    validation = Rule::new("self.concurrency <= 500 * self.workers.maxInflightPerPod")
        .message("spec.concurrency needs more than 500 pods: raise spec.workers.maxInflightPerPod or lower spec.concurrency")
)]
#[serde(rename_all = "camelCase")]
pub struct TaskGroupSpec {
    /// Name of the queue; tasks are published to `tasks.<namespace>.<queue>.<task-id>`. A DNS label,
    /// by default the name of the TaskGroup. Can't be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub queue: Option<String>,
    /// Tasks of this group in flight at once, all pods together. At least 1. A change takes effect at
    /// once, without a new pod, and interrupts nothing.
    #[schemars(range(min = 1, max = 100_000))]
    pub concurrency: i64,
    /// How many tasks may start per time, all pods together; without it, as many as `concurrency` allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(
        validation = Rule::new("duration(self.per) >= duration('1s') && duration(self.per) <= duration('24h')")
            .message("rateLimit.per is 1s to 24h: write for example 1s or 1m"),
        validation = Rule::new("self.tasks <= 10000 * duration(self.per).getSeconds()")
            .message("rateLimit allows more than 10000 tasks per second: lower rateLimit.tasks, or remove rateLimit")
    )]
    pub rate_limit: Option<RateLimit>,
    /// `true`: nothing new starts, what runs finishes, and the queue still accepts tasks.
    #[serde(default)]
    pub suspend: bool,
    /// How long things may take. All durations are written like `500ms`, `90s` or `1h30m`.
    #[serde(default)]
    #[x_kube(
        validation = Rule::new("duration(self.task) >= duration('1ms') && duration(self.task) <= duration('24h')")
            .message("timeouts.task is 1ms to 24h: write for example 30s"),
        validation = Rule::new("duration(self.ackWait) >= duration('2s') && duration(self.ackWait) <= duration('1h')")
            .message("timeouts.ackWait is 2s to 1h: write for example 30s"),
        validation = Rule::new("duration(self.expire) == duration('0s') || duration(self.expire) >= duration('1s') && duration(self.expire) <= duration('720h')")
            .message("timeouts.expire is 1s to 720h, or 0s for never: write for example 10m")
    )]
    pub timeouts: Timeouts,
    /// What happens to a task whose attempt failed.
    #[serde(default)]
    #[x_kube(
        validation = Rule::new("duration(self.initialDelay) >= duration('10ms') && duration(self.initialDelay) <= duration('24h')")
            .message("retry.initialDelay is 10ms to 24h: write for example 1s"),
        validation = Rule::new("duration(self.maxDelay) >= duration(self.initialDelay) && duration(self.maxDelay) <= duration('24h')")
            .message("retry.maxDelay is at least retry.initialDelay and at most 24h: write for example 5m"),
        validation = Rule::new("duration(self.maxRetryAfter) >= duration('1s') && duration(self.maxRetryAfter) <= duration('24h')")
            .message("retry.maxRetryAfter is 1s to 24h: write for example 1h")
    )]
    pub retry: Retry,
    /// What happens to a task that can't be done.
    #[serde(default)]
    pub dead_letter: DeadLetter,
    /// Environment variables of the container `handler`, after those of the handler's template.
    /// A change rolls the worker pods.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub env: Vec<EnvVar>,
    /// The TaskHandler, in the same namespace, that runs the tasks.
    #[serde(default)]
    pub handler_ref: HandlerRef,
    /// The worker pods. There are `concurrency / maxInflightPerPod` of them, rounded up.
    #[serde(default)]
    pub workers: Workers,
    /// How the queue keeps its tasks.
    #[serde(default)]
    #[x_kube(
        validation = Rule::new("self.type == oldSelf.type")
            .message("storage.type can't be changed, JetStream keeps a stream where it is: set it back, or make another TaskGroup"),
        validation = Rule::new("duration(self.duplicateWindow) >= duration('100ms') && duration(self.duplicateWindow) <= duration('24h')")
            .message("storage.duplicateWindow is 100ms to 24h: write for example 2m")
    )]
    pub storage: Storage,
    /// What happens to the queued tasks when the TaskGroup is deleted. `Delete`: they are deleted.
    /// `Retain`: the stream stays, for a TaskGroup of this name made later. `Drain`: no new tasks are
    /// taken, the queued ones are run, then the stream is deleted. `DeleteIfEmpty`: goes on as it is
    /// until the queue is empty, then the stream is deleted.
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

/// How long things may take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Timeouts {
    /// One attempt in the handler; then it is cut off and counts as failed. 1ms to 24h.
    pub task: Duration,
    /// How soon the tasks of a dead worker go to another. Independent of `task`: a worker renews its
    /// claim while it runs a task. 2s to 1h.
    pub ack_wait: Duration,
    /// How long a task may wait, from its publication on; one that waited longer is not started (again)
    /// and becomes a dead letter. 1s to 720h; `0s` is for ever.
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

/// How many tasks may start per time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RateLimit {
    /// Tasks that may start within `per`, at least 1. In no window of that length start more than
    /// `tasks + burst`.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub tasks: i64,
    /// The time they are spread over, 1s to 24h.
    #[serde(default = "one_second")]
    pub per: Duration,
    /// Starts that may be saved up while nothing waits: so many start at once when tasks come, 1 to 100000.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 100_000))]
    pub burst: i64,
}

fn one_second() -> Duration {
    Duration::seconds(1)
}

fn one() -> i64 {
    1
}

/// What happens to a task whose attempt failed: it waits, without a slot, for a random time of up to
/// `initialDelay * multiplier ^ (attempts - 1)`, at most `maxDelay`, and is tried again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Retry {
    /// Attempts of one task, the first one included; then it is dead. 1 to 1000.
    #[schemars(range(min = 1, max = 1000))]
    pub max_attempts: i64,
    /// Longest wait after the first attempt, 10ms to 24h.
    pub initial_delay: Duration,
    /// Longest wait after any attempt, `initialDelay` to 24h.
    pub max_delay: Duration,
    /// How much longer the longest wait is after each further attempt, 1 to 100.
    #[schemars(range(min = 1, max = 100))]
    pub multiplier: f64,
    /// Longest time that the group is closed by a handler's 429 or 503 with `Retry-After`, 1s to 24h.
    pub max_retry_after: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            max_attempts: 5,
            initial_delay: Duration::seconds(1),
            max_delay: Duration("5m".into()),
            multiplier: 2.0,
            max_retry_after: Duration("1h".into()),
        }
    }
}

/// What happens to a task that can't be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct DeadLetter {
    /// `true`: kept in the stream `TASKGROUP_DEAD`, with the reason. `false`: dropped, and counted.
    pub enabled: bool,
}

impl Default for DeadLetter {
    fn default() -> Self {
        Self { enabled: true }
    }
}

/// The TaskHandler that runs the tasks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HandlerRef {
    /// Name of the TaskHandler, in the namespace of the group.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

impl Default for HandlerRef {
    fn default() -> Self {
        Self { name: "default".into() }
    }
}

/// The worker pods.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Workers {
    /// Most tasks that one pod runs at once, 1 to 1000.
    #[schemars(range(min = 1, max = 1000))]
    pub max_inflight_per_pod: i64,
}

impl Default for Workers {
    fn default() -> Self {
        Self {
            max_inflight_per_pod: 100,
        }
    }
}

/// How the queue keeps its tasks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Storage {
    /// `File` survives a restart of NATS, `Memory` does not. Can't be changed.
    #[serde(rename = "type")]
    pub type_: StorageType,
    /// Servers that keep a copy, 1 to 5; more than 1 needs a NATS cluster of that many.
    #[schemars(range(min = 1, max = 5))]
    pub replicas: i64,
    /// Most tasks in the queue; 0 is no limit. A full queue refuses new tasks, it drops none.
    #[schemars(range(min = 0))]
    pub max_tasks: i64,
    /// Largest size of the queue, in bytes or as a quantity such as `1Gi`; 0 is no limit. A full queue
    /// refuses new tasks, it drops none.
    pub max_bytes: Size,
    /// Largest size of one task with its headers, in bytes or as a quantity such as `1Mi`, up to `64Mi`;
    /// 0 is no limit but that of the NATS server.
    pub max_task_size: Size,
    /// For how long a second task with the same `Nats-Msg-Id` is taken for the same task. 100ms to 24h.
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
            duplicate_window: Duration("2m".into()),
        }
    }
}

/// Where a queue keeps its tasks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum StorageType {
    /// On the disks of the NATS servers.
    #[default]
    File,
    /// In their memory.
    Memory,
}

/// What happens to the queued tasks when the TaskGroup is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    /// They are deleted.
    #[default]
    Delete,
    /// The stream stays.
    Retain,
    /// They are run first, and no new ones are taken.
    Drain,
    /// The deletion waits until the queue is empty.
    DeleteIfEmpty,
}

/// What the operator says about a TaskGroup.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TaskGroupStatus {
    /// The generation of the spec that this status is about.
    pub observed_generation: Option<i64>,
    /// What holds and what does not, and why.
    #[serde(default)]
    #[schemars(schema_with = "super::condition::schema")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// The queue in force: tasks are published to `tasks.<namespace>.<queue>.<task-id>`.
    pub queue: Option<String>,
    /// The JetStream stream of the group.
    pub stream: Option<String>,
    /// The limit that the broker enforces at present.
    pub concurrency: Option<i64>,
    /// The rate limit in force, as `2/1s`.
    pub rate: Option<String>,
    /// Worker pods wanted.
    pub replicas: Option<i32>,
    /// Worker pods ready and wanted, as `1/2`.
    pub workers: Option<String>,
    /// Label selector of the worker pods.
    pub selector: Option<String>,
    /// Most tasks that each pod runs at once.
    pub max_inflight: Option<i64>,
    /// Tasks waiting in the queue. Renewed about every 10 seconds, as are the next two.
    pub pending: Option<i64>,
    /// Tasks being run. May exceed `spec.concurrency` for a moment after it was lowered.
    pub in_flight: Option<i64>,
    /// Tasks in back-off, which hold no slot; renewed as `pending` is, which does not count them.
    pub delayed: Option<i64>,
    /// Tasks of this group in the dead-letter stream.
    pub dead_lettered: Option<i64>,
}
