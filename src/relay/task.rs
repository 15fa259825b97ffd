//! I/O: one due task goes back into its queue.

use super::{
    Relay,
    decide::{Earlier, Next, TROUBLE, Why, after, earlier, headers_to_keep},
    metrics::TaskOutcome,
};
use crate::{
    broker::{BrokerError, Delivery, Publication},
    protocol::{
        Origin, Queue, StreamName,
        dead_letter::{Death, Letter},
        headers, history,
        history::History,
        id,
        subject::DELAY_STREAM,
    },
};
use jiff::Timestamp;
use std::time::{Duration, Instant};

/// How long the server's answer to an ack may take.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Requeues one task, as far as that is possible now.
pub async fn relay(relay: &Relay, queue: &Queue, id: &str, due: &Delivery) {
    let sequence = due.stored().sequence;
    let outcome = match requeue(relay, queue, id, due).await {
        Ok(outcome) => outcome,
        Err(error) => {
            relay.warn(&error);
            relay.0.full_queues.lock().settled(sequence);
            // Where even that does not get through, JetStream redelivers the message after the consumer's `ack_wait`.
            let _ = due.nak(TROUBLE, PATIENCE).await;
            TaskOutcome::Error
        }
    };
    relay.0.metrics.relayed(outcome);
}

async fn requeue(relay: &Relay, queue: &Queue, id: &str, due: &Delivery) -> Result<TaskOutcome, BrokerError> {
    let sequence = due.stored().sequence;
    let kept = headers_to_keep(due.headers());
    let history = History::read(|name| headers::first(&kept, name), due.stored().at);
    let own = due.stored().origin(&StreamName::from(DELAY_STREAM));
    let origin = history.origin.as_ref().unwrap_or(&own);
    if due.delivered() > 1 {
        let found = find_earlier(relay, queue, id, origin, sequence).await?;
        if found != Earlier::Nothing {
            done(relay, due).await?;
            return Ok(match found {
                Earlier::InQueue => TaskOutcome::AlreadyQueued,
                _ => TaskOutcome::AlreadyRun,
            });
        }
    }

    let msg_id = origin.requeue();
    let mut headers = kept.clone();
    headers.push((id::MSG_ID, &msg_id));
    let published = relay.0.broker.republish(due, &queue.requeue(id), &headers).await?;
    match after(published, || (relay.0.owners)(queue)) {
        Next::Done => {
            done(relay, due).await?;
            if due.delivered() == 1 {
                relay.0.metrics.lag(Timestamp::now(), due.stored().at);
            }
            Ok(TaskOutcome::Queued)
        }
        Next::Wait(Why::Full, pause) => {
            let pause = relay
                .0
                .full_queues
                .lock()
                .refused(queue, sequence, pause, Instant::now());
            due.nak(pause, PATIENCE).await?;
            Ok(TaskOutcome::Full)
        }
        Next::Wait(Why::NoStream, pause) => {
            tracing::debug!(%queue, call_id = id, "a task waits because its queue has no stream; the operator creates it");
            due.nak(pause, PATIENCE).await?;
            Ok(TaskOutcome::NoStream)
        }
        Next::Dead(reason, error) => {
            let death = Death {
                reason,
                error: error.to_owned(),
                status: None,
                attempts: history.attempts,
                failed_now: false,
            };
            bury(relay, queue, id, due, &kept, (origin, &history, &death)).await?;
            done(relay, due).await?;
            tracing::warn!(%queue, call_id = id, %reason, "the relay stored a dead letter: {error}");
            Ok(TaskOutcome::Dead)
        }
    }
}

async fn done(relay: &Relay, due: &Delivery) -> Result<(), BrokerError> {
    due.ack(PATIENCE).await?;
    relay.0.full_queues.lock().settled(due.stored().sequence);
    Ok(())
}

/// Finds out what a relay that had this message before, and may have died then, did with it.
async fn find_earlier(
    relay: &Relay,
    queue: &Queue,
    id: &str,
    origin: &Origin,
    sequence: u64,
) -> Result<Earlier, BrokerError> {
    let broker = &relay.0.broker;
    let queued = broker.last_message(&queue.stream(), &queue.requeue(id)).await?;
    let still_due = broker
        .message_at(&StreamName::from(DELAY_STREAM), sequence)
        .await?
        .is_some();
    let queued = queued.as_ref().and_then(|queued| queued.header(history::ORIGIN));
    Ok(earlier(&origin.to_string(), queued, still_due))
}

/// Stores the dead letter of a task that can't go back.
async fn bury(
    relay: &Relay,
    queue: &Queue,
    id: &str,
    due: &Delivery,
    kept: &[(&str, &str)],
    (origin, history, death): (&Origin, &History, &Death),
) -> Result<(), BrokerError> {
    let broker = &relay.0.broker;
    let letter = Letter {
        origin,
        msg_id: origin.relay_dead_letter(),
        group: headers::first(kept, history::GROUP).unwrap_or_default(),
        history,
        death,
        now: Timestamp::now(),
    };
    let room = broker.max_payload().saturating_sub(due.payload().len());
    let headers = letter.headers(kept.iter().copied(), room);
    let headers: Vec<_> = headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    match broker.republish(due, &queue.dead(id), &headers).await? {
        Publication::Stored => Ok(()),
        refused => Err(BrokerError::Refused {
            request: format!("a dead letter under {}", queue.dead(id)),
            code: 0,
            description: format!("{refused:?}"),
        }),
    }
}
