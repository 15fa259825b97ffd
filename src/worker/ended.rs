//! Counts the tasks that run, and those that are over, until the pull loop takes note. Many that end at once
//! wake it once.

use prometheus_client::metrics::gauge::Gauge;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use tokio::sync::Notify;

/// The tasks that are over.
#[derive(Debug, Default)]
pub struct Ended {
    running: Gauge,
    tasks: AtomicU32,
    wake: Notify,
}

/// A task that runs; it is over when this is dropped, also by a fault.
#[must_use]
pub struct AtEnd<'a>(&'a Ended);

impl Ended {
    /// With `running` as the number of tasks that run.
    pub fn new(running: Gauge) -> Self {
        Self {
            running,
            ..Self::default()
        }
    }

    /// To be kept by a task while it runs.
    pub fn at_end(&self) -> AtEnd<'_> {
        self.running.inc();
        AtEnd(self)
    }

    /// How many are over since this was asked last.
    pub fn take(&self) -> u32 {
        self.tasks.swap(0, SeqCst)
    }

    /// Returns when some are over that were not taken note of.
    pub async fn some(&self) {
        while self.tasks.load(SeqCst) == 0 {
            self.wake.notified().await;
        }
    }
}

impl Drop for AtEnd<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!("a task ended by a fault in the worker: it is delivered again after ackWait");
        }
        self.0.running.dec();
        // The first one wakes the loop, which takes note of those after it as well.
        if self.0.tasks.fetch_add(1, SeqCst) == 0 {
            self.0.wake.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn all_that_is_over_is_taken_note_of_once() {
        let ended = Ended::default();
        assert_eq!(ended.some().now_or_never(), None);
        let running = ended.at_end();
        assert_eq!(ended.some().now_or_never(), None);
        assert_eq!(ended.running.get(), 1);
        drop(running);
        drop(ended.at_end());
        assert_eq!(ended.running.get(), 0);
        assert_eq!(ended.some().now_or_never(), Some(()));
        assert_eq!((ended.take(), ended.take()), (2, 0));
        assert_eq!(ended.some().now_or_never(), None);
    }

    #[test]
    fn a_fault_gives_its_slot_back() {
        let ended = Ended::default();
        let fault = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _running = ended.at_end();
            panic!("a fault");
        }));
        assert!(fault.is_err());
        assert_eq!(ended.take(), 1);
    }
}
