//! One delivered task, from its arrival until the broker knows what became of it.

use super::{
    Worker,
    backoff::Backoff,
    dead, lease,
    metrics::{AttemptEnd, Reason},
    policy::{self, AttemptResult, Death, Verdict},
    watch::Terms,
};
use crate::broker::Delivery;
use std::{
    pin::pin,
    time::{Duration, Instant},
};
use tokio::time;

/// Pause before a failed task is delivered again. The broker holds its slot meanwhile: a back-off that
/// grows, and holds none, needs the delay stream.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// How long one answer of the broker is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// Runs `task`, and tells the broker the outcome. Gives up without a word only when the lease is lost:
/// then the broker gives the task to another worker.
pub async fn run(worker: &Worker, task: Delivery) {
    let Some(id) = worker.queue.task_id(task.subject()) else {
        // The stream has other subjects than the group's own: somebody edited it.
        tracing::error!(
            subject = task.subject(),
            "a task with a foreign subject; it stays in the queue"
        );
        return;
    };
    let Some(terms) = worker.known.borrow().terms.clone() else {
        return;
    };
    let mut lease = pin!(lease::keep(&task, worker.known.clone(), &worker.metrics));
    let outcome = tokio::select! {
        // What is finished is finished, also when the lease was lost at the same moment.
        biased;
        verdict = attempt(worker, &task, id, &terms) => match verdict {
            Verdict::Done => done(worker, &task, id, &terms).await,
            verdict => tokio::select! {
                // A word about a task that is no longer ours would count for its new owner.
                biased;
                () = &mut lease => lost(&task, id),
                outcome = not_done(worker, &task, id, &terms, verdict) => outcome,
                () = worker.hurry.cancelled() => hand_back(&task, id).await,
            },
        },
        () = &mut lease => lost(&task, id),
        () = worker.hurry.cancelled() => hand_back(&task, id).await,
    };
    worker.metrics.task(outcome);
}

/// One attempt, unless the task has had all of them.
async fn attempt(worker: &Worker, task: &Delivery, id: &str, terms: &Terms) -> Verdict {
    let attempt = task.delivered();
    let max_attempts = terms.settings.max_attempts;
    if let Some(death) = policy::already_dead(attempt, max_attempts) {
        return Verdict::Dead(death);
    }
    let begun = Instant::now();
    let result = worker.handler.call(task, id, attempt, terms).await;
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
    let verdict = policy::judge(result, attempt, max_attempts);
    // What a handler answers is shown only as the reason of a failure, and never in the log.
    let group = terms.settings.group.as_str();
    match &verdict {
        Verdict::Done => tracing::debug!(call_id = id, group, attempt, ?duration, "done"),
        Verdict::Retry(_) => tracing::info!(
            call_id = id,
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

/// The task is done: says so until the broker confirms it. Beyond the lease, too, as an ack that comes
/// late still spares another run; but not for ever.
async fn done(worker: &Worker, task: &Delivery, id: &str, terms: &Terms) -> &'static str {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
    let give_up = Instant::now() + 2 * terms.ack_wait;
    loop {
        let Err(error) = task.ack(PATIENCE).await else {
            return "done";
        };
        if Instant::now() >= give_up || worker.hurry.is_cancelled() {
            worker.metrics.acks_unconfirmed.inc();
            tracing::warn!(call_id = id, %error, "the task is done, but the broker did not confirm it: it may run again");
            return "done";
        }
        time::sleep(backoff.next()).await;
    }
}

async fn not_done(worker: &Worker, task: &Delivery, id: &str, terms: &Terms, verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Done => "done",
        Verdict::Retry(_) => {
            if let Err(error) = task.nak(RETRY_DELAY, PATIENCE).await {
                tracing::debug!(call_id = id, %error, "the broker was not told; the task is delivered again after ackWait");
            }
            "retried"
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
            "dead_lettered"
        }
        Verdict::Dead(death) => {
            if let Err(error) = task.term(death.reason.as_str(), PATIENCE).await {
                worker.metrics.acks_unconfirmed.inc();
                tracing::debug!(call_id = id, %error, "the broker did not confirm that the dead task is dropped");
            }
            "dropped"
        }
    }
}

fn count_dead(worker: &Worker, death: &Death) {
    let reason = death.reason.as_str();
    worker.metrics.dead_letters.get_or_create(&Reason { reason }).inc();
}

fn lost(task: &Delivery, id: &str) -> &'static str {
    tracing::warn!(
        call_id = id,
        attempt = task.delivered(),
        "the lease could not be renewed in time: the attempt is cut off, and the task goes to another worker"
    );
    "lost"
}

async fn hand_back(task: &Delivery, id: &str) -> &'static str {
    let told = task.nak(Duration::ZERO, PATIENCE).await;
    tracing::warn!(
        call_id = id,
        attempt = task.delivered(),
        confirmed = told.is_ok(),
        "not finished before this worker has to stop: the attempt is cut off, and the task goes to another worker"
    );
    "handed_back"
}
