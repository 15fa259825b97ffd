//! Dead letters: why a task is dead, and the headers that say so. Workers and the relay write letters; users, the gateway,
//! and the command line read them.

use super::{Origin, headers, history::History, id};
use jiff::Timestamp;
use std::fmt;

/// Name of the TaskGroup.
pub const GROUP: &str = "X-Dead-Group";
/// Why the task is dead: a [`Reason`].
pub const REASON: &str = "X-Dead-Reason";
/// Status and beginning of the body of the last attempt, at most [`MAX_ERROR`] bytes.
pub const ERROR: &str = "X-Dead-Error";
/// HTTP status or exit code of the last attempt, where it had one.
pub const STATUS: &str = "X-Dead-Status";
/// How often the task was tried.
pub const ATTEMPTS: &str = "X-Dead-Attempts";
/// When the first attempt failed: RFC 3339, UTC.
pub const FIRST_FAILURE: &str = "X-Dead-First-Failure";
/// When the last attempt failed: RFC 3339, UTC.
pub const LAST_FAILURE: &str = "X-Dead-Last-Failure";
/// The message that the task was: an [`Origin`].
pub const ORIGIN: &str = "X-Dead-Origin";
/// When the task died: RFC 3339, UTC.
pub const AT: &str = "X-Dead-At";

/// Every header of a dead letter, beside the publisher's own.
pub const ALL: [&str; 9] = [
    GROUP,
    REASON,
    ERROR,
    STATUS,
    ATTEMPTS,
    FIRST_FAILURE,
    LAST_FAILURE,
    ORIGIN,
    AT,
];

/// Longest error text in a letter: 1 KiB.
pub const MAX_ERROR: usize = 1024;

/// Why a task is dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Every attempt failed.
    MaxAttempts,
    /// The handler said that another attempt would not help.
    Permanent,
    /// The workers that ran the task died or lost it, every time.
    WorkerLost,
    /// The task waited longer than `timeouts.expire`.
    Expired,
    /// The task's queue does not take it back after a failed attempt, because the added headers make it too large.
    TooLarge,
    /// The task's queue was deleted while the task was in back-off.
    QueueGone,
    /// The message is in the group's stream under a subject of something else, so no handler can be given it.
    ForeignSubject,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Self; 7] = [
        Self::MaxAttempts,
        Self::Permanent,
        Self::WorkerLost,
        Self::Expired,
        Self::TooLarge,
        Self::QueueGone,
        Self::ForeignSubject,
    ];

    /// The reason as letters and metrics state it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MaxAttempts => "MaxAttempts",
            Self::Permanent => "Permanent",
            Self::WorkerLost => "WorkerLost",
            Self::Expired => "Expired",
            Self::TooLarge => "TooLarge",
            Self::QueueGone => "QueueGone",
            Self::ForeignSubject => "ForeignSubject",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a task gets no further attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Death {
    /// The reason in one word.
    pub reason: Reason,
    /// What the last attempt said, or what is in the way.
    pub error: String,
    /// HTTP status or exit code of the last attempt.
    pub status: Option<i32>,
    /// How often the task was tried.
    pub attempts: u32,
    /// Whether the last attempt failed just now.
    pub failed_now: bool,
}

/// A dead letter to be stored.
pub struct Letter<'a> {
    /// The message that the task was. With its time: the numbers of a re-created stream begin anew, and the letter of
    /// another task must not pass for this one's.
    pub origin: &'a Origin,
    /// `Nats-Msg-Id` of the letter.
    pub msg_id: String,
    /// Name of the TaskGroup; empty where it is not known.
    pub group: &'a str,
    /// What the task has been through.
    pub history: &'a History,
    /// Why it is dead.
    pub death: &'a Death,
    /// When it died.
    pub now: Timestamp,
}

impl Letter<'_> {
    /// The publisher's headers, and those that say how the task died, in at most `room` bytes. The error is left out
    /// where it does not fit.
    pub fn headers<'a>(
        &self,
        publishers: impl Iterator<Item = (&'a str, &'a str)>,
        room: usize,
    ) -> Vec<(String, String)> {
        let Self { death, history, .. } = self;
        // Headers that JetStream acts on (deduplication, expectations, schedules) were meant for the queue.
        let mut all: Vec<_> = publishers
            .filter(|(name, _)| !headers::is_ours(name))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let mut add = |name: &str, value: String| all.push((name.to_owned(), value));
        add(id::MSG_ID, self.msg_id.clone());
        add(ORIGIN, self.origin.to_string());
        if !self.group.is_empty() {
            add(GROUP, self.group.to_owned());
        }
        add(REASON, death.reason.to_string());
        add(ATTEMPTS, death.attempts.to_string());
        add(AT, self.now.to_string());
        if let Some(status) = death.status {
            add(STATUS, status.to_string());
        }
        let failed_now = death.failed_now.then_some(self.now);
        if let Some(at) = history.first_failure.or(failed_now) {
            add(FIRST_FAILURE, at.to_string());
        }
        if let Some(at) = failed_now.or(history.last_failure) {
            add(LAST_FAILURE, at.to_string());
        }
        let error = (ERROR.to_owned(), one_line(&death.error));
        if size(&all) + size([&error]) <= room {
            all.push(error);
        }
        all
    }
}

/// Size of headers as NATS writes them, within a few bytes.
fn size<'a>(headers: impl IntoIterator<Item = &'a (String, String)>) -> usize {
    let lines: usize = headers
        .into_iter()
        .map(|(name, value)| name.len() + value.len() + 4)
        .sum();
    lines + "NATS/1.0\r\n\r\n".len()
}

/// `text` as a header value: one line of at most [`MAX_ERROR`] bytes.
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
    use crate::protocol::Stored;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    fn letter(reason: Reason, error: &str, room: usize) -> Vec<String> {
        let letter = Letter {
            origin: &Stored { sequence: 7, at: 9 }.origin(&"tg_a_b".into()),
            msg_id: "tg_a_b:7:9:3".into(),
            group: "acme",
            history: &History {
                attempts: 4,
                published: at("2026-11-21T09:00:00Z"),
                first_failure: Some(at("2026-11-21T09:00:01Z")),
                last_failure: Some(at("2026-11-21T09:00:04Z")),
                origin: None,
            },
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
