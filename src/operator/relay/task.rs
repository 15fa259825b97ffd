//! I/O: one due task goes back into its queue.

use super::{
    Relay,
    decide::{Earlier, Next, Owner, TROUBLE, Why, after, earlier, header, headers_to_keep, origin},
};
use crate::{
    broker::{BrokerError, Delivery, HandedOn, StoredMessage},
    names::{DELAY_STREAM, Queue, StreamName},
    operator::validate,
    task::{dead_headers, history, is_ours},
};
use jiff::Timestamp;
use std::time::{Duration, Instant};

/// How long an answer to an ack may take.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Hands one task on, as far as that goes now.
pub async fn relay(relay: &Relay, queue: &Queue, id: &str, due: &Delivery) {
    let sequence = due.stored().sequence;
    match hand_over(relay, queue, id, due).await {
        Ok(result) => relay.metrics.relayed(result),
        Err(error) => {
            relay.say(&error);
            relay.metrics.relayed("error");
            relay.held().settled(sequence);
            // Where even that does not get through, it is delivered again after the consumer's `ack_wait`.
            let _ = due.nak(TROUBLE, PATIENCE).await;
        }
    }
}

/// Returns what came of it, as a word for the metrics.
async fn hand_over(relay: &Relay, queue: &Queue, id: &str, due: &Delivery) -> Result<&'static str, BrokerError> {
    let sequence = due.stored().sequence;
    let kept = headers_to_keep(due.headers());
    let fallback = format!("{DELAY_STREAM}:{sequence}:{}", due.stored().at);
    let origin = origin(&kept).unwrap_or(&fallback);
    if due.delivered() > 1 {
        let found = look_for_earlier(relay, queue, id, origin, sequence).await?;
        if found != Earlier::Nothing {
            done(relay, due).await?;
            return Ok(if found == Earlier::InQueue {
                "already_queued"
            } else {
                "already_run"
            });
        }
    }

    let msg_id = format!("retry:{origin}");
    let mut headers = kept.clone();
    headers.push(("Nats-Msg-Id", &msg_id));
    let broker = &relay.ctx.broker;
    let mut next = after(
        broker.hand_on(due, &queue.task(id), &headers).await?,
        false,
        Owner::Known,
    );
    if next == Next::TryClosed {
        let handed = broker.hand_on(due, &queue.closed_task(id), &headers).await?;
        next = after(handed, true, owner(relay, queue));
    }
    match next {
        Next::Done => {
            done(relay, due).await?;
            if due.delivered() == 1 {
                relay.metrics.lag(Timestamp::now(), due.stored().at);
            }
            Ok("queued")
        }
        Next::Wait(Why::Full, pause) => {
            let pause = relay.held().refused(queue, sequence, pause, Instant::now());
            due.nak(pause, PATIENCE).await?;
            Ok("full")
        }
        Next::Wait(Why::NoStream, pause) => {
            tracing::debug!(%queue, call_id = id, "a task waits: its queue has no stream; the operator makes it");
            due.nak(pause, PATIENCE).await?;
            Ok("no_stream")
        }
        Next::Dead(reason, error) => {
            bury(relay, queue, id, due, &kept, (reason, error, origin)).await?;
            done(relay, due).await?;
            tracing::warn!(%queue, call_id = id, reason, "a task became a dead letter: {error}");
            Ok("dead")
        }
        // What the second answer never leads to.
        Next::TryClosed => Ok("error"),
    }
}

async fn done(relay: &Relay, due: &Delivery) -> Result<(), BrokerError> {
    due.ack(PATIENCE).await?;
    relay.held().settled(due.stored().sequence);
    Ok(())
}

/// What a relay that had this message before, and may have died then, did with it.
async fn look_for_earlier(
    relay: &Relay,
    queue: &Queue,
    id: &str,
    origin: &str,
    sequence: u64,
) -> Result<Earlier, BrokerError> {
    let broker = &relay.ctx.broker;
    let stream = queue.stream();
    let open = broker.last_message(&stream, &queue.task(id)).await?;
    let closed = broker.last_message(&stream, &queue.closed_task(id)).await?;
    let still_due = broker
        .message_at(&StreamName::from(DELAY_STREAM), sequence)
        .await?
        .is_some();
    let of = |found: &Option<StoredMessage>| {
        found
            .as_ref()
            .and_then(|found| found.header(history::ORIGIN).map(ToOwned::to_owned))
    };
    let (open, closed) = (of(&open), of(&closed));
    Ok(earlier(origin, [open.as_deref(), closed.as_deref()], still_due))
}

fn owner(relay: &Relay, queue: &Queue) -> Owner {
    let ctx = &relay.ctx;
    let is_watched = |namespace: &String| *namespace == queue.namespace;
    if ctx.groups.find(|group| validate::queue(group) == *queue).is_some() {
        Owner::Known
    } else if ctx.settings.watch_namespace.as_ref().is_none_or(is_watched) {
        Owner::Nobody
    } else {
        Owner::Unknown
    }
}

/// Stores the dead letter of a task that can't go back.
async fn bury(
    relay: &Relay,
    queue: &Queue,
    id: &str,
    due: &Delivery,
    kept: &[(&str, &str)],
    (reason, error, origin): (&str, &str, &str),
) -> Result<(), BrokerError> {
    let now = Timestamp::now().to_string();
    let msg_id = format!("relay:{origin}");
    let mut headers: Vec<(&str, &str)> = kept.iter().filter(|(name, _)| !is_ours(name)).copied().collect();
    headers.extend([
        ("Nats-Msg-Id", msg_id.as_str()),
        (dead_headers::REASON, reason),
        (dead_headers::ERROR, error),
        (dead_headers::ORIGIN, origin),
        (dead_headers::AT, now.as_str()),
    ]);
    for (ours, theirs) in [
        (dead_headers::ATTEMPTS, history::ATTEMPTS),
        (dead_headers::FIRST_FAILURE, history::FIRST_FAILURE),
    ] {
        if let Some(value) = header(kept, theirs) {
            headers.push((ours, value));
        }
    }
    match relay.ctx.broker.hand_on(due, &queue.dead(id), &headers).await? {
        HandedOn::Stored => Ok(()),
        refused => Err(BrokerError::Refused {
            request: format!("a dead letter under {}", queue.dead(id)),
            code: 0,
            description: format!("{refused:?}"),
        }),
    }
}
