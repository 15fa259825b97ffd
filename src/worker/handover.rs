//! Hands a task over to another stream: to the delays, where it waits for its next attempt, or to the
//! dead letters. Each is stored for certain before the task leaves its queue. Whoever gets the task
//! once more, as that ack was lost, finds it where it went on, and does not run it.
//!
//! It goes `delay` → `due` → its queue again (by the operator's relay), and is in at least one place at
//! any time: so looking in this order can't miss it. Once back, the worker that gets it removes what it
//! came from before it runs it: so a message that is still there, with nothing that continues it, was
//! not handed over. Nor will it be by a worker that had it before: a fence keeps out what that one sent and
//! what arrives only now.

use super::{backoff::Backoff, run_task::Run};
use crate::{
    broker::{BrokerError, Receipt, StoredMessage, code},
    protocol::{
        Kind, Origin, StreamName, dead_letter, headers,
        history::{self, History},
        id,
        subject::{DEAD_STREAM, DELAY_STREAM},
    },
};
use bytes::Bytes;
use futures::future::try_join_all;
use jiff::Timestamp;
use std::time::Duration;
use tokio::time;

/// How long an answer may take that usually takes less than a millisecond.
const PATIENCE: Duration = Duration::from_secs(1);

/// Deliveries whose hand-overs are kept out. A connection that stands still is given up within seconds, and
/// a delivery takes at least one: this is more than can be on its way.
const FENCED: u32 = 64;

/// What came of a hand-over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandOver {
    /// It is stored: the task may leave its queue.
    Stored,
    /// The lease was lost before: the task is another's.
    Lost,
    /// It can't be stored, as it would be larger than a message may be.
    TooLarge,
}

/// Puts the task into the delays until `at`, with `attempts` attempts used.
pub async fn delay(run: &Run<'_>, history: &History, attempts: u32, at: Timestamp) -> HandOver {
    let Run { worker, task, id, .. } = *run;
    let sequence = task.stored().sequence;
    let origin = run.origin();
    let mut headers = history.continued(task.headers(), attempts, &origin, &run.terms.settings.group);
    headers.extend(headers::schedule(
        at,
        worker.queue.of_message(Kind::Due, id, sequence),
        origin.transfer(task.delivered()),
    ));
    let subject = worker.queue.of_message(Kind::Delay, id, sequence);
    store(run, DELAY_STREAM, &subject, &headers, &task.payload()).await
}

/// Stores something of the task under `subject`, until it is stored, or can't be, or the lease is lost.
pub async fn store(
    run: &Run<'_>,
    stream: &str,
    subject: &str,
    headers: &[(String, String)],
    payload: &Bytes,
) -> HandOver {
    let Run { worker, id, .. } = *run;
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
    let mut last_error = String::new();
    while run.lease.is_held() {
        match worker.broker.store(subject, headers, payload.clone()).await {
            // A duplicate is what this worker stored without hearing so; or it came too late, behind a fence.
            Ok(Receipt::Stored | Receipt::Duplicate) if run.lease.is_held() => return HandOver::Stored,
            Ok(_) => return HandOver::Lost,
            Err(error) if error.is(code::TOO_LARGE) || error.is(code::MESSAGE_TOO_LARGE) => {
                tracing::warn!(call_id = id, %error, "the task can't be handed over to {stream}");
                return HandOver::TooLarge;
            }
            Err(error) => {
                let error = error.to_string();
                if error != last_error {
                    worker.metrics.handovers_failed.inc();
                    tracing::warn!(
                        call_id = id,
                        %error,
                        "can't be stored in {stream}: the task stays in its queue, and the worker tries again"
                    );
                    last_error = error;
                }
            }
        }
        time::sleep(backoff.next()).await;
    }
    HandOver::Lost
}

/// Whether the task went on elsewhere already, and only its ack was lost. If not, it does not do so any more by a
/// worker that had it before. `None` when the lease was lost before that could be told.
pub async fn was_handed_over(run: &Run<'_>) -> Option<bool> {
    if ask(run, || look(run)).await? {
        return Some(true);
    }
    ask(run, || fence(run)).await?;
    // What came between the look and the fence.
    ask(run, || look(run)).await
}

