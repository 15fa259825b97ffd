//! The outcome of a delivered task. Once a verdict is there, `settle` tells the broker, and makes sure that the task is
//! kept where it goes on before it leaves its queue.

mod callback;
mod cancel;
mod dead_letter;
mod policy;
mod retry;
mod throttle;
mod transfer;

pub use self::{
    callback::{
        TaskReport, answer as answer_callback, is_rule as is_callback_rule, is_wanted as wants_callback, largest_body,
    },
    cancel::answer as answer_cancel,
    policy::{Verdict, already_dead, expired, foreign_subject, judge},
};

use self::transfer::Transfer;
use super::group::Run;
use std::time::Duration;

/// How long a task's slot is kept for one answer of the broker. The answer usually takes less than a millisecond. A broker
/// that crashed does not answer an ack for a delivery that it forgot.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// The outcome of a delivered task in this worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskOutcome {
    /// The task is done.
    Done,
    /// The task waits for its next attempt.
    Retried,
    /// The task waits for another start, and this one does not count: its group is throttled or suspended, or has more in
    /// flight than its limit, or this worker stops.
    Requeued,
    /// The dead letter of the task is stored.
    DeadLettered,
    /// The task is dead, and its group keeps no dead letters.
    Dropped,
    /// Somebody cancelled the task.
    Cancelled,
    /// The task had gone on elsewhere before it came here.
    Transferred,
    /// The task is another worker's.
    Lost,
}

impl TaskOutcome {
    /// Every outcome.
    pub const ALL: [Self; 8] = [
        Self::Done,
        Self::Retried,
        Self::Requeued,
        Self::DeadLettered,
        Self::Dropped,
        Self::Cancelled,
        Self::Transferred,
        Self::Lost,
    ];

    /// The word for the metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Retried => "retried",
            Self::Requeued => "requeued",
            Self::DeadLettered => "dead_lettered",
            Self::Dropped => "dropped",
            Self::Cancelled => "cancelled",
            Self::Transferred => "transferred",
            Self::Lost => "lost",
        }
    }
}

/// Does what `verdict` says, and makes the task's callback with `report` where the task ends.
pub async fn settle(run: &Run<'_>, verdict: Verdict, report: TaskReport) -> TaskOutcome {
    if matches!(verdict, Verdict::Done | Verdict::Dead(_)) && callback::begin(run, &report).await == Transfer::Lost {
        return lost(run);
    }
    match verdict {
        Verdict::Done => TaskOutcome::Done,
        Verdict::Retry => retry::retry(run).await,
        Verdict::Throttle(wait) => throttle::throttle(run, wait).await,
        Verdict::Requeue(until) => retry::requeue(run, until).await,
        Verdict::Stopped => retry::requeue_now(run).await,
        Verdict::Dead(death) => dead_letter::bury(run, &death).await,
        Verdict::Cancelled => cancel::confirm(run).await,
        Verdict::Transferred => transfer::leave(run, TaskOutcome::Transferred).await,
        Verdict::Lost => lost(run),
        Verdict::Forgotten => {
            tracing::warn!(
                call_id = run.id(),
                "NATS was restarted and forgot this delivery: the attempt is aborted, and the task goes to any worker"
            );
            TaskOutcome::Lost
        }
    }
}

fn lost(run: &Run<'_>) -> TaskOutcome {
    run.group().metrics().lease_lost();
    tracing::warn!(
        call_id = run.id(),
        delivered = run.task().delivered(),
        "the lease could not be renewed in time: the attempt is aborted, and the task goes to another worker"
    );
    TaskOutcome::Lost
}
