//! The lease on a delivered task: renewed while the task runs, and given up before the broker would
//! give the task to another worker.

use super::{metrics::Metrics, watch::Known};
use crate::broker::Delivery;
use std::time::{Duration, Instant};
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
    /// and a restarted NATS was seen to deliver again up to 0.7 s too soon.
    fn of(ack_wait: Duration) -> Self {
        let slack = Duration::from_millis(750) + ack_wait / 20;
        let fence = ack_wait.saturating_sub(slack).max(ack_wait / 2);
        Self {
            renew: ack_wait / 3,
            fence,
            patience: (ack_wait / 6).max(Duration::from_millis(200)),
        }
    }
}

/// Renews the lease of `task` for as long as this future is polled. Ends only when the lease is lost.
///
/// A task that is shorter than a third of `ackWait` costs one timer and no message.
pub async fn keep(task: &Delivery, mut known: watch::Receiver<Known>, metrics: &Metrics) {
    // The broker's clock starts anew when it handles a renewal, which is after it was sent.
    let mut held = task.received();
    let mut ack_wait = ack_wait(&mut known);
    loop {
        let times = Times::of(ack_wait);
        tokio::select! {
            () = time::sleep_until((held + times.renew).into()) => {}
            Ok(()) = known.changed() => {
                let now = self::ack_wait(&mut known);
                if now == ack_wait {
                    continue;
                }
                // A changed ackWait counts for what runs, too: renew now, and by its measure.
                ack_wait = now;
            }
        }
        let Some(renewed) = renew(task, held + Times::of(ack_wait).fence, Times::of(ack_wait)).await else {
            metrics.leases_lost.inc();
            return;
        };
        held = renewed;
    }
}

/// Tries until the broker confirms, and returns when the lease was renewed; `None` when `fence` came first.
async fn renew(task: &Delivery, fence: Instant, times: Times) -> Option<Instant> {
    loop {
        let sent = Instant::now();
        if sent >= fence {
            return None;
        }
        match time::timeout_at(fence.into(), task.in_progress(times.patience)).await {
            Ok(Ok(())) => return Some(sent),
            Ok(Err(error)) => tracing::debug!(%error, task = task.subject(), "the lease was not renewed; trying again"),
            Err(_) => return None,
        }
        let pause = (sent + times.patience / 2).min(fence);
        time::sleep_until(pause.into()).await;
    }
}

fn ack_wait(known: &mut watch::Receiver<Known>) -> Duration {
    let known = known.borrow_and_update();
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
            (2_000, 666, 1_150),
            (3_000, 1_000, 2_100),
            (30_000, 10_000, 27_750),
            (3_600_000, 1_200_000, 3_419_250),
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
