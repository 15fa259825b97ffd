//! Pure: what was found and done → the status of a TaskGroup.

mod conditions;
#[cfg(test)]
mod tests;

pub use conditions::find;

use self::conditions::{Verdict, conditions};
use super::{
    apply::{Outcome, PartOutcome},
    backlog::Numbers,
    deployments::ObservedDeployment,
    desired,
    error::broker_reason,
    validate::{HandlerCheck, ValidGroup},
};
use crate::{
    api::{ConditionStatus, ConditionType, Reason, TaskGroupStatus},
    protocol::Kind,
};
use jiff::Timestamp;
use std::sync::Arc;

/// Everything that a group's status is made of.
pub struct Findings<'a> {
    /// Generation of the TaskGroup.
    pub generation: Option<i64>,
    /// Its status until now.
    pub before: &'a TaskGroupStatus,
    /// What was done.
    pub outcome: &'a Outcome,
    /// Its pipeline, if that is kept as desired.
    pub pipeline: Option<Pipeline<'a>>,
}

/// A group's pipeline.
pub struct Pipeline<'a> {
    /// The group.
    pub group: &'a ValidGroup,
    /// Its handler.
    pub handler: &'a HandlerCheck,
    /// Its Deployment as it is now.
    pub deployment: Option<Arc<ObservedDeployment>>,
    /// Its backlog, where there is news of it.
    pub numbers: Option<Numbers>,
    /// The end of the pause that a worker asked for, if it did.
    pub throttled_until: Option<Timestamp>,
}

/// The status of a group. Whatever is not known now stays as it was.
pub fn status(findings: &Findings, now: Timestamp) -> TaskGroupStatus {
    let Findings {
        generation,
        before,
        outcome,
        pipeline,
    } = findings;
    let refusal = outcome.refusal.as_ref().map(Verdict::from);
    let Some(pipeline) = pipeline else {
        return TaskGroupStatus {
            observed_generation: *generation,
            conditions: match &refusal {
                Some(refusal) => conditions(before, *generation, now, refusal, &[]),
                None => before.conditions.clone(),
            },
            ..TaskGroupStatus::clone(before)
        };
    };
    let parts = Parts::new(pipeline, outcome);
    let ready = refusal.unwrap_or_else(|| readiness(pipeline, &parts));
    of_pipeline(findings, pipeline, &parts, &ready, now)
}

/// What is said about each part of a pipeline.
struct Parts {
    handler: Verdict,
    stream: Verdict,
    consumer: Verdict,
    workers: Verdict,
}

impl Parts {
    fn new(pipeline: &Pipeline, outcome: &Outcome) -> Self {
        let queue = &pipeline.group.queue;
        Self {
            handler: handler_verdict(&pipeline.group.handler, pipeline.handler),
            stream: broker_verdict(&outcome.stream, "stream", queue.stream().as_str()),
            consumer: broker_verdict(&outcome.consumer, "consumer", &queue.consumer()),
            workers: workers_verdict(pipeline, outcome),
        }
    }

    /// In the order in which they are to blame.
    fn all(&self) -> [&Verdict; 4] {
        [&self.handler, &self.stream, &self.consumer, &self.workers]
    }
}

