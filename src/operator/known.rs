//! What we know of the broker without asking: which groups were in step when we looked last, and
//! that nobody changed them since. It is what makes a reconcile without a change free of requests.

use crate::protocol::StreamName;
use jiff::Timestamp;
use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Which groups are in step with the broker.
#[derive(Default)]
pub struct Known(Mutex<HashMap<StreamName, Entry>>);

#[derive(Default)]
struct Entry {
    /// Counts what we heard of changes; what was seen before one is void.
    changes: u64,
    in_step: Option<InStep>,
}

struct InStep {
    desired: u64,
    seen: u64,
    at: Instant,
    closed_until: Option<Timestamp>,
}

/// The moment before we ask the broker. What is heard after it voids the answer.
#[derive(Clone, Copy, Debug)]
pub struct Moment(u64);

impl Known {
    /// Marks the moment before the broker is asked about `stream`.
    pub fn now(&self, stream: &StreamName) -> Moment {
        Moment(self.lock().entry(stream.clone()).or_default().changes)
    }

    /// Whether `stream` was seen in step with `desired` (a hash) within the last `max_age`.
    pub fn is_in_step(&self, stream: &StreamName, desired: u64, max_age: Duration) -> bool {
        self.lock()
            .get(stream)
            .and_then(|entry| entry.in_step.as_ref())
            .is_some_and(|known| known.desired == desired && known.at.elapsed() < max_age)
    }

    /// Until when the workers closed a group, as far as we know.
    pub fn closed_until(&self, stream: &StreamName) -> Option<Timestamp> {
        self.lock().get(stream)?.in_step.as_ref()?.closed_until
    }

    /// Notes that `stream`, whose configuration has the fingerprint `seen`, is in step with `desired`, and
    /// until when its consumer is closed; unless something was heard since `asked`.
    pub fn record(&self, stream: &StreamName, asked: Moment, desired: u64, seen: u64, closed_until: Option<Timestamp>) {
        let mut known = self.lock();
        let entry = known.entry(stream.clone()).or_default();
        if entry.changes == asked.0 {
            entry.in_step = Some(InStep {
                desired,
                seen,
                at: Instant::now(),
                closed_until,
            });
        }
    }

    /// Somebody changed `stream`, or may have.
    pub fn changed(&self, stream: &StreamName) {
        let mut known = self.lock();
        let entry = known.entry(stream.clone()).or_default();
        entry.changes += 1;
        entry.in_step = None;
    }

    /// Anything may have changed: the connection was away.
    pub fn all_changed(&self) {
        for entry in self.lock().values_mut() {
            entry.changes += 1;
            entry.in_step = None;
        }
    }

    /// The group is gone.
    pub fn remove(&self, stream: &StreamName) {
        self.lock().remove(stream);
    }

    /// Which streams are not as we saw them before `since`, by the fingerprints of all that exist.
    pub fn strays(&self, existing: &HashMap<StreamName, u64>, since: Instant) -> Vec<StreamName> {
        self.lock()
            .iter()
            .filter(|(stream, entry)| {
                entry
                    .in_step
                    .as_ref()
                    .is_some_and(|known| known.at < since && existing.get(stream) != Some(&known.seen))
            })
            .map(|(stream, _)| stream.clone())
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<StreamName, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn what_was_seen_before_a_change_was_heard_of_is_void() {
        let (known, stream) = (Known::default(), StreamName::from("tg_a_b"));
        let asked = known.now(&stream);
        known.changed(&stream);
        known.record(&stream, asked, 1, 1, None);
        assert!(!known.is_in_step(&stream, 1, HOUR));
        known.record(&stream, known.now(&stream), 1, 1, Some(Timestamp::MAX));
        assert_eq!(known.closed_until(&stream), Some(Timestamp::MAX));
        assert!(known.is_in_step(&stream, 1, HOUR));
        assert!(!known.is_in_step(&stream, 2, HOUR), "another desire");
        assert!(!known.is_in_step(&stream, 1, Duration::ZERO), "too long ago");
        known.all_changed();
        assert!(!known.is_in_step(&stream, 1, HOUR));
    }

    #[test]
    fn a_stream_that_is_gone_or_edited_is_a_stray() {
        let (known, stream) = (Known::default(), StreamName::from("tg_a_b"));
        known.record(&stream, known.now(&stream), 1, 7, None);
        let since = Instant::now();
        let stray = std::slice::from_ref(&stream);
        assert_eq!(known.strays(&HashMap::from([(stream.clone(), 7)]), since), []);
        assert_eq!(known.strays(&HashMap::from([(stream.clone(), 8)]), since), stray);
        assert_eq!(known.strays(&HashMap::new(), since), stray);
    }
}
