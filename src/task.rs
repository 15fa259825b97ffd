//! A task on its way: the headers it carries and is given.

/// Headers the worker sets on the request to a handler (and, later, on a callback).
pub mod headers {
    /// Id of the task: the last part of the subject it was published to.
    pub const CALL_ID: &str = "X-Call-Id";
    /// Name of the TaskGroup.
    pub const TASK_GROUP: &str = "X-Task-Group";
    /// Number of this attempt, from 1.
    pub const ATTEMPT: &str = "X-Attempt";
    /// Attempts before the task is dead.
    pub const MAX_ATTEMPTS: &str = "X-Max-Attempts";
    /// When this attempt is cut off: RFC 3339, UTC.
    pub const DEADLINE: &str = "X-Deadline";
}

/// Headers of a callback, beside [`headers::CALL_ID`]. The names are those of `OpenFaaS`.
pub mod callback_headers {
    /// On a task: where its callback goes. On a stored callback, the same.
    pub const URL: &str = "X-Callback-Url";
    /// How long the last attempt took, in seconds.
    pub const DURATION: &str = "X-Duration-Seconds";
    /// The handler's HTTP status; 200 for exit code 0, and 500 for all else.
    pub const FUNCTION_STATUS: &str = "X-Function-Status";
    /// Name of the TaskGroup.
    pub const FUNCTION_NAME: &str = "X-Function-Name";
    /// `true` where the body is only the beginning of what the handler put out.
    pub const TRUNCATED: &str = "X-Truncated";
}

/// Headers by which a task in back-off carries its history through [`crate::names::DELAY_STREAM`] back
/// into its queue. Neither handlers nor dead letters get them.
pub mod history {
    /// What all of them begin with, in lower case.
    pub const PREFIX: &str = "taskgroup-";
    /// Attempts that the task has had.
    pub const ATTEMPTS: &str = "Taskgroup-Attempts";
    /// The message that this one continues: `<stream>:<sequence>:<nanoseconds since 1970>`.
    pub const ORIGIN: &str = "Taskgroup-Origin";
    /// When the task was first published, in nanoseconds since 1970.
    pub const PUBLISHED: &str = "Taskgroup-Published";
    /// When its first attempt failed: RFC 3339, UTC.
    pub const FIRST_FAILURE: &str = "Taskgroup-First-Failure";
    /// When its last attempt failed: RFC 3339, UTC.
    pub const LAST_FAILURE: &str = "Taskgroup-Last-Failure";
}

/// Headers of a dead letter, beside the publisher's own.
pub mod dead_headers {
    /// Name of the TaskGroup.
    pub const GROUP: &str = "X-Dead-Group";
    /// Why the task is dead: a word (`MaxAttempts`, `Permanent`, …).
    pub const REASON: &str = "X-Dead-Reason";
    /// What the last attempt said: status and the beginning of the body, at most 1 KiB.
    pub const ERROR: &str = "X-Dead-Error";
    /// HTTP status or exit code of the last attempt, where it had one.
    pub const STATUS: &str = "X-Dead-Status";
    /// How often the task was tried.
    pub const ATTEMPTS: &str = "X-Dead-Attempts";
    /// When the first attempt failed: RFC 3339, UTC.
    pub const FIRST_FAILURE: &str = "X-Dead-First-Failure";
    /// When the last attempt failed: RFC 3339, UTC.
    pub const LAST_FAILURE: &str = "X-Dead-Last-Failure";
    /// The message it was: `<stream>:<sequence>:<nanoseconds since 1970>`.
    pub const ORIGIN: &str = "X-Dead-Origin";
    /// When the task died: RFC 3339, UTC.
    pub const AT: &str = "X-Dead-At";
}

/// Whether a header is not the publisher's: NATS or we act on it.
pub fn is_ours(name: &str) -> bool {
    let begins_with = |prefix: &str| {
        name.get(..prefix.len())
            .is_some_and(|beginning| beginning.eq_ignore_ascii_case(prefix))
    };
    begins_with("nats-") || begins_with(history::PREFIX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_nats_and_of_the_history_are_not_the_publishers() {
        for name in ["Nats-Msg-Id", "nats-rollup", history::ATTEMPTS, "TASKGROUP-ORIGIN"] {
            assert!(is_ours(name), "{name}");
        }
        for name in ["X-Nats-Msg-Id", "nats", "Content-Type", "", "täskgroup-"] {
            assert!(!is_ours(name), "{name}");
        }
    }
}
