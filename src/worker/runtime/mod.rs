//! One worker process: what all groups that run in it share.

mod callbacks;
mod clock;
mod drained;
mod gate;
mod metrics;
mod readiness;
mod slots;

pub use self::{
    callbacks::Callbacks,
    clock::Clock,
    drained::Drained,
    gate::Gate,
    metrics::{Metrics, RateMetrics},
    readiness::{GroupReadiness, ProcessReadiness},
    slots::{Share, Slots},
};

use super::handler::Handler;
use crate::broker::Broker;
use jiff::Timestamp;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

/// The parts of one process that its groups share.
pub struct Runtime {
    broker: Broker,
    handler: Handler,
    gate: Gate,
    metrics: Metrics,
    clock: Clock,
    slots: Slots,
    callbacks: Callbacks,
    stopping: CancellationToken,
}

impl Runtime {
    /// A process that runs tasks by `handler` until `stopping` is cancelled, with its metrics in `registry`.
    pub fn new(broker: Broker, handler: Handler, registry: &mut Registry, stopping: CancellationToken) -> Self {
        let metrics = Metrics::new(registry);
        Self {
            broker,
            gate: Gate::before(&handler),
            handler,
            slots: Slots::new(&metrics),
            metrics,
            clock: Clock::default(),
            callbacks: Callbacks::default(),
            stopping,
        }
    }

    pub fn broker(&self) -> &Broker {
        &self.broker
    }

    pub fn handler(&self) -> &Handler {
        &self.handler
    }

    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The clock of the NATS server.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The time of the NATS server.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub fn slots(&self) -> &Slots {
        &self.slots
    }

    pub fn callbacks(&self) -> &Callbacks {
        &self.callbacks
    }

    /// Cancelled when no new task may start.
    pub fn stopping(&self) -> &CancellationToken {
        &self.stopping
    }
}
