//! Cancels a task: answers the operator's question whether this worker runs it, and aborts it.

use super::{PATIENCE, TaskOutcome};
use crate::{
    broker::Question,
    protocol::cancel::{self, WorkerReply, WorkerState},
    worker::group::{Cancellation, Group, Run},
};
use std::time::Duration;
use tokio::time;

/// How long the operator's answer waits for the end of an aborted task. The broker's confirmation takes less than a
/// millisecond, as a rule.
const END: Duration = Duration::from_secs(2);

/// Answers a question about a task of `group`.
pub async fn answer(group: &Group, question: &Question) {
    let Ok(cancel::Question { id, up_to }) = serde_json::from_slice(question.payload()) else {
        tracing::warn!("a question about a cancelled task can't be read: run operator and workers of one version");
        return;
    };
    let state = cancel(group, &id, up_to).await;
    tracing::info!(call_id = id, ?state, "somebody cancels the task");
    question.answer(&WorkerReply { state }).await;
}

async fn cancel(group: &Group, id: &str, up_to: u64) -> WorkerState {
    let in_flight = group.in_flight();
    match in_flight.cancel(id, up_to) {
        Cancellation::Running(over) => {
            let _ = time::timeout(END, over).await;
            // It may have ended by itself at the same moment.
            if in_flight.is_finished(id) {
                WorkerState::Finished
            } else {
                WorkerState::Running
            }
        }
        Cancellation::Waiting(over) => {
            let _ = time::timeout(END, over).await;
            WorkerState::Queued
        }
        Cancellation::Removed => WorkerState::Queued,
        Cancellation::Finished => WorkerState::Finished,
        Cancellation::Unknown => WorkerState::None,
    }
}

/// Removes a cancelled task from its queue.
pub async fn confirm(run: &Run<'_>) -> TaskOutcome {
    let told = run.task().term(cancel::TERM_REASON, PATIENCE).await;
    tracing::info!(call_id = run.id(), confirmed = told.is_ok(), "cancelled");
    TaskOutcome::Cancelled
}
