//! Pure: what was found and done → the status of a TaskGroup.

#[cfg(test)]
mod tests;

use super::{
    apply::{Applied, Outcome},
    backlog::Numbers,
    desired,
    error::broker_reason,
    plan::Refusal,
    validate::{Invalid, ValidGroup},
};
use crate::api::{Condition, ConditionStatus, ConditionType, TaskGroupStatus};
use crate::protocol::Kind;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;

/// What is to be said about one part of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    status: ConditionStatus,
    reason: String,
    message: String,
    /// Only somebody's change helps.
    stalled: bool,
}

impl Verdict {
    fn good(reason: &str, message: impl Into<String>) -> Self {
        Self::new(ConditionStatus::True, reason, message)
    }

    /// Not so yet; it passes by itself.
    pub fn waits(reason: &str, message: impl Into<String>) -> Self {
        Self::new(ConditionStatus::False, reason, message)
    }

    /// Not so, until somebody changes something.
    pub fn stalled(reason: &str, message: impl Into<String>) -> Self {
        Self {
            stalled: true,
            ..Self::waits(reason, message)
        }
    }

    fn unknown(reason: &str, message: impl Into<String>) -> Self {
        Self::new(ConditionStatus::Unknown, reason, message)
    }

    fn new(status: ConditionStatus, reason: &str, message: impl Into<String>) -> Self {
        Self {
            status,
            reason: reason.to_owned(),
            message: message.into(),
            stalled: false,
        }
    }
}

/// What was found about a group's handler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HandlerFound {
    /// It can be used.
    Yes,
    /// There is none of that name.
    No,
    /// It is there, but can't be used, or not by this group.
    Invalid(Invalid),
}

/// Everything that a group's status is made of.
pub struct Findings<'a> {
    /// The group.
    pub group: &'a ValidGroup,
    /// Its generation.
    pub generation: Option<i64>,
    /// Its status until now.
    pub before: &'a TaskGroupStatus,
    /// What was found about its handler.
    pub handler: HandlerFound,
    /// What was done.
    pub outcome: &'a Outcome,
    /// Its Deployment as it is now.
    pub deployment: Option<&'a Deployment>,
    /// Its backlog, where there is news of it.
    pub numbers: Option<Numbers>,
    /// Until when its workers closed it, if they did.
    pub closed_until: Option<Timestamp>,
    /// What its deletion waits for.
    pub ending: Option<Refusal>,
}

/// The status of a group that can be built.
pub fn status(findings: &Findings, now: Timestamp) -> TaskGroupStatus {
    let Findings { group, before, .. } = findings;
    let handler = handler_verdict(&group.handler, &findings.handler);
    let stream = broker_verdict(&findings.outcome.stream, "stream", group.queue.stream().as_str());
    let consumer = broker_verdict(&findings.outcome.consumer, "consumer", &group.queue.consumer());
    let workers = workers_verdict(findings);
    let ready = readiness(
        group,
        findings.ending.as_ref(),
        findings.closed_until,
        &[&handler, &stream, &consumer, &workers],
    );
    let suspended = if group.suspend {
        Verdict::good(
            "Suspended",
            "spec.suspend is true: nothing new starts, and the queue still accepts tasks",
        )
    } else {
        Verdict::waits("NotSuspended", "spec.suspend is false")
    };
    let consumer_in_step = consumer.status == ConditionStatus::True;
    let numbers = findings.numbers;
    let concurrency = if consumer_in_step {
        Some(group.concurrency)
    } else {
        before.concurrency
    };
    let in_flight = numbers.map(|numbers| numbers.in_flight).or(before.in_flight);
    let closed = closed_verdict(findings.closed_until);
    let over_limit = over_limit_verdict(in_flight, concurrency);
    TaskGroupStatus {
        observed_generation: findings.generation,
        conditions: conditions(
            before,
            findings.generation,
            now,
            &ready,
            &[
                (ConditionType::HandlerFound, &handler),
                (ConditionType::StreamReady, &stream),
                (ConditionType::ConsumerReady, &consumer),
                (ConditionType::WorkersReady, &workers),
                (ConditionType::Suspended, &suspended),
                (ConditionType::Closed, &closed),
                (ConditionType::OverLimit, &over_limit),
            ],
        ),
        queue: Some(group.queue.name.clone()),
        // Once made, it is the group's, whatever happens to it.
        stream: if findings.outcome.stream.is_done() {
            Some(group.queue.stream().as_str().to_owned())
        } else {
            before.stream.clone()
        },
        concurrency,
        replicas: Some(desired::replicas(group)),
        workers: Some(format!(
            "{}/{}",
            ready_pods(findings.deployment),
            desired::replicas(group)
        )),
        selector: Some(
            desired::selector(&group.name)
                .iter()
                .map(|(key, value)| format!("{key}={value}"))
                .collect::<Vec<_>>()
                .join(","),
        ),
        rate: if consumer_in_step {
            group.rate.map(|rate| desired::rate(&rate))
        } else {
            before.rate.clone()
        },
        max_inflight: if consumer_in_step {
            Some(desired::max_inflight(group))
        } else {
            before.max_inflight
        },
        pending: numbers.map(|numbers| numbers.pending).or(before.pending),
        in_flight,
        delayed: numbers.map(|numbers| numbers.delayed).or(before.delayed),
        dead_lettered: numbers.map(|numbers| numbers.dead).or(before.dead_lettered),
    }
}

