//! What a stream or consumer should be, and what JetStream says it is.

use crate::protocol::{
    Kind, StreamName, keys,
    subject::{DEAD_KINDS, DEAD_STREAM, DELAY_KINDS, DELAY_STREAM, RATE_STREAM},
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};
use std::{collections::BTreeMap, time::Duration};

/// How far ahead a suspended consumer is paused: for ever, as far as JetStream can count
/// (nanoseconds since 1970 in 63 bits end in April 2262).
pub(super) const FOR_EVER: &str = "2262-01-01T00:00:00Z";

/// No closing of a group lasts longer: `retry.maxRetryAfter` is a day at most. A longer pause is a suspension, or made
/// by hand.
pub const LONGEST_CLOSING: Duration = Duration::from_secs(25 * 3600);

/// The fields of a stream that are ours. What else a stream has is left as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StreamConfig {
    /// Name of the stream.
    pub name: String,
    /// What it listens to.
    pub subjects: Vec<String>,
    /// When messages leave it.
    pub retention: Retention,
    /// Where it is kept.
    pub storage: Storage,
    /// What it does when full; always refuse, so that no task is lost.
    pub discard: Discard,
    /// Servers that keep a copy.
    pub num_replicas: i64,
    /// Most messages; -1 for no limit.
    pub max_msgs: i64,
    /// Most bytes; -1 for no limit.
    pub max_bytes: i64,
    /// Largest message in bytes, with headers; -1 for no limit.
    pub max_msg_size: i64,
    /// Within which a second message with the same `Nats-Msg-Id` is dropped.
    #[serde(serialize_with = "nanos")]
    pub duplicate_window: Duration,
    /// Whose it is.
    pub metadata: BTreeMap<String, String>,
    /// What the shared streams have beside.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub shared: Option<SharedStream>,
}

/// What a shared stream has beside what every stream has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SharedStream {
    /// Whether it takes scheduled messages.
    pub allow_msg_schedules: bool,
    /// Whether its last message by subject can be asked for directly.
    pub allow_direct: bool,
    /// Most messages under one subject; -1 for no limit.
    pub max_msgs_per_subject: i64,
}

/// When messages leave a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Retention {
    /// When they are acknowledged.
    WorkQueue,
    /// When they are deleted.
    Limits,
}

/// Where a stream is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Storage {
    /// On disk.
    File,
    /// In memory.
    Memory,
}

/// What a full stream does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Discard {
    /// It refuses the new message.
    New,
    /// It drops the oldest. Only for the shared streams, which have no limits (a stream that takes
    /// scheduled messages can't refuse any), or keep the last message of a subject.
    Old,
}

/// The fields of a consumer that are ours. What else a consumer has is left as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ConsumerConfig {
    /// Name of the durable consumer.
    pub durable_name: String,
    /// The same name, as newer servers want it.
    pub name: String,
    /// From the beginning: `all`.
    pub deliver_policy: &'static str,
    /// One by one: `explicit`.
    pub ack_policy: &'static str,
    /// How long a delivery without a sign of life counts.
    #[serde(serialize_with = "nanos")]
    pub ack_wait: Duration,
    /// Deliveries of one message; -1, unlimited: the worker counts attempts, as a message that the
    /// server gives up stays in the stream for good.
    pub max_deliver: i64,
    /// Deliveries in flight at once: the limit of the group.
    pub max_ack_pending: i64,
    /// After how long without a pull the server removes the consumer: never.
    pub inactive_threshold: u64,
    /// Which messages: all of the stream.
    pub filter_subject: &'static str,
    /// Whether payloads are left out.
    pub headers_only: bool,
    /// Whose it is, and the settings of the workers.
    pub metadata: BTreeMap<String, String>,
    /// Until when a new consumer holds back its deliveries. JetStream reads it on creation only;
    /// afterwards it is [`super::Broker::pause_consumer`] that changes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pause_until: Option<&'static str>,
}

impl ConsumerConfig {
    /// The consumer of a group.
    pub fn workers(name: String, concurrency: i64, ack_wait: Duration, metadata: BTreeMap<String, String>) -> Self {
        Self {
            durable_name: name.clone(),
            name,
            deliver_policy: "all",
            ack_policy: "explicit",
            ack_wait,
            max_deliver: -1,
            max_ack_pending: concurrency,
            inactive_threshold: 0,
            filter_subject: "",
            headers_only: false,
            metadata,
            pause_until: None,
        }
    }

    /// The same consumer, made paused: it delivers nothing from the first moment on.
    #[must_use]
    pub fn paused(self) -> Self {
        Self {
            pause_until: Some(FOR_EVER),
            ..self
        }
    }
}

/// The stream of all dead letters.
pub fn dead_letters(instance: &str, replicas: u8) -> StreamConfig {
    StreamConfig {
        subjects: DEAD_KINDS.map(Kind::all).into(),
        discard: Discard::New,
        ..shared(DEAD_STREAM, instance, replicas)
    }
}

/// The stream of all tasks in back-off. What is in it leaves it when the relay has handed it on.
pub fn delays(instance: &str, replicas: u8) -> StreamConfig {
    StreamConfig {
        subjects: DELAY_KINDS.map(Kind::all).into(),
        retention: Retention::WorkQueue,
        shared: Some(SharedStream {
            allow_msg_schedules: true,
            max_msgs_per_subject: -1,
            ..SharedStream::default()
        }),
        ..shared(DELAY_STREAM, instance, replicas)
    }
}

