//! Keys of annotations, labels, and JetStream metadata, and the names that the operator gives to objects in Kubernetes.

/// API group of all kinds, and the prefix of every label, annotation, and metadata key.
pub const API_GROUP: &str = "taskgroup.io";

/// Finalizer on every TaskGroup that has (or may have) something in NATS.
pub const FINALIZER: &str = "taskgroup.io/pipeline";

/// Field manager of everything that the operator applies to Kubernetes.
pub const FIELD_MANAGER: &str = "taskgroup";

/// Annotation on a TaskGroup: `"true"` takes over an existing stream that is not marked as ours.
pub const ADOPT: &str = "taskgroup.io/adopt";

/// Annotation on a TaskGroup being deleted: `"true"` gives up what can't be cleaned up in NATS.
pub const ABANDON: &str = "taskgroup.io/abandon";

/// Annotation on a worker Deployment: hash of what the operator last applied.
pub const APPLIED: &str = "taskgroup.io/applied";

/// Label on a group's worker Deployment and pods: the name of the TaskGroup.
pub const GROUP: &str = "taskgroup.io/group";

/// JetStream metadata: the operator installation that owns the stream or consumer.
pub const INSTANCE: &str = "taskgroup.io/instance";

/// JetStream metadata: namespace of the owning TaskGroup.
pub const NAMESPACE: &str = "taskgroup.io/namespace";

/// JetStream metadata: name of the owning TaskGroup.
pub const NAME: &str = "taskgroup.io/name";

/// JetStream metadata: uid of the owning TaskGroup.
pub const UID: &str = "taskgroup.io/uid";

/// JetStream metadata of the consumer: [`super::settings::WorkerSettings`] as JSON.
pub const SETTINGS: &str = "taskgroup.io/settings";

/// Every key that a user or another program may meet, for the checked-in contract.
pub const ALL: [&str; 11] = [
    FINALIZER,
    FIELD_MANAGER,
    ADOPT,
    ABANDON,
    APPLIED,
    GROUP,
    INSTANCE,
    NAMESPACE,
    NAME,
    UID,
    SETTINGS,
];

/// Name of the worker Deployment of a TaskGroup.
pub fn deployment(group: &str) -> String {
    format!("{group}-workers")
}
