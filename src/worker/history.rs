//! When a task is tried again, and whether it waited too long. Pure.

use super::backoff::full_jitter;
use crate::{
    broker::Delivery,
    protocol::{Kind, history::History, settings::WorkerSettings},
};
use jiff::Timestamp;
use std::time::Duration;

/// The history of a delivered task. Under a `tasks` subject, history headers are the publisher's and count for nothing.
pub fn of(task: &Delivery, kind: Kind) -> History {
    if kind == Kind::Requeue {
        History::read(|name| task.header(name), task.stored().at)
    } else {
        History::new(task.stored().at)
    }
}

/// Whether a task has waited longer than it may.
pub fn has_expired(history: &History, settings: &WorkerSettings, now: Timestamp) -> bool {
    settings.expire().is_some_and(|expire| {
        let waited = Duration::try_from(now.duration_since(history.published)).unwrap_or_default();
        waited > expire
    })
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
mod tests {
    use super::*;

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
    fn a_task_expires_by_its_first_publication() {
        let history = History::new(1_000_000_000);
        let at = |ms| Timestamp::from_millisecond(ms).expect("a time");
        let mut settings = WorkerSettings::default();
        assert!(!has_expired(&history, &settings, at(1_000_000_000)), "for ever");
        settings.expire_ms = 500;
        assert!(!has_expired(&history, &settings, at(1500)));
        assert!(has_expired(&history, &settings, at(1501)));
        assert!(!has_expired(&history, &settings, at(0)), "a clock that is behind");
    }
}
