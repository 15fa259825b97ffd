//! What the relay counts.

use jiff::Timestamp;
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

/// What the relay counts.
#[derive(Clone)]
pub struct RelayMetrics {
    tasks: Family<Outcome, Counter>,
    callbacks: Family<Outcome, Counter>,
    lag: Histogram,
    waiting: Gauge,
    due: Gauge,
    in_hand: Gauge,
}

/// What came of a due message.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    /// Of a task: `queued`, `already_queued`, `already_run`, `full`, `no_stream`, `dead` or `error`; of a
    /// callback: `made`, `again` or `dropped`.
    result: &'static str,
}

impl RelayMetrics {
    /// Registers all of them.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            tasks: Family::default(),
            callbacks: Family::default(),
            // 1 ms to about 33 s.
            lag: Histogram::new(exponential_buckets(0.001, 2.0, 16)),
            waiting: Gauge::default(),
            due: Gauge::default(),
            in_hand: Gauge::default(),
        };
        registry.register(
            "taskgroup_operator_relayed_tasks",
            "Tasks whose back-off was over, by what came of them",
            metrics.tasks.clone(),
        );
        registry.register(
            "taskgroup_operator_callbacks",
            "Callbacks that were tried again, by what came of them",
            metrics.callbacks.clone(),
        );
        registry.register_with_unit(
            "taskgroup_operator_relay_lag",
            "From the end of a task's back-off until it is back in its queue",
            Unit::Seconds,
            metrics.lag.clone(),
        );
        registry.register(
            "taskgroup_operator_relay_waiting",
            "Tasks that this replica holds back until their full queue has room",
            metrics.waiting.clone(),
        );
        registry.register(
            "taskgroup_operator_relay_due",
            "Due messages that no replica has in hand yet",
            metrics.due.clone(),
        );
        registry.register(
            "taskgroup_operator_relay_in_hand",
            "Due messages that a replica has in hand, or tries again later",
            metrics.in_hand.clone(),
        );
        metrics
    }

    pub(super) fn relayed(&self, result: &'static str) {
        self.tasks.get_or_create(&Outcome { result }).inc();
    }

    pub(super) fn callback(&self, result: &'static str) {
        self.callbacks.get_or_create(&Outcome { result }).inc();
    }

    /// A task that was due at `due` (in nanoseconds since 1970) is back in its queue.
    pub(super) fn lag(&self, now: Timestamp, due: u64) {
        let lag = now.as_nanosecond().saturating_sub(i128::from(due)).max(0);
        #[allow(clippy::cast_precision_loss, reason = "seconds for a histogram")]
        self.lag.observe(lag as f64 / 1e9);
    }

    pub(super) fn waiting(&self, count: usize) {
        self.waiting.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub(super) fn backlog(&self, due: u64, in_hand: u64) {
        self.due.set(i64::try_from(due).unwrap_or(i64::MAX));
        self.in_hand.set(i64::try_from(in_hand).unwrap_or(i64::MAX));
    }
}
