//! Cancelling a task: the request of a user, the operator's answer, and what operator and workers say to each other.

use super::{Kind, Queue, id, subject};
use serde::{Deserialize, Serialize};

/// Reason with which a worker removes a cancelled task from its queue (`+TERM`), as the server's advisory repeats it.
pub const TERM_REASON: &str = "Cancelled";

/// What became of a task that somebody cancelled: the operator's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cancelled {
    /// The task waited, in its queue or in back-off, and is removed.
    Queued,
    /// The task ran; its attempt is aborted, and it is removed.
    Running,
    /// The task had ended already.
    Finished,
    /// There is no such task, or it was done long ago.
    Unknown,
}

impl Cancelled {
    /// Every answer but an error.
    pub const ALL: [Self; 4] = [Self::Queued, Self::Running, Self::Finished, Self::Unknown];

    /// The answer as it is sent.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Finished => "finished",
            Self::Unknown => "unknown",
        }
    }
}

/// The operator's answer to a request that it could not carry out.
pub fn failed(error: impl std::fmt::Display) -> String {
    format!("error: {error}; ask again: a part may be done")
}

/// The task that a request under `subject` is about.
///
/// # Errors
/// The answer to a request that names no task, or more than one.
pub fn read_request(subject: &str) -> Result<(Queue, &str), String> {
    let named = match subject::parse(subject) {
        Some((Kind::Cancel, queue, id)) if queue.is_valid() && id::is_task_id(id) => Some((queue, id)),
        _ => None,
    };
    named.ok_or_else(|| {
        format!(
            "error: {subject} names no task: send the request to cancel.<namespace>.<queue>.<task-id>, where the task was \
             published to tasks.<namespace>.<queue>.<task-id>"
        )
    })
}

/// What the operator asks the workers of a queue.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Question {
    /// Id of the task.
    pub id: String,
    /// Sequence number of the last message that is meant: a later task with the same id is another one.
    pub up_to: u64,
}

/// What a worker answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WorkerReply {
    /// What the worker knows of the task.
    pub state: WorkerState,
}

/// What a worker knows of a cancelled task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkerState {
    /// The task ran here, and is aborted.
    Running,
    /// The task waited here for its start, or came here after it was cancelled, and is removed.
    Queued,
    /// The task ended here a while ago.
    Finished,
    /// The task is not here. A state that this version does not know counts as this one.
    #[default]
    #[serde(other)]
    None,
}

impl WorkerState {
    /// Every state.
    pub const ALL: [Self; 4] = [Self::Running, Self::Queued, Self::Finished, Self::None];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_names_exactly_one_task() {
        assert_eq!(
            read_request("cancel.crawl.acme.a.b"),
            Ok((Queue::new("crawl", "acme"), "a.b"))
        );
        for bad in [
            "cancel.crawl",
            "cancel.crawl.acme",
            "cancel.crawl.acme.",
            "cancel.crawl.acme.*",
            "cancel.crawl.acme.a.>",
            "cancel.crawl.acme.a..b",
            "cancel.crawl.*.a",
            "cancel.Crawl.acme.a",
            "tasks.crawl.acme.a",
        ] {
            let error = read_request(bad).expect_err(bad);
            assert!(
                error.contains(bad) && error.contains("send the request to cancel.<namespace>.<queue>.<task-id>"),
                "{error}"
            );
        }
    }

    #[test]
    fn questions_and_replies_of_other_versions_are_read() {
        let question: Question = serde_json::from_str(r#"{"id":"a","upTo":7,"new":true}"#).expect("a question");
        assert_eq!((question.id.as_str(), question.up_to), ("a", 7));
        for (text, state) in [
            (r#"{"state":"running","attempt":2}"#, WorkerState::Running),
            (r#"{"state":"paused"}"#, WorkerState::None),
            ("{}", WorkerState::None),
        ] {
            let reply: WorkerReply = serde_json::from_str(text).expect(text);
            assert_eq!(reply.state, state, "{text}");
        }
    }
}
