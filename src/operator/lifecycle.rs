//! Pure: where a group stands between its creation and its end. A deletion keeps to the `deletionPolicy`.

use super::{
    desired,
    observe::{BrokerView, Delayed, Observed},
    plan::{Ownership, ownership},
    refusal::Refusal,
    requeue::Requeue,
    subject::Subject,
    validate::{Checked, ValidGroup},
};
use crate::{
    api::{
        DeletionPolicy::{Delete, DeleteIfEmpty, Drain, Retain},
        Reason,
    },
    broker::{ConsumerInfo, StreamInfo, differences},
    protocol::keys,
};
use std::time::Duration;

/// A group that waits for another one to give up its queue is reconciled this often, should it miss the news of that.
const QUEUE_TAKEN: Duration = Duration::from_secs(30);

/// Where a group stands.
#[derive(Clone, Debug, PartialEq)]
pub enum Lifecycle {
    /// The group is to run.
    Active,
    /// The group can't be built, and what it has stays as it is.
    Refused {
        /// The obstacle.
        why: Refusal,
        /// When the group is reconciled again.
        requeue: Requeue,
    },
    /// The deletion waits for the queue while the pipeline goes on.
    Waiting {
        /// Whether the stream accepts new tasks meanwhile.
        intake: Intake,
        /// What the deletion waits for.
        why: Refusal,
    },
    /// The deletion can't go on yet.
    Blocked(Refusal),
    /// The deletion removes what the group has, and lets the TaskGroup go.
    Leaving {
        /// Whether the stream goes, too.
        stream: bool,
    },
}

/// Whether a stream accepts new tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intake {
    /// The stream accepts new tasks.
    Open,
    /// The stream is draining: it accepts only tasks that return from their back-off.
    Draining,
}

/// Says where a group stands.
pub fn lifecycle(subject: &Subject, checked: &Checked, observed: &Observed, instance: &str) -> Lifecycle {
    if subject.is_deleted() {
        return deletion(subject, checked, observed, instance);
    }
    if let Some(problem) = &checked.problem {
        return Lifecycle::Refused {
            why: Refusal::stalled(Reason::InvalidSpec, problem.to_string()),
            requeue: Requeue::Rest,
        };
    }
    if let Some(rival) = &observed.rival {
        let message = format!(
            "TaskGroup {rival} of this namespace has the queue {} already: give this one another spec.queue, or delete \
             one of the two",
            subject.queue().name
        );
        return Lifecycle::Refused {
            why: Refusal::stalled(Reason::QueueConflict, message),
            requeue: Requeue::After(QUEUE_TAKEN),
        };
    }
    Lifecycle::Active
}

fn deletion(subject: &Subject, checked: &Checked, observed: &Observed, instance: &str) -> Lifecycle {
    let nothing = Lifecycle::Leaving { stream: false };
    let Some(group) = &checked.group else { return nothing };
    // The stream is the rival's.
    if checked.problem.is_none() && observed.rival.is_some() {
        return nothing;
    }
    let explain = |why: Refusal| match &checked.problem {
        None => why,
        Some(problem) => Refusal {
            message: format!("{}; the spec can't be used: {problem}", why.message),
            ..why
        },
    };
    match end(group, &observed.broker, instance, subject.is_abandoned()) {
        Lifecycle::Waiting { intake, why } => Lifecycle::Waiting {
            intake,
            why: explain(why),
        },
        Lifecycle::Blocked(why) => Lifecycle::Blocked(explain(why)),
        end => end,
    }
}

/// How far the deletion of a group is, by its `deletionPolicy`.
pub fn end(group: &ValidGroup, broker: &BrokerView, instance: &str, abandoned: bool) -> Lifecycle {
    let (stream, consumer, delayed) = match broker {
        BrokerView::Seen {
            stream,
            consumer,
            delayed,
        } => (stream.as_ref(), consumer.as_ref(), *delayed),
        _ if abandoned => return Lifecycle::Leaving { stream: false },
        BrokerView::Failed(error) => return Lifecycle::Blocked(waits_for_nats(group, &error.to_string())),
        // Observing a deletion always asks the broker.
        BrokerView::InStep { .. } | BrokerView::NotAsked => {
            return Lifecycle::Blocked(waits_for_nats(group, "NATS was not asked"));
        }
    };
    let Some(stream) = stream.filter(|stream| ownership(stream, group, instance) == Ownership::Ours) else {
        return Lifecycle::Leaving { stream: false };
    };
    match by_policy(group, stream, consumer, delayed, instance) {
        Lifecycle::Waiting { .. } if abandoned => Lifecycle::Leaving { stream: false },
        end => end,
    }
}

fn by_policy(
    group: &ValidGroup,
    stream: &StreamInfo,
    consumer: Option<&ConsumerInfo>,
    delayed: Delayed,
    instance: &str,
) -> Lifecycle {
    // Not merely "other subjects than an open one": a stream whose subjects somebody edited may still take new tasks.
    let listens_as = |draining| {
        let desired = desired::stream(group, instance, draining);
        let differences = differences(&desired, &stream.config);
        differences.iter().all(|difference| difference.field != "subjects")
    };
    let (is_open, is_draining) = (listens_as(false), listens_as(true));
    let messages = stream.state.messages;
    let empty = messages == 0 && delayed.tasks == 0 && !delayed.moved;
    let in_back_off = match delayed.tasks {
        0 => String::new(),
        1 => ", 1 is in back-off".to_owned(),
        tasks => format!(", {tasks} are in back-off"),
    };
    match group.deletion_policy {
        Delete => Lifecycle::Leaving { stream: true },
        Retain if !is_open => Lifecycle::Waiting {
            intake: Intake::Open,
            why: Refusal::waits(Reason::Retaining, "the operator lets the stream accept tasks again"),
        },
        Retain => Lifecycle::Leaving { stream: false },
        Drain | DeleteIfEmpty if empty && is_draining => Lifecycle::Leaving { stream: true },
        Drain => Lifecycle::Waiting {
            intake: Intake::Draining,
            why: Refusal::waits(
                Reason::Draining,
                format!(
                    "deletionPolicy Drain: {messages} tasks are to be run first, {} of them run now{in_back_off}{}",
                    consumer.map_or(0, |consumer| consumer.num_ack_pending),
                    if group.suspend {
                        "; the group is suspended: set spec.suspend to false, or spec.deletionPolicy to Delete or Retain"
                    } else {
                        ""
                    }
                ),
            ),
        },
        DeleteIfEmpty => Lifecycle::Waiting {
            // Draining an empty queue first makes sure that it is still empty when it is deleted.
            intake: if empty { Intake::Draining } else { Intake::Open },
            why: Refusal::waits(
                Reason::NotEmpty,
                format!(
                    "deletionPolicy DeleteIfEmpty: the queue holds {messages} tasks{in_back_off}; it is deleted once it is \
                     empty, or set spec.deletionPolicy to Delete, Drain or Retain"
                ),
            ),
        },
    }
}

/// The deletion waits for the broker. The message says how to let go.
pub fn waits_for_nats(group: &ValidGroup, cause: &str) -> Refusal {
    Refusal::waits(
        Reason::NatsUnreachable,
        format!(
            "the deletion waits to clean up stream {}: {cause}; to let go of what is in NATS, annotate the TaskGroup with \
             {}: \"true\"",
            group.queue.stream(),
            keys::ABANDON
        ),
    )
}
