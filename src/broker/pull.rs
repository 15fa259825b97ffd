//! The inbox of a consumer's messages, and their acknowledgement.
//!
//! The client library's own stream of messages stalls with small batches (measured), because it counts outstanding
//! messages wrongly. Therefore [`super::Puller`] counts, and this file only carries messages.

use super::{config::as_nanos, connection::Broker, error::BrokerError};
use crate::protocol::{Kind, Queue, Stored, StreamName};
use async_nats::{Message, Request, Subject, Subscriber, client::RequestErrorKind};
use bytes::Bytes;
use futures::{FutureExt, Stream, StreamExt};
use std::{
    ops::Deref,
    time::{Duration, Instant},
};

/// Asks the server to end a subscription while the client library still passes on what is on its way. The library's own
/// ways to unsubscribe drop such messages, and each would wait out `ackWait`. nats-server takes a number of more than 9
/// digits for "now" (`parseSize` in its source). A server that did not would do no harm: the subscription then ends a
/// round trip later, when it is dropped.
const NOW: u64 = u64::MAX;

/// Longest wait for the last messages of a subscription.
const LAST_MESSAGES: Duration = Duration::from_secs(2);

/// Inbox for the messages that were asked for.
pub struct PullInbox {
    broker: Broker,
    inbox: String,
    pull_subject: String,
    subscription: Subscriber,
}

/// An arrival in a [`PullInbox`].
pub enum Arrival {
    /// A task.
    Task(Box<Delivery>),
    /// A heartbeat: the server has nothing to deliver.
    Heartbeat,
    /// The server delivers no more messages for this pull.
    PullEnded {
        /// The number that [`PullInbox::ask`] was given.
        pull: u64,
        /// Messages that were asked for and not delivered, where the server says it.
        left: Option<u32>,
        /// Why the pull ended.
        end: PullEnd,
    },
}

/// Why a pull ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PullEnd {
    /// The pull expired.
    Expired,
    /// The consumer, or its stream, does not exist.
    ConsumerGone,
    /// The server can't serve the pull now, in its words. It may serve another one a little later.
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

    /// Yields whenever the operator announces that the settings of the queue changed.
    pub async fn settings_notices(&self, queue: &Queue) -> Result<impl Stream<Item = ()> + Send + use<>, BrokerError> {
        let notices = self.client.subscribe(queue.of(Kind::Settings)).await;
        Ok(notices.map_err(|error| self.unreachable(error))?.map(|_| ()))
    }
}

impl PullInbox {
    /// Asks for up to `batch` tasks, which may arrive within `expires`, and for a heartbeat after each `heartbeat`
    /// without a task (less than half of `expires`). [`Arrival::PullEnded`] calls this request `pull`.
    pub async fn ask(&self, pull: u64, batch: u32, expires: Duration, heartbeat: Duration) -> Result<(), BrokerError> {
        let (expires, heartbeat) = (as_nanos(expires), as_nanos(heartbeat));
        let body = format!(r#"{{"batch":{batch},"expires":{expires},"idle_heartbeat":{heartbeat}}}"#);
        self.broker
            .client
            .publish_with_reply(self.pull_subject.clone(), format!("{}.{pull}", self.inbox), body.into())
            .await
            .map_err(|error| self.broker.unreachable(error))
    }

    /// The next arrival; `None` when the client is closed. This future can be dropped and called again without loss.
    pub async fn next(&mut self) -> Option<Arrival> {
        loop {
            let message = self.subscription.next().await?;
            if let Some(arrival) = self.read(message) {
                return Some(arrival);
            }
        }
    }

    /// An arrival that is already there.
    pub fn next_now(&mut self) -> Option<Arrival> {
        self.next().now_or_never().flatten()
    }

    /// Takes back what was asked for, and returns the tasks that were on their way. The server drops a pull without
    /// interest, and does not count a delivery.
    pub async fn withdraw(mut self) -> Vec<Box<Delivery>> {
        let mut last = Vec::new();
        // Without a connection, nothing is on its way.
        if self.broker.check().is_err() || self.subscription.unsubscribe_after(NOW).await.is_err() {
            return last;
        }
        // The connection keeps the order: the answer to this round trip comes after everything else.
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

/// One delivery of one task. It counts against the group's limit until it is acknowledged.
pub struct Delivery {
    message: Message,
    acker: Acker,
    delivered: u32,
    stored: Stored,
    received: Instant,
}

/// The means to acknowledge a delivery. Small, whereas the task itself may be large.
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

    /// The subject that the task is stored under.
    pub fn subject(&self) -> &str {
        &self.message.subject
    }

    /// The publisher's payload.
    pub fn payload(&self) -> Bytes {
        self.message.payload.clone()
    }

    /// The first value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        Some(self.message.headers.as_ref()?.get(name)?.as_str())
    }

    /// All headers, with each value of a repeated one.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        let headers = self.message.headers.iter();
        headers.flat_map(|headers| {
            headers
                .iter()
                .flat_map(|(name, values)| values.iter().map(|value| (name.as_ref(), value.as_str())))
        })
    }

