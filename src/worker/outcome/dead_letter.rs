//! Buries a dead task: its dead letter is stored for certain before the task leaves its queue.

use super::{
    PATIENCE, TaskOutcome,
    transfer::{self, Message, Transfer},
};
use crate::{
    protocol::{
        dead_letter::{Death, Letter},
        subject::DEAD_STREAM,
    },
    worker::group::Run,
};
use std::time::Duration;

/// How long a dead task is left alone whose letter can't be stored.
const STUCK: Duration = Duration::from_secs(30);

/// Stores the dead letter of a task, or drops the task where its group keeps no letters.
pub async fn bury(run: &Run<'_>, death: &Death) -> TaskOutcome {
    let metrics = run.group().metrics();
    if run.config().settings().dead_letter.enabled {
        let stored = transfer::store(run, &message(run, death)).await;
        if stored == Transfer::Stored {
            metrics.dead_letter(death.reason.as_str());
        }
        return transfer::leave_after(run, stored, STUCK, TaskOutcome::DeadLettered).await;
    }
    metrics.dead_letter(death.reason.as_str());
    if let Err(error) = run.task().term(death.reason.as_str(), PATIENCE).await {
        metrics.ack_unconfirmed();
        tracing::debug!(call_id = run.id(), %error, "the broker did not confirm that the dead task is dropped");
    }
    TaskOutcome::Dropped
}

fn message(run: &Run<'_>, death: &Death) -> Message {
    let (group, task) = (run.group(), run.task());
    let (payload, origin) = (task.payload(), run.origin());
    let room = group.broker().max_payload().saturating_sub(payload.len());
    let letter = Letter {
        origin: &origin,
        msg_id: origin.transfer(task.delivered()),
        group: &run.config().settings().group,
        history: run.history(),
        death,
        now: group.now(),
    };
    Message {
        stream: DEAD_STREAM,
        subject: group.queue().dead(run.id()),
        headers: letter.headers(task.headers(), room),
        payload,
    }
}
