//! Identities: of a task, of a stored message, and of each message that must be stored at most once (`Nats-Msg-Id`).
//!
//! JetStream drops a message whose `Nats-Msg-Id` the stream has seen within its `duplicate_window`, even after the first
//! one was acknowledged.

use super::StreamName;
use jiff::Timestamp;
use std::{fmt, str::FromStr, time::Duration};

/// The header by which JetStream recognizes a duplicate.
pub const MSG_ID: &str = "Nats-Msg-Id";

/// Whether `id` names exactly one task. A wildcard in it would match other tasks, too.
pub fn is_task_id(id: &str) -> bool {
    id.split('.').all(|token| !["", "*", ">"].contains(&token))
}

/// One message of a stream. A stream that is deleted and re-created counts anew; the time tells the two apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stored {
    /// Sequence number in the stream.
    pub sequence: u64,
    /// When the stream stored the message, in nanoseconds since 1970.
    pub at: u64,
}

impl Stored {
    /// How long ago the message was stored, seen from `now`.
    pub fn age(self, now: Timestamp) -> Duration {
        let at = Timestamp::from_nanosecond(self.at.into()).unwrap_or_default();
        Duration::try_from(now.duration_since(at)).unwrap_or_default()
    }

    /// The message, told from all others that ever were in a stream of this name.
    pub fn origin(self, stream: &StreamName) -> Origin {
        Origin {
            stream: stream.clone(),
            stored: self,
        }
    }
}

/// The message that a transfer continues: `<stream>:<sequence>:<nanoseconds since 1970>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    /// Stream of the message.
    pub stream: StreamName,
    /// Position and time of the message.
    pub stored: Stored,
}

impl Origin {
    /// Id of the transfer (to the delays, or to the dead letters) by the worker that got delivery number `delivery`.
    pub fn transfer(&self, delivery: u32) -> String {
        format!("{self}:{delivery}")
    }

    /// Id of the task as the relay puts it back into its queue.
    pub fn requeue(&self) -> String {
        format!("requeue:{self}")
    }

    /// Id of the dead letter that the relay stores for a task that can't go back.
    pub fn relay_dead_letter(&self) -> String {
        format!("relay:{self}")
    }

    /// Id of the task's callback.
    pub fn callback(&self) -> String {
        format!("callback:{self}")
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.stream, self.stored.sequence, self.stored.at)
    }
}

impl FromStr for Origin {
    type Err = NotAnOrigin;

    fn from_str(text: &str) -> Result<Self, NotAnOrigin> {
        let mut parts = text.rsplitn(3, ':');
        let (at, sequence, stream) = (parts.next(), parts.next(), parts.next());
        let number = |text: Option<&str>| text.and_then(|text| text.parse().ok());
        match (number(at), number(sequence), stream) {
            // JetStream counts from 1, and refuses questions about number 0.
            (Some(at), Some(sequence @ 1..), Some(stream)) if !stream.is_empty() => Ok(Self {
                stream: stream.into(),
                stored: Stored { sequence, at },
            }),
            _ => Err(NotAnOrigin),
        }
    }
}

/// A text that names no message of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write <stream>:<sequence>:<nanoseconds since 1970>")]
pub struct NotAnOrigin;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_reads_what_it_writes() {
        let origin = Stored { sequence: 7, at: 9 }.origin(&"tg_a_b".into());
        assert_eq!(origin.to_string(), "tg_a_b:7:9");
        assert_eq!("tg_a_b:7:9".parse(), Ok(origin));
        for bad in ["", "7:9", ":7:9", "tg_a_b:x:9", "tg_a_b:7:", "tg_a_b:-7:9"] {
            assert_eq!(bad.parse::<Origin>(), Err(NotAnOrigin), "{bad}");
        }
    }

    #[test]
    fn each_message_about_a_task_has_an_id_of_its_own() {
        let origin = Stored { sequence: 7, at: 9 }.origin(&"tg_a_b".into());
        let ids = [
            origin.transfer(1),
            origin.transfer(2),
            origin.requeue(),
            origin.relay_dead_letter(),
            origin.callback(),
        ];
        assert_eq!(
            ids,
            [
                "tg_a_b:7:9:1",
                "tg_a_b:7:9:2",
                "requeue:tg_a_b:7:9",
                "relay:tg_a_b:7:9",
                "callback:tg_a_b:7:9"
            ]
        );
    }

    #[test]
    fn a_task_id_has_no_wildcard_and_no_empty_token() {
        for good in ["1", "a.b", "a*", "*a", "a>b"] {
            assert!(is_task_id(good), "{good}");
        }
        for bad in ["", "*", ">", "a.*", "a..b", "a.", ".a"] {
            assert!(!is_task_id(bad), "{bad}");
        }
    }
}
