//! The time of the NATS server. Tasks wait for moments of that clock (their start by the group's rate, the end of a
//! pause), so that the clocks of the nodes don't matter.
//!
//! The server tells its time with each answer about the consumer, for which a worker asks about every 30 seconds.
//! The answer was true at some moment between question and answer, so the middle of the two is at most half a round trip
//! off. Between answers the machine's own monotonic clock counts on. In a NATS cluster the leader of the consumer tells
//! the time; the servers' clocks have to agree, as NATS itself demands.

use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

/// Answers that are remembered. The best of the last few minutes is believed.
const REMEMBERED: usize = 8;

/// A machine's clock may count wrongly by one part in this. Ten millionths are several times the error of a machine
/// that follows a time server.
const DRIFT: u32 = 100_000;

/// The server's clock. Cheap to clone; all clones are one.
#[derive(Clone, Debug, Default)]
pub struct Clock(Arc<Mutex<Answers>>);

#[derive(Debug, Default)]
struct Answers {
    last: VecDeque<Answer>,
    best: Option<Answer>,
}

/// It was `server` at `at`, give or take `error`.
#[derive(Clone, Copy, Debug)]
struct Answer {
    at: Instant,
    server: Timestamp,
    error: Duration,
}

impl Answer {
    fn time(&self, now: Instant) -> Timestamp {
        let passed = SignedDuration::try_from(now.saturating_duration_since(self.at)).unwrap_or(SignedDuration::MAX);
        self.server.saturating_add(passed).unwrap_or(Timestamp::MAX)
    }

    fn error(&self, now: Instant) -> Duration {
        self.error + now.saturating_duration_since(self.at) / DRIFT
    }

    /// Tells whether both answers can be right.
    fn agrees(&self, other: &Self, now: Instant) -> bool {
        let apart = self.time(now).duration_since(other.time(now)).unsigned_abs();
        apart <= self.error(now) + other.error(now)
    }
}

impl Clock {
    /// The server said that it was `server`, in an answer that came at `answered` to a question sent at `sent`.
    pub fn heard(&self, sent: Instant, answered: Instant, server: Timestamp) {
        let error = answered.saturating_duration_since(sent) / 2;
        let answer = Answer {
            at: sent + error,
            server,
            error,
        };
        let mut answers = self.0.lock();
        // Older answers that contradict the newest are from before the server's clock was set, or from another server.
        answers.last.retain(|before| before.agrees(&answer, answered));
        answers.last.push_back(answer);
        if answers.last.len() > REMEMBERED {
            answers.last.pop_front();
        }
        answers.best = answers.last.iter().copied().min_by_key(|answer| answer.error(answered));
    }

    /// The server's time. It goes on evenly until the next answer, which may set it forward or back by
    /// less than [`Clock::error`]. Before the first answer: this machine's time.
    pub fn now(&self) -> Timestamp {
        self.at(Instant::now())
    }

    /// By how much [`Clock::now`] may be wrong; a second before the first answer.
    pub fn error(&self) -> Duration {
        let best = self.0.lock().best;
        best.map_or(Duration::from_secs(1), |best| best.error(Instant::now()))
    }

    fn at(&self, now: Instant) -> Timestamp {
        let best = self.0.lock().best;
        best.map_or_else(Timestamp::now, |best| best.time(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn server(ms: i64) -> Timestamp {
        Timestamp::from_millisecond(1_790_000_000_000 + ms).expect("a time")
    }

    #[test]
    fn the_answer_that_came_quickest_is_believed() {
        let clock = Clock::default();
        let begun = Instant::now();
        // The server is at 1000 ms when we begin; it answers at once, and the way back is slow.
        clock.heard(begun, begun + 20 * MS, server(1000));
        assert_eq!(clock.at(begun + 20 * MS), server(1010), "10 ms off at most");
        clock.heard(begun + 30 * MS, begun + 32 * MS, server(1031));
        assert_eq!(clock.at(begun + 50 * MS), server(1050));
        clock.heard(begun + 60 * MS, begun + 80 * MS, server(1060));
        assert_eq!(
            clock.at(begun + 100 * MS),
            server(1100),
            "the slow answer changes nothing"
        );
    }

    #[test]
    fn an_old_answer_is_worth_less() {
        let clock = Clock::default();
        let begun = Instant::now();
        let later = begun + Duration::from_secs(200);
        clock.heard(begun, begun + 2 * MS, server(1));
        // Of two machines, one counts a little wrong: 1 ms in 200 s.
        clock.heard(later, later + 4 * MS, server(200_003));
        assert_eq!(clock.at(later + 2 * MS), server(200_003));
    }

    #[test]
    fn a_server_whose_clock_was_set_is_followed_at_once() {
        let clock = Clock::default();
        let begun = Instant::now();
        clock.heard(begun, begun + MS, server(0));
        clock.heard(begun + 10 * MS, begun + 20 * MS, server(-60_000));
        assert_eq!(clock.at(begun + 15 * MS), server(-60_000));
    }

    #[test]
    fn a_clock_that_heard_nothing_is_this_machines() {
        let clock = Clock::default();
        let apart = clock.now().duration_since(Timestamp::now()).unsigned_abs();
        assert!(apart < clock.error(), "{apart:?}");
    }
}
