//! The history of a task before this delivery, as its headers and the broker tell it. Pure.

use crate::{
    broker::Delivery,
    settings::WorkerSettings,
    task::{history, is_ours},
};
use jiff::Timestamp;
use std::time::Duration;

/// What a task has been through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    attempts: u32,
    published: Timestamp,
    first_failure: Option<Timestamp>,
    last_failure: Option<Timestamp>,
    continued: bool,
}

impl History {
    /// The history of a delivered task.
    pub fn of(task: &Delivery) -> Self {
        Self::read(|name| task.header(name), task.stored().at)
    }

    fn read<'a>(header: impl Fn(&str) -> Option<&'a str>, stored_at: u64) -> Self {
        let nanos = |nanos: u64| Timestamp::from_nanosecond(nanos.into()).unwrap_or_default();
        let time = |name| header(name).and_then(|at| at.parse().ok());
        let number = |name| header(name).and_then(|value| value.parse::<u64>().ok());
        Self {
            attempts: number(history::ATTEMPTS).map_or(0, |n| u32::try_from(n).unwrap_or(u32::MAX)),
            published: nanos(number(history::PUBLISHED).unwrap_or(stored_at)),
            first_failure: time(history::FIRST_FAILURE),
            last_failure: time(history::LAST_FAILURE),
            continued: header(history::ORIGIN).is_some(),
        }
    }

    /// Attempts before this message was stored.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// When the first attempt failed, if one has.
    pub fn first_failure(&self) -> Option<Timestamp> {
        self.first_failure
    }

    /// When the last attempt failed, if one has.
    pub fn last_failure(&self) -> Option<Timestamp> {
        self.last_failure
    }

    /// The same history with an attempt that failed at `at`.
    pub fn failed(&self, at: Timestamp) -> Self {
        Self {
            first_failure: self.first_failure.or(Some(at)),
            last_failure: Some(at),
            ..self.clone()
        }
    }

    /// Whether the task came back from the delays.
    pub fn is_continued(&self) -> bool {
        self.continued
    }

    /// Whether the task has waited longer than it may.
    pub fn has_expired(&self, settings: &WorkerSettings, now: Timestamp) -> bool {
        settings.expire().is_some_and(|expire| {
            let waited = Duration::try_from(now.duration_since(self.published)).unwrap_or_default();
            waited > expire
        })
    }

    /// The headers of the message that continues the task after `attempts` attempts: the publisher's headers, and the
    /// task's history.
    pub fn continued<'a>(
        &self,
        publishers: impl Iterator<Item = (&'a str, &'a str)>,
        attempts: u32,
        origin: &str,
    ) -> Vec<(String, String)> {
        let mut headers: Vec<_> = publishers
            .filter(|(name, _)| !is_ours(name))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let mut add = |name: &str, value: String| headers.push((name.to_owned(), value));
        add(history::ATTEMPTS, attempts.to_string());
        add(history::ORIGIN, origin.to_owned());
        add(history::PUBLISHED, self.published.as_nanosecond().to_string());
        for (name, at) in [
            (history::FIRST_FAILURE, self.first_failure),
            (history::LAST_FAILURE, self.last_failure),
        ] {
            if let Some(at) = at {
                add(name, at.to_string());
            }
        }
        headers
    }
}

#[cfg(test)]
impl History {
    /// Of a task that came back after some attempts.
    pub fn after(attempts: u32, published: Timestamp, first_failure: Timestamp, last_failure: Timestamp) -> Self {
        Self {
            attempts,
            published,
            first_failure: Some(first_failure),
            last_failure: Some(last_failure),
            continued: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn what_one_message_says_of_the_history_the_next_one_reads() {
        let published = "2026-11-21T10:00:00Z".parse().expect("a time");
        let history = History {
            attempts: 1,
            published,
            first_failure: None,
            last_failure: None,
            continued: true,
        }
        .failed("2026-11-21T10:00:07Z".parse().expect("a time"));
        let headers = history.continued([("X-Mine", "1"), ("Nats-Msg-Id", "7")].into_iter(), 2, "tg_a_b:1:2");
        assert!(headers.contains(&("X-Mine".into(), "1".into())));
        assert!(headers.iter().all(|(name, _)| name != "Nats-Msg-Id"));
        let headers: HashMap<_, _> = headers.into_iter().collect();
        let read = History::read(|name| headers.get(name).map(String::as_str), 5);
        assert_eq!(read, History { attempts: 2, ..history });
    }

    #[test]
    fn a_task_expires_by_its_first_publication() {
        let history = History::read(|_| None, 1_000_000_000);
        assert!(!history.is_continued());
        let at = |ms| Timestamp::from_millisecond(ms).expect("a time");
        let mut settings = WorkerSettings::default();
        assert!(!history.has_expired(&settings, at(1_000_000_000)), "for ever");
        settings.expire_ms = 500;
        assert!(!history.has_expired(&settings, at(1500)));
        assert!(history.has_expired(&settings, at(1501)));
        assert!(!history.has_expired(&settings, at(0)), "a clock that is behind");
    }
}
