//! Asks for tasks, as many as there are free slots, and starts them.

use super::{
    Worker,
    backoff::{Backoff, jittered},
    run_task::{self, Unconfirmed},
    slots::{EXPIRES, Slots},
    watch::Known,
};
use crate::{
    admin::Readiness,
    broker::{Arrival, Delivery, Link, PullEnd, PullInbox},
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{sync::watch, task::JoinSet, time};
use tokio_util::sync::CancellationToken;

/// How long beyond the time of one attempt the running tasks may take to end after SIGTERM: to store a
/// dead letter, to have an ack confirmed.
const WIND_UP: Duration = Duration::from_secs(5);

/// Why no tasks are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Hold {
    /// Shutting down.
    Stopping,
    /// The handler takes no connections.
    Handler(String),
    /// The broker is away, or has no consumer for us.
    Broker(String),
}

/// Runs tasks until `shutdown`, and then until none runs any more.
pub async fn run(worker: Arc<Worker>, readiness: Readiness, shutdown: CancellationToken) {
    PullLoop {
        known: worker.known.clone(),
        link: worker.broker.link(),
        handler: worker.gate.closed(),
        worker,
        readiness,
        shutdown,
        slots: Slots::default(),
        tasks: JoinSet::new(),
        unconfirmed: JoinSet::new(),
        inbox: None,
        epoch: 0,
        hold: None,
        not_before: Instant::now(),
        backoff: Backoff::new(Duration::from_millis(250), Duration::from_secs(5)),
    }
    .run()
    .await;
}

struct PullLoop {
    worker: Arc<Worker>,
    readiness: Readiness,
    shutdown: CancellationToken,
    known: watch::Receiver<Known>,
    link: watch::Receiver<Link>,
    handler: watch::Receiver<Option<String>>,
    slots: Slots,
    tasks: JoinSet<Option<Unconfirmed>>,
    /// Tasks that are done and hold no slot, but the broker did not confirm it yet.
    unconfirmed: JoinSet<()>,
    inbox: Option<PullInbox>,
    epoch: u64,
    hold: Option<Hold>,
    /// After a refusal: when to ask again.
    not_before: Instant,
    backoff: Backoff,
}

impl PullLoop {
    async fn run(mut self) {
        let mut stop_at = None;
        loop {
            self.look();
            self.withdraw_if_held().await;
            self.ask().await;
            self.show();
            let stopping = self.shutdown.is_cancelled();
            if stopping {
                if self.tasks.is_empty() && self.unconfirmed.is_empty() {
                    return;
                }
                stop_at.get_or_insert_with(|| Instant::now() + self.longest_attempt() + WIND_UP);
            }
            let wake_up = self.wake_up(stop_at);
            tokio::select! {
                Some(ended) = self.tasks.join_next() => {
                    self.finished(ended);
                    // All that ended meanwhile: what they free is asked for at once, in one pull.
                    while let Some(ended) = self.tasks.try_join_next() {
                        self.finished(ended);
                    }
                }
                Some(_) = self.unconfirmed.join_next() => {}
                Some(arrival) = next(&mut self.inbox) => self.arrived(arrival),
                Ok(()) = self.known.changed() => {}
                Ok(()) = self.link.changed() => {}
                Ok(()) = self.handler.changed() => {}
                () = self.worker.rate.moved() => {}
                () = self.shutdown.cancelled(), if !stopping => {}
                () = time::sleep_until(wake_up.into()) => self.timer(stop_at),
            }
        }
    }

    /// Takes in what changed outside, and decides whether tasks can be asked for.
    fn look(&mut self) {
        let link = *self.link.borrow_and_update();
        if link.epoch != self.epoch {
            self.epoch = link.epoch;
            // The server forgot what was asked for on the old connection.
            self.slots.void();
            self.not_before = Instant::now();
        }
        let known = self.known.borrow_and_update();
        if let Some(terms) = &known.terms {
            // More than the group's limit will never come.
            self.slots
                .set_capacity(terms.settings.max_inflight.min(terms.concurrency));
            self.worker.metrics.concurrency.set(i64::from(terms.concurrency));
        }
        let handler = self.handler.borrow_and_update().clone();
        let hold = if self.shutdown.is_cancelled() {
            Some(Hold::Stopping)
        } else if let Some(reason) = &known.missing {
            Some(Hold::Broker(reason.clone()))
        } else if !link.up {
            let servers = self.worker.broker.servers();
            Some(Hold::Broker(format!(
                "no connection to NATS at {servers}; trying again"
            )))
        } else {
            handler.map(Hold::Handler)
        };
        drop(known);
        if hold != self.hold || self.readiness.reason().is_some() == hold.is_none() {
            self.say(hold.as_ref());
            self.hold = hold;
        }
    }

