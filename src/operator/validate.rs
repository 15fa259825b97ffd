//! Pure: what the user wrote, checked and typed. The schema and its CEL rules say most of this
//! already; an old API server drops the rules, so all of it is checked again here.

use crate::{
    api::{
        self, DeletionPolicy, Duration, EnvVar, HANDLER_CONTAINER, PodTemplate, Size, StorageType, TaskGroup,
        TaskHandler, WORKER_ADMIN_PORT, limits,
    },
    broker,
    names::{MAX_LABEL, Queue, is_dns_label},
};
use kube::ResourceExt;
use serde_json::Value;
use std::{collections::HashSet, fmt, time};

/// Everything that is wrong with a spec. Never empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Invalid(pub Vec<Problem>);

/// One thing that is wrong: the field, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Path of the field, for example `spec.timeouts.task`.
    pub field: String,
    /// The value and the fix.
    pub message: String,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let problems: Vec<_> = self
            .0
            .iter()
            .map(|problem| format!("{}: {}", problem.field, problem.message))
            .collect();
        f.write_str(&problems.join("; "))
    }
}

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

/// A TaskHandler that can be built.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidHandler {
    /// `metadata.name`.
    pub name: String,
    /// How a task is run.
    pub run: Run,
    /// The pods; empty where none was given.
    pub template: PodTemplate,
}

/// How a task is run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Run {
    /// By the container `handler` of the pod.
    Http {
        /// Where it listens.
        port: u16,
        /// What it wants the tasks at.
        path: String,
    },
    /// By a service that runs already.
    Upstream {
        /// Where.
        url: String,
    },
}

#[derive(Default)]
struct Problems(Vec<Problem>);

impl Problems {
    fn add(&mut self, field: &str, message: impl Into<String>) {
        self.0.push(Problem {
            field: field.to_owned(),
            message: message.into(),
        });
    }

    fn range(&mut self, field: &str, value: i64, (low, high): (i64, i64)) -> i64 {
        if value < low || value > high {
            self.add(field, format!("{value} is out of range: write {low} to {high}"));
        }
        value
    }

    fn duration(
        &mut self,
        field: &str,
        value: &Duration,
        (low, high): (time::Duration, time::Duration),
        bounds: &str,
    ) -> time::Duration {
        match value.parse() {
            Ok(duration) if duration < low || duration > high => {
                self.add(field, format!("{value} is out of range: write {bounds}"));
                low
            }
            Ok(duration) => duration,
            Err(error) => {
                self.add(field, error.to_string());
                low
            }
        }
    }

    /// A size with 0 for none, as JetStream's limit with -1 for none.
    fn limit(&mut self, field: &str, value: &Size) -> i64 {
        match value.parse() {
            Ok(0) => -1,
            Ok(bytes) => bytes,
            Err(error) => {
                self.add(field, error.to_string());
                -1
            }
        }
    }

    fn done<T>(self, valid: T) -> Result<T, Invalid> {
        if self.0.is_empty() {
            Ok(valid)
        } else {
            Err(Invalid(self.0))
        }
    }
}

/// The queue of a group, whatever else is wrong with it.
pub fn queue(group: &TaskGroup) -> Queue {
    let name = group.spec.queue.clone().unwrap_or_else(|| group.name_any());
    Queue::new(group.namespace().unwrap_or_default(), name)
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

/// Checks a TaskHandler by itself.
///
/// # Errors
/// All that is wrong with it, not only the first.
pub fn handler(handler: &TaskHandler) -> Result<ValidHandler, Invalid> {
    let mut problems = Problems::default();
    let spec = &handler.spec;
    let template = spec.template.clone().unwrap_or_default();
    let run = match (&spec.http, &spec.upstream) {
        (Some(http), None) => {
            if http.port == i32::from(WORKER_ADMIN_PORT) {
                problems.add(
                    "spec.http.port",
                    format!(
                        "{WORKER_ADMIN_PORT} is the worker's own port in the pod: let the handler listen on another"
                    ),
                );
            }
            if spec.template.is_none() {
                problems.add(
                    "spec.template",
                    "is missing: http needs a pod template with your container named `handler`",
                );
            } else if container(&template, HANDLER_CONTAINER).is_none() {
                problems.add(
                    "spec.template.spec.containers",
                    "has no container named `handler`: give your code's container that name",
                );
            }
            Run::Http {
                port: u16::try_from(http.port).unwrap_or_else(|_| {
                    problems.add(
                        "spec.http.port",
                        format!("{} is out of range: write 1 to 65535", http.port),
                    );
                    0
                }),
                path: http.path.clone(),
            }
        }
        (None, Some(upstream)) => {
            if let Err(error) = upstream.url.parse::<http::Uri>() {
                problems.add("spec.upstream.url", format!("{:?} is not a URL: {error}", upstream.url));
            }
            if container(&template, HANDLER_CONTAINER).is_some() {
                problems.add(
                    "spec.template.spec.containers",
                    "has a container named `handler`, which nothing would call with upstream: remove it, or use http",
                );
            }
            Run::Upstream {
                url: upstream.url.clone(),
            }
        }
        _ => {
            problems.add(
                "spec",
                "exactly one of http and upstream says how to run a task: set one, remove the other",
            );
            Run::Upstream { url: String::new() }
        }
    };
    check_template(&template, &mut problems);
    problems.done(ValidHandler {
        name: handler.name_any(),
        run,
        template,
    })
}

/// What would make the merge of the template with our own parts meaningless. All else the API
/// server judges.
fn check_template(template: &PodTemplate, problems: &mut Problems) {
    let containers = template.spec.get("containers");
    if let Some(containers) = containers {
        let named = containers.as_array().is_some_and(|all| {
            all.iter()
                .all(|container| container.get("name").is_some_and(Value::is_string))
        });
        if !named {
            problems.add(
                "spec.template.spec.containers",
                "is not a list of containers that each have a name",
            );
        }
    }
    if template
        .spec
        .get("restartPolicy")
        .is_some_and(|policy| policy != "Always")
    {
        problems.add(
            "spec.template.spec.restartPolicy",
            "is not `Always`, the only one of a Deployment: remove it",
        );
    }
}

/// Checks what only shows in a group and its handler together.
///
/// # Errors
/// A group that asks of its handler what that can't do.
pub fn fits(group: &ValidGroup, handler: &ValidHandler) -> Result<(), Invalid> {
    let mut problems = Problems::default();
    if matches!(handler.run, Run::Upstream { .. }) && !group.env.is_empty() {
        problems.add(
            "spec.env",
            format!(
                "can't reach the handler: TaskHandler {} is an upstream and has no container here; remove spec.env, or \
                 use a TaskHandler with http",
                handler.name
            ),
        );
    }
    problems.done(())
}

/// A container of a template by its name.
pub(super) fn container<'a>(template: &'a PodTemplate, name: &str) -> Option<&'a Value> {
    let containers = template.spec.get("containers")?.as_array()?;
    containers
        .iter()
        .find(|container| container.get("name").is_some_and(|found| found == name))
}
