//! The history of a task: what a transfer to the delays writes into the task's headers, and what the worker that gets the
//! task back reads from them.
//!
//! Only a task under a `requeue` subject carries its history. The same headers under a `tasks` subject are the
//! publisher's, and are dropped. Neither handlers nor dead letters get them.

use super::{Origin, headers};
use jiff::Timestamp;

/// Prefix of all history headers, in lower case.
pub const PREFIX: &str = "taskgroup-";
/// Attempts that the task has had.
pub const ATTEMPTS: &str = "Taskgroup-Attempts";
/// Name of the TaskGroup, for a dead letter that the relay writes.
pub const GROUP: &str = "Taskgroup-Group";
/// The message that this one continues: an [`Origin`].
pub const ORIGIN: &str = "Taskgroup-Origin";
/// When the task was first published, in nanoseconds since 1970.
pub const PUBLISHED: &str = "Taskgroup-Published";
/// When the first attempt failed: RFC 3339, UTC.
pub const FIRST_FAILURE: &str = "Taskgroup-First-Failure";
/// When the last attempt failed: RFC 3339, UTC.
pub const LAST_FAILURE: &str = "Taskgroup-Last-Failure";

/// Every history header.
pub const ALL: [&str; 6] = [ATTEMPTS, GROUP, ORIGIN, PUBLISHED, FIRST_FAILURE, LAST_FAILURE];

/// What a task has been through before its current message was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    /// Attempts so far.
    pub attempts: u32,
    /// When the task was first published.
    pub published: Timestamp,
    /// When the first attempt failed, if one has.
    pub first_failure: Option<Timestamp>,
    /// When the last attempt failed, if one has.
    pub last_failure: Option<Timestamp>,
    /// The message that this one continues, if the task came back from the delays.
    pub origin: Option<Origin>,
}

impl History {
    /// The history of a task that its publisher stored at `stored_at` (nanoseconds since 1970).
    pub fn new(stored_at: u64) -> Self {
        Self {
            attempts: 0,
            published: time(stored_at),
            first_failure: None,
            last_failure: None,
            origin: None,
        }
    }

    /// Reads the history of a task that came back from the delays and was stored there at `stored_at`.
    pub fn read<'a>(header: impl Fn(&str) -> Option<&'a str>, stored_at: u64) -> Self {
        let number = |name| header(name).and_then(|value| value.parse::<u64>().ok());
        let timestamp = |name| header(name).and_then(|at| at.parse().ok());
        Self {
            attempts: number(ATTEMPTS).map_or(0, |n| u32::try_from(n).unwrap_or(u32::MAX)),
            published: time(number(PUBLISHED).unwrap_or(stored_at)),
            first_failure: timestamp(FIRST_FAILURE),
            last_failure: timestamp(LAST_FAILURE),
            origin: header(ORIGIN).and_then(|origin| origin.parse().ok()),
        }
    }

    /// The history after an attempt that failed at `at`.
    #[must_use]
    pub fn failed(&self, at: Timestamp) -> Self {
        Self {
            first_failure: self.first_failure.or(Some(at)),
            last_failure: Some(at),
            ..self.clone()
        }
    }

    /// The headers of the message that continues `origin` after `attempts` attempts in TaskGroup `group`: the
    /// publisher's, and the history.
    pub fn continued<'a>(
        &self,
        publishers: impl Iterator<Item = (&'a str, &'a str)>,
        attempts: u32,
        origin: &Origin,
        group: &str,
    ) -> Vec<(String, String)> {
        let mut all: Vec<_> = publishers
            .filter(|(name, _)| !headers::is_ours(name))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let mut add = |name: &str, value: String| all.push((name.to_owned(), value));
        add(ATTEMPTS, attempts.to_string());
        add(GROUP, group.to_owned());
        add(ORIGIN, origin.to_string());
        add(PUBLISHED, self.published.as_nanosecond().to_string());
        for (name, at) in [(FIRST_FAILURE, self.first_failure), (LAST_FAILURE, self.last_failure)] {
            if let Some(at) = at {
                add(name, at.to_string());
            }
        }
        all
    }
}

fn time(nanoseconds: u64) -> Timestamp {
    Timestamp::from_nanosecond(nanoseconds.into()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Stored;
    use std::collections::HashMap;

    #[test]
    fn one_message_writes_the_history_that_the_next_one_reads() {
        let published: Timestamp = "2026-11-21T10:00:00Z".parse().expect("a time");
        let origin = Stored { sequence: 1, at: 2 }.origin(&"tg_a_b".into());
        let history = History {
            published,
            ..History::new(5)
        }
        .failed("2026-11-21T10:00:07Z".parse().expect("a time"));
        let publishers = [("X-Mine", "1"), ("Nats-Msg-Id", "7"), ("Taskgroup-Attempts", "99")];
        let headers = history.continued(publishers.into_iter(), 2, &origin, "acme");
        assert!(headers.contains(&("X-Mine".into(), "1".into())));
        assert!(headers.iter().all(|(name, _)| name != "Nats-Msg-Id"));
        let headers: HashMap<_, _> = headers.into_iter().collect();
        let read = History::read(|name| headers.get(name).map(String::as_str), 5);
        let expected = History {
            attempts: 2,
            origin: Some(origin),
            ..history
        };
        assert_eq!(read, expected);
        assert_eq!(headers[GROUP], "acme");
    }

    #[test]
    fn what_is_missing_or_unreadable_has_a_default() {
        assert_eq!(History::read(|_| None, 5), History::new(5));
        let rubbish = History::read(|_| Some("rubbish"), 5);
        assert_eq!(rubbish, History::new(5));
    }
}
