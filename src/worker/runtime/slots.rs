//! The slots of a process: each group has a share of them. A task takes a slot of its group's share when it is
//! delivered, and gives it back when it is over. Many tasks that end at once wake the group's pull loop once.

use super::metrics::Metrics;
use prometheus_client::metrics::gauge::Gauge;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use tokio::sync::Notify;

/// The slots of all groups of this process, as its metrics show them.
#[derive(Clone, Debug, Default)]
pub struct Slots {
    taken: Gauge,
    capacity: Gauge,
    concurrency: Gauge,
}

/// The slots of one group.
#[derive(Debug)]
pub struct Share {
    all: Slots,
    capacity: AtomicU32,
    concurrency: AtomicU32,
    /// Slots that were given back since the pull loop last asked.
    freed: AtomicU32,
    wake: Notify,
}

/// A slot that a task has taken. It is given back when this is dropped, also by a panic.
#[must_use]
pub struct Taken<'a>(&'a Share);

impl Slots {
    /// None yet, shown by `metrics`.
    pub fn new(metrics: &Metrics) -> Self {
        let (taken, capacity, concurrency) = metrics.slots();
        Self {
            taken,
            capacity,
            concurrency,
        }
    }

    /// The share of one more group.
    pub fn share(&self) -> Share {
        Share {
            all: self.clone(),
            capacity: AtomicU32::new(0),
            concurrency: AtomicU32::new(0),
            freed: AtomicU32::new(0),
            wake: Notify::new(),
        }
    }
}

impl Share {
    /// The group may have `capacity` tasks in this process from now on, and `concurrency` in all processes together.
    pub fn resize(&self, capacity: u32, concurrency: u32) {
        for (gauge, share, now) in [
            (&self.all.capacity, &self.capacity, capacity),
            (&self.all.concurrency, &self.concurrency, concurrency),
        ] {
            // By the difference: the gauge is the sum of all shares.
            gauge.inc_by(i64::from(now) - i64::from(share.swap(now, SeqCst)));
        }
    }

    /// Takes a slot for one task.
    pub fn take(&self) -> Taken<'_> {
        self.all.taken.inc();
        Taken(self)
    }

    /// How many slots were given back since the last call.
    pub fn collect_freed(&self) -> u32 {
        self.freed.swap(0, SeqCst)
    }

    /// Returns when slots were given back that [`Share::collect_freed`] has not counted yet.
    pub async fn freed(&self) {
        while self.freed.load(SeqCst) == 0 {
            self.wake.notified().await;
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.resize(0, 0);
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!("the run of a task panicked: JetStream redelivers the task after ackWait");
        }
        self.0.all.taken.dec();
        // The first one wakes the pull loop, which collects those after it as well.
        if self.0.freed.fetch_add(1, SeqCst) == 0 {
            self.0.wake.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn each_slot_that_is_given_back_is_collected_once() {
        let slots = Slots::default();
        let share = slots.share();
        assert_eq!(share.freed().now_or_never(), None);
        let taken = share.take();
        assert_eq!(share.freed().now_or_never(), None);
        assert_eq!(slots.taken.get(), 1);
        drop(taken);
        drop(share.take());
        assert_eq!(slots.taken.get(), 0);
        assert_eq!(share.freed().now_or_never(), Some(()));
        assert_eq!((share.collect_freed(), share.collect_freed()), (2, 0));
        assert_eq!(share.freed().now_or_never(), None);
    }

    #[test]
    fn a_task_that_panics_gives_its_slot_back() {
        let share = Slots::default().share();
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _taken = share.take();
            panic!("a fault");
        }));
        assert!(panicked.is_err());
        assert_eq!(share.collect_freed(), 1);
    }

    #[test]
    fn the_slots_of_a_process_are_those_of_all_its_groups() {
        let slots = Slots::default();
        let (one, other) = (slots.share(), slots.share());
        one.resize(3, 10);
        other.resize(2, 2);
        one.resize(1, 1);
        assert_eq!((slots.capacity.get(), slots.concurrency.get()), (3, 3));
        drop(other);
        assert_eq!((slots.capacity.get(), slots.concurrency.get()), (1, 1));
    }
}
