//! Asks for tasks, as many as there are free slots, and starts them.

use super::{
    Worker,
    backoff::Backoff,
    rate, run_task, silence,
    slots::{EXPIRES, Slots},
    watch::Known,
};
use crate::{
    admin::Health,
    broker::{Arrival, Delivery, Link, PullEnd, PullInbox},
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{sync::watch, time};
use tokio_util::sync::CancellationToken;

/// How long beyond the time of one attempt the running tasks may take to end after SIGTERM: to store a
/// dead letter, to have an ack confirmed.
const WIND_UP: Duration = Duration::from_secs(5);

/// For how long nothing is asked for from a server that was started anew. One that crashed may have
/// forgotten the deliveries of its last moments: until all workers are connected again (which takes
/// them up to a second) and have cut those off, none shall be given another.
const SETTLE: Duration = Duration::from_secs(2);

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
pub async fn run(worker: Arc<Worker>, readiness: Health, shutdown: CancellationToken) {
    PullLoop {
        known: worker.known.subscribe(),
        link: worker.broker.link(),
        handler: worker.gate.closed(),
        worker,
        readiness,
        shutdown,
        slots: Slots::default(),
        inbox: None,
        epoch: 0,
        server: None,
        heard: Instant::now(),
        hold: None,
        has_rate: false,
        not_before: Instant::now(),
        backoff: Backoff::new(Duration::from_millis(250), Duration::from_secs(5)),
    }
    .run()
    .await;
}

enum Event {
    /// Something came.
    Arrived(Arrival),
    /// Tasks are over, something changed, or it is time to look.
    WakeUp,
}

struct PullLoop {
    worker: Arc<Worker>,
    readiness: Health,
    shutdown: CancellationToken,
    known: watch::Receiver<Known>,
    link: watch::Receiver<Link>,
    handler: watch::Receiver<Option<String>>,
    slots: Slots,
    inbox: Option<PullInbox>,
    epoch: u64,
    /// The server that we are connected to.
    server: Option<String>,
    /// When anything came last, or was asked for when nothing was to come. What comes next was sent later.
    heard: Instant,
    hold: Option<Hold>,
    has_rate: bool,
    /// After a refusal: when to ask again.
    not_before: Instant,
    backoff: Backoff,
}

impl PullLoop {
    async fn run(mut self) {
        let mut stop_at = None;
        let mut alarm = Box::pin(time::sleep_until(Instant::now().into()));
        loop {
            self.timer(stop_at);
            self.look();
            self.slots.finished(self.worker.ended.take());
            self.withdraw_if_held().await;
            self.ask().await;
            self.show();
            let stopping = self.shutdown.is_cancelled();
            if stopping {
                let stop_at = *stop_at.get_or_insert_with(|| Instant::now() + self.longest_attempt() + WIND_UP);
                if self.slots.running() == 0 {
                    // What is done is not run again if the broker is heard to know it. A callback that is
                    // not made by then is made by another worker.
                    let settled = async {
                        self.worker.acks.settled().await;
                        self.worker.callbacks.finished().await;
                    };
                    let _ = time::timeout_at(stop_at.into(), settled).await;
                    return;
                }
            }
            // Left as it is where it rings too soon: to set it costs more than a turn for nothing.
            let wake_up = self.wake_up(stop_at).into();
            if alarm.is_elapsed() || wake_up < alarm.deadline() {
                alarm.as_mut().reset(wake_up);
            }
            let event = tokio::select! {
                // What else there is to know, each turn looks at anyway.
                biased;
                // What was freed is of no use while nothing can be asked for.
                () = self.worker.ended.some(), if stopping || self.slots.may_ask() => Event::WakeUp,
                Some(arrival) = next(&mut self.inbox) => Event::Arrived(arrival),
                Ok(()) = self.known.changed() => Event::WakeUp,
                Ok(()) = self.link.changed() => Event::WakeUp,
                Ok(()) = self.handler.changed() => Event::WakeUp,
                () = self.worker.rate.moved() => Event::WakeUp,
                () = self.shutdown.cancelled(), if !stopping => Event::WakeUp,
                () = &mut alarm => Event::WakeUp,
            };
            let (now, since) = (Instant::now(), self.heard);
            if matches!(event, Event::Arrived(_)) {
                self.heard = now;
            }
            if self.slots.expects() && now - since > silence::longest(self.ack_wait()) {
                self.stood_still(since).await;
            }
            if let Event::Arrived(arrival) = event {
                self.arrived(arrival, since);
            }
            // All that came meanwhile: a turn of this loop costs more than a task.
            while let Some(arrival) = self.inbox.as_mut().and_then(PullInbox::next_now) {
                self.heard = now;
                self.arrived(arrival, since);
            }
        }
    }

    /// What is in the socket, or in the network, may have been sent at any time since then. So it is taken
    /// out, and each task's lease counts from then: one that has ended is not run.
    async fn stood_still(&mut self, since: Instant) {
        tracing::info!(for_ = ?since.elapsed(), "NATS was silent, or this process stood still: asking anew");
        if let Some(inbox) = self.inbox.take() {
            for mut task in inbox.withdraw().await {
                task.may_have_come(since);
                self.start(task);
            }
            self.slots.void();
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
            let server = Some(self.worker.broker.server_id());
            if self.server.is_some() && self.server != server {
                self.not_before += SETTLE;
                tokio::spawn(cut_off_forgotten(self.worker.clone()));
            }
            self.server = server;
        }
        let known = self.known.borrow_and_update();
        self.has_rate = rate::of(&known).is_some();
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
        if hold != self.hold || self.readiness.not_ready_because().is_some() == hold.is_none() {
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
        let expected = self.slots.expects();
        if let Some(ask) = self.slots.ask(now, self.worker.rate.room()) {
            if !expected {
                self.heard = now;
            }
            self.worker.metrics.pulls.inc();
            if let Err(error) = inbox
                .ask(ask.pull, ask.batch, EXPIRES, silence::heartbeat(self.ack_wait()))
                .await
            {
                tracing::debug!(%error, "a pull could not be sent");
                self.slots.ended(ask.pull, None);
                self.not_before = now + self.backoff.next();
            }
        }
    }

    /// It may have come at any time since `since`.
    fn arrived(&mut self, arrival: Arrival, since: Instant) {
        match arrival {
            Arrival::Task(mut task) => {
                task.may_have_come(since);
                self.backoff.reset();
                self.start(task);
            }
            Arrival::Heartbeat => {}
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

    fn start(&mut self, task: Box<Delivery>) {
        self.slots.started();
        let worker = self.worker.clone();
        let turn = self.has_rate.then(|| worker.rate.line_up());
        tokio::spawn(async move {
            let _slot = worker.ended.at_end();
            run_task::run(&worker, task, turn).await;
        });
    }

    fn show(&self) {
        self.worker.metrics.slots.set(i64::from(self.slots.capacity()));
        self.worker.rate.show();
    }

    fn ack_wait(&self) -> Duration {
        let known = self.known.borrow();
        // Without terms nothing is asked for.
        known.terms.as_ref().map_or(Duration::MAX, |terms| terms.ack_wait)
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
        let silence = self
            .slots
            .expects()
            .then(|| self.heard + silence::longest(self.ack_wait()));
        let stop_at = stop_at.filter(|stop_at| *stop_at > now);
        [self.slots.next_give_up(), refused, stop_at, silence]
            .into_iter()
            .flatten()
            .fold(now + EXPIRES, Instant::min)
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

impl Drop for PullLoop {
    /// Whoever drops the worker without having it stop does not leave its tasks behind.
    fn drop(&mut self) {
        self.worker.hurry.cancel();
    }
}

/// What arrives next; never, without an inbox.
async fn next(inbox: &mut Option<PullInbox>) -> Option<Arrival> {
    match inbox {
        Some(inbox) => inbox.next().await,
        None => std::future::pending().await,
    }
}

/// Cuts off what a server that was started anew does not know to be delivered.
async fn cut_off_forgotten(worker: Arc<Worker>) {
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_millis(500));
    let stream = worker.queue.stream();
    for _ in 0..10 {
        if let Ok(Some(consumer)) = worker.broker.consumer(&stream).await {
            let forgotten = worker.in_hand.cut_off_after(consumer.delivered.stream_seq);
            tracing::info!(
                forgotten,
                "NATS was started anew: tasks that it forgot to have delivered are cut off"
            );
            return;
        }
        time::sleep(backoff.next()).await;
    }
}
