//! The worker's side of a consumer: ask for tasks, receive them, say what became of them.
//!
//! Not the client library's stream of messages, which was seen to stall with small batches: it
//! counts what it asked for wrongly. Here the caller counts ([`crate::worker::slots`]), and this file
//! only carries messages.

use super::{config::as_nanos, connection::Broker, error::BrokerError};
use crate::protocol::{Kind, Queue, Stored, StreamName};
use async_nats::{Message, Request, Subject, Subscriber, client::RequestErrorKind};
use bytes::Bytes;
use futures::{FutureExt, Stream, StreamExt};
use std::{
    ops::Deref,
    time::{Duration, Instant},
};

/// Asks the server to end a subscription while the client library still hands over what is on its
/// way. The library's own ways to unsubscribe drop such messages, and each would wait out `ackWait`.
/// nats-server takes a number of more than 9 digits for "now" (`parseSize` in its source); one that
/// would not is no harm: the subscription then ends a round trip later, when it is dropped.
const NOW: u64 = u64::MAX;

/// How long the last messages of a subscription are waited for.
const LAST_MESSAGES: Duration = Duration::from_secs(2);

/// Where tasks arrive that were asked for.
pub struct PullInbox {
    broker: Broker,
    inbox: String,
    pull_subject: String,
    subscription: Subscriber,
}

/// What arrives in a [`PullInbox`].
pub enum Arrival {
    /// A task.
    Task(Box<Delivery>),
    /// A sign of life, as there is nothing to deliver.
    Heartbeat,
    /// No more will come for this pull.
    PullEnded {
        /// The number that [`PullInbox::ask`] was given.
        pull: u64,
        /// How many of the tasks asked for were not delivered, where the server says it.
        left: Option<u32>,
        /// Why.
        end: PullEnd,
    },
}

/// Why no more tasks come for a pull.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PullEnd {
    /// Its time is over.
    Expired,
    /// The consumer, or its stream, is not there.
    ConsumerGone,
    /// The server can't serve it now, in its words; another may be served a little later.
    Refused(String),
}

impl Broker {
    /// An inbox for tasks of the group's consumer.
    pub async fn pull_inbox(&self, stream: &StreamName) -> Result<PullInbox, BrokerError> {
        self.pull_inbox_of(stream, &stream.consumer()).await
    }

    /// An inbox for messages of any consumer.
    pub async fn pull_inbox_of(&self, stream: &StreamName, consumer: &str) -> Result<PullInbox, BrokerError> {
        let inbox = self.client.new_inbox();
        let subscription = self
            .client
            .subscribe(format!("{inbox}.*"))
            .await
            .map_err(|error| self.unreachable(error))?;
        Ok(PullInbox {
            broker: self.clone(),
            inbox,
            pull_subject: format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"),
            subscription,
        })
    }

    /// Yields whenever the operator says that the settings of the queue changed.
    pub async fn settings_notices(&self, queue: &Queue) -> Result<impl Stream<Item = ()> + Send + use<>, BrokerError> {
        let notices = self.client.subscribe(queue.of(Kind::Settings)).await;
        Ok(notices.map_err(|error| self.unreachable(error))?.map(|_| ()))
    }
}