    fn say(&self, hold: Option<&Hold>) {
        match hold {
            None => {
                tracing::info!("ready: asking for tasks");
                self.readiness.ready();
            }
            Some(Hold::Stopping) => {
                tracing::info!(
                    running = self.slots.running(),
                    "shutting down: no new tasks, finishing what runs"
                );
                self.readiness.not_ready("shutting down");
            }
            Some(Hold::Handler(reason) | Hold::Broker(reason)) => {
                tracing::info!("not asking for tasks: {reason}");
                self.readiness.not_ready(reason);
            }
        }
    }

    /// Takes back what was asked for, when what comes could not be run. (When the broker is away it
    /// knows of nothing to take back.) What was on its way is run: it was asked for with a free slot,
    /// and a task that is handed back has used up an attempt.
    async fn withdraw_if_held(&mut self) {
        if !matches!(self.hold, Some(Hold::Stopping | Hold::Handler(_))) {
            return;
        }
        if let Some(inbox) = self.inbox.take() {
            for task in inbox.withdraw().await {
                self.start(task);
            }
            self.slots.void();
        }
    }

    async fn ask(&mut self) {
        let now = Instant::now();
        if self.hold.is_some() || now < self.not_before {
            return;
        }
        if self.inbox.is_none() {
            self.inbox = self.worker.broker.pull_inbox(&self.worker.queue.stream()).await.ok();
        }
        let Some(inbox) = &self.inbox else {
            return;
        };
        if let Some(ask) = self.slots.ask(now, self.worker.rate.room()) {
            self.worker.metrics.pulls.inc();
            if let Err(error) = inbox.ask(ask.pull, ask.batch, EXPIRES).await {
                tracing::debug!(%error, "a pull could not be sent");
                self.slots.ended(ask.pull, None);
                self.not_before = now + self.backoff.next();
            }
        }
    }

    fn arrived(&mut self, arrival: Arrival) {
        match arrival {
            Arrival::Task(task) => {
                self.backoff.reset();
                self.start(*task);
            }
            Arrival::PullEnded { pull, left, end } => {
                self.slots.ended(pull, left);
                match end {
                    PullEnd::Expired => {}
                    PullEnd::ConsumerGone => {
                        self.slots.void();
                        self.worker.look_again.notify_one();
                        self.not_before = Instant::now() + self.backoff.next();
                    }
                    PullEnd::Refused(why) => {
                        tracing::debug!(why, "the broker refused a pull; trying again");
                        self.not_before = Instant::now() + self.backoff.next();
                    }
                }
            }
        }
    }

    fn start(&mut self, task: Delivery) {
        self.slots.started();
        let worker = self.worker.clone();
        let turn = worker.rate.line_up();
        self.tasks
            .spawn(async move { run_task::run(&worker, task, turn).await });
    }

    fn finished(&mut self, ended: Result<Option<Unconfirmed>, tokio::task::JoinError>) {
        self.slots.finished();
        match ended {
            Ok(None) => {}
            Ok(Some(unconfirmed)) => {
                self.unconfirmed
                    .spawn(run_task::confirm(self.worker.clone(), unconfirmed));
            }
            Err(error) => {
                tracing::error!(%error, "a task ended by a fault in the worker: it is delivered again after ackWait");
            }
        }
    }

    fn show(&self) {
        self.worker.metrics.in_flight.set(i64::from(self.slots.running()));
        self.worker.metrics.slots.set(i64::from(self.slots.capacity()));
        self.worker.rate.show();
    }

    fn longest_attempt(&self) -> Duration {
        let known = self.known.borrow();
        known
            .terms
            .as_ref()
            .map_or(Duration::ZERO, |terms| terms.settings.task_timeout())
    }

    /// When to wake up without anything happening.
    fn wake_up(&self, stop_at: Option<Instant>) -> Instant {
        let now = Instant::now();
        let refused = (self.not_before > now).then_some(self.not_before);
        // A safety net: nothing shall depend on one missed event for ever.
        let at_last = now + jittered(EXPIRES);
        [self.slots.next_give_up(), refused, stop_at]
            .into_iter()
            .flatten()
            .fold(at_last, Instant::min)
    }

    fn timer(&mut self, stop_at: Option<Instant>) {
        let now = Instant::now();
        let given_up = self.slots.give_up(now);
        if given_up > 0 {
            tracing::debug!(given_up, "the broker did not say how a pull ended; asking again");
        }
        if stop_at.is_some_and(|stop_at| now >= stop_at) {
            self.worker.hurry.cancel();
        }
    }
}

/// What arrives next; never, without an inbox.
async fn next(inbox: &mut Option<PullInbox>) -> Option<Arrival> {
    match inbox {
        Some(inbox) => inbox.next().await,
        None => std::future::pending().await,
    }
}
