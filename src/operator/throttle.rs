//! Pure: what a status says about a throttled group, and how often that changes. Handlers that ask for pause after pause
//! must not become a stream of writes.

use crate::debounce::Debounce;
use jiff::{RoundMode, Timestamp, TimestampRound, Unit};
use std::time::{Duration, Instant};

/// Least time between two changes of what one group's status says.
const CALM: Duration = Duration::from_secs(5);

/// A clock or a timer may be this early at the end of a pause.
const SLACK: Duration = Duration::from_millis(100);

/// What the status of one group says about its being throttled.
pub struct ThrottleReport {
    said: Option<Timestamp>,
    changes: Debounce<Option<Timestamp>>,
}

/// What the status is to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Throttled {
    /// The end of the pause; `None` for a group that is not throttled.
    pub until: Option<Timestamp>,
    /// After this time the answer may be another one, even if nothing else happens.
    pub look_again: Option<Duration>,
}

impl Default for ThrottleReport {
    fn default() -> Self {
        Self {
            said: None,
            changes: Debounce::new(CALM),
        }
    }
}

impl ThrottleReport {
    /// What to say of a group that is throttled until `until`, if it is.
    pub fn say(&mut self, until: Option<Timestamp>, now: Timestamp, clock: Instant) -> Throttled {
        // To the second: the workers of one group each throttle it anew, a little later each time.
        let until = until.and_then(|until| until.round(whole_seconds()).ok());
        let until = until.filter(|until| *until > now);
        if until == self.said {
            self.changes.clear();
        } else {
            self.changes.put(until);
        }
        if let Some(until) = self.changes.take(clock) {
            self.said = until;
        }
        let look_again = match self.changes.due(clock) {
            Some(due) => Some(due.saturating_duration_since(clock)),
            None => self.said.map(|until| time_between(now, until)),
        };
        Throttled {
            until: self.said,
            look_again: look_again.map(|time| time + SLACK),
        }
    }

    /// What the status says at present.
    pub fn said(&self) -> Option<Timestamp> {
        self.said
    }
}

fn whole_seconds() -> TimestampRound {
    TimestampRound::new().smallest(Unit::Second).mode(RoundMode::Ceil)
}

fn time_between(now: Timestamp, then: Timestamp) -> Duration {
    Duration::try_from(then.duration_since(now)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::constant(1_800_000_000, 0);

    fn after(time: Duration) -> Timestamp {
        NOW.checked_add(time).expect("a time")
    }

    #[test]
    fn a_pause_is_said_to_the_second_and_ends_by_itself() {
        let (mut report, clock) = (ThrottleReport::default(), Instant::now());
        let until = after(Duration::from_millis(59_500));
        let said = report.say(Some(until), NOW, clock);
        let end = after(Duration::from_secs(60));
        assert_eq!(
            said,
            Throttled {
                until: Some(end),
                look_again: Some(Duration::from_secs(60) + SLACK),
            }
        );
        let over = report.say(Some(until), end, clock + Duration::from_secs(60));
        assert_eq!(
            over,
            Throttled {
                until: None,
                look_again: None,
            }
        );
        assert_eq!(report.say(None, end, clock + CALM * 20).until, None);
    }

    #[test]
    fn what_is_said_changes_every_five_seconds_at_most() {
        let (mut report, clock) = (ThrottleReport::default(), Instant::now());
        let mut said = Vec::new();
        let mut changes = 0;
        // Throttled for two seconds, again and again, for a minute.
        for millis in (0..60_000).step_by(100) {
            let passed = Duration::from_millis(millis);
            let throttled = millis % 2500 < 2000;
            let until = throttled.then(|| after(Duration::from_millis(millis / 2500 * 2500 + 2000)));
            let now = report.say(until, after(passed), clock + passed).until;
            if said.last() != Some(&now) {
                changes += 1;
                said.push(now);
            }
        }
        assert!((2..=13).contains(&changes), "{changes}: {said:?}");
    }
}
