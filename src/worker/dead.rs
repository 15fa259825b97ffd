//! A dead letter: the worker stores it for certain before the task leaves its queue.

use super::{
    handover::{self, HandOver},
    run_task::Run,
};
use crate::protocol::{
    dead_letter::{Death, Letter},
    history::History,
    subject::DEAD_STREAM,
};
use jiff::Timestamp;

/// Stores the dead letter of a task.
pub async fn store(run: &Run<'_>, history: &History, death: &Death, now: Timestamp) -> HandOver {
    let subject = run.worker.queue.dead(run.id);
    let room = run.worker.broker.max_payload().saturating_sub(run.task.payload().len());
    let origin = run.origin();
    let letter = Letter {
        origin: &origin,
        msg_id: origin.transfer(run.task.delivered()),
        group: &run.terms.settings.group,
        history,
        death,
        now,
    };
    let headers = letter.headers(run.task.headers(), room);
    handover::store(run, DEAD_STREAM, &subject, &headers, &run.task.payload()).await
}
