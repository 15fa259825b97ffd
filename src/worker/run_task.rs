//! One delivered task, from its arrival until the broker knows what became of it.

use super::{
    Worker,
    backoff::Backoff,
    dead,
    handler::Attempt,
    in_hand::{Held, State},
    lease,
    metrics::{AttemptEnd, Reason},
    policy::{self, AttemptResult, Death, Verdict},
    trace::Trace,
    watch::Terms,
};
use crate::{broker::Delivery, task::is_ours};
use std::{
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::time;

/// Pause before a failed task is delivered again. The broker holds its slot meanwhile: a back-off that
/// grows, and holds none, needs the delay stream.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// How long one answer of the broker is waited for, with the task's slot. It usually takes less than a
/// millisecond; and a broker that crashed does not answer an ack for a delivery that it forgot.
const PATIENCE: Duration = Duration::from_secs(1);

/// What became of a task here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Done,
    Retried,
    DeadLettered,
    Dropped,
    Lost,
    HandedBack,
}

impl Outcome {
    fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Retried => "retried",
            Self::DeadLettered => "dead_lettered",
            Self::Dropped => "dropped",
            Self::Lost => "lost",
            Self::HandedBack => "handed_back",
        }
    }
}

/// A task that is done, but the broker did not confirm that it heard so.
pub struct Unconfirmed {
    task: Delivery,
    _held: Held,
}

/// Runs `task`, and tells the broker the outcome. Gives up without a word only when the lease is lost:
/// then the broker gives the task to another worker. What it returns needs no slot any more, but
/// [`confirm`].
pub async fn run(worker: &Worker, task: Delivery) -> Option<Unconfirmed> {
    let Some(id) = worker.queue.task_id(task.subject()) else {
        // The stream has other subjects than the group's own: somebody edited it.
        tracing::error!(
            subject = task.subject(),
            "a task with a foreign subject; it stays in the queue"
        );
        return None;
    };
    let terms = worker.known.borrow().terms.clone()?;
    let held = match worker.in_hand.take(task.stored()) {
        Ok(held) => held,
        Err(state) => {
            tracing::debug!(
                call_id = id,
                ?state,
                "delivered again while this worker has it in hand; not run again"
            );
            // What the run in hand tells the broker holds for this delivery, too.
            if state == State::Done {
                let _ = task.ack(PATIENCE).await;
            }
            return None;
        }
    };
    let outcome = outcome(worker, &task, id, &terms).await;
    worker.metrics.task(outcome.as_str());
    if outcome != Outcome::Done {
        return None;
    }
    held.done();
    let unheard = task.ack(PATIENCE).await.is_err();
    unheard.then_some(Unconfirmed { task, _held: held })
}

async fn outcome(worker: &Worker, task: &Delivery, id: &str, terms: &Terms) -> Outcome {
    let mut lease = pin!(lease::keep(task, worker.known.clone(), &worker.metrics));
    let verdict = tokio::select! {
        // What is finished is finished, also when the lease was lost at the same moment.
        biased;
        verdict = attempt(worker, task, id, terms) => verdict,
        () = &mut lease => return lost(task, id),
        () = worker.hurry.cancelled() => return hand_back(task, id).await,
    };
    if verdict == Verdict::Done {
        return Outcome::Done;
    }
    tokio::select! {
        // A word about a task that is no longer ours would count for its new owner.
        biased;
        () = &mut lease => lost(task, id),
        outcome = not_done(worker, task, id, terms, verdict) => outcome,
        () = worker.hurry.cancelled() => hand_back(task, id).await,
    }
}

/// Says that a task is done until the broker confirms it. Beyond the lease, too, as an ack that comes
/// late still spares another run; but not for ever.
pub async fn confirm(worker: Arc<Worker>, unconfirmed: Unconfirmed) {
    let task = &unconfirmed.task;
    let ack_wait = worker
        .known
        .borrow()
        .terms
        .as_ref()
        .map_or(Duration::ZERO, |terms| terms.ack_wait);
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
    let confirmed = async {
        while task.ack(5 * PATIENCE).await.is_err() {
            time::sleep(backoff.next()).await;
        }
    };
    // Twice: a broker that forgot this delivery hears nothing of it before it made it again.
    tokio::select! {
        () = confirmed => return,
        () = time::sleep(2 * ack_wait) => {}
        () = worker.hurry.cancelled() => {}
    }
    worker.metrics.acks_unconfirmed.inc();
    tracing::warn!(
        subject = task.subject(),
        "a task is done, but the broker did not confirm that it heard so: it may run again"
    );
}

