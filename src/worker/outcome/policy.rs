//! The retry policy: the result of an attempt and its number decide what becomes of the task. Pure.

use crate::{
    protocol::dead_letter::{Death, Reason},
    worker::handler::AttemptResult,
};
use jiff::Timestamp;
use std::time::Duration;

/// `EX_DATAERR` of sysexits.h: the exit code of a task that no further attempt would help.
const PERMANENT_EXIT: i32 = 65;

/// What is to become of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The task is done.
    Done,
    /// The task gets another attempt after a back-off.
    Retry,
    /// The handler wants no tasks of the group for so long. The task gets another attempt then, and this one does not
    /// count.
    Throttle(Duration),
    /// The task gets no further attempt.
    Dead(Death),
    /// The task may not start now. It is queued again at this time.
    Requeue(Timestamp),
    /// This worker stops before the task could start or finish.
    Stopped,
    /// Somebody cancelled the task.
    Cancelled,
    /// The task has gone on elsewhere already.
    Transferred,
    /// The lease is lost.
    Lost,
    /// The broker forgot that it delivered the task.
    Forgotten,
}

impl Verdict {
    /// The word for the log.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Retry => "retry",
            Self::Throttle(_) => "throttle",
            Self::Dead(_) => "dead",
            Self::Requeue(_) => "requeue",
            Self::Stopped => "stopped",
            Self::Cancelled => "cancelled",
            Self::Transferred => "transferred",
            Self::Lost => "lost",
            Self::Forgotten => "forgotten",
        }
    }
}

/// Judges attempt number `attempt` of at most `max_attempts` by its result.
pub fn judge(result: &AttemptResult, attempt: u32, max_attempts: u32) -> Verdict {
    let permanent = match result {
        AttemptResult::Answered {
            status: 429 | 503,
            retry_after: Some(wait),
            ..
        } if !wait.is_zero() => return Verdict::Throttle(*wait),
        AttemptResult::Answered { status, .. } => match status {
            200..300 => return Verdict::Done,
            408 | 425 | 429 | 500.. => false,
            _ => true,
        },
        AttemptResult::Exited { code: 0, .. } => return Verdict::Done,
        AttemptResult::Exited { code, .. } => *code == PERMANENT_EXIT,
        AttemptResult::TimedOut
        | AttemptResult::NoConnection(_)
        | AttemptResult::Broken(_)
        | AttemptResult::Panicked(_) => false,
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

/// The death of a task that is delivered for what would be attempt number `attempt`, if its attempts are used up. It was
/// tried `before` times when its message was stored.
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
        // Deliveries beyond that were lost with their worker, too, but would not have been tried.
        attempts: before.max(max_attempts),
        failed_now: false,
    })
}

/// Buries a message that is in the group's stream under `subject`, which is not of the group's tasks. It would hold a slot
/// for good.
pub fn foreign_subject(subject: &str) -> Death {
    Death {
        reason: Reason::ForeignSubject,
        error: format!(
            "the group's stream held it under {subject}, which is no subject of the group's tasks: publish tasks to \
             tasks.<namespace>.<queue>.<task-id>"
        ),
        status: None,
        attempts: 0,
        failed_now: false,
    }
}

/// The death of a task that waited longer than it may, before what would be attempt number `attempt`.
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
    use crate::worker::handler::Output;

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
            (AttemptResult::Broken("x".into()), Retry, Dead(Reason::MaxAttempts)),
            (AttemptResult::Panicked("x".into()), Retry, last),
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
                    Verdict::Dead(death) => {
                        assert_eq!(death.attempts, attempt, "{result:?}");
                        Dead(death.reason)
                    }
                    other => unreachable!("no attempt is judged {other:?}"),
                };
                assert_eq!(end, expected, "{result:?}, attempt {attempt} of 2");
            }
        }
    }

    #[test]
    fn only_a_429_or_503_that_says_how_long_throttles_the_group() {
        let answered = |status, seconds: Option<u64>| AttemptResult::Answered {
            status,
            retry_after: seconds.map(Duration::from_secs),
            body: Output::default(),
        };
        let throttle = Verdict::Throttle(Duration::from_secs(7));
        // Also after the last attempt: this one does not count.
        assert_eq!(judge(&answered(429, Some(7)), 2, 2), throttle);
        assert_eq!(judge(&answered(503, Some(7)), 1, 2), throttle);
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
