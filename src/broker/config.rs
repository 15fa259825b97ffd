//! Configurations of streams and consumers: ours, and those that JetStream reports.

use crate::protocol::{
    Kind, StreamName, keys,
    subject::{DEAD_KINDS, DEAD_STREAM, DELAY_KINDS, DELAY_STREAM, RATE_STREAM},
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};
use std::{collections::BTreeMap, time::Duration};

/// End of the pause of a suspended consumer. JetStream counts nanoseconds since 1970 in 63 bits, which end in April
/// 2262.
pub(super) const FOR_EVER: &str = "2262-01-01T00:00:00Z";

/// Longest throttling of a group, with slack: `retry.maxRetryAfter` is at most a day. A longer pause is a suspension,
/// or made by hand.
pub const LONGEST_THROTTLE: Duration = Duration::from_secs(25 * 3600);

/// The fields of a stream that the operator sets. Other fields stay as they are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StreamConfig {
    /// Name of the stream.
    pub name: String,
    /// Subjects of the stream.
    pub subjects: Vec<String>,
    /// When messages leave the stream.
    pub retention: Retention,
    /// Where the stream is kept.
    pub storage: Storage,
    /// What a full stream does. A group's stream always refuses, so that no task is lost.
    pub discard: Discard,
    /// Servers that keep a copy.
    pub num_replicas: i64,
    /// Largest number of messages; -1 for no limit.
    pub max_msgs: i64,
    /// Largest total size in bytes; -1 for no limit.
    pub max_bytes: i64,
    /// Largest message in bytes, with headers; -1 for no limit.
    pub max_msg_size: i64,
    /// Time within which the stream drops a second message with the same `Nats-Msg-Id`.
    #[serde(serialize_with = "nanos")]
    pub duplicate_window: Duration,
    /// Owner of the stream.
    pub metadata: BTreeMap<String, String>,
    /// Further fields of a shared stream.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub shared: Option<SharedStream>,
}

/// The fields of a shared stream that a group's stream lacks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SharedStream {
    /// Whether the stream takes scheduled messages.
    pub allow_msg_schedules: bool,
    /// Whether clients may read the last message of a subject directly.
    pub allow_direct: bool,
    /// Largest number of messages under one subject; -1 for no limit.
    pub max_msgs_per_subject: i64,
}

/// When messages leave a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Retention {
    /// When a consumer acknowledges them.
    WorkQueue,
    /// When somebody deletes them, or a limit is reached.
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
    /// Refuses the new message.
    New,
    /// Drops the oldest message. Only shared streams use this. They have no limits (a stream that takes scheduled
    /// messages can't refuse any), or keep the last message of a subject.
    Old,
}

/// The fields of a consumer that the operator sets. Other fields stay as they are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ConsumerConfig {
    /// Name of the durable consumer.
    pub durable_name: String,
    /// The same name, as newer servers want it.
    pub name: String,
    /// Delivery starts at the beginning of the stream: `all`.
    pub deliver_policy: &'static str,
    /// Workers acknowledge each message: `explicit`.
    pub ack_policy: &'static str,
    /// Time without a heartbeat after which JetStream redelivers a message.
    #[serde(serialize_with = "nanos")]
    pub ack_wait: Duration,
    /// Most deliveries of one message; -1 for no limit. The worker counts attempts, because a message that the server
    /// gives up stays in the stream for good.
    pub max_deliver: i64,
    /// Most deliveries in flight: the limit of the group.
    pub max_ack_pending: i64,
    /// Time without a pull after which the server removes the consumer; 0 for never.
    pub inactive_threshold: u64,
    /// Subjects that the consumer delivers; empty for all of the stream.
    pub filter_subject: &'static str,
    /// The same in the plural, for a consumer with several filters.
    pub filter_subjects: [&'static str; 0],
    /// Whether the server leaves payloads out.
    pub headers_only: bool,
    /// Owner of the consumer, and the settings of the workers.
    pub metadata: BTreeMap<String, String>,
    /// End of the pause of a new consumer. JetStream reads this field on creation only. Later,
    /// [`super::Broker::pause_consumer`] pauses the consumer.
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
            filter_subjects: [],
            headers_only: false,
            metadata,
            pause_until: None,
        }
    }

    /// The same consumer, created paused. It delivers nothing from its first moment on.
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

