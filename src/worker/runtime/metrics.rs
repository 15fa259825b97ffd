//! The metrics of a worker process. Labels have few values, whatever the tasks are.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};
use std::time::Duration;

/// The metrics of one process, all with the prefix `taskgroup_worker_`.
pub struct Metrics {
    slots: SlotMetrics,
    tasks: TaskMetrics,
    attempts: AttemptMetrics,
    broker: BrokerMetrics,
    callbacks: Family<CallbackLabels, Counter>,
    rate: RateMetrics,
}

#[derive(Default)]
struct SlotMetrics {
    in_flight: Gauge,
    slots: Gauge,
    concurrency: Gauge,
}

#[derive(Default)]
struct TaskMetrics {
    tasks: Family<TaskLabels, Counter>,
    dead_letters: Family<DeadLetterLabels, Counter>,
    throttles: Counter,
}

struct AttemptMetrics {
    attempts: Family<AttemptLabels, Counter>,
    duration: Histogram,
    queue_wait: Histogram,
}

#[derive(Default)]
struct BrokerMetrics {
    pulls: Counter,
    acks_unconfirmed: Counter,
    leases_lost: Counter,
    transfers_failed: Counter,
}

/// Metrics about the rates of the groups.
#[derive(Clone)]
pub struct RateMetrics {
    tokens: Gauge,
    waits: Histogram,
    reservations: Counter,
    conflicts: Counter,
    missed: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TaskLabels {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AttemptLabels {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallbackLabels {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DeadLetterLabels {
    reason: &'static str,
}

/// From a quick handler to the longest attempts that are usual, in seconds.
const DURATIONS: [f64; 15] = [
    0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0,
];

impl Metrics {
    /// Metrics at zero, which are part of `registry`.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            slots: SlotMetrics::default(),
            tasks: TaskMetrics::default(),
            attempts: AttemptMetrics {
                attempts: Family::default(),
                duration: Histogram::new(DURATIONS),
                queue_wait: Histogram::new(DURATIONS),
            },
            broker: BrokerMetrics::default(),
            callbacks: Family::default(),
            rate: RateMetrics {
                tokens: Gauge::default(),
                waits: Histogram::new(DURATIONS),
                reservations: Counter::default(),
                conflicts: Counter::default(),
                missed: Counter::default(),
            },
        };
        let registry = registry.sub_registry_with_prefix("taskgroup_worker");
        metrics.slots.register(registry);
        metrics.tasks.register(registry);
        metrics.attempts.register(registry);
        metrics.broker.register(registry);
        registry.register(
            "callbacks",
            "Tries to make a callback, by what came of them",
            metrics.callbacks.clone(),
        );
        metrics.rate.register(registry);
        metrics
    }

    /// The gauges of taken slots, of all slots of this process, and of the limits of its groups.
    pub(super) fn slots(&self) -> (Gauge, Gauge, Gauge) {
        let slots = &self.slots;
        (slots.in_flight.clone(), slots.slots.clone(), slots.concurrency.clone())
    }

    /// The part that is about rates.
    pub fn rate(&self) -> &RateMetrics {
        &self.rate
    }

    /// Counts a task by its outcome.
    pub fn task(&self, outcome: &'static str) {
        self.tasks.tasks.get_or_create(&TaskLabels { outcome }).inc();
    }

    /// Counts a task that is dead.
    pub fn dead_letter(&self, reason: &'static str) {
        self.tasks
            .dead_letters
            .get_or_create(&DeadLetterLabels { reason })
            .inc();
    }

    /// Counts a throttling of a group.
    pub fn throttle(&self) {
        self.tasks.throttles.inc();
    }

    /// Counts an attempt that begins after its task waited for `wait`.
    pub fn attempt_begins(&self, wait: Duration) {
        self.attempts.queue_wait.observe(wait.as_secs_f64());
    }

    /// Counts an attempt that took `duration`.
    pub fn attempt_ended(&self, result: &'static str, duration: Duration) {
        self.attempts.attempts.get_or_create(&AttemptLabels { result }).inc();
        self.attempts.duration.observe(duration.as_secs_f64());
    }

    /// Counts a try to make a callback.
    pub fn callback(&self, result: &'static str) {
        self.callbacks.get_or_create(&CallbackLabels { result }).inc();
    }

    /// Counts a pull.
    pub fn pull(&self) {
        self.broker.pulls.inc();
    }

    /// Counts an ack that the broker did not confirm.
    pub fn ack_unconfirmed(&self) {
        self.broker.acks_unconfirmed.inc();
    }

    /// Counts a lease that was lost.
    pub fn lease_lost(&self) {
        self.broker.leases_lost.inc();
    }

    /// Counts a transfer that failed and is tried again.
    pub fn transfer_failed(&self) {
        self.broker.transfers_failed.inc();
    }
}

impl SlotMetrics {
    fn register(&self, registry: &mut Registry) {
        registry.register("in_flight", "Tasks that run", self.in_flight.clone());
        registry.register("slots", "Most tasks this worker runs at once", self.slots.clone());
        registry.register(
            "concurrency",
            "The limit of the group, all its workers together",
            self.concurrency.clone(),
        );
    }
}

impl TaskMetrics {
    fn register(&self, registry: &mut Registry) {
        registry.register("tasks", "Tasks by their outcome in this worker", self.tasks.clone());
        registry.register(
            "dead_letters",
            "Dead letters stored, by reason",
            self.dead_letters.clone(),
        );
        registry.register(
            "throttles",
            "How often the handler throttled the group, by Retry-After",
            self.throttles.clone(),
        );
    }
}

impl AttemptMetrics {
    fn register(&self, registry: &mut Registry) {
        registry.register("attempts", "Attempts by how they ended", self.attempts.clone());
        registry.register_with_unit(
            "attempt_duration",
            "How long the attempts took",
            Unit::Seconds,
            self.duration.clone(),
        );
        registry.register_with_unit(
            "queue_wait",
            "How long the tasks waited in their queue before an attempt",
            Unit::Seconds,
            self.queue_wait.clone(),
        );
    }
}

impl BrokerMetrics {
    fn register(&self, registry: &mut Registry) {
        registry.register("pulls", "Pulls sent to the broker", self.pulls.clone());
        registry.register(
            "acks_unconfirmed",
            "Acknowledgements that the broker did not confirm: the task may run again",
            self.acks_unconfirmed.clone(),
        );
        registry.register(
            "leases_lost",
            "Leases that could not be renewed in time: the attempt was aborted",
            self.leases_lost.clone(),
        );
        registry.register(
            "transfers_failed",
            "Transfers of a task to the delays or the dead letters that failed at first",
            self.transfers_failed.clone(),
        );
    }
}

impl RateMetrics {
    /// The starts that are saved up changed by `difference`.
    pub fn saved_up(&self, difference: i64) {
        self.tokens.inc_by(difference);
    }

    /// Counts a start that a task waited for.
    pub fn started_after(&self, wait: Duration) {
        self.waits.observe(wait.as_secs_f64());
    }

    /// Counts a reservation of starts, one or several.
    pub fn reserved(&self) {
        self.reservations.inc();
    }

    /// Counts a reservation that another worker was faster with.
    pub fn conflict(&self) {
        self.conflicts.inc();
    }

    /// Counts a reserved start that came too late to be used.
    pub fn missed(&self) {
        self.missed.inc();
    }

    fn register(&self, registry: &mut Registry) {
        registry.register(
            "rate_tokens",
            "Starts saved up under the group's rate limit, as far as this worker knows",
            self.tokens.clone(),
        );
        registry.register_with_unit(
            "rate_wait",
            "How long delivered tasks waited for their start under the group's rate limit",
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
