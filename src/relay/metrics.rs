//! Metrics of the relay.

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

/// Metrics of the relay. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct RelayMetrics {
    tasks: Family<Label, Counter>,
    callbacks: Family<Label, Counter>,
    lag: Histogram,
    waiting: Gauge,
    due: Gauge,
    in_flight: Gauge,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Label {
    result: &'static str,
}

/// What became of a due task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskOutcome {
    /// The relay put it into its queue.
    Queued,
    /// An earlier relay had put it there.
    AlreadyQueued,
    /// An earlier relay had put it there, and a worker has run it.
    AlreadyRun,
    /// It waits for its full queue.
    Full,
    /// It waits for the stream of its queue.
    NoStream,
    /// The relay stored a dead letter.
    Dead,
    /// The broker failed; the relay tries again.
    Error,
}

impl TaskOutcome {
    fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::AlreadyQueued => "already_queued",
            Self::AlreadyRun => "already_run",
            Self::Full => "full",
            Self::NoStream => "no_stream",
            Self::Dead => "dead",
            Self::Error => "error",
        }
    }
}

/// What became of a due callback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallbackOutcome {
    /// A worker made it.
    Made,
    /// It is tried again later.
    Again,
    /// It can't succeed, or was tried often enough.
    Dropped,
}

impl CallbackOutcome {
    fn as_str(self) -> &'static str {
        match self {
            Self::Made => "made",
            Self::Again => "again",
            Self::Dropped => "dropped",
        }
    }
}

impl RelayMetrics {
    /// Registers all metrics of the relay.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            tasks: Family::default(),
            callbacks: Family::default(),
            // 1 ms to about 33 s.
            lag: Histogram::new(exponential_buckets(0.001, 2.0, 16)),
            waiting: Gauge::default(),
            due: Gauge::default(),
            in_flight: Gauge::default(),
        };
        registry.register(
            "taskgroup_operator_relayed_tasks",
            "Tasks whose back-off was over, by result: queued, already_queued, already_run, full, no_stream, dead, or error",
            metrics.tasks.clone(),
        );
        registry.register(
            "taskgroup_operator_callbacks",
            "Callbacks that were tried again, by result: made, again, or dropped",
            metrics.callbacks.clone(),
        );
        registry.register_with_unit(
            "taskgroup_operator_relay_lag",
            "Time from the end of a task's back-off until the task is back in its queue",
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
            "Due messages that JetStream has not delivered to any replica yet",
            metrics.due.clone(),
        );
        registry.register(
            "taskgroup_operator_relay_in_flight",
            "Due messages that a replica works on, or tries again later",
            metrics.in_flight.clone(),
        );
        metrics
    }

    pub(super) fn relayed(&self, outcome: TaskOutcome) {
        let result = outcome.as_str();
        self.tasks.get_or_create(&Label { result }).inc();
    }

    pub(super) fn callback(&self, outcome: CallbackOutcome) {
        let result = outcome.as_str();
        self.callbacks.get_or_create(&Label { result }).inc();
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

    pub(super) fn backlog(&self, due: u64, in_flight: u64) {
        self.due.set(i64::try_from(due).unwrap_or(i64::MAX));
        self.in_flight.set(i64::try_from(in_flight).unwrap_or(i64::MAX));
    }
}
