//! I/O: one of the group's workers makes a due callback.

use super::{
    Relay,
    decide::{AfterCallback, CALLBACK_TRIES, TROUBLE, after_callback, headers_to_keep},
    metrics::CallbackOutcome,
    task::PATIENCE,
};
use crate::{broker::Delivery, protocol::Queue};
use std::time::Duration;

/// How long a worker may take: below the consumer's `ack_wait`.
const WORKER: Duration = Duration::from_secs(25);

/// Asks a worker of `queue` to make the callback `due`.
pub async fn relay(relay: &Relay, queue: &Queue, id: &str, due: &Delivery) {
    let (broker, metrics) = (&relay.0.broker, &relay.0.metrics);
    let headers = headers_to_keep(due.headers());
    let reply = match broker.ask_for_callback(queue, due, &headers, WORKER).await {
        Ok(reply) => reply,
        Err(error) => {
            tracing::debug!(%queue, call_id = id, %error, "no worker can be asked for a callback now");
            let _ = due.nak(TROUBLE, PATIENCE).await;
            return;
        }
    };
    let told = match after_callback(reply, due.delivered()) {
        AfterCallback::Made => {
            metrics.callback(CallbackOutcome::Made);
            due.ack(PATIENCE).await
        }
        AfterCallback::Wait(pause) => {
            metrics.callback(CallbackOutcome::Again);
            due.nak(pause, PATIENCE).await
        }
        AfterCallback::Drop => {
            tracing::warn!(
                %queue, call_id = id, ?reply, tries = due.delivered(), most = CALLBACK_TRIES,
                "the relay drops a callback that did not succeed"
            );
            metrics.callback(CallbackOutcome::Dropped);
            due.ack(PATIENCE).await
        }
    };
    if let Err(error) = told {
        tracing::debug!(%queue, call_id = id, %error, "the callback stays due");
    }
}