/// The status of a group that can't be built: what it has stays as it is.
pub fn refused(before: &TaskGroupStatus, generation: Option<i64>, why: &Verdict, now: Timestamp) -> TaskGroupStatus {
    TaskGroupStatus {
        observed_generation: generation,
        conditions: conditions(before, generation, now, why, &[]),
        ..before.clone()
    }
}

fn handler_verdict(name: &str, handler: &HandlerFound) -> Verdict {
    match handler {
        HandlerFound::Yes => Verdict::good("Found", format!("TaskHandler {name} runs the tasks")),
        HandlerFound::No => Verdict::waits(
            "HandlerNotFound",
            format!(
                "there is no TaskHandler {name} in this namespace: make one, or name another in spec.handlerRef.name; \
                 until then the queue accepts tasks and nothing runs them"
            ),
        ),
        HandlerFound::Invalid(invalid) => {
            Verdict::stalled("InvalidHandler", format!("TaskHandler {name} can't be used: {invalid}"))
        }
    }
}

fn broker_verdict(applied: &Applied, kind: &str, name: &str) -> Verdict {
    match applied {
        Applied::Unchanged | Applied::Changed(_) => Verdict::good("InStep", format!("{kind} {name} is as desired")),
        Applied::Waits => Verdict::waits("WaitingForStream", "waits for the stream"),
        Applied::Refused(refusal) => Verdict::stalled(refusal.reason, &refusal.message),
        Applied::Unknown(error) => Verdict::unknown(broker_reason(error), error.to_string()),
        Applied::Failed(error) if error.is_stalled() => Verdict::stalled(error.reason(), error.advice()),
        Applied::Failed(error) => Verdict::waits(error.reason(), error.advice()),
    }
}

fn workers_verdict(findings: &Findings) -> Verdict {
    match &findings.outcome.deployment {
        Applied::Refused(refusal) => Verdict::stalled(refusal.reason, &refusal.message),
        Applied::Failed(error) if error.is_stalled() => Verdict::stalled(error.reason(), error.advice()),
        Applied::Failed(error) => Verdict::waits(error.reason(), error.advice()),
        Applied::Waits if findings.deployment.is_none() => {
            if findings.handler == HandlerFound::Yes {
                Verdict::waits("WaitingForStream", "no worker starts before the stream is there")
            } else {
                Verdict::waits(
                    "WaitingForHandler",
                    "no worker starts before the TaskHandler can be used",
                )
            }
        }
        Applied::Unchanged | Applied::Changed(_) | Applied::Waits | Applied::Unknown(_) => {
            rollout_verdict(&findings.group.name, findings.deployment)
        }
    }
}

/// How far the pods are, as `kubectl rollout status` judges it.
fn rollout_verdict(group: &str, deployment: Option<&Deployment>) -> Verdict {
    let look = format!("look with kubectl describe pods -l taskgroup.io/group={group}");
    let Some(deployment) = deployment else {
        return Verdict::waits("RollingOut", "the worker Deployment is being made");
    };
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let Some(status) = &deployment.status else {
        return Verdict::waits("RollingOut", format!("0 of {wanted} workers are ready; {look}"));
    };
    let failed = |type_: &str, value: &str| {
        let conditions = status.conditions.as_deref().unwrap_or_default();
        conditions
            .iter()
            .find(|condition| condition.type_ == type_ && condition.status == value)
    };
    if status.observed_generation < deployment.metadata.generation {
        return Verdict::waits("RollingOut", "the change has not reached the pods yet");
    }
    if let Some(condition) = failed("ReplicaFailure", "True") {
        let message = condition.message.clone().unwrap_or_default();
        return Verdict::waits("ReplicaFailure", format!("pods can't be made: {message}"));
    }
    if let Some(condition) = failed("Progressing", "False") {
        let message = condition.message.clone().unwrap_or_default();
        return Verdict::waits("RolloutStuck", format!("{message} {look}"));
    }
    let (updated, ready, all) = (
        status.updated_replicas.unwrap_or(0),
        status.ready_replicas.unwrap_or(0),
        status.replicas.unwrap_or(0),
    );
    if updated < wanted || ready < wanted {
        return Verdict::waits(
            "RollingOut",
            format!("{ready} of {wanted} workers are ready, {updated} are new; {look}"),
        );
    }
    if all > wanted {
        return Verdict::waits("RollingOut", format!("{} old workers finish their tasks", all - wanted));
    }
    Verdict::good("WorkersReady", format!("{ready} of {wanted} workers are ready"))
}

