//! Headers of the request that a handler gets, and the rule which headers belong to the publisher.

use super::{history, id};

/// Id of the task: the last part of the subject that the publisher chose.
pub const CALL_ID: &str = "X-Call-Id";
/// Name of the TaskGroup.
pub const TASK_GROUP: &str = "X-Task-Group";
/// Number of this attempt, from 1.
pub const ATTEMPT: &str = "X-Attempt";
/// Attempts before the task is dead.
pub const MAX_ATTEMPTS: &str = "X-Max-Attempts";
/// When the worker aborts this attempt: RFC 3339, UTC.
pub const DEADLINE: &str = "X-Deadline";

/// Position of a request in its trace (W3C Trace Context). A publisher may set it, too.
pub const TRACEPARENT: &str = "traceparent";
/// Vendors' data about the trace (W3C Trace Context).
pub const TRACESTATE: &str = "tracestate";

/// Every header that the worker adds to a request.
pub const ALL: [&str; 7] = [
    CALL_ID,
    TASK_GROUP,
    ATTEMPT,
    MAX_ATTEMPTS,
    DEADLINE,
    TRACEPARENT,
    TRACESTATE,
];

/// Prefix of the environment variables by which a process gets the publisher's headers, so that none can set `PATH`.
pub const PUBLISHERS_VARIABLE: &str = "HEADER_";

/// The environment variable by which a process gets a header, as a name that a shell can read: `X_CALL_ID` for `X-Call-Id`.
pub fn variable(header: &str) -> String {
    let letter = |c: char| {
        if c.is_ascii_alphanumeric() {
            c.to_ascii_uppercase()
        } else {
            '_'
        }
    };
    header.chars().map(letter).collect()
}

/// Prefix of the headers that NATS acts on, in lower case.
const NATS: &str = "nats-";

/// Whether NATS or TaskGroup acts on a header. Such a header is not passed on as the publisher's.
pub fn is_ours(name: &str) -> bool {
    is_nats(name) || begins_with(name, history::PREFIX)
}

/// Whether NATS acts on a header.
pub fn is_nats(name: &str) -> bool {
    begins_with(name, NATS)
}

fn begins_with(name: &str, prefix: &str) -> bool {
    name.get(..prefix.len())
        .is_some_and(|beginning| beginning.eq_ignore_ascii_case(prefix))
}

/// The first value of a header.
pub fn first<'a>(headers: &[(&str, &'a str)], wanted: &str) -> Option<&'a str> {
    headers
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(wanted))
        .map(|(_, value)| *value)
}

/// The headers by which NATS publishes a message to `target` at a time, and stores it once under `msg_id`.
pub fn schedule(at: jiff::Timestamp, target: String, msg_id: String) -> [(String, String); 3] {
    [
        ("Nats-Schedule", format!("@at {at}")),
        ("Nats-Schedule-Target", target),
        (id::MSG_ID, msg_id),
    ]
    .map(|(name, value)| (name.to_owned(), value))
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
