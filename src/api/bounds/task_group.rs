//! The bounds of a TaskGroup.

use super::{Bounds, Field, Limit, Rule, count, field, has};
use crate::api::Duration;
use serde_json::Value;
use std::time;

/// Message of the rule that keeps a queue's name. The operator says the same where the group's stream has another name.
pub const QUEUE_IS_FIXED: &str = "spec.queue: can't be changed, because the tasks of the old queue would be left behind: \
                                  set it back, or create another TaskGroup with the new queue";

/// The bounds of a TaskGroup.
pub const TASK_GROUP: Bounds = Bounds {
    fields: FIELDS,
    rules: RULES,
};

/// Names of Kubernetes objects and of keys in a Secret or ConfigMap.
const NAME: Limit = Limit::Text { min: 1, max: 253 };

/// Back-off between attempts. A shorter one would outrun the delay stream.
const DELAY: Limit = duration("10ms", "24h");

const FIELDS: &[Field] = &[
    field(
        "spec.queue",
        Limit::Pattern {
            min: 1,
            max: 63,
            pattern: "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$",
            form: "a DNS label of a-z, 0-9 and -, with no - at the ends",
        },
    ),
    field("spec.concurrency", integer(1, 100_000)),
    field("spec.rateLimit.tasks", integer(1, 10_000_000)),
    // Starts are spread over it with a slack of half a percent, which below a second would be less than the jitter
    // of a timer.
    field("spec.rateLimit.per", duration("1s", "24h")),
    field("spec.rateLimit.burst", integer(1, 100_000)),
    field("spec.timeouts.task", duration("1ms", "24h")),
    // Three heartbeats have to fit into it, with slack.
    field("spec.timeouts.ackWait", duration("2s", "1h")),
    field(
        "spec.timeouts.expire",
        Limit::Duration {
            min: "1s",
            max: "720h",
            zero: Some("never"),
        },
    ),
    field("spec.retry.maxAttempts", integer(1, 1000)),
    field("spec.retry.initialDelay", DELAY),
    field("spec.retry.maxDelay", DELAY),
    field("spec.retry.multiplier", Limit::Number { min: 1.0, max: 100.0 }),
    field("spec.retry.maxRetryAfter", duration("1s", "24h")),
    field(
        "spec.env",
        Limit::List {
            min: 0,
            max: 256,
            key: Some("name"),
        },
    ),
    field(
        "spec.env[].name",
        Limit::Pattern {
            min: 1,
            max: 253,
            pattern: "^[-._a-zA-Z][-._a-zA-Z0-9]*$",
            form: "letters, digits, _, - and ., with no digit first",
        },
    ),
    field("spec.env[].value", Limit::Text { min: 0, max: 32_768 }),
    field("spec.env[].valueFrom.secretKeyRef.name", NAME),
    field("spec.env[].valueFrom.secretKeyRef.key", NAME),
    field("spec.env[].valueFrom.configMapKeyRef.name", NAME),
    field("spec.env[].valueFrom.configMapKeyRef.key", NAME),
    field("spec.env[].valueFrom.fieldRef.fieldPath", NAME),
    field("spec.handlerRef.name", NAME),
    field("spec.workers.maxInflightPerPod", integer(1, 1000)),
    field("spec.storage.replicas", integer(1, 5)),
    field("spec.storage.maxTasks", Limit::Integer { min: 0, max: None }),
    field(
        "spec.storage.maxBytes",
        Limit::Size {
            max: None,
            zero: "no limit",
        },
    ),
    // NATS takes no larger message, however it is configured.
    field(
        "spec.storage.maxTaskSize",
        Limit::Size {
            max: Some("64Mi"),
            zero: "the limit of the NATS server",
        },
    ),
    // JetStream takes no shorter window.
    field("spec.storage.duplicateWindow", duration("100ms", "24h")),
];

const RULES: &[Rule] = &[
    Rule {
        scope: "",
        // With `-workers` it has to fit a label.
        cel: "size(self.metadata.name) <= 55 && !self.metadata.name.contains('.')",
        message: "metadata.name: must have at most 55 characters and no dots, because names in NATS and of pods contain it",
        holds: Some(|group| {
            let name = text(&group["metadata"], "name");
            name.len() <= 55 && !name.contains('.')
        }),
    },
    Rule {
        scope: "",
        cel: "(has(self.spec.queue) ? self.spec.queue : self.metadata.name) == (has(oldSelf.spec.queue) ? oldSelf.spec.queue : oldSelf.metadata.name)",
        message: QUEUE_IS_FIXED,
        holds: None,
    },
    Rule {
        scope: "spec",
        // JetStream keeps 512 waiting pulls per consumer, one per pod.
        cel: "self.concurrency <= 500 * self.workers.maxInflightPerPod",
        message: "concurrency needs more than 500 pods: raise workers.maxInflightPerPod or lower concurrency",
        holds: Some(|spec| number(spec, "concurrency") <= 500 * number(&spec["workers"], "maxInflightPerPod")),
    },
    Rule {
        scope: "spec.rateLimit",
        // One queue delivers about this many.
        cel: "duration(self.per) < duration('1s') || self.tasks <= 10000 * duration(self.per).getSeconds()",
        message: "tasks and per allow more than 10000 tasks per second: lower tasks, or remove rateLimit",
        holds: Some(|rate| {
            let seconds = time(rate, "per").map_or(0, |per| per.as_secs());
            seconds == 0 || i128::from(number(rate, "tasks")) <= 10_000 * i128::from(seconds)
        }),
    },
    Rule {
        scope: "spec.retry",
        cel: "duration(self.maxDelay) >= duration(self.initialDelay)",
        message: "maxDelay is less than initialDelay: raise maxDelay or lower initialDelay",
        holds: Some(|retry| {
            let delays = time(retry, "maxDelay").zip(time(retry, "initialDelay"));
            delays.is_none_or(|(max, initial)| max >= initial)
        }),
    },
    Rule {
        scope: "spec.env[]",
        cel: "!(has(self.value) && has(self.valueFrom))",
        message: "a variable can't have both value and valueFrom: remove one of them",
        holds: Some(|variable| !(has(variable, "value") && has(variable, "valueFrom"))),
    },
    Rule {
        scope: "spec.env[].valueFrom",
        cel: "(has(self.secretKeyRef) ? 1 : 0) + (has(self.configMapKeyRef) ? 1 : 0) + (has(self.fieldRef) ? 1 : 0) == 1",
        message: "must name exactly one source: secretKeyRef, configMapKeyRef or fieldRef",
        holds: Some(|source| count(source, &["secretKeyRef", "configMapKeyRef", "fieldRef"]) == 1),
    },
    Rule {
        scope: "spec.storage.type",
        cel: "self == oldSelf",
        message: "can't be changed, because JetStream keeps a stream where it is: set it back, or create another TaskGroup",
        holds: None,
    },
];

const fn integer(min: i32, max: i32) -> Limit {
    Limit::Integer { min, max: Some(max) }
}

const fn duration(min: &'static str, max: &'static str) -> Limit {
    Limit::Duration { min, max, zero: None }
}

fn text<'a>(node: &'a Value, field: &str) -> &'a str {
    node[field].as_str().unwrap_or_default()
}

fn number(node: &Value, field: &str) -> i64 {
    // So large a bound never overflows when it is multiplied.
    node[field].as_i64().unwrap_or(0).clamp(-1_i64 << 40, 1 << 40)
}

/// A duration; `None` if it can't be read, which its own bound reports.
fn time(node: &Value, field: &str) -> Option<time::Duration> {
    Duration::from(text(node, field)).parsed().ok()
}