fn closed_verdict(until: Option<Timestamp>) -> Verdict {
    match until {
        Some(until) => Verdict::good("RetryAfter", closed_message(until)),
        None => Verdict::waits("Open", "the handler asks for no pause"),
    }
}

fn closed_message(until: Timestamp) -> String {
    format!(
        "the handler answered 429 or 503 with Retry-After: deliveries go on at {until}; to reopen it earlier, set \
         spec.suspend to true and back"
    )
}

fn over_limit_verdict(in_flight: Option<i64>, concurrency: Option<i64>) -> Verdict {
    match (in_flight, concurrency) {
        (Some(running), Some(limit)) if running > limit => Verdict::good(
            "LimitLowered",
            format!(
                "{running} tasks run, as the limit was lowered to {limit}: they finish, and nothing new starts until \
                 fewer than {limit} run"
            ),
        ),
        _ => Verdict::waits("WithinLimit", "no more tasks run than the limit"),
    }
}

fn ready_pods(deployment: Option<&Deployment>) -> i32 {
    deployment
        .and_then(|deployment| deployment.status.as_ref()?.ready_replicas)
        .unwrap_or(0)
}

/// `Ready` of the whole: the first part that is not says why; the lasting ones first.
fn readiness(
    group: &ValidGroup,
    ending: Option<&Refusal>,
    closed_until: Option<Timestamp>,
    parts: &[&Verdict],
) -> Verdict {
    if let Some(ending) = ending {
        return Verdict::waits(ending.reason, &ending.message);
    }
    let bad = |verdict: &&&Verdict| verdict.status != ConditionStatus::True;
    let worst = parts
        .iter()
        .filter(bad)
        .find(|verdict| verdict.stalled)
        .or_else(|| parts.iter().find(bad));
    match worst {
        Some(worst) => Verdict {
            status: ConditionStatus::False,
            ..(*worst).clone()
        },
        None if group.suspend => Verdict::good("Suspended", "the pipeline is ready, and suspended"),
        None if closed_until.is_some() => Verdict::good("Closed", closed_until.map(closed_message).unwrap_or_default()),
        None => Verdict::good(
            "Ready",
            format!(
                "the pipeline runs up to {} tasks at once from {}",
                group.concurrency,
                group.queue.all(Kind::Tasks)
            ),
        ),
    }
}

fn conditions(
    before: &TaskGroupStatus,
    generation: Option<i64>,
    now: Timestamp,
    ready: &Verdict,
    parts: &[(ConditionType, &Verdict)],
) -> Vec<Condition> {
    let is_ready = ready.status == ConditionStatus::True;
    let flag = |set: bool, otherwise: &str| {
        if set {
            Verdict::good(&ready.reason, &ready.message)
        } else {
            Verdict::waits(&ready.reason, otherwise)
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
    // What we say nothing about now stays as it was.
    conditions.extend(
        before
            .conditions
            .iter()
            .filter(|old| conditions.iter().all(|new| new.type_ != old.type_))
            .cloned()
            .collect::<Vec<_>>(),
    );
    conditions
}

fn condition(
    before: &TaskGroupStatus,
    type_: ConditionType,
    verdict: &Verdict,
    generation: Option<i64>,
    now: Timestamp,
) -> Condition {
    /// The bound of the CRD.
    const MAX_MESSAGE: usize = 4096;
    let type_ = type_.to_string();
    let unchanged = before
        .conditions
        .iter()
        .find(|old| old.type_ == type_ && old.status == verdict.status);
    let mut message = verdict.message.clone();
    while message.chars().count() > MAX_MESSAGE {
        message = message.chars().take(MAX_MESSAGE - 1).chain(['…']).collect();
    }
    Condition {
        type_,
        status: verdict.status,
        observed_generation: generation,
        last_transition_time: unchanged.map_or_else(
            || format!("{now:.0}"),
            |condition| condition.last_transition_time.clone(),
        ),
        reason: verdict.reason.clone(),
        message,
    }
}

/// A condition of a status by its type.
pub fn find(status: &TaskGroupStatus, type_: ConditionType) -> Option<&Condition> {
    let type_ = type_.to_string();
    status.conditions.iter().find(|condition| condition.type_ == type_)
}