impl PullInbox {
    /// Asks for up to `batch` tasks, which may arrive within `expires`, and for a sign of life after each
    /// `heartbeat` without one (less than half of `expires`). `pull` is what [`Arrival::PullEnded`] will
    /// call this request.
    pub async fn ask(&self, pull: u64, batch: u32, expires: Duration, heartbeat: Duration) -> Result<(), BrokerError> {
        let (expires, heartbeat) = (as_nanos(expires), as_nanos(heartbeat));
        let body = format!(r#"{{"batch":{batch},"expires":{expires},"idle_heartbeat":{heartbeat}}}"#);
        self.broker
            .client
            .publish_with_reply(self.pull_subject.clone(), format!("{}.{pull}", self.inbox), body.into())
            .await
            .map_err(|error| self.broker.unreachable(error))
    }

    /// The next thing that arrives; `None` when the client is closed. Can be dropped and called again
    /// without loss.
    pub async fn next(&mut self) -> Option<Arrival> {
        loop {
            let message = self.subscription.next().await?;
            if let Some(arrival) = self.read(message) {
                return Some(arrival);
            }
        }
    }

    /// What has arrived already, if anything.
    pub fn next_now(&mut self) -> Option<Arrival> {
        self.next().now_or_never().flatten()
    }

    /// Takes back what was asked for, and returns the tasks that were on their way. The server drops a
    /// pull that nobody listens to, without counting a delivery.
    pub async fn withdraw(mut self) -> Vec<Box<Delivery>> {
        let mut last = Vec::new();
        // Without a connection nothing is on its way.
        if self.broker.check().is_err() || self.subscription.unsubscribe_after(NOW).await.is_err() {
            return last;
        }
        // The connection keeps the order: what comes back after this round trip came after all the rest.
        let stream = self
            .pull_subject
            .trim_start_matches("$JS.API.CONSUMER.MSG.NEXT.")
            .to_owned();
        let request = Request::new().timeout(Some(LAST_MESSAGES));
        let client = self.broker.client.clone();
        let round_trip = client.send_request(format!("$JS.API.CONSUMER.INFO.{stream}"), request);
        let mut round_trip = std::pin::pin!(round_trip);
        loop {
            tokio::select! {
                biased;
                arrival = self.next() => match arrival {
                    Some(Arrival::Task(task)) => last.push(task),
                    Some(Arrival::Heartbeat | Arrival::PullEnded { .. }) => {}
                    None => return last,
                },
                _ = &mut round_trip => break,
            }
        }
        while let Some(arrival) = self.next_now() {
            if let Arrival::Task(task) = arrival {
                last.push(task);
            }
        }
        last
    }

    fn read(&self, message: Message) -> Option<Arrival> {
        let Some(status) = message.status else {
            let delivery = Delivery::new(&self.broker, message);
            if delivery.is_none() {
                tracing::warn!(
                    "a message without JetStream's reply subject came to the inbox for tasks; it is ignored"
                );
            }
            return delivery.map(|task| Arrival::Task(Box::new(task)));
        };
        let Some(end) = pull_end(status.as_u16(), message.description.as_deref().unwrap_or_default()) else {
            return Some(Arrival::Heartbeat);
        };
        let pull = message.subject.rsplit_once('.')?.1.parse().ok()?;
        let left = message
            .headers
            .as_ref()
            .and_then(|headers| headers.get("Nats-Pending-Messages"))
            .and_then(|left| left.as_str().parse().ok());
        Some(Arrival::PullEnded { pull, left, end })
    }
}

/// What a status message says about its pull; `None` where the pull goes on.
fn pull_end(code: u16, description: &str) -> Option<PullEnd> {
    match code {
        100 => None,
        404 | 408 => Some(PullEnd::Expired),
        503 => Some(PullEnd::ConsumerGone),
        409 if description.eq_ignore_ascii_case("Consumer Deleted") => Some(PullEnd::ConsumerGone),
        _ => Some(PullEnd::Refused(format!("{description} ({code})"))),
    }
}

/// One delivery of one task. Until it is acknowledged, it counts against the group's limit.
pub struct Delivery {
    message: Message,
    acker: Acker,
    delivered: u32,
    stored: Stored,
    received: Instant,
}

/// What a delivery is acknowledged with. Small, where the task itself may be large.
pub struct Acker {
    broker: Broker,
    reply: Subject,
}

impl Delivery {
    fn new(broker: &Broker, mut message: Message) -> Option<Self> {
        let reply = message.reply.take()?;
        let (delivered, stored) = read_reply(&reply)?;
        Some(Self {
            message,
            acker: Acker {
                broker: broker.clone(),
                reply,
            },
            delivered,
            stored,
            received: Instant::now(),
        })
    }

    /// The subject that the task was published to.
    pub fn subject(&self) -> &str {
        &self.message.subject
    }

    /// What the publisher sent.
    pub fn payload(&self) -> Bytes {
        self.message.payload.clone()
    }

    /// The first value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        Some(self.message.headers.as_ref()?.get(name)?.as_str())
    }

    /// The publisher's headers, each value of a repeated one by itself.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        let headers = self.message.headers.iter();
        headers.flat_map(|headers| {
            headers
                .iter()
                .flat_map(|(name, values)| values.iter().map(|value| (name.as_ref(), value.as_str())))
        })
    }

    /// How often the task was delivered, this time included: from 1.
    pub fn delivered(&self) -> u32 {
        self.delivered
    }

    /// Which message of its stream the task is.
    pub fn stored(&self) -> Stored {
        self.stored
    }

    /// When it came, at the latest: its lease counts from then.
    pub fn received(&self) -> Instant {
        self.received
    }

    /// It may have come, or been on its way, at any time since `since`.
    pub fn may_have_come(&mut self, since: Instant) {
        self.received = self.received.min(since);
    }

    /// All that is needed to acknowledge it.
    pub fn into_acker(self) -> Acker {
        self.acker
    }
}

impl Deref for Delivery {
    type Target = Acker;

