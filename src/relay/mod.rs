//! The relay: it puts each due message of the delay stream back into its queue, or has a worker make the callback that the
//! message is.
//!
//! The relay runs in every operator replica. All of them share one consumer, and JetStream gives each message to one of
//! them. A relay that dies between its two steps (the queue stores the copy; the relay acknowledges the due message) is
//! followed by another one, which first finds out how far the first one came. The relay needs a broker, the owner of each
//! queue, and the shared streams. It needs nothing from Kubernetes. `decide` is pure.

mod callback;
mod decide;
mod full;
mod metrics;
mod task;

pub use decide::Owner;
pub use metrics::RelayMetrics;

use crate::{
    broker::{Broker, BrokerError, Delivery, PullOptions, Pulled, Puller, SharedStreams},
    protocol::{
        Queue, StreamName,
        subject::{DELAY_STREAM, RELAY},
    },
};
use decide::Due;
use full::FullQueues;
use parking_lot::Mutex;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{task::JoinSet, time};
use tokio_util::sync::CancellationToken;

/// Tasks requeued at the same time. More of them are not faster.
const TASKS: usize = 256;

/// The relay asks for more when so many of [`TASKS`] are free.
const WORTH_ASKING: usize = TASKS / 4;

/// Callbacks that workers make at the same time. They take as long as somebody's server does, so they do not count as
/// [`TASKS`].
const CALLBACKS: usize = 1024;

/// Pause for a callback that finds [`CALLBACKS`] under way.
const CALLBACK_LATER: Duration = Duration::from_secs(10);

/// How the relay pulls.
const PULLS: PullOptions = PullOptions {
    at_once: 1,
    expires: Duration::from_secs(30),
};

/// Time between two heartbeats of the server.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// Silence after which the relay asks anew: two heartbeats are missing.
const SILENCE: Duration = Duration::from_secs(25);

/// Pause before the relay looks for its missing consumer again, and between two updates of its metrics.
const AGAIN: Duration = Duration::from_secs(1);

/// How long the messages in flight may take after SIGTERM.
const GRACE: Duration = Duration::from_secs(5);

/// Says who owns a queue.
pub type Owners = Arc<dyn Fn(&Queue) -> Owner + Send + Sync>;

/// The part of the relay that its tasks and callbacks share. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Relay(Arc<Inner>);

struct Inner {
    broker: Broker,
    owners: Owners,
    shared_streams: SharedStreams,
    metrics: RelayMetrics,
    full_queues: Mutex<FullQueues>,
    last_error: Mutex<String>,
}

impl Relay {
    /// A relay of `broker`, which creates `shared_streams` where they are missing.
    pub fn new(broker: Broker, owners: Owners, shared_streams: SharedStreams, metrics: RelayMetrics) -> Self {
        Self(Arc::new(Inner {
            broker,
            owners,
            shared_streams,
            metrics,
            full_queues: Mutex::default(),
            last_error: Mutex::default(),
        }))
    }

    /// Relays until `shutdown`, and then until nothing is in flight any more.
    pub async fn run(self, shutdown: CancellationToken) {
        let broker = self.0.broker.clone();
        let puller = Puller::new(broker, StreamName::from(DELAY_STREAM), RELAY.to_owned(), PULLS);
        PullLoop {
            relay: self,
            puller,
            measured: Instant::now(),
            tasks: JoinSet::new(),
            callbacks: JoinSet::new(),
        }
        .run(shutdown)
        .await;
    }

    /// Measures every `interval` how much the relays have before them, for as long as it is polled.
    pub async fn measure(self, interval: Duration) {
        loop {
            if let Ok(Some((due, in_flight))) = self.0.broker.relay_backlog().await {
                self.0.metrics.backlog(due, in_flight);
            }
            time::sleep(interval).await;
        }
    }

