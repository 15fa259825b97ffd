//! What a group's status says about its being closed, and how often that changes: handlers that ask for
//! pause after pause must not become a stream of writes.

use crate::{broker::Pause, operator::observe::BrokerView, protocol::StreamName};
use jiff::{RoundMode, Timestamp, TimestampRound, Unit};
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Least time between two changes of what one group's status says.
const CALM: Duration = Duration::from_secs(5);

/// Beyond the end of a closing, by which a clock or a timer may be early.
const SLACK: Duration = Duration::from_millis(100);

/// What the status of each group that was closed says.
#[derive(Default)]
pub struct Closings(Mutex<HashMap<StreamName, Said>>);

struct Said {
    until: Option<Timestamp>,
    since: Instant,
}

/// What is to be said about a group's being closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed {
    /// Until when; `None` for an open group.
    pub until: Option<Timestamp>,
    /// After which time this may have changed without anything else happening.
    pub look_again: Option<Duration>,
}

impl Closings {
    /// What to say of a group that is closed until `until`, if it is.
    pub fn say(&self, stream: &StreamName, until: Option<Timestamp>, now: Timestamp, clock: Instant) -> Closed {
        // To the second: the workers of one group each close it anew, a little later each time.
        let until = until.and_then(|until| until.round(whole_seconds()).ok());
        let until = until.filter(|until| *until > now);
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let said = all.get(stream);
        let differs = said.and_then(|said| said.until) != until;
        let calm_in = said.map_or(Duration::ZERO, |said| {
            CALM.saturating_sub(clock.saturating_duration_since(said.since))
        });
        if differs && !calm_in.is_zero() {
            return Closed {
                until: said.and_then(|said| said.until),
                look_again: Some(calm_in + SLACK),
            };
        }
        if differs {
            all.insert(stream.clone(), Said { until, since: clock });
        }
        Closed {
            until,
            look_again: until.map(|until| time_between(now, until) + SLACK),
        }
    }

    /// What is said of a group at present.
    pub fn said(&self, stream: &StreamName) -> Option<Timestamp> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(stream)?.until
    }

    /// The group is gone.
    pub fn remove(&self, stream: &StreamName) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(stream);
    }
}

/// Until when a group is closed, by what was seen in the broker.
pub fn seen(view: &BrokerView) -> Option<Timestamp> {
    let BrokerView::Seen {
        consumer: Some(consumer),
        ..
    } = view
    else {
        return None;
    };
    match consumer.pause() {
        Pause::Until(until) => Some(until),
        Pause::No | Pause::ForEver => None,
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
    fn a_closing_is_said_to_the_second_and_ends_by_itself() {
        let (closings, stream, clock) = (Closings::default(), StreamName::from("tg_a_b"), Instant::now());
        let until = after(Duration::from_millis(59_500));
        let said = closings.say(&stream, Some(until), NOW, clock);
        let end = after(Duration::from_secs(60));
        assert_eq!(
            said,
            Closed {
                until: Some(end),
                look_again: Some(Duration::from_secs(60) + SLACK),
            }
        );
        let over = closings.say(&stream, Some(until), end, clock + Duration::from_secs(60));
        assert_eq!(
            over,
            Closed {
                until: None,
                look_again: None,
            }
        );
        assert_eq!(closings.say(&stream, None, end, clock + CALM * 20).until, None);
    }

    #[test]
    fn what_is_said_changes_every_five_seconds_at_most() {
        let (closings, stream, clock) = (Closings::default(), StreamName::from("tg_a_b"), Instant::now());
        let mut said = Vec::new();
        let mut changes = 0;
        // Closed for two seconds, again and again, for a minute.
        for millis in (0..60_000).step_by(100) {
            let passed = Duration::from_millis(millis);
            let closed = millis % 2500 < 2000;
            let until = closed.then(|| after(Duration::from_millis(millis / 2500 * 2500 + 2000)));
            let now = closings.say(&stream, until, after(passed), clock + passed).until;
            if said.last() != Some(&now) {
                changes += 1;
                said.push(now);
            }
        }
        assert!((2..=13).contains(&changes), "{changes}: {said:?}");
    }
}