    /// Number of deliveries of the task so far, this one included: from 1.
    pub fn delivered(&self) -> u32 {
        self.delivered
    }

    /// Identity of the task's message.
    pub fn stored(&self) -> Stored {
        self.stored
    }

    /// Latest time of arrival. The task's lease counts from then.
    pub fn received(&self) -> Instant {
        self.received
    }

    /// Notes that the task may have arrived, or been on its way, at any time since `since`.
    pub fn may_have_come(&mut self, since: Instant) {
        self.received = self.received.min(since);
    }

    /// The means to acknowledge the delivery, without the task.
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
    /// Acknowledges the task, and returns once the ack is on its way. A later confirmed [`Acker::ack`] to the same
    /// consumer means that this one was heard, too, because connection and consumer keep the order.
    pub async fn ack_unconfirmed(&self) -> Result<(), BrokerError> {
        self.broker.check_connected()?;
        let sent = self.broker.client.publish(self.reply.clone(), "+ACK".into()).await;
        sent.map_err(|error| self.broker.unreachable(error))
    }

    /// Acknowledges the task, which is done or kept elsewhere: the server removes it. Returns once the server confirmed
    /// that.
    pub async fn ack(&self, patience: Duration) -> Result<(), BrokerError> {
        self.say("+ACK".into(), patience).await
    }

    /// Renews the delivery: its `ackWait` begins anew. Returns once the server confirmed that.
    pub async fn in_progress(&self, patience: Duration) -> Result<(), BrokerError> {
        self.say("+WPI".into(), patience).await
    }

    /// Has the server redeliver the task after `delay`.
    pub async fn nak(&self, delay: Duration, patience: Duration) -> Result<(), BrokerError> {
        let delay = as_nanos(delay);
        self.say(format!(r#"-NAK {{"delay": {delay}}}"#), patience).await
    }

    /// Has the server remove a task that is not done. Its advisory repeats `reason`.
    pub async fn term(&self, reason: &str, patience: Duration) -> Result<(), BrokerError> {
        self.say(format!("+TERM {reason}"), patience).await
    }

    /// Call this only while the lease is held, because the server applies it to the *current* delivery of the task,
    /// whoever has that. Without a connection it fails at once: the client library would keep it for the next
    /// connection.
    async fn say(&self, word: String, patience: Duration) -> Result<(), BrokerError> {
        self.broker.check_connected()?;
        let request = Request::new().payload(word.into()).timeout(Some(patience));
        // Boxed because it is large and part of the future of each running task.
        let answer = Box::pin(self.broker.client.send_request(self.reply.clone(), request)).await;
        answer.map(|_| ()).map_err(|error| match error.kind() {
            RequestErrorKind::NoResponders => self.broker.unreachable("the consumer is not there"),
            RequestErrorKind::TimedOut => self.broker.unreachable("no answer in time"),
            _ => self.broker.unreachable(&error),
        })
    }
}

/// Reads the number of deliveries and the message from JetStream's reply subject:
/// `$JS.ACK.<stream>.<consumer>.<delivered>.<sequence>.<consumer sequence>.<time>.<pending>`, or with a domain and an
/// account before the stream (ADR-15).
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
