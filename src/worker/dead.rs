//! A dead letter: stored for certain before the task leaves its queue.

use super::{Worker, backoff::Backoff, policy::Death, watch::Terms};
use crate::{
    broker::{Delivery, Stored},
    task::{dead_headers, is_ours},
};
use jiff::Timestamp;
use std::time::Duration;
use tokio::time;

/// Longest text of an error in a header, in bytes.
const MAX_ERROR: usize = 1024;

/// Stores the dead letter of `task`, trying for as long as it takes: the caller keeps the lease, and
/// drops this future when it is lost.
pub async fn store(worker: &Worker, task: &Delivery, id: &str, terms: &Terms, death: &Death) {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
    let subject = worker.queue.dead(id);
    // With the time: the numbers of a stream that is made again begin anew, and the letter of another
    // task must not pass for this one's.
    let Stored { sequence, at } = task.stored();
    let msg_id = format!("{}:{sequence}:{at}", worker.queue.stream());
    let mut last_error = String::new();
    loop {
        let room = worker.broker.max_payload().saturating_sub(task.payload().len());
        let headers = headers(
            task.headers(),
            &msg_id,
            &terms.settings.group,
            death,
            Timestamp::now(),
            room,
        );
        let Err(error) = worker.broker.store(&subject, &headers, task.payload()).await else {
            return;
        };
        let error = error.to_string();
        if error != last_error {
            tracing::warn!(
                call_id = id,
                %error,
                "the dead letter can't be stored: the task stays in its queue, and the worker tries again"
            );
            last_error = error;
        }
        time::sleep(backoff.next()).await;
    }
}

/// The headers of a dead letter: the publisher's, and those that say how the task died. In `room`
/// bytes: the error is the first thing that is left out.
fn headers<'a>(
    publishers: impl Iterator<Item = (&'a str, &'a str)>,
    msg_id: &str,
    group: &str,
    death: &Death,
    now: Timestamp,
    room: usize,
) -> Vec<(String, String)> {
    // Headers that JetStream acts on (deduplication, expectations, schedules) were meant for the queue.
    let mut headers: Vec<_> = publishers
        .filter(|(name, _)| !is_ours(name))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    for (name, value) in [
        ("Nats-Msg-Id", msg_id.to_owned()),
        (dead_headers::GROUP, group.to_owned()),
        (dead_headers::REASON, death.reason.as_str().to_owned()),
        (dead_headers::ATTEMPTS, death.attempts.to_string()),
        (dead_headers::AT, now.to_string()),
    ] {
        headers.push((name.to_owned(), value));
    }
    let error = (dead_headers::ERROR.to_owned(), one_line(&death.error));
    if size(&headers) + size([&error]) <= room {
        headers.push(error);
    }
    headers
}

/// As NATS writes them (within a few bytes).
fn size<'a>(headers: impl IntoIterator<Item = &'a (String, String)>) -> usize {
    let lines: usize = headers
        .into_iter()
        .map(|(name, value)| name.len() + value.len() + 4)
        .sum();
    lines + "NATS/1.0\r\n\r\n".len()
}

/// A header is one line, and this one not too long.
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
    use crate::worker::policy::Reason;

    fn letter(error: &str, room: usize) -> Vec<String> {
        let death = Death {
            reason: Reason::MaxAttempts,
            error: error.into(),
            attempts: 5,
        };
        let now: Timestamp = "2026-11-21T10:00:00Z".parse().expect("a time");
        let publishers = [("X-Mine", "1"), ("Nats-Msg-Id", "theirs"), ("nats-rollup", "sub")];
        headers(publishers.into_iter(), "tg_a_b:7", "acme", &death, now, room)
            .into_iter()
            .map(|(name, value)| format!("{name}: {value}"))
            .collect()
    }

    #[test]
    fn a_dead_letter_says_how_the_task_died() {
        let mut expected = vec![
            "X-Mine: 1",
            "Nats-Msg-Id: tg_a_b:7",
            "X-Dead-Group: acme",
            "X-Dead-Reason: MaxAttempts",
            "X-Dead-Attempts: 5",
            "X-Dead-At: 2026-11-21T10:00:00Z",
            "X-Dead-Error: status 500: two lines",
        ];
        assert_eq!(letter("status 500: two\nlines", 1_000_000), expected);
        // A task as large as NATS allows leaves no room for the error.
        expected.pop();
        assert_eq!(letter("status 500: two\nlines", 180), expected);
    }

    #[test]
    fn an_error_is_one_line_of_at_most_1_kib() {
        let line = one_line(&format!("\u{0}{}", "ü".repeat(600)));
        assert_eq!(line.len(), 1023, "cut between two characters");
        assert!(!line.contains('\u{0}'));
    }
}
