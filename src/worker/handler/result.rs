//! The result of one attempt, whichever way the handler ran it. Pure.

use crate::protocol::dead_letter::MAX_ERROR;
use bytes::Bytes;
use std::time::Duration;

/// What came of one attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttemptResult {
    /// The handler answered over HTTP.
    Answered {
        /// Its status.
        status: u16,
        /// For how long it wants no more tasks (`Retry-After`).
        retry_after: Option<Duration>,
        /// The body, or its beginning.
        body: Output,
    },
    /// The handler's process ended.
    Exited {
        /// Its exit code; 128 and the number of the signal, where one ended it.
        code: i32,
        /// What it wrote to standard output, or the beginning of that.
        output: Output,
        /// The end of what it wrote to standard error.
        errors: String,
    },
    /// No answer within the time of one attempt.
    TimedOut,
    /// The handler could not be connected to, or its process not be started, and why.
    NoConnection(String),
    /// The connection broke before the answer was complete, and how.
    Broken(String),
    /// The code that made the attempt panicked, with this message.
    Panicked(String),
}

/// What a handler put out: as much of it as was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// The first bytes.
    pub bytes: Bytes,
    /// Whether there was more.
    pub truncated: bool,
}

impl Output {
    /// The first [`MAX_ERROR`] bytes as text.
    fn text(&self) -> String {
        let end = self.bytes.len().min(MAX_ERROR);
        String::from_utf8_lossy(&self.bytes[..end]).trim().to_owned()
    }
}

impl AttemptResult {
    /// In a word, for metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Answered { status: 200..300, .. } | Self::Exited { code: 0, .. } => "ok",
            Self::Answered { .. } | Self::Exited { .. } => "failed",
            Self::TimedOut => "timeout",
            Self::NoConnection(_) => "no_connection",
            Self::Broken(_) => "broken",
            Self::Panicked(_) => "panicked",
        }
    }

    /// HTTP status or exit code.
    pub fn status(&self) -> Option<i32> {
        match self {
            Self::Answered { status, .. } => Some(i32::from(*status)),
            Self::Exited { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// The same as an HTTP status: 200 for exit code 0, 504 where there was no answer in time, 500 for all else.
    pub fn http_status(&self) -> u16 {
        match self {
            Self::Answered { status, .. } => *status,
            Self::Exited { code: 0, .. } => 200,
            Self::TimedOut => 504,
            Self::Exited { .. } | Self::NoConnection(_) | Self::Broken(_) | Self::Panicked(_) => 500,
        }
    }

    /// What the handler put out.
    pub fn output(&self) -> Output {
        match self {
            Self::Answered { body, .. } => body.clone(),
            Self::Exited { output, .. } => output.clone(),
            _ => Output::default(),
        }
    }

    /// The beginning of what the handler put out, as text.
    pub fn text(&self) -> String {
        self.output().text()
    }

    /// The reason of a failure, for people.
    pub fn error(&self) -> String {
        match self {
            Self::Answered {
                status: status @ (100..200 | 300..400),
                ..
            } => format!("status {status}: redirects are not followed, give the handler's final URL"),
            Self::Answered { status, body, .. } => with_text(&format!("status {status}"), &body.text()),
            Self::Exited { code, errors, .. } => with_text(&format!("exit code {code}"), errors),
            Self::TimedOut => "no answer within timeouts.task".to_owned(),
            Self::NoConnection(why) => format!("no connection to the handler: {why}"),
            Self::Broken(why) => format!("the handler's answer broke off: {why}"),
            Self::Panicked(message) => format!("the attempt panicked in the worker: {message}"),
        }
    }
}

fn with_text(what: &str, text: &str) -> String {
    if text.is_empty() {
        what.to_owned()
    } else {
        format!("{what}: {text}")
    }
}
