//! The lease on a delivered task. The worker renews it while the task runs, and gives it up before the broker would
//! redeliver the task to another worker.

use super::{GroupSnapshot, GroupState};
use crate::broker::{Broker, Delivery};
use parking_lot::Mutex;
use std::time::{Duration, Instant};
use tokio::time;

/// The times of a lease, counted from the last moment that it was held for certain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Times {
    /// When to renew the lease.
    renew: Duration,
    /// When to give the lease up.
    fence: Duration,
    /// How long one try to renew the lease may take.
    patience: Duration,
}

impl Times {
    /// The lease is renewed every third of `ackWait`. It is given up a little early, as aborting an attempt takes time, and
    /// a restarted NATS redelivers up to a second too soon, as it keeps times in whole seconds.
    fn of(ack_wait: Duration) -> Self {
        let slack = Duration::from_millis(700) + ack_wait / 10;
        let fence = ack_wait.saturating_sub(slack).max(ack_wait / 2);
        Self {
            renew: ack_wait / 3,
            fence,
            patience: (ack_wait / 6).max(Duration::from_millis(200)),
        }
    }
}

/// The lease on one delivered task.
pub struct Lease<'a> {
    task: &'a Delivery,
    state: &'a GroupState,
    broker: &'a Broker,
    until: Mutex<Instant>,
}

impl<'a> Lease<'a> {
    /// The lease that came with `task`, as long as `ack_wait`.
    pub fn new(task: &'a Delivery, ack_wait: Duration, state: &'a GroupState, broker: &'a Broker) -> Self {
        let until = task.received() + Times::of(ack_wait).fence;
        Self {
            task,
            state,
            broker,
            until: Mutex::new(until),
        }
    }

    /// Until when the lease is held, as things stand.
    pub fn until(&self) -> Instant {
        *self.until.lock()
    }

    /// Whether the lease is still held. After its end this worker must tell the broker nothing about the task, as that
    /// would count for the task's new owner. To be asked before each word, as this process may have stood still.
    pub fn is_held(&self) -> bool {
        Instant::now() < self.until()
    }

    /// Renews the lease of a task that was delivered before; `false` when it is lost. nats-server (seen with 2.15.1) does
    /// not write down when it delivered such a task. Restarted before this renewal, it redelivers the task at once.
    pub async fn confirm(&self) -> bool {
        let server = self.broker.server_id();
        let times = Times::of(ack_wait(&self.state.snapshot()));
        let confirmed = self.renew(self.until(), times).await.is_some();
        if !confirmed || self.broker.server_id() != server {
            self.set(Instant::now());
            return false;
        }
        true
    }

    /// Renews the lease for as long as this future is polled. It ends only when the lease is lost.
    ///
    /// A task that is shorter than a third of `ackWait` costs one timer and no message.
    pub async fn lost(&self) {
        // Boxed when it is first polled, which a task that is over at once never does.
        Box::pin(self.keep()).await;
    }

    async fn keep(&self) {
        let (mut state, mut link) = (self.state.subscribe(), self.broker.link());
        link.mark_unchanged();
        // The broker counts ackWait anew from when it handles a renewal, which is after it was sent.
        let mut held = self.task.received();
        let mut ack_wait = ack_wait(&state.borrow_and_update());
        self.set(held + Times::of(ack_wait).fence);
        loop {
            let times = Times::of(ack_wait);
            tokio::select! {
                () = time::sleep_until((held + times.renew).into()) => {}
                Ok(()) = state.changed() => {
                    let now = self::ack_wait(&state.borrow_and_update());
                    if now == ack_wait {
                        continue;
                    }
                    // A changed ackWait counts for running tasks, too. The lease is renewed now, and by its measure.
                    ack_wait = now;
                    self.set(held + Times::of(ack_wait).fence);
                }
                Ok(()) = link.changed() => {
                    // A restarted server may redeliver too soon, so the lease is renewed at once.
                    if !link.borrow_and_update().up {
                        continue;
                    }
                }
            }
            let times = Times::of(ack_wait);
            let Some(renewed) = self.renew(held + times.fence, times).await else {
                return;
            };
            held = renewed;
            self.set(held + times.fence);
        }
    }

    fn set(&self, until: Instant) {
        *self.until.lock() = until;
    }

    /// Tries until the broker confirms, and returns when the lease was renewed; `None` when `fence` came first.
    async fn renew(&self, fence: Instant, times: Times) -> Option<Instant> {
        loop {
            let sent = Instant::now();
            if sent >= fence {
                return None;
            }
            match time::timeout_at(fence.into(), self.task.in_progress(times.patience)).await {
                Ok(Ok(())) => return Some(sent),
                Ok(Err(error)) => {
                    tracing::debug!(%error, task = self.task.subject(), "the lease was not renewed; trying again");
                }
                Err(_) => return None,
            }
            let pause = (sent + times.patience / 2).min(fence);
            time::sleep_until(pause.into()).await;
        }
    }
}

fn ack_wait(state: &GroupSnapshot) -> Duration {
    // Without a configuration no task is pulled; this is for form's sake.
    state
        .config()
        .map_or(Duration::from_secs(2), |config| config.ack_wait())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_given_up_before_the_broker_redelivers() {
        for (ack_wait_ms, renew_ms, fence_ms) in [
            (2_000, 666, 1_100),
            (3_000, 1_000, 2_000),
            (30_000, 10_000, 26_300),
            (3_600_000, 1_200_000, 3_239_300),
        ] {
            let times = Times::of(Duration::from_millis(ack_wait_ms));
            assert_eq!(times.renew.as_millis(), renew_ms, "{ack_wait_ms}");
            assert_eq!(times.fence.as_millis(), fence_ms, "{ack_wait_ms}");
            assert!(
                times.renew + times.patience < times.fence,
                "{ack_wait_ms}: time for a try"
            );
        }
    }
}
