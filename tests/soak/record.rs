//! What is seen and done is written down here, for the checker and for the lines of progress.

use crate::checker::{Event, How, Log, Time};
use std::{
    collections::BTreeMap,
    sync::Mutex,
    time::{Duration, Instant, SystemTime},
};

pub struct Record {
    begun: Instant,
    begun_by_the_clock: SystemTime,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    log: Log,
    /// Events by kind, for people.
    counts: BTreeMap<&'static str, usize>,
    problems: Vec<String>,
}

impl Record {
    pub fn new() -> Self {
        Self {
            begun: Instant::now(),
            begun_by_the_clock: SystemTime::now(),
            state: Mutex::default(),
        }
    }

    pub fn now(&self) -> Time {
        self.begun.elapsed()
    }

    /// A time that another process says, by the clock.
    pub fn by_the_clock(&self, nanoseconds_since_1970: u64) -> Time {
        let at = SystemTime::UNIX_EPOCH + Duration::from_nanos(nanoseconds_since_1970);
        at.duration_since(self.begun_by_the_clock).unwrap_or_default()
    }

    /// It happened just now.
    pub fn note(&self, event: Event) {
        let mut state = self.state.lock().unwrap();
        // Inside the lock: what is noted first happened first.
        let now = self.begun.elapsed();
        state.add(now, event);
    }

    /// It happened then.
    pub fn note_at(&self, at: Time, event: Event) {
        self.state.lock().unwrap().add(at, event);
    }

    /// Counts what the checker need not know.
    pub fn count(&self, what: &'static str) {
        *self.state.lock().unwrap().counts.entry(what).or_default() += 1;
    }

    /// Something went wrong that the log does not show.
    pub fn problem(&self, what: String) {
        println!("PROBLEM at {:.3?}: {what}", self.now());
        self.state.lock().unwrap().problems.push(what);
    }

    /// How often something happened so far.
    pub fn counted(&self, what: &str) -> usize {
        self.state.lock().unwrap().counts.get(what).copied().unwrap_or(0)
    }

    /// Runs that go on now.
    pub fn running(&self) -> usize {
        let state = self.state.lock().unwrap();
        let count = |what| state.counts.get(what).copied().unwrap_or(0);
        count("runs") - count("done") - count("cut off") - count("failed")
    }

    pub fn counts(&self) -> BTreeMap<&'static str, usize> {
        self.state.lock().unwrap().counts.clone()
    }

    pub fn take(&self) -> (Log, Vec<String>) {
        let mut state = self.state.lock().unwrap();
        (std::mem::take(&mut state.log), std::mem::take(&mut state.problems))
    }
}

impl State {
    fn add(&mut self, at: Time, event: Event) {
        let kind = match &event {
            Event::Stored { .. } => Some("published"),
            Event::Started { .. } => Some("runs"),
            Event::Ended { how: How::Ok, .. } => Some("done"),
            Event::Ended { how: How::CutOff, .. } => Some("cut off"),
            Event::Ended { .. } => Some("failed"),
            Event::Limits { .. } => Some("limits changed"),
            Event::Cancel { .. } => Some("cancels"),
            Event::Fault { kind, .. } => Some(*kind),
            _ => None,
        };
        if let Some(kind) = kind {
            *self.counts.entry(kind).or_default() += 1;
        }
        self.log.push((at, event));
    }
}