/// The stream of all tasks in back-off. A message leaves it when the relay has requeued it.
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

/// The stream of all groups' rates, with one message for each.
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
        // A worker that dies between a transfer (to the dead letters, or to the delays) and the ack repeats both.
        // Within this window, the stream drops the second transfer. The longest `ackWait` is an hour.
        duplicate_window: Duration::from_secs(2 * 3600),
        metadata: BTreeMap::from([(keys::INSTANCE.into(), instance.into())]),
        shared: None,
    }
}

/// What JetStream reports about a stream.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct StreamInfo {
    /// All fields of the configuration.
    pub config: Map<String, Value>,
    /// Contents of the stream.
    #[serde(default)]
    pub state: StreamState,
}

/// Contents of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct StreamState {
    /// Messages, queued and in flight.
    #[serde(default)]
    pub messages: u64,
    /// Sequence number of the last message that was stored.
    #[serde(default)]
    pub last_seq: u64,
    /// Consumers of the stream.
    #[serde(default)]
    pub consumer_count: u64,
}

/// What JetStream reports about a consumer.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ConsumerInfo {
    /// All fields of the configuration.
    pub config: Map<String, Value>,
    /// Messages that are not delivered yet.
    #[serde(default)]
    pub num_pending: u64,
    /// Messages that are delivered and not acknowledged.
    #[serde(default)]
    pub num_ack_pending: u64,
    /// The last delivery.
    #[serde(default)]
    pub delivered: Position,
    /// Whether the consumer is paused.
    #[serde(default)]
    pub paused: bool,
    /// Rest of the pause, in nanoseconds.
    #[serde(default)]
    pub pause_remaining: u64,
    /// The server's time when it answered.
    #[serde(default)]
    pub ts: Option<Timestamp>,
}

/// A position in a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Position {
    /// Sequence number of the message.
    #[serde(default)]
    pub stream_seq: u64,
}

impl StreamInfo {
    /// Name of the stream.
    pub fn name(&self) -> StreamName {
        StreamName::from(text(&self.config, "name"))
    }

    /// Where the stream is kept.
    pub fn storage(&self) -> Option<Storage> {
        serde_json::from_value(self.config.get("storage")?.clone()).ok()
    }

    /// One entry of the stream's metadata.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        metadata(&self.config, key)
    }
}

/// The pause of a consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    /// The consumer delivers.
    No,
    /// A worker paused the consumer until then, because its handler asked for it.
    Until(Timestamp),
    /// The consumer is paused until somebody resumes it, or for longer than any throttling: the group is suspended.
    ForEver,
}

impl ConsumerInfo {
    /// The consumer's pause, by the server's clock.
    pub fn pause(&self) -> Pause {
        if !self.paused {
            return Pause::No;
        }
        match text(&self.config, "pause_until").parse() {
            Ok(until) if Duration::from_nanos(self.pause_remaining) <= LONGEST_THROTTLE => Pause::Until(until),
            _ => Pause::ForEver,
        }
    }

    /// One entry of the consumer's metadata.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        metadata(&self.config, key)
    }

    /// Most deliveries in flight.
    pub fn max_ack_pending(&self) -> i64 {
        self.config.get("max_ack_pending").and_then(Value::as_i64).unwrap_or(0)
    }

    /// End of the consumer's pause, where it is paused. A suspension ends in 2262.
    pub fn paused_until(&self) -> Option<Timestamp> {
        let until = self.config.get("pause_until")?.as_str()?.parse().ok();
        until.filter(|_| self.paused)
    }

    /// Time without a heartbeat after which JetStream redelivers a message.
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

/// A duration as JetStream writes it. Durations of the API are at most a day, far below 2^63 ns.
pub(super) fn as_nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_throttling_is_told_from_a_suspension_by_its_length() {
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
