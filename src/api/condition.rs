//! Conditions, as Kubernetes and kstatus understand them.

pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use schemars::{Schema, SchemaGenerator, json_schema};
use std::fmt;

/// The subject of a condition. `Ready`, `Reconciling` and `Stalled` are kstatus's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConditionType {
    /// The pipeline is as the spec says, and can run tasks.
    Ready,
    /// The operator is at work on the group, or waits for something that passes by itself.
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
    /// The handler asked for a pause (`Retry-After`). No task starts until the pause is over.
    Throttled,
    /// More tasks run than the lowered limit allows. They finish, and no new task starts meanwhile.
    OverLimit,
}

impl ConditionType {
    /// Every type that the operator writes.
    pub const ALL: [Self; 10] = [
        Self::Ready,
        Self::Reconciling,
        Self::Stalled,
        Self::HandlerFound,
        Self::StreamReady,
        Self::ConsumerReady,
        Self::WorkersReady,
        Self::Suspended,
        Self::Throttled,
        Self::OverLimit,
    ];
}

impl fmt::Display for ConditionType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConditionStatus {
    /// The condition holds.
    True,
    /// The condition does not hold.
    False,
    /// The operator can't tell, for example because NATS does not answer.
    Unknown,
}

impl ConditionStatus {
    /// The word in the status of an object.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

macro_rules! reasons {
    ($($(#[$doc:meta])+ $name:ident,)+) => {
        /// Why a condition holds or does not, as one word for machines. Events carry some of these, too.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason {
            $($(#[$doc])+ $name,)+
        }

        impl Reason {
            /// Every reason that the operator writes.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// The word in the status of an object.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)+
                }
            }
        }
    };
}

reasons! {
    /// The pipeline runs.
    Ready,
    /// The pipeline is ready, and `spec.suspend` holds it.
    Suspended,
    /// `spec.suspend` is false.
    NotSuspended,
    /// The handler asked for a pause, which is under way.
    Throttled,
    /// The handler answered with `Retry-After`.
    RetryAfter,
    /// The handler asks for no pause.
    NotThrottled,
    /// The limit was lowered below the number of running tasks.
    LimitLowered,
    /// No more tasks run than the limit allows.
    WithinLimit,
    /// A stream or consumer is as desired.
    InStep,
    /// The TaskHandler can be used.
    Found,
    /// There is no TaskHandler of this name.
    HandlerNotFound,
    /// The TaskHandler can't be used, or not by this group.
    InvalidHandler,
    /// The spec of the TaskGroup can't be used.
    InvalidSpec,
    /// Another TaskGroup of the namespace has the queue.
    QueueConflict,
    /// A stream or Deployment of this name is not the TaskGroup's.
    NotOwned,
    /// JetStream can't make the change to the existing stream.
    Immutable,
    /// A part waits for the stream.
    WaitingForStream,
    /// The workers wait for the TaskHandler.
    WaitingForHandler,
    /// Pods are being replaced or are not ready yet.
    RollingOut,
    /// Kubernetes can't make the pods.
    ReplicaFailure,
    /// The rollout makes no progress.
    RolloutStuck,
    /// All workers are ready.
    WorkersReady,
    /// The deletion waits until the queued tasks have run.
    Draining,
    /// The deletion waits until the stream accepts tasks again.
    Retaining,
    /// The deletion waits for an empty queue.
    NotEmpty,
    /// NATS does not answer.
    NatsUnreachable,
    /// NATS answers, but has no JetStream.
    NoJetStream,
    /// NATS is older than what TaskGroup needs.
    NatsTooOld,
    /// An answer of JetStream can't be read.
    JetStreamUnreadable,
    /// JetStream has no room.
    OutOfSpace,
    /// NATS has fewer servers than `spec.storage.replicas`.
    ReplicasNotSupported,
    /// Another stream listens to the subjects.
    SubjectsTaken,
    /// JetStream refused for another reason.
    JetStreamRefused,
    /// Kubernetes refused the pod template of the TaskHandler.
    InvalidTemplate,
    /// The operator's role lacks a permission.
    Forbidden,
    /// A quota of the namespace is used up.
    QuotaExceeded,
    /// The namespace is being deleted.
    NamespaceTerminating,
    /// Somebody else changed the object at the same time.
    Conflict,
    /// The Kubernetes API does not answer.
    KubernetesUnreachable,
    /// The Kubernetes API refused for another reason.
    KubernetesError,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The schema of a list of conditions. That of k8s-openapi has no bounds and no list of the three statuses.
pub(super) fn schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 32,
        "items": {
            "type": "object",
            "required": ["lastTransitionTime", "message", "reason", "status", "type"],
            "properties": {
                "type": {
                    "description": "Subject of the condition, for example `Ready`.",
                    "type": "string",
                    "minLength": 1,
                    "maxLength": 64,
                },
                "status": {
                    "description": "Whether the condition holds: `True`, `False` or `Unknown`.",
                    "type": "string",
                    "enum": ["True", "False", "Unknown"],
                },
                "observedGeneration": {
                    "description": "Generation of the spec that the condition was judged by.",
                    "type": "integer",
                    "format": "int64",
                },
                "lastTransitionTime": {
                    "description": "Time of the last change of `status` (RFC 3339).",
                    "type": "string",
                    "format": "date-time",
                    "maxLength": 64,
                },
                "reason": {
                    "description": "Cause, as one word in CamelCase for machines.",
                    "type": "string",
                    "minLength": 1,
                    "maxLength": 128,
                },
                "message": {
                    "description": "Cause and remedy, for people.",
                    "type": "string",
                    "maxLength": 4096,
                },
            },
        },
    })
}
