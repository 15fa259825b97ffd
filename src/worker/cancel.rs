//! Answers the operator's question whether this worker runs a task that somebody cancels, and cuts it
//! off.

use super::{Worker, in_hand::Found};
use crate::{
    broker::Question,
    protocol::{
        Kind,
        cancel::{self, WorkerReply, WorkerState},
    },
};
use futures::StreamExt;
use std::{sync::Arc, time::Duration};
use tokio::time;

/// How long the end of a task that is cut off is waited for. The broker's confirmation takes less than a
/// millisecond, as a rule.
const PATIENCE: Duration = Duration::from_secs(2);

/// Answers for as long as it is polled.
pub async fn answer(worker: Arc<Worker>) {
    let questions = worker.broker.questions(worker.queue.of(Kind::WorkerCancel), None).await;
    let Ok(mut questions) = questions.map(Box::pin) else {
        // Only a closed client refuses; then nothing else works either.
        return std::future::pending().await;
    };
    while let Some(question) = questions.next().await {
        tokio::spawn(cancel(worker.clone(), question));
    }
}

async fn cancel(worker: Arc<Worker>, question: Question) {
    let Ok(cancel::Question { id, up_to }) = serde_json::from_slice(question.payload()) else {
        tracing::warn!("a question about a cancelled task can't be read: run operator and workers of one version");
        return;
    };
    let state = match worker.in_hand.cancel(&id, up_to) {
        Found::Running(over) => {
            let _ = time::timeout(PATIENCE, over).await;
            // It may have ended by itself at the same moment.
            if worker.in_hand.is_finished(&id) {
                WorkerState::Finished
            } else {
                WorkerState::Running
            }
        }
        Found::Waiting(over) => {
            let _ = time::timeout(PATIENCE, over).await;
            WorkerState::Queued
        }
        Found::Removed => WorkerState::Queued,
        Found::Finished => WorkerState::Finished,
        Found::Nothing => WorkerState::None,
    };
    tracing::info!(call_id = id, ?state, "somebody cancels the task");
    question.answer(&WorkerReply { state }).await;
}