/// One attempt, unless the task has had all of them.
async fn attempt(worker: &Worker, task: &Delivery, id: &str, terms: &Terms) -> Verdict {
    let attempt = task.delivered();
    let max_attempts = terms.settings.max_attempts;
    if let Some(death) = policy::already_dead(attempt, max_attempts) {
        return Verdict::Dead(death);
    }
    let headers: Vec<_> = task.headers().filter(|(name, _)| !is_ours(name)).collect();
    let trace = Trace::of(&headers);
    let trace_id = trace.id();
    let begun = Instant::now();
    let result = worker
        .handler
        .run(&Attempt {
            id,
            number: attempt,
            headers,
            trace,
            payload: task.payload(),
            keep: policy::MAX_ERROR,
            terms,
        })
        .await;
    let duration = begun.elapsed();
    let kind = result.kind();
    worker
        .metrics
        .attempts
        .get_or_create(&AttemptEnd { result: kind })
        .inc();
    worker.metrics.attempt_duration.observe(duration.as_secs_f64());
    if let AttemptResult::NoConnection(why) = &result {
        worker.gate.refused(why);
    }
    let verdict = policy::judge(&result, attempt, max_attempts);
    // What a handler answers is shown only as the reason of a failure, and never in the log.
    let group = terms.settings.group.as_str();
    match &verdict {
        Verdict::Done => tracing::debug!(call_id = id, %trace_id, group, attempt, ?duration, "done"),
        Verdict::Retry(_) => tracing::info!(
            call_id = id,
            %trace_id,
            group,
            attempt,
            max_attempts,
            ?duration,
            result = kind,
            "failed, to be tried again"
        ),
        Verdict::Dead(death) => {
            tracing::info!(
                call_id = id,
                %trace_id,
                group,
                attempt,
                max_attempts,
                ?duration,
                result = kind,
                reason = death.reason.as_str(),
                "failed for good"
            );
        }
    }
    verdict
}

async fn not_done(worker: &Worker, task: &Delivery, id: &str, terms: &Terms, verdict: Verdict) -> Outcome {
    match verdict {
        Verdict::Done => Outcome::Done,
        Verdict::Retry(_) => {
            if let Err(error) = task.nak(RETRY_DELAY, PATIENCE).await {
                tracing::debug!(call_id = id, %error, "the broker was not told; the task is delivered again after ackWait");
            }
            Outcome::Retried
        }
        Verdict::Dead(death) if terms.settings.dead_letter => {
            dead::store(worker, task, id, terms, &death).await;
            count_dead(worker, &death);
            // An ack that gets lost does no harm: the next delivery stores the same letter again, which
            // the broker drops by its id, and acks.
            if let Err(error) = task.ack(PATIENCE).await {
                worker.metrics.acks_unconfirmed.inc();
                tracing::debug!(call_id = id, %error, "the dead letter is stored, but the broker did not confirm the ack");
            }
            Outcome::DeadLettered
        }
        Verdict::Dead(death) => {
            if let Err(error) = task.term(death.reason.as_str(), PATIENCE).await {
                worker.metrics.acks_unconfirmed.inc();
                tracing::debug!(call_id = id, %error, "the broker did not confirm that the dead task is dropped");
            }
            Outcome::Dropped
        }
    }
}

fn count_dead(worker: &Worker, death: &Death) {
    let reason = death.reason.as_str();
    worker.metrics.dead_letters.get_or_create(&Reason { reason }).inc();
}

fn lost(task: &Delivery, id: &str) -> Outcome {
    tracing::warn!(
        call_id = id,
        attempt = task.delivered(),
        "the lease could not be renewed in time: the attempt is cut off, and the task goes to another worker"
    );
    Outcome::Lost
}

async fn hand_back(task: &Delivery, id: &str) -> Outcome {
    let told = task.nak(Duration::ZERO, PATIENCE).await;
    tracing::warn!(
        call_id = id,
        attempt = task.delivered(),
        confirmed = told.is_ok(),
        "not finished before this worker has to stop: the attempt is cut off, and the task goes to another worker"
    );
    Outcome::HandedBack
}
