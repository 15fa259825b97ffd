//! What becomes of a task: the result of an attempt and its number decide. Pure.

use crate::protocol::dead_letter::{Death, MAX_ERROR, Reason};
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

/// `EX_DATAERR` of sysexits.h: the exit code of a task that no further attempt would help.
const PERMANENT_EXIT: i32 = 65;

/// What to do with the task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is done.
    Done,
    /// It gets another attempt after a back-off.
    Retry,
    /// The handler wants no tasks of the group for so long: it gets another attempt then, and this one
    /// does not count.
    Close(Duration),
    /// It gets none.
    Dead(Death),
}

impl Verdict {
    /// In a word, for the log.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Retry => "retry",
            Self::Close(_) => "close",
            Self::Dead(_) => "dead",
        }
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
            Self::Exited { .. } | Self::NoConnection(_) | Self::Broken(_) => 500,
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

    fn error(&self) -> String {
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

/// What to do with a task after attempt number `attempt` of at most `max_attempts`.
pub fn judge(result: &AttemptResult, attempt: u32, max_attempts: u32) -> Verdict {
    let permanent = match result {
        AttemptResult::Answered {
            status: 429 | 503,
            retry_after: Some(wait),
            ..
        } if !wait.is_zero() => return Verdict::Close(*wait),
        AttemptResult::Answered { status, .. } => match status {
            200..300 => return Verdict::Done,
            408 | 425 | 429 | 500.. => false,
            _ => true,
        },
        AttemptResult::Exited { code: 0, .. } => return Verdict::Done,
        AttemptResult::Exited { code, .. } => *code == PERMANENT_EXIT,
        AttemptResult::TimedOut | AttemptResult::NoConnection(_) | AttemptResult::Broken(_) => false,
    };
    if !permanent && attempt < max_attempts {
        return Verdict::Retry;
    }
    Verdict::Dead(Death {
        reason: if permanent {
            Reason::Permanent
        } else {
            Reason::MaxAttempts
        },
        error: result.error(),
        status: result.status(),
        attempts: attempt,
        failed_now: true,
    })
}

/// What to do with a task that was tried `before` times when its message was made, before what would be the
/// `attempt`th time: one whose attempts are used up is not run again.
pub fn already_dead(before: u32, attempt: u32, max_attempts: u32) -> Option<Death> {
    if attempt <= max_attempts {
        return None;
    }
    let (reason, error) = if before < max_attempts {
        let error = format!(
            "the last of {max_attempts} attempts has no result: its worker died, or lost its connection, in the middle"
        );
        (Reason::WorkerLost, error)
    } else {
        let error = format!("it was tried {before} times, and retry.maxAttempts is {max_attempts} by now");
        (Reason::MaxAttempts, error)
    };
    Some(Death {
        reason,
        error,
        status: None,
        // Deliveries beyond that died with their worker, too, but were not to be tried.
        attempts: before.max(max_attempts),
        failed_now: false,
    })
}

/// A task that waited longer than it may, before what would be the `attempt`th one.
pub fn expired(attempt: u32, expire: Option<Duration>) -> Death {
    Death {
        reason: Reason::Expired,
        error: format!(
            "it waited longer than timeouts.expire ({:?})",
            expire.unwrap_or_default()
        ),
        status: None,
        attempts: attempt.saturating_sub(1),
        failed_now: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(status: u16) -> AttemptResult {
        AttemptResult::Answered {
            status,
            retry_after: None,
            body: Output {
                bytes: "why".into(),
                truncated: false,
            },
        }
    }

    #[test]
    fn a_task_ends_as_the_design_says() {
        #[derive(Debug, PartialEq)]
        enum End {
            Done,
            Retry,
            Dead(Reason),
        }
        use End::{Dead, Done, Retry};
        let (last, permanent) = (Dead(Reason::MaxAttempts), Dead(Reason::Permanent));
        for (result, attempt_1_of_2, attempt_2_of_2) in [
            (answered(200), Done, Done),
            (answered(204), Done, Done),
            (answered(299), Done, Done),
            (answered(408), Retry, Dead(Reason::MaxAttempts)),
            (answered(425), Retry, Dead(Reason::MaxAttempts)),
            (answered(429), Retry, Dead(Reason::MaxAttempts)),
            (answered(500), Retry, Dead(Reason::MaxAttempts)),
            (answered(503), Retry, Dead(Reason::MaxAttempts)),
            (answered(599), Retry, Dead(Reason::MaxAttempts)),
            (AttemptResult::TimedOut, Retry, Dead(Reason::MaxAttempts)),
            (
                AttemptResult::NoConnection("x".into()),
                Retry,
                Dead(Reason::MaxAttempts),
            ),
            (AttemptResult::Broken("x".into()), Retry, last),
            (answered(400), Dead(Reason::Permanent), Dead(Reason::Permanent)),
            (answered(404), Dead(Reason::Permanent), Dead(Reason::Permanent)),
            (answered(422), Dead(Reason::Permanent), Dead(Reason::Permanent)),
            (answered(101), Dead(Reason::Permanent), Dead(Reason::Permanent)),
            (answered(301), Dead(Reason::Permanent), Dead(Reason::Permanent)),
            (answered(304), Dead(Reason::Permanent), permanent),
        ] {
            for (attempt, expected) in [(1, attempt_1_of_2), (2, attempt_2_of_2)] {
                let end = match judge(&result, attempt, 2) {
                    Verdict::Done => Done,
                    Verdict::Retry => Retry,
                    Verdict::Close(_) => unreachable!("no answer has Retry-After"),
                    Verdict::Dead(death) => {
                        assert_eq!(death.attempts, attempt, "{result:?}");
                        Dead(death.reason)
                    }
                };
                assert_eq!(end, expected, "{result:?}, attempt {attempt} of 2");
            }
        }
    }

    #[test]
    fn only_a_429_or_503_that_says_how_long_closes_the_group() {
        let answered = |status, seconds: Option<u64>| AttemptResult::Answered {
            status,
            retry_after: seconds.map(Duration::from_secs),
            body: Output::default(),
        };
        let close = Verdict::Close(Duration::from_secs(7));
        // Also after the last attempt: this one does not count.
        assert_eq!(judge(&answered(429, Some(7)), 2, 2), close);
        assert_eq!(judge(&answered(503, Some(7)), 1, 2), close);
        for (status, seconds) in [(429, None), (503, Some(0)), (500, Some(7)), (408, Some(7))] {
            let verdict = judge(&answered(status, seconds), 1, 2);
            assert_eq!(verdict, Verdict::Retry, "{status} {seconds:?}");
        }
        assert_eq!(judge(&answered(200, Some(7)), 1, 2), Verdict::Done);
    }

    #[test]
    fn an_exit_code_is_judged_as_sysexits_has_it() {
        let exited = |code| AttemptResult::Exited {
            code,
            output: Output::default(),
            errors: "bad line 7".into(),
        };
        assert_eq!(judge(&exited(0), 1, 2), Verdict::Done);
        for code in [1, 64, 75, 137] {
            assert_eq!(judge(&exited(code), 1, 2), Verdict::Retry, "{code}");
        }
        let Verdict::Dead(death) = judge(&exited(65), 1, 2) else {
            panic!("65 is permanent");
        };
        assert_eq!((death.reason, death.status), (Reason::Permanent, Some(65)));
        assert_eq!(death.error, "exit code 65: bad line 7");
    }

    #[test]
    fn a_redirect_says_that_it_was_not_followed() {
        let Verdict::Dead(death) = judge(&answered(302), 1, 5) else {
            panic!("a redirect is permanent");
        };
        assert_eq!(
            death.error,
            "status 302: redirects are not followed, give the handler's final URL"
        );
    }

    #[test]
    fn a_task_whose_attempts_are_used_up_is_not_run_again() {
        for (before, attempt, max_attempts, dead) in [
            (4, 5, 5, None),
            (4, 6, 5, Some((Reason::WorkerLost, 5))),
            (0, 6, 5, Some((Reason::WorkerLost, 5))),
            // Whoever was to bury it died, too.
            (4, 8, 5, Some((Reason::WorkerLost, 5))),
            // It waited for its sixth attempt when the group was given less.
            (5, 6, 3, Some((Reason::MaxAttempts, 5))),
        ] {
            let death = already_dead(before, attempt, max_attempts);
            let found = death.map(|death| (death.reason, death.attempts));
            assert_eq!(found, dead, "{before} {attempt} {max_attempts}");
        }
    }
}
