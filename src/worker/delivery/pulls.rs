//! The pulls of one group: what was asked of the broker, and what came. It notices when the broker was silent for too long,
//! and takes back what was asked for.

use super::{
    demand::{Demand, EXPIRES},
    heartbeat,
};
use crate::{
    broker::{Arrival, Broker, Delivery, PullEnd, PullInbox},
    names::StreamName,
    worker::{backoff::Backoff, runtime::Metrics},
};
use std::time::{Duration, Instant};

/// What came by a pull.
pub enum Pulled {
    /// A task.
    Task(Box<Delivery>),
    /// The consumer, or its stream, is not there.
    ConsumerGone,
}

/// The pulls of one group.
pub struct Pulls {
    broker: Broker,
    stream: StreamName,
    inbox: Option<PullInbox>,
    demand: Demand,
    /// When anything came last, or was asked for when nothing was to come. What comes next was sent later.
    heard: Instant,
    /// When to pull again after a refusal.
    not_before: Instant,
    backoff: Backoff,
}

impl Pulls {
    /// No pulls yet, of the group's consumer of `stream`.
    pub fn new(broker: Broker, stream: StreamName) -> Self {
        Self {
            broker,
            stream,
            inbox: None,
            demand: Demand::default(),
            heard: Instant::now(),
            not_before: Instant::now(),
            backoff: Backoff::new(Duration::from_millis(250), Duration::from_secs(5)),
        }
    }

    /// Sets the most tasks at once.
    pub fn set_capacity(&mut self, capacity: u32) {
        self.demand.set_capacity(capacity);
    }

    /// Tasks that run.
    pub fn running(&self) -> u32 {
        self.demand.running()
    }

    /// So many tasks ended.
    pub fn finished(&mut self, tasks: u32) {
        self.demand.finished(tasks);
    }

    /// Whether one more pull may be under way.
    pub fn may_pull(&self) -> bool {
        self.demand.may_ask()
    }

    /// Forgets all pulls, as the server did when the connection was lost. Nothing is pulled for `pause`.
    pub fn reconnected(&mut self, pause: Duration) {
        self.demand.void();
        self.not_before = Instant::now() + pause;
    }

    /// Pulls as many tasks as there are free slots, where only `room` more may come at present.
    pub async fn pull(&mut self, room: u32, ack_wait: Duration, metrics: &Metrics) {
        let now = Instant::now();
        if now < self.not_before {
            return;
        }
        if self.inbox.is_none() {
            self.inbox = self.broker.pull_inbox(&self.stream).await.ok();
        }
        let Some(inbox) = &self.inbox else {
            return;
        };
        let expected = self.demand.expects();
        if let Some(ask) = self.demand.ask(now, room) {
            if !expected {
                self.heard = now;
            }
            metrics.pull();
            let sent = inbox.ask(ask.pull, ask.batch, EXPIRES, heartbeat::interval(ack_wait));
            if let Err(error) = sent.await {
                tracing::debug!(%error, "a pull could not be sent");
                self.demand.ended(ask.pull, None);
                self.not_before = now + self.backoff.next();
            }
        }
    }

    /// The next arrival; never, while nothing was pulled. Can be dropped and called again without loss.
    pub async fn arrival(&mut self) -> Arrival {
        if let Some(inbox) = &mut self.inbox
            && let Some(arrival) = inbox.next().await
        {
            return arrival;
        }
        std::future::pending().await
    }

    /// Calls `then` with what `first` brings, and all else that has arrived. A task may have come at any time since the
    /// last arrival before these, so its lease counts from then.
    pub async fn take_in(&mut self, first: Option<Arrival>, ack_wait: Duration, mut then: impl FnMut(Pulled)) {
        let (now, since) = (Instant::now(), self.heard);
        if first.is_some() {
            self.heard = now;
        }
        if self.demand.expects() && now - since > heartbeat::longest_silence(ack_wait) {
            tracing::info!(for_ = ?since.elapsed(), "NATS was silent, or this process stood still: pulling anew");
            // What is in the socket, or in the network, may have been sent at any time since then. So it is taken out,
            // and a task whose lease has ended is not run.
            for mut task in self.withdraw().await {
                task.may_have_come(since);
                then(Pulled::Task(task));
            }
        }
        if let Some(pulled) = first.and_then(|first| self.pulled(first, since)) {
            then(pulled);
        }
        // All that came meanwhile, as a turn of the pull loop costs more than a task.
        while let Some(arrival) = self.inbox.as_mut().and_then(PullInbox::next_now) {
            self.heard = now;
            if let Some(pulled) = self.pulled(arrival, since) {
                then(pulled);
            }
        }
    }

    /// Takes back what was asked for, and returns the tasks that were on their way.
    pub async fn withdraw(&mut self) -> Vec<Box<Delivery>> {
        let Some(inbox) = self.inbox.take() else {
            return Vec::new();
        };
        let tasks = inbox.withdraw().await;
        self.demand.void();
        for _ in &tasks {
            self.demand.started();
        }
        tasks
    }

    /// Gives up the pulls that the server should have ended long ago.
    pub fn give_up(&mut self) {
        let given_up = self.demand.give_up(Instant::now());
        if given_up > 0 {
            tracing::debug!(given_up, "the broker did not say how a pull ended; pulling again");
        }
    }

    /// When to look again if nothing arrives.
    pub fn look_again(&self, ack_wait: Duration) -> Instant {
        let now = Instant::now();
        let refused = (self.not_before > now).then_some(self.not_before);
        let silence = self
            .demand
            .expects()
            .then(|| self.heard + heartbeat::longest_silence(ack_wait));
        [self.demand.next_give_up(), refused, silence]
            .into_iter()
            .flatten()
            .fold(now + EXPIRES, Instant::min)
    }

    fn pulled(&mut self, arrival: Arrival, since: Instant) -> Option<Pulled> {
        match arrival {
            Arrival::Task(mut task) => {
                task.may_have_come(since);
                self.backoff.reset();
                self.demand.started();
                Some(Pulled::Task(task))
            }
            Arrival::Heartbeat => None,
            Arrival::PullEnded { pull, left, end } => {
                self.demand.ended(pull, left);
                match end {
                    PullEnd::Expired => None,
                    PullEnd::ConsumerGone => {
                        self.demand.void();
                        self.not_before = Instant::now() + self.backoff.next();
                        Some(Pulled::ConsumerGone)
                    }
                    PullEnd::Refused(why) => {
                        tracing::debug!(why, "the broker refused a pull; trying again");
                        self.not_before = Instant::now() + self.backoff.next();
                        None
                    }
                }
            }
        }
    }
}
