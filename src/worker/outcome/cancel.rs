//! Cancels a task: answers the operator's question whether this worker runs it, and aborts it.

use super::{PATIENCE, TaskOutcome};
use crate::{
    broker::Question,
    worker::group::{Cancellation, Group, Run},
};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tokio::time;

/// How long the operator's answer waits for the end of an aborted task. The broker's confirmation takes less than a
/// millisecond, as a rule.
const END: Duration = Duration::from_secs(2);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Cancel {
    id: String,
    /// Number of the last message that is meant.
    up_to: u64,
}

#[derive(Serialize)]
struct CancelAnswer {
    state: &'static str,
}

/// Answers a question about a task of `group`, or of a group that does not run in this process.
pub async fn answer(group: Option<&Group>, question: &Question) {
    let Ok(Cancel { id, up_to }) = serde_json::from_slice(question.payload()) else {
        tracing::warn!("a question about a cancelled task can't be read: run operator and workers of one version");
        return;
    };
    let state = match group {
        Some(group) => {
            let state = cancel(group, &id, up_to).await;
            tracing::info!(call_id = id, state, "somebody cancels the task");
            state
        }
        None => "none",
    };
    question.answer(&CancelAnswer { state }).await;
}

async fn cancel(group: &Group, id: &str, up_to: u64) -> &'static str {
    let in_flight = group.in_flight();
    match in_flight.cancel(id, up_to) {
        Cancellation::Running(over) => {
            let _ = time::timeout(END, over).await;
            // It may have ended by itself at the same moment.
            if in_flight.is_finished(id) {
                "finished"
            } else {
                "running"
            }
        }
        Cancellation::Waiting(over) => {
            let _ = time::timeout(END, over).await;
            "queued"
        }
        Cancellation::Removed => "queued",
        Cancellation::Finished => "finished",
        Cancellation::Unknown => "none",
    }
}

/// Removes a cancelled task from its queue.
pub async fn confirm(run: &Run<'_>) -> TaskOutcome {
    let told = run.task().term("Cancelled", PATIENCE).await;
    tracing::info!(call_id = run.id(), confirmed = told.is_ok(), "cancelled");
    TaskOutcome::Cancelled
}
