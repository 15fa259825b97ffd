//! One group: the queue that its tasks come from, and all that this process keeps for it.

mod acks;
mod config;
pub mod history;
mod in_flight;
mod lease;
mod run;
mod state;
mod watch;

pub use self::{
    acks::{Acks, UnsentAcks},
    config::GroupConfig,
    in_flight::{Abort, Cancellation, InFlight, InFlightTask, Progress},
    lease::Lease,
    run::Run,
    state::{GroupSnapshot, GroupState, Throttled},
    watch::watch,
};

use super::{
    rate::RateGate,
    runtime::{Metrics, Runtime, Share},
};
use crate::{broker::Broker, protocol::Queue};
use jiff::Timestamp;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// What this process keeps for one group.
pub struct Group {
    runtime: Arc<Runtime>,
    queue: Queue,
    state: GroupState,
    in_flight: InFlight,
    slots: Share,
    acks: Acks,
    rate: RateGate,
    aborting: CancellationToken,
}

impl Group {
    /// The group of `queue`, and its acks, which are to be sent.
    pub fn new(runtime: Arc<Runtime>, queue: Queue) -> (Arc<Self>, UnsentAcks) {
        let (acks, unsent) = acks::channel();
        let broker = runtime.broker();
        let state = GroupState::unread(format!(
            "reading the group's settings from NATS at {}",
            broker.servers()
        ));
        let rate = RateGate::new(
            broker.clone(),
            queue.clone(),
            runtime.clock().clone(),
            state.rate(),
            runtime.metrics().rate().clone(),
        );
        let group = Self {
            slots: runtime.slots().share(),
            runtime,
            queue,
            state,
            in_flight: InFlight::default(),
            acks,
            rate,
            aborting: CancellationToken::new(),
        };
        (Arc::new(group), unsent)
    }

    /// The process that the group runs in.
    pub fn runtime(&self) -> &Arc<Runtime> {
        &self.runtime
    }

    pub fn broker(&self) -> &Broker {
        self.runtime.broker()
    }

    pub fn metrics(&self) -> &Metrics {
        self.runtime.metrics()
    }

    /// The time of the NATS server.
    pub fn now(&self) -> Timestamp {
        self.runtime.now()
    }

    pub fn queue(&self) -> &Queue {
        &self.queue
    }

    pub fn state(&self) -> &GroupState {
        &self.state
    }

    /// The tasks that this process runs.
    pub fn in_flight(&self) -> &InFlight {
        &self.in_flight
    }

    pub fn slots(&self) -> &Share {
        &self.slots
    }

    pub fn acks(&self) -> &Acks {
        &self.acks
    }

    pub fn rate(&self) -> &RateGate {
        &self.rate
    }

    /// Cancelled when what still runs has to be requeued.
    pub fn aborting(&self) -> &CancellationToken {
        &self.aborting
    }

    /// Returns when nothing new may start, and until when.
    pub async fn paused(&self) -> Timestamp {
        let mut state = self.state.subscribe();
        let paused = state.wait_for(|state| state.pause_at(self.now()).is_some());
        let until = paused.await.ok().and_then(|state| state.pause_at(self.now()));
        // The sender lives as long as the group.
        until.unwrap_or(Timestamp::MAX)
    }
}

/// Reads the configuration of a group that does not run in this process; `None` where it can't be read.
pub async fn read_config(broker: &Broker, queue: &Queue) -> Option<GroupConfig> {
    let consumer = broker.consumer(&queue.stream()).await.ok()?;
    let observed = config::read(consumer.as_ref(), queue).ok()?;
    Some(observed.config)
}
