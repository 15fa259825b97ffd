//! What the operator remembers about each group between two reconciles. The operator keeps nothing about a group elsewhere,
//! beside what the watches show.
//!
//! A restart loses all of it. It only saves work: a group that was seen in step costs no request until something changes.

use super::{
    backlog::{Numbers, is_news},
    index::GroupKey,
    requeue::{Failures, Requeue},
    throttle::{ThrottleReport, Throttled},
};
use jiff::Timestamp;
use kube::runtime::controller::Action;
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// The memory of all groups.
#[derive(Default)]
pub struct Memory(Mutex<HashMap<GroupKey, GroupMemory>>);

/// The memory of one group.
#[derive(Default)]
struct GroupMemory {
    /// Counts the changes in the broker that we heard of. What was seen before one of them is void.
    changes: u64,
    in_step: Option<InStep>,
    /// What the status is to say about the backlog.
    numbers: Option<Numbers>,
    /// What the last sweep found.
    swept: Option<Numbers>,
    throttle: ThrottleReport,
    failures: Failures,
}

/// A group's stream and consumer were seen as desired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InStep {
    spec: SpecVersion,
    /// Fingerprint of the stream's configuration.
    stream: u64,
    at: Instant,
    /// The end of the pause that a worker asked for, if it did.
    pub throttled_until: Option<Timestamp>,
}

/// Identifies one spec of one TaskGroup: a hash of its uid and its generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpecVersion(pub u64);

/// The moment before the broker is asked. A change that we hear of after it voids the answer.
#[derive(Clone, Copy, Debug)]
pub struct Moment(u64);

impl Memory {
    /// Marks the moment before the broker is asked about a group.
    pub fn now(&self, key: &GroupKey) -> Moment {
        self.of(key, |group| Moment(group.changes))
    }

    /// What was seen of a group in step with this spec within the last `max_age`. `None` where the broker must be asked.
    pub fn in_step(&self, key: &GroupKey, spec: SpecVersion, max_age: Duration) -> Option<InStep> {
        let groups = self.0.lock();
        let seen = groups.get(key)?.in_step?;
        (seen.spec == spec && seen.at.elapsed() < max_age).then_some(seen)
    }

    /// Notes that the group, whose stream has this fingerprint, is in step with this spec, unless we heard of a change
    /// since `asked`.
    pub fn saw_in_step(
        &self,
        key: &GroupKey,
        asked: Moment,
        spec: SpecVersion,
        stream: u64,
        throttled_until: Option<Timestamp>,
    ) {
        self.of(key, |group| {
            if group.changes == asked.0 {
                group.in_step = Some(InStep {
                    spec,
                    stream,
                    at: Instant::now(),
                    throttled_until,
                });
            }
        });
    }

    /// Somebody changed the group's stream or consumer, or may have.
    pub fn broker_changed(&self, key: &GroupKey) {
        self.of(key, GroupMemory::broker_changed);
    }

    /// Anything may have changed in the broker, because the connection was down.
    pub fn all_changed(&self) {
        self.0.lock().values_mut().for_each(GroupMemory::broker_changed);
    }

    /// Whether the group's stream is not as it was seen before `since`, by the fingerprint of the stream that exists.
    pub fn is_stray(&self, key: &GroupKey, stream: Option<u64>, since: Instant) -> bool {
        let groups = self.0.lock();
        let seen = groups.get(key).and_then(|group| group.in_step);
        seen.is_some_and(|seen| seen.at < since && Some(seen.stream) != stream)
    }

    /// What the status is to say about the backlog; `None` where there is nothing new.
    pub fn numbers(&self, key: &GroupKey) -> Option<Numbers> {
        self.0.lock().get(key)?.numbers
    }

    /// From now on the status is to say these numbers.
    pub fn say_numbers(&self, key: &GroupKey, numbers: Numbers) {
        self.of(key, |group| group.numbers = Some(numbers));
    }

    /// Notes what a sweep found. `in_status` are the numbers of the group's status. Returns whether the status is to be
    /// written anew.
    pub fn swept(&self, key: &GroupKey, numbers: Numbers, in_status: Option<Numbers>) -> bool {
        self.of(key, |group| {
            let last = group.swept.replace(numbers);
            let news = is_news(group.numbers.or(in_status), numbers, last);
            if news {
                group.numbers = Some(numbers);
            }
            news
        })
    }

