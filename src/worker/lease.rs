//! The lease on a delivered task: renewed while the task runs, and given up before the broker would
//! give the task to another worker.

use super::watch::Known;
use crate::broker::{Broker, Delivery};
use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::{sync::watch, time};

/// The times of a lease, from the last moment that it was held for certain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Times {
    /// When to renew it.
    renew: Duration,
    /// When to give it up.
    fence: Duration,
    /// How long one try to renew it may take.
    patience: Duration,
}

impl Times {
    /// Renewed every third of `ackWait`. Given up a little early: cutting off an attempt takes time,
    /// and a restarted NATS delivers again up to a second too soon, as it keeps times in whole seconds.
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
    known: &'a watch::Sender<Known>,
    broker: &'a Broker,
    until: Mutex<Instant>,
}

impl<'a> Lease<'a> {
    /// The lease that came with `task`, as long as `ack_wait`.
    pub fn new(task: &'a Delivery, ack_wait: Duration, known: &'a watch::Sender<Known>, broker: &'a Broker) -> Self {
        let until = task.received() + Times::of(ack_wait).fence;
        Self {
            task,
            known,
            broker,
            until: Mutex::new(until),
        }
    }

    /// Until when it is held, as things stand.
    pub fn until(&self) -> Instant {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is held still. After it, no word about the task may be said: it would count for the
    /// task's new owner. To be asked before each, as this process may have stood still.
    pub fn is_held(&self) -> bool {
        Instant::now() < self.until()
    }

    /// Renews the lease of a task that was delivered before; `false` when it is lost. nats-server (seen with 2.15.1) does
    /// not write down when it delivered such a task: started anew before this, it gives the task to another at once.
    pub async fn confirm(&self) -> bool {
        let server = self.broker.server_id();
        let times = Times::of(ack_wait(&self.known.borrow()));
        let confirmed = self.renew(self.until(), times).await.is_some();
        if !confirmed || self.broker.server_id() != server {
            self.set(Instant::now());
            return false;
        }
        true
    }

    /// Renews the lease for as long as this future is polled. Ends only when it is lost.
    ///
    /// A task that is shorter than a third of `ackWait` costs one timer and no message.
    pub async fn lost(&self) {
        // Boxed when it is first polled: a task that is over at once never does.
        Box::pin(self.keep()).await;
    }

    async fn keep(&self) {
        let (mut known, mut link) = (self.known.subscribe(), self.broker.link());
        link.mark_unchanged();
        // The broker's clock starts anew when it handles a renewal, which is after it was sent.
        let mut held = self.task.received();
        let mut ack_wait = ack_wait(&known.borrow_and_update());
        self.set(held + Times::of(ack_wait).fence);
        loop {
            let times = Times::of(ack_wait);
            tokio::select! {
                () = time::sleep_until((held + times.renew).into()) => {}
                Ok(()) = known.changed() => {
                    let now = self::ack_wait(&known.borrow_and_update());
                    if now == ack_wait {
                        continue;
                    }
                    // A changed ackWait counts for what runs, too: renew now, and by its measure.
                    ack_wait = now;
                    self.set(held + Times::of(ack_wait).fence);
                }
                Ok(()) = link.changed() => {
                    // A server that was restarted may deliver again too soon: it is told at once.
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
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = until;
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

fn ack_wait(known: &Known) -> Duration {
    // Without terms no task is asked for; this is for form's sake.
    known
        .terms
        .as_ref()
        .map_or(Duration::from_secs(2), |terms| terms.ack_wait)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_given_up_before_the_broker_delivers_again() {
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
