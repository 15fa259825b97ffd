//! Checks a task that was delivered before, or that came back from the delays, before it may start.
//!
//! Its worker may have transferred it and died before the ack. A transferred task goes `delay` → `due` → its queue again,
//! by the relay, or to the dead letters. It is in at least one place at any time, so a look in this order can't miss it.
//! Once it is back, the worker that gets it removes what it came from before it starts. So a message that is still there,
//! with nothing that continues it, was not transferred. Nor will a worker do so that had it before: tombstones keep out
//! what that worker sent and what arrives only now.

use crate::{
    broker::{BrokerError, Receipt, StoredMessage, code},
    protocol::{
        Kind, Origin, StreamName, dead_letter, headers, history,
        id::MSG_ID,
        subject::{DEAD_STREAM, DELAY_STREAM},
    },
    worker::{
        backoff::Backoff,
        group::Run,
        outcome::{PATIENCE, Verdict},
    },
};
use bytes::Bytes;
use futures::future::try_join_all;
use jiff::Timestamp;
use std::time::Duration;
use tokio::time;

/// Most deliveries whose transfers are kept out. A connection that stands still is given up within seconds, and a delivery
/// takes at least one, so no more can be on their way.
const BURIED: u32 = 64;

/// Lets a task pass that may start as far as its deliveries before go, or says what is to become of it.
pub async fn check(run: &Run<'_>) -> Result<(), Verdict> {
    if !run.lease().is_held() {
        return Err(Verdict::Lost);
    }
    if run.task().delivered() > 1 {
        if !run.lease().confirm().await {
            return Err(Verdict::Lost);
        }
        if was_transferred(run).await? {
            tracing::info!(
                call_id = run.id(),
                "the task went on elsewhere before it came here again; not run"
            );
            return Err(Verdict::Transferred);
        }
        if exceeds_limit(run).await? {
            return Err(Verdict::Requeue(run.group().now()));
        }
    }
    if let Some(origin) = &run.history().origin {
        // Until that is confirmed: what is left of the task would bring it back once more.
        ask(run, || remove_predecessors(run, origin)).await?;
    }
    Ok(())
}

/// Whether the task was transferred already, and only its ack was lost. If not, no worker that had it before will
/// transfer it any more.
async fn was_transferred(run: &Run<'_>) -> Result<bool, Verdict> {
    if ask(run, || look(run)).await? {
        return Ok(true);
    }
    ask(run, || bury(run)).await?;
    // A transfer may have come between the look and the tombstones.
    ask(run, || look(run)).await
}

/// Whether more is in flight than the group may have, as its limit was lowered. The broker redelivers what it had
/// delivered, whatever the limit is by then.
async fn exceeds_limit(run: &Run<'_>) -> Result<bool, Verdict> {
    let group = run.group();
    let stream = group.queue().stream();
    let consumer = ask(run, || group.broker().consumer(&stream)).await?;
    Ok(consumer.is_some_and(|consumer| {
        let limit = u64::try_from(consumer.max_ack_pending()).unwrap_or(u64::MAX);
        consumer.num_ack_pending > limit
    }))
}

/// Stores tombstones for all earlier deliveries, whose workers may have sent a transfer that a connection that stood still
/// may yet let through. The streams drop a message whose id they know.
async fn bury(run: &Run<'_>) -> Result<(), BrokerError> {
    let (group, task, id) = (run.group(), run.task(), run.id());
    let (queue, sequence) = (group.queue(), task.stored().sequence);
    let origin = run.origin();
    let [delay, due, dead] = [Kind::DelayTombstone, Kind::DueTombstone, Kind::DeadTombstone]
        .map(|kind| queue.of_message(kind, id, sequence));
    // Should this worker die here, what it leaves goes away by itself.
    let at = group.now().checked_add(PATIENCE).unwrap_or(Timestamp::MAX);
    let first = task.delivered().saturating_sub(BURIED).max(1);
    let tombstones = (first..task.delivered()).map(async |earlier| {
        let transfer = origin.transfer(earlier);
        let plain = [(MSG_ID.to_owned(), transfer.clone())];
        let scheduled = headers::schedule(at, due.clone(), transfer);
        tokio::try_join!(tombstone(run, &delay, &scheduled), tombstone(run, &dead, &plain))
    });
    try_join_all(tombstones).await?;
    let (delays, letters) = (StreamName::from(DELAY_STREAM), StreamName::from(DEAD_STREAM));
    // One by one where a user's consumer may have them in flight.
    tokio::try_join!(
        group.broker().purge(&delays, &delay),
        group.broker().remove(&letters, &dead)
    )?;
    Ok(())
}

async fn tombstone(run: &Run<'_>, subject: &str, headers: &[(String, String)]) -> Result<(), BrokerError> {
    match run.group().broker().store(subject, headers, Bytes::new()).await {
        // A duplicate is a transfer or another tombstone.
        Ok(Receipt::Stored | Receipt::Duplicate) => Ok(()),
        // Where nothing can be stored, nothing can be transferred.
        Err(error) if error.is(code::NO_LISTENER) || error.is(code::STREAM_FULL) => Ok(()),
        Err(error) => Err(error),
    }
}

async fn look(run: &Run<'_>) -> Result<bool, BrokerError> {
    let (group, id) = (run.group(), run.id());
    let (queue, broker) = (group.queue(), group.broker());
    let (origin, sequence) = (run.origin().to_string(), run.task().stored().sequence);
    let (delays, own) = (StreamName::from(DELAY_STREAM), queue.stream());
    for subject in [Kind::Delay, Kind::Due].map(|kind| queue.of_message(kind, id, sequence)) {
        if broker.last_message(&delays, &subject).await?.is_some() {
            return Ok(true);
        }
    }
    let goes_on = |message: Option<StoredMessage>, header| {
        message.is_some_and(|message| message.header(header) == Some(origin.as_str()))
    };
    if goes_on(broker.last_message(&own, &queue.requeue(id)).await?, history::ORIGIN) {
        return Ok(true);
    }
    let letter = broker
        .last_message(&StreamName::from(DEAD_STREAM), &queue.dead(id))
        .await?;
    if goes_on(letter, dead_letter::ORIGIN) {
        return Ok(true);
    }
    Ok(broker.message_at(&own, sequence).await?.is_none())
}

/// Removes what a task was before it came back.
async fn remove_predecessors(run: &Run<'_>, origin: &Origin) -> Result<(), BrokerError> {
    let (group, sequence) = (run.group(), origin.stored.sequence);
    let (broker, own) = (group.broker(), group.queue().stream());
    let delays = StreamName::from(DELAY_STREAM);
    let due = group.queue().of_message(Kind::Due, run.id(), sequence);
    let (_, before) = tokio::try_join!(broker.remove(&delays, &due), broker.message_at(&own, sequence))?;
    match before {
        Some(before) if before.stored().origin(&own) == *origin => broker.delete_message(&own, sequence).await,
        // It is acknowledged, as a rule.
        _ => Ok(()),
    }
}

/// Asks something about the task until there is an answer, or the lease is lost. A broker that got the question and then
/// stopped never answers, so the question is asked again soon.
async fn ask<T, F>(run: &Run<'_>, question: impl Fn() -> F) -> Result<T, Verdict>
where
    F: Future<Output = Result<T, BrokerError>>,
{
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    while run.lease().is_held() {
        let error = match time::timeout(PATIENCE, question()).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {PATIENCE:?}"),
        };
        tracing::debug!(
            call_id = run.id(),
            error,
            "it can't be told yet where the task went on; asking again"
        );
        time::sleep(backoff.next()).await;
    }
    Err(Verdict::Lost)
}
