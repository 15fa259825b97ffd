//! The operator's Prometheus metrics.

use crate::relay::RelayMetrics;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

/// The operator's metrics.
pub struct Metrics {
    /// Reconciles, by result.
    pub reconciles: Family<ReconcileLabel, Counter>,
    /// Duration of the reconciles.
    pub duration: Histogram,
    /// Changes made, by part of the group.
    pub changes: Family<PartLabel, Counter>,
    /// TaskGroups by their `Ready` condition.
    pub groups: Family<ReadyLabel, Gauge>,
    /// Whether NATS is connected.
    pub nats_up: Gauge,
    /// Tasks that were dropped because their group keeps no dead letters.
    pub dropped: Counter,
    /// Requests to cancel a task, by answer.
    pub cancelled: Family<CancellationLabel, Counter>,
    /// The relay's metrics.
    pub relay: RelayMetrics,
}

/// The answer to a request to cancel a task.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CancellationLabel {
    /// `queued`, `running`, `finished`, `unknown` or `error`.
    pub answer: &'static str,
}

/// The result of a reconcile.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReconcileLabel {
    /// `success` or `error`.
    pub result: &'static str,
}

/// A changed part of a group.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PartLabel {
    /// `stream`, `consumer` or `deployment`.
    pub object: &'static str,
}

/// A `Ready` condition.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReadyLabel {
    /// `true`, `false`, or `unknown` where there is none yet.
    pub ready: &'static str,
}

impl ReadyLabel {
    /// In the order of [`super::index::Index::counts`].
    const ALL: [Self; 3] = [
        Self { ready: "true" },
        Self { ready: "false" },
        Self { ready: "unknown" },
    ];
}

impl Metrics {
    /// Shows how many groups are ready, not ready, and unknown.
    pub fn count_groups(&self, counts: [i64; 3]) {
        for (label, count) in ReadyLabel::ALL.iter().zip(counts) {
            self.groups.get_or_create(label).set(count);
        }
    }

    /// Registers all metrics.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            reconciles: Family::default(),
            // 1 ms to about 16 s.
            duration: Histogram::new(exponential_buckets(0.001, 2.0, 15)),
            changes: Family::default(),
            groups: Family::default(),
            nats_up: Gauge::default(),
            dropped: Counter::default(),
            cancelled: Family::default(),
            relay: RelayMetrics::register(registry),
        };
        registry.register(
            "taskgroup_operator_reconciles",
            "Reconciles of TaskGroups, by how they ended",
            metrics.reconciles.clone(),
        );
        registry.register_with_unit(
            "taskgroup_operator_reconcile_duration",
            "How long a reconcile takes",
            Unit::Seconds,
            metrics.duration.clone(),
        );
        registry.register(
            "taskgroup_operator_changes",
            "Changes made to streams, consumers and Deployments",
            metrics.changes.clone(),
        );
        registry.register(
            "taskgroup_operator_groups",
            "TaskGroups, by their Ready condition",
            metrics.groups.clone(),
        );
        registry.register(
            "taskgroup_operator_nats_up",
            "Whether the operator is connected to NATS (1) or not (0)",
            metrics.nats_up.clone(),
        );
        registry.register(
            "taskgroup_operator_dropped_tasks",
            "Dead tasks that were dropped, as their group keeps no dead letters",
            metrics.dropped.clone(),
        );
        registry.register(
            "taskgroup_operator_cancellations",
            "Requests to cancel a task, by the answer",
            metrics.cancelled.clone(),
        );
        metrics
    }
}