fn of_pipeline(
    findings: &Findings,
    pipeline: &Pipeline,
    parts: &Parts,
    ready: &Verdict,
    now: Timestamp,
) -> TaskGroupStatus {
    let Findings { before, outcome, .. } = findings;
    let (group, numbers) = (pipeline.group, pipeline.numbers);
    let consumer_in_step = parts.consumer.status == ConditionStatus::True;
    let concurrency = if consumer_in_step {
        Some(group.concurrency)
    } else {
        before.concurrency
    };
    let in_flight = numbers.map(|numbers| numbers.in_flight).or(before.in_flight);
    TaskGroupStatus {
        observed_generation: findings.generation,
        conditions: conditions(
            before,
            findings.generation,
            now,
            ready,
            &[
                (ConditionType::HandlerFound, &parts.handler),
                (ConditionType::StreamReady, &parts.stream),
                (ConditionType::ConsumerReady, &parts.consumer),
                (ConditionType::WorkersReady, &parts.workers),
                (ConditionType::Suspended, &suspended_verdict(group.suspend)),
                (ConditionType::Throttled, &throttled_verdict(pipeline.throttled_until)),
                (ConditionType::OverLimit, &over_limit_verdict(in_flight, concurrency)),
            ],
        ),
        queue: Some(group.queue.name.clone()),
        // Once made, it is the group's, whatever happens to it.
        stream: if outcome.stream.is_done() {
            Some(group.queue.stream().as_str().to_owned())
        } else {
            before.stream.clone()
        },
        concurrency,
        replicas: Some(desired::replicas(group)),
        workers: Some(format!(
            "{}/{}",
            ready_pods(pipeline.deployment.as_deref()),
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
            group.rate.as_ref().map(desired::rate)
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

fn handler_verdict(name: &str, handler: &HandlerCheck) -> Verdict {
    match handler {
        HandlerCheck::Usable(_) => Verdict::good(Reason::Found, format!("TaskHandler {name} runs the tasks")),
        HandlerCheck::Missing => Verdict::waits(
            Reason::HandlerNotFound,
            format!(
                "there is no TaskHandler {name} in this namespace: make one, or name another in spec.handlerRef.name; \
                 until then the queue accepts tasks and nothing runs them"
            ),
        ),
        HandlerCheck::Invalid(invalid) => Verdict::stalled(
            Reason::InvalidHandler,
            format!("TaskHandler {name} can't be used: {invalid}"),
        ),
    }
}

fn broker_verdict(outcome: &PartOutcome, kind: &str, name: &str) -> Verdict {
    match outcome {
        PartOutcome::Unchanged | PartOutcome::Changed(_) => {
            Verdict::good(Reason::InStep, format!("{kind} {name} is as desired"))
        }
        // A pipeline that is kept leaves no part alone.
        PartOutcome::Waits | PartOutcome::Left => Verdict::waits(Reason::WaitingForStream, "waits for the stream"),
        PartOutcome::Refused(refusal) => Verdict::from(refusal),
        PartOutcome::Unknown(error) => Verdict::unknown(broker_reason(error), error.to_string()),
        PartOutcome::Failed(error) => Verdict::from(error),
    }
}

fn workers_verdict(pipeline: &Pipeline, outcome: &Outcome) -> Verdict {
    match &outcome.deployment {
        PartOutcome::Refused(refusal) => Verdict::from(refusal),
        PartOutcome::Failed(error) => Verdict::from(error),
        PartOutcome::Waits if pipeline.deployment.is_none() => match pipeline.handler {
            HandlerCheck::Usable(_) => {
                Verdict::waits(Reason::WaitingForStream, "no worker starts before the stream is there")
            }
            HandlerCheck::Missing | HandlerCheck::Invalid(_) => Verdict::waits(
                Reason::WaitingForHandler,
                "no worker starts before the TaskHandler can be used",
            ),
        },
        PartOutcome::Unchanged
        | PartOutcome::Changed(_)
        | PartOutcome::Waits
        | PartOutcome::Left
        | PartOutcome::Unknown(_) => rollout_verdict(&pipeline.group.name, pipeline.deployment.as_deref()),
    }
}

/// How far the pods are, as `kubectl rollout status` judges it.
fn rollout_verdict(group: &str, deployment: Option<&ObservedDeployment>) -> Verdict {
    let rolling_out = |message: String| Verdict::waits(Reason::RollingOut, message);
    let look = format!("look with kubectl describe pods -l taskgroup.io/group={group}");
    let Some(deployment) = deployment else {
        return rolling_out("the worker Deployment is being made".to_owned());
    };
    let wanted = deployment.wanted;
    let Some(rollout) = &deployment.rollout else {
        return rolling_out(format!("0 of {wanted} workers are ready; {look}"));
    };
    let (updated, ready, all) = (rollout.updated, rollout.ready, rollout.replicas);
    if !rollout.is_current {
        return rolling_out("the change has not reached the pods yet".to_owned());
    }
    if let Some(message) = &rollout.failure {
        return Verdict::waits(Reason::ReplicaFailure, format!("pods can't be made: {message}"));
    }
    if let Some(message) = &rollout.stuck {
        return Verdict::waits(Reason::RolloutStuck, format!("{message} {look}"));
    }
    if updated < wanted || ready < wanted {
        return rolling_out(format!(
            "{ready} of {wanted} workers are ready, {updated} are new; {look}"
        ));
    }
    if all > wanted {
        return rolling_out(format!("{} old workers finish their tasks", all - wanted));
    }
    Verdict::good(Reason::WorkersReady, format!("{ready} of {wanted} workers are ready"))
}

fn suspended_verdict(suspend: bool) -> Verdict {
    if suspend {
        Verdict::good(
            Reason::Suspended,
            "spec.suspend is true: no task starts, and the queue still accepts tasks",
        )
    } else {
        Verdict::waits(Reason::NotSuspended, "spec.suspend is false")
    }
}

fn throttled_verdict(until: Option<Timestamp>) -> Verdict {
    match until {
        Some(until) => Verdict::good(Reason::RetryAfter, throttled_message(until)),
        None => Verdict::waits(Reason::NotThrottled, "the handler asks for no pause"),
    }
}

fn throttled_message(until: Timestamp) -> String {
    format!(
        "the handler answered 429 or 503 with Retry-After: deliveries go on at {until}; to let them go on earlier, set \
         spec.suspend to true and back"
    )
}

fn over_limit_verdict(in_flight: Option<i64>, concurrency: Option<i64>) -> Verdict {
    match (in_flight, concurrency) {
        (Some(running), Some(limit)) if running > limit => Verdict::good(
            Reason::LimitLowered,
            format!(
                "{running} tasks run, because the limit was lowered to {limit}: they finish, and no new task starts until \
                 fewer than {limit} run"
            ),
        ),
        _ => Verdict::waits(Reason::WithinLimit, "no more tasks run than the limit allows"),
    }
}

fn ready_pods(deployment: Option<&ObservedDeployment>) -> i32 {
    let rollout = deployment.and_then(|deployment| deployment.rollout.as_ref());
    rollout.map_or(0, |rollout| rollout.ready)
}

/// `Ready` of the whole: the first part that is not ready says why, and the lasting obstacles come first.
fn readiness(pipeline: &Pipeline, parts: &Parts) -> Verdict {
    let all = parts.all();
    let bad = |verdict: &&&Verdict| verdict.status != ConditionStatus::True;
    let worst = all
        .iter()
        .filter(bad)
        .find(|verdict| verdict.stalled)
        .or_else(|| all.iter().find(bad));
    let group = pipeline.group;
    match (worst, pipeline.throttled_until) {
        (Some(worst), _) => Verdict {
            status: ConditionStatus::False,
            ..Verdict::clone(worst)
        },
        (None, _) if group.suspend => Verdict::good(Reason::Suspended, "the pipeline is ready, and suspended"),
        (None, Some(until)) => Verdict::good(Reason::Throttled, throttled_message(until)),
        (None, None) => Verdict::good(
            Reason::Ready,
            format!(
                "the pipeline runs up to {} tasks at once from {}",
                group.concurrency,
                group.queue.all(Kind::Tasks)
            ),
        ),
    }
}