/// The stream of all groups' rates: one message for each.
pub fn rates(instance: &str, replicas: u8) -> StreamConfig {
    StreamConfig {
        subjects: vec![Kind::Rate.all()],
        shared: Some(SharedStream {
            allow_direct: true,
            max_msgs_per_subject: 1,
            ..SharedStream::default()
        }),
        ..shared(RATE_STREAM, instance, replicas)
    }
}

fn shared(name: &str, instance: &str, replicas: u8) -> StreamConfig {
    StreamConfig {
        name: name.into(),
        subjects: Vec::new(),
        retention: Retention::Limits,
        storage: Storage::File,
        discard: Discard::Old,
        num_replicas: replicas.into(),
        max_msgs: -1,
        max_bytes: -1,
        max_msg_size: -1,
        // A worker that died between a hand-over (to the dead letters, to the delays) and the ack repeats
        // both: within this window the second is dropped. The longest `ackWait` is an hour.
        duplicate_window: Duration::from_secs(2 * 3600),
        metadata: BTreeMap::from([(keys::INSTANCE.into(), instance.into())]),
        shared: None,
    }
}

/// What JetStream says about a stream.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct StreamInfo {
    /// All fields of its configuration.
    pub config: Map<String, Value>,
    /// What is in it.
    #[serde(default)]
    pub state: StreamState,
}

/// What is in a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct StreamState {
    /// Messages, queued and in flight.
    #[serde(default)]
    pub messages: u64,
    /// Number of the last message that came in.
    #[serde(default)]
    pub last_seq: u64,
    /// Consumers of the stream.
    #[serde(default)]
    pub consumer_count: u64,
}

/// What JetStream says about a consumer.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ConsumerInfo {
    /// All fields of its configuration.
    pub config: Map<String, Value>,
    /// Messages not yet delivered.
    #[serde(default)]
    pub num_pending: u64,
    /// Messages delivered and not yet done.
    #[serde(default)]
    pub num_ack_pending: u64,
    /// What was delivered last.
    #[serde(default)]
    pub delivered: Position,
    /// Whether deliveries are held back.
    #[serde(default)]
    pub paused: bool,
    /// For how long still, in nanoseconds.
    #[serde(default)]
    pub pause_remaining: u64,
    /// The server's time when it said so.
    #[serde(default)]
    pub ts: Option<Timestamp>,
}

/// A place in a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Position {
    /// Number of the message.
    #[serde(default)]
    pub stream_seq: u64,
}

impl StreamInfo {
    /// Name of the stream.
    pub fn name(&self) -> StreamName {
        StreamName::from(text(&self.config, "name"))
    }

    /// Where it is kept.
    pub fn storage(&self) -> Option<Storage> {
        serde_json::from_value(self.config.get("storage")?.clone()).ok()
    }

    /// One entry of its metadata.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        metadata(&self.config, key)
    }
}

/// Whether a consumer holds back its deliveries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    /// It does not.
    No,
    /// Until then: a worker closed the group, as its handler asked for it.
    Until(Timestamp),
    /// Until somebody lets it go on, or for longer than any closing: the group is suspended.
    ForEver,
}

impl ConsumerInfo {
    /// Whether it holds back its deliveries, by the server's clock.
    pub fn pause(&self) -> Pause {
        if !self.paused {
            return Pause::No;
        }
        match text(&self.config, "pause_until").parse() {
            Ok(until) if Duration::from_nanos(self.pause_remaining) <= LONGEST_CLOSING => Pause::Until(until),
            _ => Pause::ForEver,
        }
    }

    /// One entry of its metadata.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        metadata(&self.config, key)
    }

    /// Deliveries in flight at once.
    pub fn max_ack_pending(&self) -> i64 {
        self.config.get("max_ack_pending").and_then(Value::as_i64).unwrap_or(0)
    }

    /// Until when deliveries are held back, where they are. A suspension ends in 2262.
    pub fn paused_until(&self) -> Option<Timestamp> {
        let until = self.config.get("pause_until")?.as_str()?.parse().ok();
        until.filter(|_| self.paused)
    }

    /// How long a delivery without a sign of life counts.
    pub fn ack_wait(&self) -> Duration {
        Duration::from_nanos(self.config.get("ack_wait").and_then(Value::as_u64).unwrap_or(0))
    }
}

fn text<'a>(config: &'a Map<String, Value>, key: &str) -> &'a str {
    config.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn metadata<'a>(config: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    config.get("metadata")?.get(key)?.as_str()
}

fn nanos<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(as_nanos(*duration))
}

/// A duration as JetStream has it: those of the API are at most a day, far below 2^63 ns.
pub(super) fn as_nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_closing_is_told_from_a_suspension_by_its_length() {
        let end: Timestamp = "2026-11-21T10:00:00.5Z".parse().expect("a time");
        let hours = |hours: u64| hours * 3_600_000_000_000;
        for (paused, until, remaining, pause) in [
            (false, "2026-11-21T10:00:00.5Z", 0, Pause::No),
            (true, "2026-11-21T10:00:00.5Z", hours(24), Pause::Until(end)),
            (true, "2026-11-21T10:00:00.5Z", hours(26), Pause::ForEver),
            (true, FOR_EVER, hours(2_000_000), Pause::ForEver),
            (true, "", 0, Pause::ForEver),
        ] {
            let info = json!({"config": {"pause_until": until}, "paused": paused, "pause_remaining": remaining});
            let info: ConsumerInfo = serde_json::from_value(info).expect("a consumer");
            assert_eq!(info.pause(), pause, "{paused} {until}");
        }
    }
}
