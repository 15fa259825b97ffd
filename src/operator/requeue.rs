//! When a group is reconciled again. Failures back off, with jitter.

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use kube::runtime::{controller::Action, watcher};
use rand::RngExt;
use std::time::Duration;

/// Pause after the first failure. It doubles with each further one.
const FIRST: Duration = Duration::from_secs(1);

/// Longest pause. A group stays down at most this long after the obstacle is gone.
const LONGEST: Duration = Duration::from_secs(60);

/// What comes after a reconcile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requeue {
    /// All is well: reconcile at the next resync.
    Resync,
    /// Reconcile after about this time.
    After(Duration),
    /// Reconcile after exactly this time, or at the next resync.
    At(Duration),
    /// Something failed: try again, later each time.
    BackOff,
    /// Wait for a change.
    Rest,
}

/// The failures of one group in a row. Empty after a success.
#[derive(Debug, Default)]
pub struct Failures(Option<ExponentialBackoff>);

impl Failures {
    /// What the controller does after a reconcile that ended so.
    pub fn action(&mut self, requeue: Requeue, resync: Duration) -> Action {
        if requeue == Requeue::BackOff {
            return Action::requeue(jitter(self.pause()));
        }
        self.0 = None;
        match requeue {
            Requeue::Rest => Action::await_change(),
            Requeue::After(time) => Action::requeue(jitter(time)),
            Requeue::At(time) => Action::requeue(time.min(jitter(resync))),
            Requeue::Resync | Requeue::BackOff => Action::requeue(jitter(resync)),
        }
    }

    fn pause(&mut self) -> Duration {
        let pauses = self.0.get_or_insert_with(|| {
            ExponentialBuilder::new()
                .with_min_delay(FIRST)
                .with_max_delay(LONGEST)
                .without_max_times()
                .build()
        });
        pauses.next().unwrap_or(LONGEST)
    }
}

/// Pauses between the attempts of a watch that broke. kube's default grows to a minute, for which nobody would notice that
/// the API server is back.
pub fn watch_backoff() -> watcher::ExponentialBackoff {
    ExponentialBuilder::new()
        .with_min_delay(Duration::from_millis(250))
        .with_max_delay(Duration::from_secs(3))
        .with_jitter()
        .without_max_times()
        .into()
}

/// Between three quarters and five quarters of `time`, so that the groups do not come all at once.
fn jitter(time: Duration) -> Duration {
    time.mul_f64(rand::rng().random_range(0.75..=1.25))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_back_off_to_a_minute_and_a_success_ends_that() {
        let mut failures = Failures::default();
        let pauses: Vec<_> = (0..9).map(|_| failures.pause().as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        for _ in 0..1000 {
            failures.pause();
        }
        assert_eq!(failures.pause().as_secs(), 60);
        failures.action(Requeue::Resync, Duration::from_secs(600));
        assert_eq!(failures.pause().as_secs(), 1);
    }

    #[test]
    fn a_watch_is_tried_again_within_seconds() {
        assert!(watch_backoff().take(100).all(|pause| pause <= Duration::from_secs(6)));
    }

    #[test]
    fn jitter_stays_within_a_quarter() {
        for _ in 0..100 {
            let time = jitter(Duration::from_secs(100)).as_secs_f64();
            assert!((75.0..=125.0).contains(&time), "{time}");
        }
    }
}
