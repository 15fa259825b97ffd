//! The relay: what is due in the delay stream goes back into its queue, or to a worker.
//!
//! It runs in every replica: all share one consumer, and each message is in the hands of one of them.
//! A relay that dies between its two steps (the copy is stored in the queue; the due message is
//! acknowledged) is followed by another, which first finds out how far it came. `decide` is pure.

mod callback;
mod decide;
mod held;
mod metrics;
mod task;

pub use metrics::RelayMetrics;

use super::Context;
use crate::{
    broker::{Arrival, BrokerError, Delivery, PullEnd, PullInbox},
    names::{DELAY_STREAM, RELAY, StreamName},
};
use decide::Due;
use held::Held;
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::{task::JoinSet, time};
use tokio_util::sync::CancellationToken;

/// Tasks handed on at the same time: more makes it no faster.
const HANDS: usize = 256;

/// New ones are asked for when so many hands are free.
const WORTH_ASKING: usize = HANDS / 4;

/// Callbacks that workers are asked for at the same time. They take as long as somebody's server does, so
/// they have hands of their own.
const CALLBACKS: usize = 1024;

/// Pause for a callback that finds all those hands taken.
const CALLBACK_LATER: Duration = Duration::from_secs(10);

/// How long a pull stays with the server.
const EXPIRES: Duration = Duration::from_secs(30);

/// Between two signs of life from the server.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// After how long a pull counts as lost whose end nobody told.
const GIVE_UP: Duration = Duration::from_secs(40);

/// Pause after the server refused a pull.
const AGAIN: Duration = Duration::from_secs(1);

/// How long what is in hand may take at the end.
const WIND_UP: Duration = Duration::from_secs(5);

/// What all hands of the relay share.
pub struct Relay {
    ctx: Arc<Context>,
    metrics: RelayMetrics,
    held: Mutex<Held>,
    /// The error that was said last.
    said: Mutex<String>,
}