    /// Logs an error once, not for each of thousands of tasks.
    fn warn(&self, error: &BrokerError) {
        let error = error.to_string();
        let mut last = self.0.last_error.lock();
        if *last != error {
            tracing::warn!("the relay can't requeue tasks now and tries again: {error}");
            *last = error;
        }
    }
}

struct PullLoop {
    relay: Relay,
    puller: Puller,
    /// When the metrics were updated last.
    measured: Instant,
    tasks: JoinSet<()>,
    callbacks: JoinSet<()>,
}

impl PullLoop {
    async fn run(mut self, shutdown: CancellationToken) {
        let mut link = self.relay.0.broker.link();
        loop {
            let now = *link.borrow_and_update();
            self.puller.reconnected(now.epoch);
            self.puller.give_up();
            if now.up {
                self.ask().await;
            }
            self.update_metrics();
            let wake_up = self.puller.wake_up(SILENCE);
            tokio::select! {
                Some(_) = self.tasks.join_next() => while self.tasks.try_join_next().is_some() {},
                Some(_) = self.callbacks.join_next() => {}
                arrival = self.puller.next() => {
                    let since = self.puller.heard();
                    match self.puller.arrived(arrival, since) {
                        Pulled::Message(due) => self.start(*due),
                        Pulled::ConsumerGone => self.restore_consumer().await,
                        Pulled::Nothing => {}
                    }
                }
                Ok(()) = link.changed() => {}
                () = shutdown.cancelled() => break,
                () = time::sleep_until(wake_up.into()) => {
                    if self.puller.is_silent(self.puller.heard(), SILENCE) {
                        self.withdraw().await;
                    }
                }
            }
        }
        self.withdraw().await;
        // JetStream redelivers to another relay what is not through by then.
        let ended = time::timeout(GRACE, async { while self.tasks.join_next().await.is_some() {} });
        if ended.await.is_err() {
            tracing::warn!("the relay stops with tasks in flight; another relay requeues them");
        }
    }

    async fn ask(&mut self) {
        let free = TASKS.saturating_sub(self.tasks.len());
        if free >= WORTH_ASKING {
            let batch = u32::try_from(free).unwrap_or(u32::MAX);
            self.puller.ask(batch, HEARTBEAT).await;
        }
    }

    async fn withdraw(&mut self) {
        for due in self.puller.withdraw(None).await {
            self.start(*due);
        }
    }

    async fn restore_consumer(&mut self) {
        self.puller.hold(AGAIN);
        if let Err(error) = self.relay.0.shared_streams.ensure().await {
            tracing::warn!(%error, "the relay has no consumer");
        }
    }

    fn start(&mut self, due: Delivery) {
        let relay = self.relay.clone();
        match Due::read(due.subject()) {
            Due::Task(queue, id) => {
                let id = id.to_owned();
                self.tasks
                    .spawn(async move { task::relay(&relay, &queue, &id, &due).await });
            }
            Due::Callback(queue, id) => {
                let id = id.to_owned();
                let busy = self.callbacks.len() >= CALLBACKS;
                self.callbacks.spawn(async move {
                    if busy {
                        let _ = due.nak(CALLBACK_LATER, task::PATIENCE).await;
                    } else {
                        callback::relay(&relay, &queue, &id, &due).await;
                    }
                });
            }
            Due::Tombstone => {
                self.tasks.spawn(async move {
                    let _ = due.ack(task::PATIENCE).await;
                });
            }
            Due::Stray => {
                tracing::warn!(
                    subject = due.subject(),
                    "the relay removes a message from {DELAY_STREAM} that no worker put there"
                );
                self.tasks.spawn(async move {
                    let _ = due.term("NoTask", task::PATIENCE).await;
                });
            }
        }
    }

    fn update_metrics(&mut self) {
        let now = Instant::now();
        if now >= self.measured + AGAIN {
            self.measured = now;
            let waiting = self.relay.0.full_queues.lock().count(now);
            self.relay.0.metrics.waiting(waiting);
        }
    }
}
