//! Callbacks: the header by which a task asks for one, the headers that a callback carries (their names are those of
//! `OpenFaaS`), and what a worker answers to the relay that asks it to make one.

use super::headers::CALL_ID;
use std::time::Duration;

/// On a task: where its callback goes. On a stored callback, the same.
pub const URL: &str = "X-Callback-Url";
/// How long the last attempt took, in seconds.
pub const DURATION: &str = "X-Duration-Seconds";
/// HTTP status of the handler; 200 for exit code 0, and 500 for everything else.
pub const FUNCTION_STATUS: &str = "X-Function-Status";
/// Name of the TaskGroup.
pub const FUNCTION_NAME: &str = "X-Function-Name";
/// `true` where the body is only the beginning of what the handler put out.
pub const TRUNCATED: &str = "X-Truncated";

/// Every header of a callback, beside the W3C trace headers.
pub const ALL: [&str; 6] = [CALL_ID, URL, DURATION, FUNCTION_STATUS, FUNCTION_NAME, TRUNCATED];

/// What a callback reports about a task.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    /// Id of the task.
    pub call_id: &'a str,
    /// Where the callback goes.
    pub url: &'a str,
    /// Name of the TaskGroup.
    pub group: &'a str,
    /// The result as an HTTP status.
    pub status: u16,
    /// How long the last attempt took.
    pub duration: Duration,
    /// Whether the body is cut.
    pub truncated: bool,
}

impl Report<'_> {
    /// The headers of the callback.
    pub fn headers(&self) -> Vec<(String, String)> {
        let mut all = vec![
            (URL, self.url.to_owned()),
            (CALL_ID, self.call_id.to_owned()),
            (FUNCTION_NAME, self.group.to_owned()),
            (FUNCTION_STATUS, self.status.to_string()),
            (DURATION, format!("{:.6}", self.duration.as_secs_f64())),
        ];
        if self.truncated {
            all.push((TRUNCATED, "true".to_owned()));
        }
        all.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

/// What a worker says about a callback that the relay asked it to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The other side took the callback.
    Made,
    /// The try failed; another one may succeed.
    Retry,
    /// The try failed, and every other one will.
    GiveUp,
}

impl Reply {
    /// Every reply.
    pub const ALL: [Self; 3] = [Self::Made, Self::Retry, Self::GiveUp];

    /// The reply as it is sent.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Made => "ok",
            Self::Retry => "retry",
            Self::GiveUp => "give-up",
        }
    }

    /// Reads a reply. One that a newer worker may send counts as [`Reply::Retry`], which loses nothing.
    pub fn read(text: &[u8]) -> Self {
        let known = Self::ALL.into_iter().find(|reply| reply.as_str().as_bytes() == text);
        known.unwrap_or(Self::Retry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_read_as_it_is_sent_and_an_unknown_one_means_retry() {
        for reply in Reply::ALL {
            assert_eq!(Reply::read(reply.as_str().as_bytes()), reply);
        }
        assert_eq!(Reply::read(b"later"), Reply::Retry);
    }
}
