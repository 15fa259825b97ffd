//! Transfers a task to another stream: to the delays, where it waits for its next attempt, or to the dead letters. The
//! message is stored for certain before the task leaves its queue. Should the ack be lost, the next worker that gets the
//! task finds it where it went on, and does not run it.

use super::{PATIENCE, TaskOutcome};
use crate::{
    broker::{Receipt, code},
    worker::{backoff::Backoff, group::Run},
};
use bytes::Bytes;
use std::time::Duration;
use tokio::time;

/// What came of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transfer {
    /// The message is stored, and the task may leave its queue.
    Stored,
    /// The lease was lost before, and the task is another worker's.
    Lost,
    /// The message would be larger than a message may be.
    TooLarge,
}

/// A message that a task goes on as.
pub struct Message {
    /// The stream, for the log.
    pub stream: &'static str,
    /// The subject, which the stream listens to.
    pub subject: String,
    /// The headers.
    pub headers: Vec<(String, String)>,
    /// The payload.
    pub payload: Bytes,
}

/// Tries to store a message of the task until it is stored, or can't be, or the lease is lost.
pub async fn store(run: &Run<'_>, message: &Message) -> Transfer {
    let group = run.group();
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
    let mut last_error = String::new();
    while run.lease().is_held() {
        let stored = group
            .broker()
            .store(&message.subject, &message.headers, message.payload.clone());
        match stored.await {
            // A duplicate is what this worker stored without hearing so, or it came too late, behind a tombstone.
            Ok(Receipt::Stored | Receipt::Duplicate) if run.lease().is_held() => return Transfer::Stored,
            Ok(_) => return Transfer::Lost,
            Err(error) if error.is(code::TOO_LARGE) || error.is(code::MESSAGE_TOO_LARGE) => {
                tracing::warn!(call_id = run.id(), %error, "the task can't be transferred to {}", message.stream);
                return Transfer::TooLarge;
            }
            Err(error) => {
                let error = error.to_string();
                if error != last_error {
                    group.metrics().transfer_failed();
                    tracing::warn!(
                        call_id = run.id(),
                        %error,
                        "can't be stored in {}: the task stays in its queue, and the worker tries again",
                        message.stream
                    );
                    last_error = error;
                }
            }
        }
        time::sleep(backoff.next()).await;
    }
    Transfer::Lost
}

/// Has the task leave its queue after a transfer. A task that is too large stays there for `delay` at least, with its
/// slot, as it would be lost otherwise.
pub async fn leave_after(run: &Run<'_>, transfer: Transfer, delay: Duration, outcome: TaskOutcome) -> TaskOutcome {
    match transfer {
        Transfer::Stored => leave(run, outcome).await,
        Transfer::Lost => super::lost(run),
        Transfer::TooLarge => {
            let _ = run.task().nak(delay, PATIENCE).await;
            outcome
        }
    }
}

/// Has a task leave its queue that goes on elsewhere. A lost ack does no harm, as the next worker that gets the task finds
/// it there.
pub async fn leave(run: &Run<'_>, outcome: TaskOutcome) -> TaskOutcome {
    if let Err(error) = run.task().ack(PATIENCE).await {
        run.group().metrics().ack_unconfirmed();
        tracing::debug!(call_id = run.id(), %error, "the task went on, but the broker did not confirm the ack");
    }
    outcome
}
