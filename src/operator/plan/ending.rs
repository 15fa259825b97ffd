//! Pure: what comes next for a group that is being deleted, by its `deletionPolicy`.

use super::{Ownership, Refusal, ownership};
use crate::{
    broker::differences,
    operator::{desired, observe::BrokerView, validate::ValidGroup},
    protocol::keys,
};

/// What is to be done next for a group that is being deleted.
#[derive(Clone, Debug, PartialEq)]
pub enum Ending {
    /// Delete the Deployment, then (if `stream`) the stream with all in it, then let go of the TaskGroup.
    Finish {
        /// Whether the stream goes too.
        stream: bool,
    },
    /// Keep the pipeline as desired with this stream, and look again soon.
    Continue {
        /// Whether the stream takes no new tasks.
        closed: bool,
        /// What it waits for.
        waits: Refusal,
    },
    /// The broker does not answer: look again later.
    Blocked(Refusal),
}

/// The tasks of a group that are not in its queue, but will come back to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delayed {
    /// How many are in back-off. Counted after the look at the stream.
    pub tasks: u64,
    /// Whether something came into the stream between that look and another after the count: then a task
    /// may have gone from the one to the other unseen.
    pub moved: bool,
}

/// Plans the end of a group by its `deletionPolicy`.
pub fn ending(group: &ValidGroup, view: &BrokerView, delayed: Delayed, instance: &str, abandon: bool) -> Ending {
    use crate::api::DeletionPolicy::{Delete, DeleteIfEmpty, Drain, Retain};
    let (stream, in_flight) = match view {
        BrokerView::Seen { stream, consumer } => (
            stream.as_ref(),
            consumer.as_ref().map_or(0, |consumer| consumer.num_ack_pending),
        ),
        // The caller looks afresh at what is being deleted.
        BrokerView::InStep => return Ending::Blocked(waits_for_nats(group, "it was not asked")),
        BrokerView::Failed(error) => {
            return if abandon {
                Ending::Finish { stream: false }
            } else {
                Ending::Blocked(waits_for_nats(group, &error.to_string()))
            };
        }
    };
    let Some(stream) = stream.filter(|stream| ownership(stream, group, instance) == Ownership::Ours) else {
        return Ending::Finish { stream: false };
    };
    let open = desired::stream(group, instance, false);
    let is_closed = differences(&open, &stream.config)
        .iter()
        .any(|difference| difference.field == "subjects");
    let messages = stream.state.messages;
    let empty = messages == 0 && delayed.tasks == 0 && !delayed.moved;
    let in_back_off = match delayed.tasks {
        0 => String::new(),
        tasks => format!(", {tasks} are in back-off"),
    };
    let ending = match group.deletion_policy {
        Delete => return Ending::Finish { stream: true },
        Retain if is_closed => Ending::Continue {
            closed: false,
            waits: waiting("Retaining", "the stream is being opened again".into()),
        },
        Retain => return Ending::Finish { stream: false },
        Drain | DeleteIfEmpty if empty && is_closed => return Ending::Finish { stream: true },
        Drain => Ending::Continue {
            closed: true,
            waits: waiting(
                "Draining",
                format!(
                    "deletionPolicy Drain: {messages} tasks are to be run first, {in_flight} of them run now{in_back_off}{}",
                    if group.suspend {
                        "; the group is suspended: set spec.suspend to false, or spec.deletionPolicy to Delete or Retain"
                    } else {
                        ""
                    }
                ),
            ),
        },
        // Closing an empty queue first makes sure that it is still empty when it is deleted.
        DeleteIfEmpty => Ending::Continue {
            closed: empty,
            waits: waiting(
                "NotEmpty",
                format!(
                    "deletionPolicy DeleteIfEmpty: the queue holds {messages} tasks{in_back_off}; it is deleted once it is empty, or \
                     set spec.deletionPolicy to Delete, Drain or Retain"
                ),
            ),
        },
    };
    if abandon {
        Ending::Finish { stream: false }
    } else {
        ending
    }
}

fn waiting(reason: &'static str, message: String) -> Refusal {
    Refusal { reason, message }
}

/// That a deletion waits for the broker, and how to let go.
pub fn waits_for_nats(group: &ValidGroup, cause: &str) -> Refusal {
    Refusal {
        reason: "NatsUnreachable",
        message: format!(
            "the deletion waits to clean up stream {}: {cause}; to let go of what is in NATS, annotate the TaskGroup \
             with {}: \"true\"",
            group.queue.stream(),
            keys::ABANDON
        ),
    }
}
