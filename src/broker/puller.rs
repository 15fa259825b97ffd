//! Pulls messages of one consumer: asks for them, counts what is outstanding, and notices when the connection, the
//! consumer, or this process stood still. The worker and the relay say how many messages they have room for, and what to
//! do with each.

use super::{
    connection::Broker,
    pull::{Arrival, Delivery, PullEnd, PullInbox},
    pulls::Pulls,
};
use crate::protocol::StreamName;
use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use std::time::{Duration, Instant};

/// Pauses after the server refused a pull: from the first to the longest, with jitter.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// How a consumer is pulled.
#[derive(Clone, Copy, Debug)]
pub struct PullOptions {
    /// Pulls at the server at once.
    pub at_once: usize,
    /// How long a pull waits at the server for messages.
    pub expires: Duration,
}

/// What a [`Puller`] got.
pub enum Pulled {
    /// A message.
    Message(Box<Delivery>),
    /// The consumer, or its stream, is not there.
    ConsumerGone,
    /// Nothing: a heartbeat, or the end of a pull.
    Nothing,
}

/// Pulls messages of one consumer.
pub struct Puller {
    broker: Broker,
    stream: StreamName,
    consumer: String,
    options: PullOptions,
    inbox: Option<PullInbox>,
    pulls: Pulls,
    /// The connection that `pulls` were sent on.
    epoch: u64,
    /// When anything came last, or was asked for while nothing was outstanding.
    heard: Instant,
    /// After a refusal: when to ask again.
    not_before: Instant,
    /// The pauses to come, after a refusal.
    pauses: Option<ExponentialBackoff>,
}

impl Puller {
    /// A puller that has asked for nothing yet.
    pub fn new(broker: Broker, stream: StreamName, consumer: String, options: PullOptions) -> Self {
        Self {
            broker,
            stream,
            consumer,
            options,
            inbox: None,
            pulls: Pulls::new(options.at_once, options.expires),
            epoch: 0,
            heard: Instant::now(),
            not_before: Instant::now(),
            pauses: None,
        }
    }

    /// Messages that are asked for and have not come.
    pub fn outstanding(&self) -> u32 {
        self.pulls.outstanding()
    }

    /// Whether one more pull may be sent.
    pub fn may_ask(&self) -> bool {
        self.pulls.may_ask()
    }

    /// Takes note of the connection's number ([`super::Link::epoch`]); `true` when it is a new one. The server forgot
    /// what was asked for on the old connection.
    pub fn reconnected(&mut self, epoch: u64) -> bool {
        let new = epoch != self.epoch;
        if new {
            self.epoch = epoch;
            self.pulls.void();
            self.not_before = Instant::now();
        }
        new
    }

    /// Asks for nothing for so long.
    pub fn hold(&mut self, pause: Duration) {
        self.not_before = self.not_before.max(Instant::now() + pause);
    }

    /// Whether nothing may be asked for after a refusal.
    pub fn is_held(&self) -> bool {
        Instant::now() < self.not_before
    }

    /// Asks for `batch` more messages, and for a heartbeat after each `heartbeat` without one (less than half of
    /// `expires`). Returns whether the pull was sent.
    pub async fn ask(&mut self, batch: u32, heartbeat: Duration) -> bool {
        let now = Instant::now();
        if batch == 0 || now < self.not_before || !self.pulls.may_ask() {
            return false;
        }
        if self.inbox.is_none() {
            self.inbox = self.broker.pull_inbox_of(&self.stream, &self.consumer).await.ok();
        }
        let Some(inbox) = &self.inbox else { return false };
        if !self.pulls.expects() {
            self.heard = now;
        }
        let pull = self.pulls.ask(now, batch);
        match inbox.ask(pull, batch, self.options.expires, heartbeat).await {
            Ok(()) => true,
            Err(error) => {
                tracing::debug!(%error, stream = %self.stream, "a pull could not be sent");
                self.pulls.ended(pull, None);
                self.pause();
                false
            }
        }
    }

    /// What arrives next; never returns without an inbox. Can be dropped and called again without loss.
    pub async fn next(&mut self) -> Arrival {
        let next = match &mut self.inbox {
            Some(inbox) => inbox.next().await,
            None => None,
        };
        match next {
            Some(arrival) => arrival,
            None => std::future::pending().await,
        }
    }

    /// What has arrived already, if anything.
    pub fn next_now(&mut self) -> Option<Arrival> {
        self.inbox.as_mut()?.next_now()
    }

    /// When anything came last, or was asked for while nothing was outstanding. What comes next was sent later.
    pub fn heard(&self) -> Instant {
        self.heard
    }

    /// Takes note of an arrival, which may have come at any time since `since`.
    pub fn arrived(&mut self, arrival: Arrival, since: Instant) -> Pulled {
        self.heard = Instant::now();
        match arrival {
            Arrival::Task(mut message) => {
                message.may_have_come(since);
                self.pauses = None;
                self.pulls.received();
                Pulled::Message(message)
            }
            Arrival::Heartbeat => Pulled::Nothing,
            Arrival::PullEnded { pull, left, end } => {
                self.pulls.ended(pull, left);
                match end {
                    PullEnd::Expired => Pulled::Nothing,
                    PullEnd::ConsumerGone => {
                        self.pulls.void();
                        self.pause();
                        Pulled::ConsumerGone
                    }
                    PullEnd::Refused(why) => {
                        tracing::debug!(why, stream = %self.stream, "the broker refused a pull; trying again");
                        self.pause();
                        Pulled::Nothing
                    }
                }
            }
        }
    }

    /// Whether nothing was heard for longer than `longest` although something is outstanding.
    pub fn is_silent(&self, since: Instant, longest: Duration) -> bool {
        self.pulls.expects() && since.elapsed() > longest
    }

    /// Takes back what was asked for, and returns the messages that were on their way. They may have come at any time
    /// since `since`, where the connection or this process stood still since then.
    pub async fn withdraw(&mut self, since: Option<Instant>) -> Vec<Box<Delivery>> {
        let Some(inbox) = self.inbox.take() else {
            return Vec::new();
        };
        let mut last = inbox.withdraw().await;
        self.pulls.void();
        for message in &mut last {
            if let Some(since) = since {
                message.may_have_come(since);
            }
        }
        last
    }

    /// Gives up the pulls that the server should have ended long ago.
    pub fn give_up(&mut self) {
        let given_up = self.pulls.give_up(Instant::now());
        if given_up > 0 {
            tracing::debug!(given_up, stream = %self.stream, "the broker did not say how a pull ended; asking again");
        }
    }

    /// When to look again without anything arriving, where nothing may be heard for longer than `longest`.
    pub fn wake_up(&self, longest: Duration) -> Instant {
        let now = Instant::now();
        let refused = (self.not_before > now).then_some(self.not_before);
        let silence = self.pulls.expects().then(|| self.heard + longest);
        [self.pulls.next_give_up(), refused, silence]
            .into_iter()
            .flatten()
            .fold(now + self.options.expires, Instant::min)
    }

    fn pause(&mut self) {
        let pauses = self.pauses.get_or_insert_with(pauses);
        // There is no last pause.
        let pause = pauses.next().unwrap_or(PAUSES.1);
        self.not_before = Instant::now() + pause;
    }
}

fn pauses() -> ExponentialBackoff {
    let (first, longest) = PAUSES;
    ExponentialBuilder::default()
        .with_min_delay(first)
        .with_max_delay(longest)
        .with_jitter()
        .without_max_times()
        .build()
}