    fn deref(&self) -> &Acker {
        &self.acker
    }
}

impl Acker {
    /// The task is done: the server removes it. Returns when the word is on its way; that a later one to
    /// the same consumer is confirmed ([`Acker::ack`]) means that this one was heard, as the
    /// connection and the consumer keep the order.
    pub async fn ack_unconfirmed(&self) -> Result<(), BrokerError> {
        self.broker.check_connected()?;
        let sent = self.broker.client.publish(self.reply.clone(), "+ACK".into()).await;
        sent.map_err(|error| self.broker.unreachable(error))
    }

    /// The task is done (or kept elsewhere): the server removes it. `Ok` once the server said so.
    pub async fn ack(&self, patience: Duration) -> Result<(), BrokerError> {
        self.say("+ACK".into(), patience).await
    }

    /// The task is being worked on: its `ackWait` begins anew. `Ok` once the server said so.
    pub async fn in_progress(&self, patience: Duration) -> Result<(), BrokerError> {
        self.say("+WPI".into(), patience).await
    }

    /// The task is to be delivered again after `delay`.
    pub async fn nak(&self, delay: Duration, patience: Duration) -> Result<(), BrokerError> {
        let delay = as_nanos(delay);
        self.say(format!(r#"-NAK {{"delay": {delay}}}"#), patience).await
    }

    /// The task is removed without being done; `reason` goes to the server's advisory.
    pub async fn term(&self, reason: &str, patience: Duration) -> Result<(), BrokerError> {
        self.say(format!("+TERM {reason}"), patience).await
    }

    /// Only while the lease is held: the server takes a word for the *current* delivery of the task, whose
    /// ever that is. So it is not even tried without a connection: the client library would keep it
    /// until there is one again.
    async fn say(&self, word: String, patience: Duration) -> Result<(), BrokerError> {
        self.broker.check_connected()?;
        let request = Request::new().payload(word.into()).timeout(Some(patience));
        // Boxed: it is large, and part of the future of each task that runs.
        let answer = Box::pin(self.broker.client.send_request(self.reply.clone(), request)).await;
        answer.map(|_| ()).map_err(|error| match error.kind() {
            RequestErrorKind::NoResponders => self.broker.unreachable("the consumer is not there"),
            RequestErrorKind::TimedOut => self.broker.unreachable("no answer in time"),
            _ => self.broker.unreachable(&error),
        })
    }
}

/// Number of deliveries and message, from the subject that JetStream wants its answer on:
/// `$JS.ACK.<stream>.<consumer>.<delivered>.<sequence>.<consumer sequence>.<time>.<pending>`, or with a
/// domain and an account before the stream (ADR-15).
fn read_reply(reply: &str) -> Option<(u32, Stored)> {
    let tokens = reply.strip_prefix("$JS.ACK.")?;
    let first = match tokens.split('.').count() {
        7 => 2,
        9.. => 4,
        _ => return None,
    };
    let mut numbers = tokens.split('.').skip(first).map(str::parse::<u64>);
    let mut number = || numbers.next()?.ok();
    let delivered = number()?.try_into().ok()?;
    let sequence = number()?;
    let _of_the_consumer = number()?;
    let at = number()?;
    Some((delivered, Stored { sequence, at }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_the_reply_subject_are_read() {
        let stored = Stored {
            sequence: 100,
            at: 1_790_230_470_084_404_000,
        };
        for reply in [
            "$JS.ACK.tg_a_b.workers-a.3.100.7.1790230470084404000.42",
            "$JS.ACK._.hash.tg_a_b.workers-a.3.100.7.1790230470084404000.42.token",
        ] {
            assert_eq!(read_reply(reply), Some((3, stored)), "{reply}");
        }
        assert_eq!(read_reply("_INBOX.x.1"), None);
    }

    #[test]
    fn every_status_but_the_idle_one_ends_a_pull() {
        for (code, description, end) in [
            (100, "Idle Heartbeat", None),
            (404, "No Messages", Some(PullEnd::Expired)),
            (408, "Request Timeout", Some(PullEnd::Expired)),
            (503, "", Some(PullEnd::ConsumerGone)),
            (409, "Consumer Deleted", Some(PullEnd::ConsumerGone)),
            (
                409,
                "Server Shutdown",
                Some(PullEnd::Refused("Server Shutdown (409)".into())),
            ),
            (
                409,
                "Exceeded MaxWaiting",
                Some(PullEnd::Refused("Exceeded MaxWaiting (409)".into())),
            ),
        ] {
            assert_eq!(pull_end(code, description), end, "{code} {description}");
        }
    }
}
