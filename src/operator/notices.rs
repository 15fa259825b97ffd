//! Pure: which Kubernetes Events tell the user what happened.

use super::{
    apply::{Outcome, PartOutcome},
    status::find,
};
use crate::{
    api::{Condition, ConditionStatus, ConditionType, Reason, TaskGroupStatus},
    protocol::StreamName,
};
use kube::runtime::events::{Event, EventType};

/// Reasons that pass by themselves within moments: no Event tells of them.
const PASSING: [Reason; 3] = [Reason::RollingOut, Reason::WaitingForStream, Reason::WaitingForHandler];

/// The Events of a reconcile: changes of a pipeline that stood already, and a transition of `Ready`.
pub fn notices(before: &TaskGroupStatus, after: &TaskGroupStatus, outcome: &Outcome) -> Vec<Event> {
    let mut events = Vec::new();
    let changes: Vec<&str> = outcome
        .parts()
        .filter_map(|(_, came)| match came {
            PartOutcome::Changed(what) => Some(what.as_str()),
            _ => None,
        })
        .collect();
    if !changes.is_empty() && before.observed_generation.is_some() {
        // Without a change of the spec, the operator undid somebody else's change.
        let reason = if before.observed_generation == after.observed_generation {
            "Repaired"
        } else {
            "Updated"
        };
        events.push(event(EventType::Normal, reason, "Apply", changes.join("; ")));
    }
    events.extend(transition(before, after));
    events
}

/// The transition of `Ready`, if there was one.
fn transition(before: &TaskGroupStatus, after: &TaskGroupStatus) -> Option<Event> {
    let now = find(after, ConditionType::Ready)?;
    let was = find(before, ConditionType::Ready);
    if was.is_some_and(|was| was.status == now.status && was.reason == now.reason) {
        return None;
    }
    // A group may be throttled every few seconds: the condition says it.
    let throttled = |condition: &Condition| condition.reason == Reason::Throttled.as_str();
    if was.is_some_and(|was| was.status == now.status && (throttled(was) || throttled(now))) {
        return None;
    }
    let type_ = if now.status == ConditionStatus::True.as_str() {
        EventType::Normal
    } else if PASSING.iter().any(|passing| now.reason == passing.as_str()) {
        return None;
    } else {
        EventType::Warning
    };
    Some(event(type_, &now.reason, "Reconcile", now.message.clone()))
}

/// A stream was deleted with its group.
pub fn deleted(stream: &StreamName) -> Event {
    event(
        EventType::Normal,
        "Deleted",
        "Delete",
        format!("stream {stream} and what was in it are deleted"),
    )
}

/// Tasks were dropped since the last Event of this kind.
pub fn dropped(tasks: u64, last_reason: &str) -> Event {
    let reason = if last_reason.is_empty() {
        "no reason given"
    } else {
        last_reason
    };
    let note = match tasks {
        1 => format!("1 task was dropped ({reason})"),
        _ => format!("{tasks} tasks were dropped, the last one because of: {reason}"),
    };
    event(
        EventType::Warning,
        "TaskDropped",
        "Drop",
        format!("{note}; to keep such tasks, set spec.deadLetter.enabled to true"),
    )
}

fn event(type_: EventType, reason: &str, action: &str, note: String) -> Event {
    /// The API's bound of a note, in bytes.
    const MAX_NOTE: usize = 1024;
    let mut note = note;
    if note.len() > MAX_NOTE {
        let end = (0..=MAX_NOTE - 3)
            .rev()
            .find(|end| note.is_char_boundary(*end))
            .unwrap_or(0);
        note.truncate(end);
        note.push('…');
    }
    Event {
        type_,
        reason: reason.to_owned(),
        note: Some(note),
        action: action.to_owned(),
        secondary: None,
    }
}
