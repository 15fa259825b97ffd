//! Closes the group for a while, on every pod: the handler said that it wants no more tasks for so long.
//! The broker's consumer is paused, so that it delivers nothing; and all workers are told, so that none
//! starts what was delivered a moment before.

use super::Worker;
use crate::broker::BrokerError;
use jiff::Timestamp;
use std::time::Duration;

/// A closing that ends so little later than one that is in force is the same: all tasks that run when a
/// handler begins to refuse them say so within moments.
const SAME: Duration = Duration::from_millis(500);

/// Closes the group for `wait`, and returns until when it is closed. A longer closing or a suspension
/// that is in force stays.
pub async fn close(worker: &Worker, wait: Duration) -> Timestamp {
    let now = worker.now();
    let wait = worker
        .terms()
        .map_or(wait, |terms| wait.min(terms.settings.max_retry_after()));
    let until = now.checked_add(wait).unwrap_or(Timestamp::MAX);
    let mut in_force = None;
    let is_news = worker.known.send_if_modified(|known| {
        in_force = known.paused_until;
        let is_news = in_force.is_none_or(|in_force| in_force + SAME < until);
        if is_news {
            known.paused_until = Some(until);
        }
        is_news
    });
    if !is_news {
        return in_force.unwrap_or(until);
    }
    worker.metrics.closes.inc();
    tracing::info!(group = %worker.queue, %until, "the handler wants no tasks until then: the group is closed");
    if let Err(error) = pause(worker, until).await {
        // This worker keeps to it all the same, and the next task that is refused tries again.
        tracing::warn!(%error, "the other workers of the group can't be told that it is closed");
    }
    until
}

async fn pause(worker: &Worker, until: Timestamp) -> Result<(), BrokerError> {
    let stream = worker.queue.stream();
    let consumer = worker.broker.consumer(&stream).await?;
    let longer = consumer
        .and_then(|consumer| consumer.paused_until())
        .is_some_and(|in_force| in_force >= until);
    if !longer {
        worker.broker.pause_consumer_until(&stream, until).await?;
    }
    worker.broker.notify_settings(&worker.queue).await
}
