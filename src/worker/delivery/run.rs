//! The run of one delivered task, from its arrival to its outcome.

use super::{admission, attempt, redelivery};
use crate::{
    broker::Delivery,
    protocol::Kind,
    worker::{
        group::{Abort, Group, Lease, Progress, Run, history},
        outcome::{self, PATIENCE, TaskOutcome, TaskReport, Verdict},
        rate::Turn,
    },
};
use tokio::select;

/// Runs `task`, and tells the broker the outcome. A run whose lease is lost gives up without a word, and JetStream
/// redelivers the task to another worker.
pub async fn run(group: &Group, task: Box<Delivery>, turn: Option<Turn>) {
    let own = group.queue().task_id(task.subject());
    // A stream that somebody edited, or that was adopted, may hold other messages.
    let (kind, id) = own.unwrap_or((Kind::Tasks, task.subject()));
    let Some(config) = group.state().config() else {
        tracing::error!(
            call_id = id,
            "a task came before the group's settings; JetStream redelivers it after ackWait"
        );
        return;
    };
    let in_flight = match group.in_flight().add(task.stored(), id) {
        Ok(in_flight) => in_flight,
        Err(progress) => {
            tracing::debug!(
                call_id = id,
                ?progress,
                "redelivered while it is in flight in this worker; not run again"
            );
            // The word of the run in flight counts for this delivery, too.
            if progress == Progress::Done {
                let _ = task.ack(PATIENCE).await;
            }
            return;
        }
    };
    let lease = Lease::new(&task, config.ack_wait(), group.state(), group.broker());
    let history = history::read(&task, kind);
    let run = Run::new(group, (&task, id), &in_flight, &lease, &config, &history);
    let verdict = select! {
        // A run that is finished is finished, also when it was to be aborted at the same moment.
        biased;
        outcome = steps(&run, turn, own.is_some()) => Ok(outcome),
        abort = in_flight.aborted() => Err(match abort {
            Abort::Cancelled => Verdict::Cancelled,
            Abort::Forgotten => Verdict::Forgotten,
        }),
        () = lease.lost() => Err(Verdict::Lost),
        () = group.aborting().cancelled() => {
            tracing::warn!(call_id = id, "not finished before this worker has to stop: the attempt is aborted");
            Err(Verdict::Stopped)
        }
    };
    let outcome = match verdict {
        Ok(outcome) => outcome,
        Err(verdict) => Box::pin(outcome::settle(&run, verdict, TaskReport::unhandled())).await,
    };
    group.metrics().task(outcome.as_str());
    match outcome {
        TaskOutcome::Done => {
            let until = lease.until();
            group.acks().done(task.into_acker(), in_flight, until);
        }
        TaskOutcome::DeadLettered | TaskOutcome::Dropped => in_flight.finished(),
        _ => {}
    }
}

/// The steps of a run while its lease is held. Steps that most tasks never come to are boxed, as each of thousands of
/// tasks takes the room of the largest step that is not.
async fn steps(run: &Run<'_>, turn: Option<Turn>, is_own: bool) -> TaskOutcome {
    if (run.task().delivered() > 1 || run.history().origin.is_some())
        && let Err(verdict) = Box::pin(redelivery::check(run)).await
    {
        return Box::pin(outcome::settle(run, verdict, TaskReport::unhandled())).await;
    }
    if !is_own {
        let verdict = Verdict::Dead(outcome::foreign_subject(run.task().subject()));
        return Box::pin(outcome::settle(run, verdict, TaskReport::unhandled())).await;
    }
    let changed = match admission::admit(run, turn).await {
        Ok(changed) => changed,
        Err(verdict) => return Box::pin(outcome::settle(run, verdict, TaskReport::unhandled())).await,
    };
    // A change while the task waited for its start counts for the attempt.
    let run = &changed.as_deref().map_or(*run, |config| run.with(config));
    let (verdict, report) = attempt::make(run).await;
    if verdict == Verdict::Done && !outcome::wants_callback(run.task()) {
        return TaskOutcome::Done;
    }
    Box::pin(outcome::settle(run, verdict, report)).await
}
