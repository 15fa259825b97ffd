//! Buries a dead task: its dead letter is stored for certain before the task leaves its queue.

use super::{
    PATIENCE, TaskOutcome,
    policy::Death,
    transfer::{self, Message, Transfer},
};
use crate::{
    names::DEAD_STREAM,
    task::{dead_headers, is_ours},
    worker::{
        group::{History, Run},
        handler::MAX_ERROR,
    },
};
use jiff::Timestamp;
use std::time::Duration;

/// How long a dead task is left alone whose letter can't be stored.
const STUCK: Duration = Duration::from_secs(30);

/// Stores the dead letter of a task, or drops the task where its group keeps no letters.
pub async fn bury(run: &Run<'_>, death: &Death) -> TaskOutcome {
    let metrics = run.group().metrics();
    if run.config().settings().dead_letter {
        let stored = transfer::store(run, &message(run, death)).await;
        if stored == Transfer::Stored {
            metrics.dead_letter(death.reason.as_str());
        }
        return transfer::leave_after(run, stored, STUCK, TaskOutcome::DeadLettered).await;
    }
    metrics.dead_letter(death.reason.as_str());
    if let Err(error) = run.task().term(death.reason.as_str(), PATIENCE).await {
        metrics.ack_unconfirmed();
        tracing::debug!(call_id = run.id(), %error, "the broker did not confirm that the dead task is dropped");
    }
    TaskOutcome::Dropped
}

fn message(run: &Run<'_>, death: &Death) -> Message {
    let (group, task) = (run.group(), run.task());
    let payload = task.payload();
    let room = group.broker().max_payload().saturating_sub(payload.len());
    let letter = Letter {
        // With the time: a stream that is made again numbers its messages anew, and the letter of another task must
        // not pass for this one's.
        origin: &run.origin(),
        delivery: run.delivery(task.delivered()),
        group: &run.config().settings().group,
        history: run.history(),
        death,
        now: group.now(),
    };
    Message {
        stream: DEAD_STREAM,
        subject: group.queue().dead(run.id()),
        headers: letter.headers(task.headers(), room),
        payload,
    }
}

/// What a dead letter says.
struct Letter<'a> {
    origin: &'a str,
    delivery: String,
    group: &'a str,
    history: &'a History,
    death: &'a Death,
    now: Timestamp,
}

impl Letter<'_> {
    /// The publisher's headers, and those that say how the task died. They take at most `room` bytes, for which the error
    /// is left out.
    fn headers<'a>(&self, publishers: impl Iterator<Item = (&'a str, &'a str)>, room: usize) -> Vec<(String, String)> {
        let Self { death, history, .. } = self;
        // Headers that JetStream acts on (deduplication, expectations, schedules) were meant for the queue.
        let mut headers: Vec<_> = publishers
            .filter(|(name, _)| !is_ours(name))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let mut add = |name: &str, value: String| headers.push((name.to_owned(), value));
        add("Nats-Msg-Id", self.delivery.clone());
        add(dead_headers::ORIGIN, self.origin.to_owned());
        add(dead_headers::GROUP, self.group.to_owned());
        add(dead_headers::REASON, death.reason.as_str().to_owned());
        add(dead_headers::ATTEMPTS, death.attempts.to_string());
        add(dead_headers::AT, self.now.to_string());
        if let Some(status) = death.status {
            add(dead_headers::STATUS, status.to_string());
        }
        let failed_now = death.failed_now.then_some(self.now);
        if let Some(at) = history.first_failure().or(failed_now) {
            add(dead_headers::FIRST_FAILURE, at.to_string());
        }
        if let Some(at) = failed_now.or(history.last_failure()) {
            add(dead_headers::LAST_FAILURE, at.to_string());
        }
        let error = (dead_headers::ERROR.to_owned(), one_line(&death.error));
        if size(&headers) + size([&error]) <= room {
            headers.push(error);
        }
        headers
    }
}

/// The size of headers as NATS writes them (within a few bytes).
fn size<'a>(headers: impl IntoIterator<Item = &'a (String, String)>) -> usize {
    let lines: usize = headers
        .into_iter()
        .map(|(name, value)| name.len() + value.len() + 4)
        .sum();
    lines + "NATS/1.0\r\n\r\n".len()
}

/// Makes one line of a text, of at most [`MAX_ERROR`] bytes.
fn one_line(text: &str) -> String {
    let mut line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let mut end = line.len().min(MAX_ERROR);
    while !line.is_char_boundary(end) {
        end -= 1;
    }
    line.truncate(end);
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::outcome::policy::Reason;

    fn letter(reason: Reason, error: &str, room: usize) -> Vec<String> {
        let at = |text: &str| text.parse::<Timestamp>().expect("a time");
        let letter = Letter {
            origin: "tg_a_b:7:9",
            delivery: "tg_a_b:7:9:3".into(),
            group: "acme",
            history: &History::after(
                4,
                at("2026-11-21T09:00:00Z"),
                at("2026-11-21T09:00:01Z"),
                at("2026-11-21T09:00:04Z"),
            ),
            death: &Death {
                reason,
                error: error.into(),
                status: (reason == Reason::MaxAttempts).then_some(500),
                attempts: 5,
                failed_now: reason == Reason::MaxAttempts,
            },
            now: at("2026-11-21T10:00:00Z"),
        };
        let publishers = [("X-Mine", "1"), ("Nats-Msg-Id", "theirs"), ("nats-rollup", "sub")];
        let headers = letter.headers(publishers.into_iter(), room).into_iter();
        headers.map(|(name, value)| format!("{name}: {value}")).collect()
    }

    #[test]
    fn a_dead_letter_says_how_the_task_died() {
        let mut expected = vec![
            "X-Mine: 1",
            "Nats-Msg-Id: tg_a_b:7:9:3",
            "X-Dead-Origin: tg_a_b:7:9",
            "X-Dead-Group: acme",
            "X-Dead-Reason: MaxAttempts",
            "X-Dead-Attempts: 5",
            "X-Dead-At: 2026-11-21T10:00:00Z",
            "X-Dead-Status: 500",
            "X-Dead-First-Failure: 2026-11-21T09:00:01Z",
            "X-Dead-Last-Failure: 2026-11-21T10:00:00Z",
            "X-Dead-Error: status 500: two lines",
        ];
        let reason = Reason::MaxAttempts;
        assert_eq!(letter(reason, "status 500: two\nlines", 1_000_000), expected);
        // A task as large as NATS allows leaves no room for the error.
        expected.pop();
        assert_eq!(letter(reason, "status 500: two\nlines", 330), expected);
    }

    #[test]
    fn a_task_that_expired_failed_last_when_it_was_last_tried() {
        let letter = letter(Reason::Expired, "too old", 1_000_000);
        assert!(
            letter.contains(&"X-Dead-Last-Failure: 2026-11-21T09:00:04Z".to_owned()),
            "{letter:?}"
        );
    }

    #[test]
    fn an_error_is_one_line_of_at_most_1_kib() {
        let line = one_line(&format!("\u{0}{}", "ü".repeat(600)));
        assert_eq!(line.len(), 1023, "cut between two characters");
        assert!(!line.contains('\u{0}'));
    }
}
