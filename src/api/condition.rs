//! Conditions, as Kubernetes and kstatus understand them.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What a condition is about. `Ready`, `Reconciling` and `Stalled` are kstatus's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ConditionType {
    /// The pipeline is as the spec says, and can run tasks.
    Ready,
    /// The operator is at work on it, or waits for something that passes by itself.
    Reconciling,
    /// Nothing goes on until somebody changes something.
    Stalled,
    /// The TaskHandler exists and can be used.
    HandlerFound,
    /// The JetStream stream is as desired.
    StreamReady,
    /// The JetStream consumer is as desired.
    ConsumerReady,
    /// All worker pods are ready.
    WorkersReady,
    /// `spec.suspend` is in force.
    Suspended,
    /// The handler asked for a pause (`Retry-After`): nothing new starts until it is over.
    Closed,
    /// More tasks run than the limit, which was lowered: they finish, and nothing new starts.
    OverLimit,
}

impl fmt::Display for ConditionType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ConditionStatus {
    /// It holds.
    True,
    /// It does not.
    False,
    /// It can't be told, for example because NATS does not answer.
    Unknown,
}

impl From<bool> for ConditionStatus {
    fn from(holds: bool) -> Self {
        if holds { Self::True } else { Self::False }
    }
}

/// One condition of a TaskGroup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// What it is about, for example `Ready`.
    #[serde(rename = "type")]
    #[schemars(length(min = 1, max = 64))]
    pub type_: String,
    /// Whether it holds: `True`, `False` or `Unknown`.
    pub status: ConditionStatus,
    /// The generation of the spec that it was judged by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// When `status` changed last: RFC 3339.
    #[schemars(length(max = 64))]
    pub last_transition_time: String,
    /// Why, as one word in CamelCase for machines.
    #[schemars(length(min = 1, max = 128))]
    pub reason: String,
    /// Why, and what to do about it, for people.
    #[schemars(length(max = 4096))]
    pub message: String,
}
