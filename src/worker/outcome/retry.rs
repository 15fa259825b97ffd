//! Retries: a task waits in the delays for its next attempt. It goes `delay` → `due` → its queue again, by the relay.

use super::{
    PATIENCE, TaskOutcome,
    transfer::{self, Message, Transfer},
};
use crate::{
    api::Retry,
    broker::LONGEST_THROTTLE,
    protocol::{Kind, headers, history::History, subject::DELAY_STREAM},
    worker::{backoff::full_jitter, group::Run},
};
use jiff::Timestamp;
use std::time::Duration;
use tokio::time;

/// Retries a task whose attempt failed, after a back-off.
pub async fn retry(run: &Run<'_>) -> TaskOutcome {
    let now = run.group().now();
    let delay = retry_delay(&run.config().settings().retry, run.attempt());
    let at = now.checked_add(delay).unwrap_or(Timestamp::MAX);
    let stored = transfer::store(run, &delayed(run, &run.history().failed(now), run.attempt(), at)).await;
    transfer::leave_after(run, stored, delay, TaskOutcome::Retried).await
}

/// Requeues a task that was not tried, at `until`.
pub async fn requeue(run: &Run<'_>, until: Timestamp) -> TaskOutcome {
    let now = run.group().now();
    let wait = Duration::try_from(until.duration_since(now)).unwrap_or_default();
    // Nobody knows when a suspension ends. So the task goes back to its queue, which holds it.
    let at = if wait > LONGEST_THROTTLE { now } else { until };
    let stored = transfer::store(run, &untried(run, at)).await;
    transfer::leave_after(run, stored, PATIENCE, TaskOutcome::Requeued).await
}

/// Requeues a task that this worker can't run or finish, as it stops. The attempt does not count.
pub async fn requeue_now(run: &Run<'_>) -> TaskOutcome {
    let requeue = async {
        let stored = transfer::store(run, &untried(run, run.group().now())).await;
        (stored == Transfer::Stored).then_some(transfer::leave(run, TaskOutcome::Requeued).await)
    };
    let confirmed = match time::timeout(2 * PATIENCE, requeue).await {
        Ok(Some(_)) => true,
        // Redelivered at once, with an attempt less, is better than later.
        _ if run.lease().is_held() => run.task().nak(Duration::ZERO, PATIENCE).await.is_ok(),
        _ => false,
    };
    tracing::info!(
        call_id = run.id(),
        confirmed,
        "requeued: the task goes to another worker"
    );
    TaskOutcome::Requeued
}

/// The task without the attempt that this run was to make.
fn untried(run: &Run<'_>, at: Timestamp) -> Message {
    delayed(run, run.history(), run.attempt().saturating_sub(1), at)
}

/// The task in the delays until `at`, with `attempts` attempts used.
fn delayed(run: &Run<'_>, history: &History, attempts: u32, at: Timestamp) -> Message {
    let (queue, task, id) = (run.group().queue(), run.task(), run.id());
    let (sequence, origin) = (task.stored().sequence, run.origin());
    let group = &run.config().settings().group;
    let mut headers = history.continued(task.headers(), attempts, &origin, group);
    headers.extend(headers::schedule(
        at,
        queue.of_message(Kind::Due, id, sequence),
        origin.transfer(task.delivered()),
    ));
    Message {
        stream: DELAY_STREAM,
        subject: queue.of_message(Kind::Delay, id, sequence),
        headers,
        payload: task.payload(),
    }
}

/// How long to wait after the given number of failed attempts. It is a random part ("full jitter") of a time that grows
/// with each, so that tasks that failed together are not tried again together.
fn retry_delay(retry: &Retry, attempts: u32) -> Duration {
    full_jitter(longest_delay(retry, attempts))
}

fn longest_delay(retry: &Retry, attempts: u32) -> Duration {
    let exponent = i32::try_from(attempts.saturating_sub(1)).unwrap_or(i32::MAX);
    let initial = retry.initial_delay.checked().as_secs_f64();
    let max = retry.max_delay.checked();
    // Out of range (or infinite) is beyond the longest.
    Duration::try_from_secs_f64(initial * retry.multiplier.powi(exponent)).map_or(max, |delay| delay.min(max))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_delay_grows_up_to_its_bound() {
        for (initial_delay, multiplier, attempts, expected_ms) in [
            ("1s", 2.0, 1, 1000),
            ("1s", 2.0, 2, 2000),
            ("1s", 2.0, 4, 8000),
            ("1s", 1.0, 100, 1000),
            ("1s", 1.5, 3, 2250),
            ("1s", 2.0, 1000, 300_000),
            ("10ms", 100.0, u32::MAX, 300_000),
        ] {
            let retry = Retry {
                initial_delay: initial_delay.into(),
                multiplier,
                ..Retry::default()
            };
            let delay = longest_delay(&retry, attempts);
            assert_eq!(delay.as_millis(), expected_ms, "{multiplier} after {attempts}");
        }
    }

    #[test]
    fn a_delay_is_anything_up_to_the_longest() {
        let retry = Retry::default();
        let delays: Vec<_> = (0..1000).map(|_| retry_delay(&retry, 1).as_millis()).collect();
        assert!(delays.iter().all(|delay| *delay <= 1000));
        // Each with a chance of 0.9 ^ 1000.
        assert!(delays.iter().any(|delay| *delay < 100), "early ones, too");
        assert!(delays.iter().any(|delay| *delay > 900), "late ones, too");
    }
}
