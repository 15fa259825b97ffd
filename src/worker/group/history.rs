//! The history of a delivered task, and whether the task waited too long. Pure.

use crate::{
    broker::Delivery,
    protocol::{Kind, history::History, settings::WorkerSettings},
};
use jiff::Timestamp;
use std::time::Duration;

/// Reads the history of a delivered task. Under a `tasks` subject, history headers are the publisher's and count for
/// nothing.
pub fn read(task: &Delivery, kind: Kind) -> History {
    if kind == Kind::Requeue {
        History::read(|name| task.header(name), task.stored().at)
    } else {
        History::new(task.stored().at)
    }
}

/// Whether a task has waited longer than it may.
pub fn has_expired(history: &History, settings: &WorkerSettings, now: Timestamp) -> bool {
    settings.timeouts.expire().is_some_and(|expire| {
        let waited = Duration::try_from(now.duration_since(history.published)).unwrap_or_default();
        waited > expire
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_expires_by_its_first_publication() {
        let history = History::new(1_000_000_000);
        let at = |ms| Timestamp::from_millisecond(ms).expect("a time");
        let mut settings = WorkerSettings::default();
        assert!(!has_expired(&history, &settings, at(1_000_000_000)), "forever");
        settings.timeouts.expire = "500ms".into();
        assert!(!has_expired(&history, &settings, at(1500)));
        assert!(has_expired(&history, &settings, at(1501)));
        assert!(!has_expired(&history, &settings, at(0)), "a clock that is behind");
    }
}