/// Whether more is in flight than the group may have, as its limit was lowered: the broker delivers again what it had
/// delivered, whatever the limit is by then. `None` when the lease was lost before that could be told.
pub async fn exceeds_limit(run: &Run<'_>) -> Option<bool> {
    let stream = run.worker.queue.stream();
    let consumer = ask(run, || run.worker.broker.consumer(&stream)).await?;
    Some(consumer.is_some_and(|consumer| {
        let limit = u64::try_from(consumer.max_ack_pending()).unwrap_or(u64::MAX);
        consumer.num_ack_pending > limit
    }))
}

/// Keeps out what the holders of earlier deliveries may have sent and a connection that stood still may yet let
/// through: the streams drop a message whose id they know.
async fn fence(run: &Run<'_>) -> Result<(), BrokerError> {
    let Run { worker, task, id, .. } = *run;
    let (queue, sequence) = (&worker.queue, task.stored().sequence);
    let origin = run.origin();
    let [delay, due, dead] = [Kind::DelayTombstone, Kind::DueTombstone, Kind::DeadTombstone]
        .map(|kind| queue.of_message(kind, id, sequence));
    // Should this worker die here, what it leaves goes away by itself.
    let at = worker.now().checked_add(PATIENCE).unwrap_or(Timestamp::MAX);
    let posts = (task.delivered().saturating_sub(FENCED).max(1)..task.delivered()).map(async |earlier| {
        let transfer = origin.transfer(earlier);
        let plain = [(id::MSG_ID.to_owned(), transfer.clone())];
        let scheduled = headers::schedule(at, due.clone(), transfer);
        tokio::try_join!(post(run, &delay, &scheduled), post(run, &dead, &plain))
    });
    try_join_all(posts).await?;
    let (delays, letters) = (StreamName::from(DELAY_STREAM), StreamName::from(DEAD_STREAM));
    // One by one where a user's consumer may have them in hand.
    tokio::try_join!(
        worker.broker.purge(&delays, &delay),
        worker.broker.remove(&letters, &dead)
    )?;
    Ok(())
}

async fn post(run: &Run<'_>, subject: &str, headers: &[(String, String)]) -> Result<(), BrokerError> {
    match run.worker.broker.store(subject, headers, Bytes::new()).await {
        // It is one, or there is one already.
        Ok(Receipt::Stored | Receipt::Duplicate) => Ok(()),
        // Where nothing is stored, nothing is handed over.
        Err(error) if error.is(code::NO_LISTENER) || error.is(code::STREAM_FULL) => Ok(()),
        Err(error) => Err(error),
    }
}

async fn look(run: &Run<'_>) -> Result<bool, BrokerError> {
    let Run { worker, task, id, .. } = *run;
    let (queue, broker) = (&worker.queue, &worker.broker);
    let (origin, sequence) = (run.origin().to_string(), task.stored().sequence);
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

/// Removes what a task that came back was before, until that is confirmed: what is left of it would bring
/// the task back once more. `false` when the lease was lost before.
pub async fn remove_predecessors(run: &Run<'_>, origin: &Origin) -> bool {
    ask(run, || remove(run, origin)).await.is_some()
}

async fn remove(run: &Run<'_>, origin: &Origin) -> Result<(), BrokerError> {
    let Run { worker, id, .. } = *run;
    let sequence = origin.stored.sequence;
    let (broker, own) = (&worker.broker, worker.queue.stream());
    let (delays, due) = (
        StreamName::from(DELAY_STREAM),
        worker.queue.of_message(Kind::Due, id, sequence),
    );
    let (_, before) = tokio::try_join!(broker.remove(&delays, &due), broker.message_at(&own, sequence))?;
    match before {
        Some(before) if before.stored().origin(&own) == *origin => broker.delete_message(&own, sequence).await,
        // It is acknowledged, as a rule.
        _ => Ok(()),
    }
}

/// Asks something about the task until there is an answer; `None` when the lease was lost before. A broker that got
/// the question and then stopped never answers: better ask again soon.
async fn ask<T, F>(run: &Run<'_>, question: impl Fn() -> F) -> Option<T>
where
    F: Future<Output = Result<T, BrokerError>>,
{
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    while run.lease.is_held() {
        let error = match time::timeout(PATIENCE, question()).await {
            Ok(Ok(answer)) => return Some(answer),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {PATIENCE:?}"),
        };
        tracing::debug!(
            call_id = run.id,
            error,
            "it can't be told yet where the task went on; asking again"
        );
        time::sleep(backoff.next()).await;
    }
    None
}
