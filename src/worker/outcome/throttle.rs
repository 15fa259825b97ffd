//! Throttles the group for a while, on every pod, as the handler wants no more tasks for so long. The broker's consumer is
//! paused, so that it delivers nothing. All workers are told, so that none starts what was delivered a moment before.

use super::{TaskOutcome, retry};
use crate::{
    broker::BrokerError,
    worker::group::{Group, Run, Throttled},
};
use jiff::Timestamp;
use std::time::Duration;

/// Throttles the group for `wait`, and requeues the task for the end of that. A longer throttling or a suspension that is
/// in force stays.
pub async fn throttle(run: &Run<'_>, wait: Duration) -> TaskOutcome {
    let group = run.group();
    let wait = group.state().config().map_or(wait, |config| {
        wait.min(config.settings().retry.max_retry_after.checked())
    });
    let until = group.now().checked_add(wait).unwrap_or(Timestamp::MAX);
    let until = match group.state().throttle(until) {
        Throttled::InForce(until) => until,
        Throttled::Begun => {
            group.metrics().throttle();
            tracing::info!(group = %group.queue(), %until, "the handler wants no tasks until then: the group is throttled");
            if let Err(error) = pause(group, until).await {
                // This worker keeps to it all the same, and the next task that is refused tries again.
                tracing::warn!(%error, "the other workers of the group can't be told that it is throttled");
            }
            until
        }
    };
    retry::requeue(run, until).await
}

async fn pause(group: &Group, until: Timestamp) -> Result<(), BrokerError> {
    let (broker, stream) = (group.broker(), group.queue().stream());
    let consumer = broker.consumer(&stream).await?;
    let longer = consumer
        .and_then(|consumer| consumer.paused_until())
        .is_some_and(|in_force| in_force >= until);
    if !longer {
        broker.pause_consumer_until(&stream, until).await?;
    }
    broker.notify_settings(group.queue()).await
}