    /// What the status is to say of a group that is throttled until `until`, if it is.
    pub fn throttled(&self, key: &GroupKey, until: Option<Timestamp>, now: Timestamp) -> Throttled {
        self.of(key, |group| group.throttle.say(until, now, Instant::now()))
    }

    /// What the status says at present about the group's pause.
    pub fn said_throttled(&self, key: &GroupKey) -> Option<Timestamp> {
        self.0.lock().get(key)?.throttle.said()
    }

    /// What the controller does after a reconcile that ended so.
    pub fn action(&self, key: &GroupKey, requeue: Requeue, resync: Duration) -> Action {
        if requeue == Requeue::Rest {
            // Do not begin to remember a group that was just forgotten.
            let mut groups = self.0.lock();
            return groups
                .get_mut(key)
                .map_or_else(Action::await_change, |group| group.failures.action(requeue, resync));
        }
        self.of(key, |group| group.failures.action(requeue, resync))
    }

    /// Forgets a group that is gone.
    pub fn forget(&self, key: &GroupKey) {
        self.0.lock().remove(key);
    }

    /// Forgets all groups but these: a reconcile that was under way may have remembered one that was gone.
    pub fn retain(&self, exists: impl Fn(&GroupKey) -> bool) {
        self.0.lock().retain(|key, _| exists(key));
    }

    fn of<T>(&self, key: &GroupKey, change: impl FnOnce(&mut GroupMemory) -> T) -> T {
        let mut groups = self.0.lock();
        if let Some(group) = groups.get_mut(key) {
            return change(group);
        }
        change(groups.entry(key.clone()).or_default())
    }
}

impl GroupMemory {
    fn broker_changed(&mut self) {
        self.changes += 1;
        self.in_step = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const SPEC: SpecVersion = SpecVersion(1);

    fn key() -> GroupKey {
        GroupKey {
            namespace: "crawl".into(),
            name: "acme".into(),
        }
    }

    #[test]
    fn what_was_seen_before_a_change_was_heard_of_is_void() {
        let (memory, key) = (Memory::default(), key());
        let asked = memory.now(&key);
        memory.broker_changed(&key);
        memory.saw_in_step(&key, asked, SPEC, 1, None);
        assert_eq!(memory.in_step(&key, SPEC, HOUR), None);
        memory.saw_in_step(&key, memory.now(&key), SPEC, 1, Some(Timestamp::MAX));
        let seen = memory.in_step(&key, SPEC, HOUR).and_then(|seen| seen.throttled_until);
        assert_eq!(seen, Some(Timestamp::MAX));
        assert_eq!(memory.in_step(&key, SpecVersion(2), HOUR), None, "another spec");
        assert_eq!(memory.in_step(&key, SPEC, Duration::ZERO), None, "too long ago");
        memory.all_changed();
        assert_eq!(memory.in_step(&key, SPEC, HOUR), None);
    }

    #[test]
    fn a_stream_that_is_gone_or_edited_is_a_stray() {
        let (memory, key) = (Memory::default(), key());
        memory.saw_in_step(&key, memory.now(&key), SPEC, 7, None);
        let since = Instant::now();
        for (exists, stray) in [(Some(7), false), (Some(8), true), (None, true)] {
            assert_eq!(memory.is_stray(&key, exists, since), stray, "{exists:?}");
        }
        memory.saw_in_step(&key, memory.now(&key), SPEC, 9, None);
        assert!(
            !memory.is_stray(&key, Some(7), since),
            "the sweep is older than what was seen"
        );
    }

    #[test]
    fn a_sweep_is_told_when_it_is_news() {
        let (memory, key) = (Memory::default(), key());
        let pending = |pending| Numbers {
            pending,
            ..Numbers::default()
        };
        assert!(
            !memory.swept(&key, pending(100), Some(pending(100))),
            "the status says it"
        );
        assert!(memory.swept(&key, pending(50), Some(pending(100))));
        assert_eq!(memory.numbers(&key), Some(pending(50)));
        assert!(
            !memory.swept(&key, pending(49), Some(pending(100))),
            "too little to tell"
        );
        assert!(memory.swept(&key, pending(49), Some(pending(100))), "it has settled");
    }

    #[test]
    fn a_group_that_is_gone_leaves_nothing() {
        let (memory, key) = (Memory::default(), key());
        memory.say_numbers(&key, Numbers::default());
        memory.forget(&key);
        memory.action(&key, Requeue::Rest, HOUR);
        assert!(memory.0.lock().is_empty());
        memory.now(&key);
        memory.retain(|_| false);
        assert!(memory.0.lock().is_empty());
    }
}