impl Relay {
    /// Logs an error once, not for each of thousands of tasks.
    fn say(&self, error: &BrokerError) {
        let error = error.to_string();
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if *said != error {
            tracing::warn!("tasks can't go back into their queues now; they are tried again: {error}");
            *said = error;
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Relays until `shutdown`, and then until nothing is in hand any more.
pub async fn run(ctx: Arc<Context>, shutdown: CancellationToken) {
    tokio::select! {
        // Who has a queue must be known before a task of it can be said to have none.
        () = ctx.wait_for_groups() => {}
        () = shutdown.cancelled() => return,
    }
    let relay = Arc::new(Relay {
        metrics: ctx.metrics.relay.clone(),
        held: Mutex::default(),
        said: Mutex::default(),
        ctx,
    });
    PullLoop {
        relay,
        inbox: None,
        pull: 0,
        outstanding: None,
        not_before: Instant::now(),
        epoch: 0,
        shown: Instant::now(),
        tasks: JoinSet::new(),
        callbacks: JoinSet::new(),
    }
    .run(shutdown)
    .await;
}

/// A pull that the server has.
struct Outstanding {
    left: usize,
    give_up: Instant,
}

struct PullLoop {
    relay: Arc<Relay>,
    inbox: Option<PullInbox>,
    pull: u64,
    outstanding: Option<Outstanding>,
    not_before: Instant,
    epoch: u64,
    /// When the metrics were renewed last.
    shown: Instant,
    tasks: JoinSet<()>,
    callbacks: JoinSet<()>,
}

impl PullLoop {
    async fn run(mut self, shutdown: CancellationToken) {
        let mut link = self.relay.ctx.broker.link();
        loop {
            let now = *link.borrow_and_update();
            if now.epoch != self.epoch {
                // The server forgot what was asked for on the old connection.
                self.epoch = now.epoch;
                self.outstanding = None;
                self.not_before = Instant::now();
            }
            if now.up {
                self.ask().await;
            }
            self.show();
            let wake_up = self.wake_up();
            tokio::select! {
                Some(_) = self.tasks.join_next() => while self.tasks.try_join_next().is_some() {},
                Some(_) = self.callbacks.join_next() => {}
                Some(arrival) = next(&mut self.inbox) => self.arrived(arrival).await,
                Ok(()) = link.changed() => {}
                () = shutdown.cancelled() => break,
                () = time::sleep_until(wake_up.into()) => {
                    if self.outstanding.as_ref().is_some_and(|pull| Instant::now() >= pull.give_up) {
                        self.outstanding = None;
                    }
                }
            }
        }
        if let Some(inbox) = self.inbox.take() {
            for due in inbox.withdraw().await {
                self.start(*due);
            }
        }
        // What is not through by then is delivered to another relay.
        let ended = time::timeout(WIND_UP, async { while self.tasks.join_next().await.is_some() {} });
        if ended.await.is_err() {
            tracing::warn!("the relay stops with tasks in hand: they are relayed again");
        }
    }

    async fn ask(&mut self) {
        let now = Instant::now();
        let free = HANDS.saturating_sub(self.tasks.len());
        if self.outstanding.is_some() || free < WORTH_ASKING || now < self.not_before {
            return;
        }
        if self.inbox.is_none() {
            let broker = &self.relay.ctx.broker;
            self.inbox = broker.pull_inbox_of(&StreamName::from(DELAY_STREAM), RELAY).await.ok();
        }
        let Some(inbox) = &self.inbox else { return };
        self.pull += 1;
        let batch = u32::try_from(free).unwrap_or(u32::MAX);
        match inbox.ask(self.pull, batch, EXPIRES, HEARTBEAT).await {
            Ok(()) => {
                self.outstanding = Some(Outstanding {
                    left: free,
                    give_up: now + GIVE_UP,
                });
            }
            Err(error) => {
                tracing::debug!(%error, "a pull of the relay could not be sent");
                self.not_before = now + AGAIN;
            }
        }
    }

    async fn arrived(&mut self, arrival: Arrival) {
        match arrival {
            Arrival::Task(due) => {
                if let Some(pull) = &mut self.outstanding {
                    pull.left -= 1;
                    if pull.left == 0 {
                        self.outstanding = None;
                    }
                }
                self.start(*due);
            }
            Arrival::Heartbeat => {}
            Arrival::PullEnded { pull, end, .. } => {
                if pull == self.pull {
                    self.outstanding = None;
                }
                match end {
                    PullEnd::Expired => {}
                    PullEnd::ConsumerGone => {
                        self.not_before = Instant::now() + AGAIN;
                        if let Err(error) = self.relay.ctx.ensure_shared_streams().await {
                            tracing::warn!(%error, "the relay has no consumer");
                        }
                    }
                    PullEnd::Refused(why) => {
                        tracing::debug!(why, "the broker refused a pull of the relay; trying again");
                        self.not_before = Instant::now() + AGAIN;
                    }
                }
            }
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
            Due::Fence => {
                self.tasks.spawn(async move {
                    let _ = due.ack(task::PATIENCE).await;
                });
            }
            Due::Stray => {
                tracing::warn!(
                    subject = due.subject(),
                    "a message in {DELAY_STREAM} that no worker put there is removed"
                );
                self.tasks.spawn(async move {
                    let _ = due.term("NoTask", task::PATIENCE).await;
                });
            }
        }
    }

    fn show(&mut self) {
        let now = Instant::now();
        if now >= self.shown + AGAIN {
            self.shown = now;
            let waiting = self.relay.held().count(now);
            self.relay.metrics.waiting(waiting);
        }
    }

    fn wake_up(&self) -> Instant {
        let now = Instant::now();
        let give_up = self.outstanding.as_ref().map(|pull| pull.give_up);
        let refused = (self.not_before > now).then_some(self.not_before);
        // A safety net: nothing shall depend on one missed event for ever.
        [give_up, refused]
            .into_iter()
            .flatten()
            .fold(now + EXPIRES, Instant::min)
    }
}

/// What arrives next; never, without an inbox.
async fn next(inbox: &mut Option<PullInbox>) -> Option<Arrival> {
    match inbox {
        Some(inbox) => inbox.next().await,
        None => std::future::pending().await,
    }
}

/// Keeps the figures that nobody else would renew.
pub async fn watch(ctx: Arc<Context>) {
    loop {
        if let Ok(Some((due, in_hand))) = ctx.broker.relay_backlog().await {
            ctx.metrics.relay.backlog(due, in_hand);
        }
        time::sleep(ctx.settings.backlog_interval).await;
    }
}
