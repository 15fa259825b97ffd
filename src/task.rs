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

/// Headers of a dead letter, beside the publisher's own.
pub mod dead_headers {
    /// Name of the TaskGroup.
    pub const GROUP: &str = "X-Dead-Group";
    /// Why the task is dead: a word (`MaxAttempts`, `Permanent`, …).
    pub const REASON: &str = "X-Dead-Reason";
    /// What the last attempt said: status and the beginning of the body, at most 1 KiB.
    pub const ERROR: &str = "X-Dead-Error";
    /// How often the task was tried.
    pub const ATTEMPTS: &str = "X-Dead-Attempts";
    /// When the task died: RFC 3339, UTC.
    pub const AT: &str = "X-Dead-At";
}
