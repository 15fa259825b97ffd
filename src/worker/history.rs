//! What a task has been through before this delivery, as its headers and the broker tell. Pure.

use super::backoff::full_jitter;
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
    /// Attempts before this message was made.
    pub attempts: u32,
    /// When the task was first published.
    pub published: Timestamp,
    /// When its first attempt failed, if one has.
    pub first_failure: Option<Timestamp>,
    /// When its last attempt failed, if one has.
    pub last_failure: Option<Timestamp>,
    continued: bool,
}

impl History {
    /// That of a delivered task.
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

    /// The same after an attempt that failed at `at`.
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

    /// Whether it has waited longer than it may.
    pub fn has_expired(&self, settings: &WorkerSettings, now: Timestamp) -> bool {
        settings.expire().is_some_and(|expire| {
            let waited = Duration::try_from(now.duration_since(self.published)).unwrap_or_default();
            waited > expire
        })
    }

    /// The headers of the message that continues the task after `attempts` attempts: the publisher's
    /// and its history.
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

/// How long to wait after the given number of failed attempts: a random part ("full jitter") of a time
/// that grows with each, so that tasks that failed together are not tried again together.
pub fn retry_delay(settings: &WorkerSettings, attempts: u32) -> Duration {
    full_jitter(longest_delay(settings, attempts))
}

fn longest_delay(settings: &WorkerSettings, attempts: u32) -> Duration {
    let exponent = i32::try_from(attempts.saturating_sub(1)).unwrap_or(i32::MAX);
    let initial = Duration::from_millis(settings.initial_delay_ms).as_secs_f64();
    let max = Duration::from_millis(settings.max_delay_ms);
    // Out of range (or infinite) is beyond the longest.
    Duration::try_from_secs_f64(initial * settings.multiplier.powi(exponent)).map_or(max, |delay| delay.min(max))
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
    fn the_longest_delay_grows_up_to_its_bound() {
        for (initial_delay_ms, multiplier, attempts, expected_ms) in [
            (1000, 2.0, 1, 1000),
            (1000, 2.0, 2, 2000),
            (1000, 2.0, 4, 8000),
            (1000, 1.0, 100, 1000),
            (1000, 1.5, 3, 2250),
            (1000, 2.0, 1000, 300_000),
            (10, 100.0, u32::MAX, 300_000),
        ] {
            let settings = WorkerSettings {
                initial_delay_ms,
                multiplier,
                ..WorkerSettings::default()
            };
            let delay = longest_delay(&settings, attempts);
            assert_eq!(delay.as_millis(), expected_ms, "{multiplier} after {attempts}");
        }
    }

    #[test]
    fn a_delay_is_anything_up_to_the_longest() {
        let settings = WorkerSettings::default();
        let delays: Vec<_> = (0..1000).map(|_| retry_delay(&settings, 1).as_millis()).collect();
        assert!(delays.iter().all(|delay| *delay <= 1000));
        // Each with a chance of 0.9 ^ 1000.
        assert!(delays.iter().any(|delay| *delay < 100), "early ones, too");
        assert!(delays.iter().any(|delay| *delay > 900), "late ones, too");
    }

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
