//! Pure: verdicts → the list of conditions.

use crate::{
    api::{Condition, ConditionStatus, ConditionType, Reason, TaskGroupStatus},
    operator::{error::ApplyError, refusal::Refusal},
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// The CRD's bound of a message, in characters.
const MAX_MESSAGE: usize = 4096;

/// What is to be said about a group or one of its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub status: ConditionStatus,
    pub reason: Reason,
    pub message: String,
    /// Whether only somebody's change helps.
    pub stalled: bool,
}

impl Verdict {
    /// The condition holds.
    pub fn good(reason: Reason, message: impl Into<String>) -> Self {
        Self::new(ConditionStatus::True, reason, message)
    }

    /// The condition does not hold yet, which passes by itself.
    pub fn waits(reason: Reason, message: impl Into<String>) -> Self {
        Self::new(ConditionStatus::False, reason, message)
    }

    /// The condition does not hold until somebody changes something.
    pub fn stalled(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            stalled: true,
            ..Self::waits(reason, message)
        }
    }

    /// Nobody can tell.
    pub fn unknown(reason: Reason, message: impl Into<String>) -> Self {
        Self::new(ConditionStatus::Unknown, reason, message)
    }

    fn new(status: ConditionStatus, reason: Reason, message: impl Into<String>) -> Self {
        Self {
            status,
            reason,
            message: message.into(),
            stalled: false,
        }
    }
}

impl From<&Refusal> for Verdict {
    fn from(refusal: &Refusal) -> Self {
        Self {
            stalled: refusal.stalled,
            ..Self::waits(refusal.reason, &refusal.message)
        }
    }
}

impl From<&ApplyError> for Verdict {
    fn from(error: &ApplyError) -> Self {
        Self {
            stalled: error.is_stalled(),
            ..Self::waits(error.reason(), error.advice())
        }
    }
}

/// All conditions: `Ready`, the two that follow from it, and one per part. A condition that nothing is said about now stays
/// as it was.
pub fn conditions(
    before: &TaskGroupStatus,
    generation: Option<i64>,
    now: Timestamp,
    ready: &Verdict,
    parts: &[(ConditionType, &Verdict)],
) -> Vec<Condition> {
    let is_ready = ready.status == ConditionStatus::True;
    let flag = |set: bool, otherwise: &str| {
        if set {
            Verdict::good(ready.reason, &ready.message)
        } else {
            Verdict::waits(ready.reason, otherwise)
        }
    };
    let stalled = flag(!is_ready && ready.stalled, "nothing waits for a change by somebody");
    let reconciling = flag(!is_ready && !ready.stalled, "the operator has nothing to do");
    let mut all = vec![
        (ConditionType::Ready, ready),
        (ConditionType::Reconciling, &reconciling),
        (ConditionType::Stalled, &stalled),
    ];
    all.extend_from_slice(parts);
    let mut conditions: Vec<_> = all
        .into_iter()
        .map(|(type_, verdict)| condition(before, type_, verdict, generation, now))
        .collect();
    let said: Vec<_> = conditions.iter().map(|condition| condition.type_.clone()).collect();
    let stay = |old: &&Condition| !said.contains(&old.type_);
    conditions.extend(before.conditions.iter().filter(stay).cloned());
    conditions
}

fn condition(
    before: &TaskGroupStatus,
    type_: ConditionType,
    verdict: &Verdict,
    generation: Option<i64>,
    now: Timestamp,
) -> Condition {
    let unchanged = find(before, type_).filter(|old| old.status == verdict.status.as_str());
    let mut message = verdict.message.clone();
    while message.chars().count() > MAX_MESSAGE {
        message = message.chars().take(MAX_MESSAGE - 1).chain(['…']).collect();
    }
    Condition {
        type_: type_.to_string(),
        status: verdict.status.as_str().to_owned(),
        observed_generation: generation,
        last_transition_time: unchanged.map_or(Time(now), |old| old.last_transition_time.clone()),
        reason: verdict.reason.to_string(),
        message,
    }
}

/// The condition of a type, if there is one.
pub fn find(status: &TaskGroupStatus, type_: ConditionType) -> Option<&Condition> {
    let type_ = type_.to_string();
    status.conditions.iter().find(|condition| condition.type_ == type_)
}
