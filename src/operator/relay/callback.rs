//! I/O: one callback that is due is made by one of its group's workers.

use super::{
    Relay,
    decide::{AfterCallback, CALLBACK_TRIES, TROUBLE, after_callback, headers_to_keep},
    task::PATIENCE,
};
use crate::{broker::Delivery, names::Queue};
use std::time::Duration;

/// How long a worker may take: below the consumer's `ack_wait`.
const WORKER: Duration = Duration::from_secs(25);

/// Has a callback made.
pub async fn relay(relay: &Relay, queue: &Queue, id: &str, due: &Delivery) {
    let headers = headers_to_keep(due.headers());
    let asked = relay.ctx.broker.ask_for_callback(queue, due, &headers, WORKER).await;
    let answer = match asked {
        Ok(answer) => answer,
        Err(error) => {
            tracing::debug!(%queue, call_id = id, %error, "no worker can be asked for a callback now");
            let _ = due.nak(TROUBLE, PATIENCE).await;
            return;
        }
    };
    let said = match after_callback(answer, due.delivered()) {
        AfterCallback::Made => {
            relay.metrics.callback("made");
            due.ack(PATIENCE).await
        }
        AfterCallback::Wait(pause) => {
            relay.metrics.callback("again");
            due.nak(pause, PATIENCE).await
        }
        AfterCallback::Drop => {
            tracing::warn!(
                %queue, call_id = id, ?answer, tries = due.delivered(), most = CALLBACK_TRIES,
                "a callback is dropped: it did not succeed"
            );
            relay.metrics.callback("dropped");
            due.ack(PATIENCE).await
        }
    };
    if let Err(error) = said {
        tracing::debug!(%queue, call_id = id, %error, "the callback stays due");
    }
}
