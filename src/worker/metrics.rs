//! What a worker counts. Labels have few values, whatever the tasks are.

use crate::protocol::dead_letter;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

/// The metrics of one worker, all with the prefix `taskgroup_worker_`.
pub struct Metrics {
    /// Tasks that run.
    pub in_flight: Gauge,
    /// Most tasks this worker runs at once.
    pub slots: Gauge,
    /// The limit of the group, all its workers together.
    pub concurrency: Gauge,
    /// Tasks by what became of them here.
    pub tasks: Family<Outcome, Counter>,
    /// Attempts by how they ended.
    pub attempts: Family<AttemptEnd, Counter>,
    /// How long the attempts took.
    pub attempt_duration: Histogram,
    /// How long the tasks waited in their queue before an attempt.
    pub queue_wait: Histogram,
    /// How often the handler closed the group for a while.
    pub closes: Counter,
    /// Callbacks by what came of a try.
    pub callbacks: Family<CallbackEnd, Counter>,
    /// Hand-overs to another stream that were tried in vain.
    pub handovers_failed: Counter,
    /// Leases that could not be renewed in time.
    pub leases_lost: Counter,
    /// Dead letters stored, by reason.
    pub dead_letters: Family<Reason, Counter>,
    /// Acknowledgements that the broker did not confirm.
    pub acks_unconfirmed: Counter,
    /// Pulls sent.
    pub pulls: Counter,
    /// About the group's rate.
    pub rate: RateMetrics,
}

/// What a worker counts about the group's rate.
#[derive(Clone)]
pub struct RateMetrics {
    /// Starts that are saved up, as far as this worker knows.
    pub tokens: Gauge,
    /// How long tasks waited for their start.
    pub waits: Histogram,
    /// Times that starts were reserved, one or several.
    pub reservations: Counter,
    /// Times that another worker came before.
    pub conflicts: Counter,
    /// Reserved starts that came too late to be used.
    pub missed: Counter,
}

/// What became of a task: `done`, `retried`, `put_off`, `dead_lettered`, `dropped`, `cancelled`,
/// `gone_on`, `lost`, `handed_back`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Outcome {
    /// The word.
    pub outcome: &'static str,
}

/// How an attempt ended: `ok`, `failed`, `timeout`, `no_connection`, `broken`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct AttemptEnd {
    /// The word.
    pub result: &'static str,
}

/// What came of a try to make a callback: `made`, `failed`, `refused`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CallbackEnd {
    /// The word.
    pub result: &'static str,
}

/// Why a task is dead.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Reason {
    /// The word.
    pub reason: &'static str,
}

/// From a quick handler to the longest attempts that are usual, in seconds.
const DURATIONS: [f64; 15] = [
    0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0,
];

impl Metrics {
    /// All at zero, and part of `registry`.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            in_flight: Gauge::default(),
            slots: Gauge::default(),
            concurrency: Gauge::default(),
            tasks: Family::default(),
            attempts: Family::default(),
            attempt_duration: Histogram::new(DURATIONS),
            queue_wait: Histogram::new(DURATIONS),
            closes: Counter::default(),
            callbacks: Family::default(),
            handovers_failed: Counter::default(),
            leases_lost: Counter::default(),
            dead_letters: Family::default(),
            acks_unconfirmed: Counter::default(),
            pulls: Counter::default(),
            rate: RateMetrics {
                tokens: Gauge::default(),
                waits: Histogram::new(DURATIONS),
                reservations: Counter::default(),
                conflicts: Counter::default(),
                missed: Counter::default(),
            },
        };
        let registry = registry.sub_registry_with_prefix("taskgroup_worker");
        registry.register("in_flight", "Tasks that run", metrics.in_flight.clone());
        registry.register("slots", "Most tasks this worker runs at once", metrics.slots.clone());
        registry.register(
            "concurrency",
            "The limit of the group, all its workers together",
            metrics.concurrency.clone(),
        );
        registry.register("tasks", "Tasks by what became of them here", metrics.tasks.clone());
        registry.register("attempts", "Attempts by how they ended", metrics.attempts.clone());
        registry.register_with_unit(
            "attempt_duration",
            "How long the attempts took",
            Unit::Seconds,
            metrics.attempt_duration.clone(),
        );
        registry.register_with_unit(
            "queue_wait",
            "How long the tasks waited in their queue before an attempt",
            Unit::Seconds,
            metrics.queue_wait.clone(),
        );
        registry.register(
            "closes",
            "How often the handler closed the group for a while, by Retry-After",
            metrics.closes.clone(),
        );
        registry.register(
            "callbacks",
            "Tries to make a callback, by what came of them",
            metrics.callbacks.clone(),
        );
        registry.register(
            "handovers_failed",
            "Tasks that could not be put into the delays or the dead letters at once",
            metrics.handovers_failed.clone(),
        );
        registry.register(
            "leases_lost",
            "Leases that could not be renewed in time: the attempt was cut off",
            metrics.leases_lost.clone(),
        );
        registry.register(
            "dead_letters",
            "Dead letters stored, by reason",
            metrics.dead_letters.clone(),
        );
        registry.register(
            "acks_unconfirmed",
            "Acknowledgements that the broker did not confirm: the task may run again",
            metrics.acks_unconfirmed.clone(),
        );
        registry.register("pulls", "Pulls sent to the broker", metrics.pulls.clone());
        metrics.rate.register(registry);
        metrics
    }

    /// Creates one series per label value, so that the reference can list them.
    pub fn create_all_series(&self) {
        for outcome in [
            "done",
            "retried",
            "put_off",
            "dead_lettered",
            "dropped",
            "cancelled",
            "gone_on",
            "lost",
            "handed_back",
        ] {
            let _ = self.tasks.get_or_create(&Outcome { outcome });
        }
        for result in ["ok", "failed", "timeout", "no_connection", "broken"] {
            let _ = self.attempts.get_or_create(&AttemptEnd { result });
        }
        for result in ["made", "failed", "refused"] {
            let _ = self.callbacks.get_or_create(&CallbackEnd { result });
        }
        for reason in dead_letter::Reason::ALL {
            let _ = self.dead_letters.get_or_create(&Reason {
                reason: reason.as_str(),
            });
        }
    }

    /// Counts a try to make a callback.
    pub fn callback(&self, result: &'static str) {
        self.callbacks.get_or_create(&CallbackEnd { result }).inc();
    }

    /// Counts what became of a task.
    pub fn task(&self, outcome: &'static str) {
        self.tasks.get_or_create(&Outcome { outcome }).inc();
    }
}

impl RateMetrics {
    fn register(&self, registry: &mut Registry) {
        registry.register(
            "rate_tokens",
            "Starts saved up under the group's rate limit, as far as this worker knows",
            self.tokens.clone(),
        );
        registry.register_with_unit(
            "rate_wait",
            "How long tasks waited in hand for their start under the group's rate limit",
            Unit::Seconds,
            self.waits.clone(),
        );
        registry.register(
            "rate_reservations",
            "Times that starts were reserved for the group's rate limit, one or several",
            self.reservations.clone(),
        );
        registry.register(
            "rate_conflicts",
            "Reservations that had to be made again, as another worker came before",
            self.conflicts.clone(),
        );
        registry.register(
            "rate_missed",
            "Reserved starts that came too late to be used: this worker was held up",
            self.missed.clone(),
        );
    }
}
