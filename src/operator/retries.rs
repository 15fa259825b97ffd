//! When something is tried again: failures back off, per group and per watch, with jitter.

use super::reconcile::Next;
use kube::runtime::{controller::Action, utils::Backoff};
use rand::RngExt;
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// Pause after the first failure; it doubles with each further one.
const FIRST: Duration = Duration::from_secs(1);

/// Longest pause: how long a group may stay down after what was in its way is gone, at the most.
const LONGEST: Duration = Duration::from_secs(60);

/// How often each group failed in a row.
#[derive(Default)]
pub struct Retries(Mutex<HashMap<(String, String), u32>>);

impl Retries {
    /// What the controller is to do with a group after a reconcile that ended in `next`.
    pub fn action(&self, namespace: &str, name: &str, next: Next, resync: Duration) -> Action {
        let key = (namespace.to_owned(), name.to_owned());
        let mut failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if next == Next::BackOff {
            let count = failures.entry(key).or_insert(0);
            *count += 1;
            return Action::requeue(jitter(pause(*count)));
        }
        failures.remove(&key);
        match next {
            Next::Rest => Action::await_change(),
            Next::After(time) => Action::requeue(jitter(time)),
            Next::At(time) => Action::requeue(time.min(jitter(resync))),
            Next::Resync | Next::BackOff => Action::requeue(jitter(resync)),
        }
    }
}

/// Pauses between the attempts of a watch that broke. kube's own grow to a minute, for which nobody
/// would notice that the API server is back.
pub struct WatchBackoff(Duration);

impl WatchBackoff {
    const FIRST: Duration = Duration::from_millis(250);
    const LONGEST: Duration = Duration::from_secs(4);
}

impl Default for WatchBackoff {
    fn default() -> Self {
        Self(Self::FIRST)
    }
}

impl Iterator for WatchBackoff {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = self.0;
        self.0 = pause.saturating_mul(2).min(Self::LONGEST);
        Some(jitter(pause))
    }
}

impl Backoff for WatchBackoff {
    fn reset(&mut self) {
        *self = Self::default();
    }
}

/// The pause after so many failures in a row, at least 1.
fn pause(failures: u32) -> Duration {
    FIRST
        .saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1)))
        .min(LONGEST)
}

/// Between three quarters and five quarters of `time`, so that groups do not come all at once.
fn jitter(time: Duration) -> Duration {
    time.mul_f64(rand::rng().random_range(0.75..=1.25))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_back_off_to_a_minute() {
        let pauses: Vec<_> = [1, 2, 3, 6, 7, 1000].map(|failures| pause(failures).as_secs()).into();
        assert_eq!(pauses, [1, 2, 4, 32, 60, 60]);
    }

    #[test]
    fn jitter_stays_within_a_quarter() {
        for _ in 0..100 {
            let time = jitter(Duration::from_secs(100)).as_secs_f64();
            assert!((75.0..=125.0).contains(&time), "{time}");
        }
    }
}
