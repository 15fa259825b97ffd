//! What a user reads of a group.

use super::{Findings, HandlerFound, Verdict, find, refused, status};
use crate::{
    api::{ConditionStatus, ConditionType, TaskGroup, TaskGroupSpec, TaskGroupStatus},
    broker::BrokerError,
    operator::{
        apply::{Applied, Outcome},
        backlog::Numbers,
        plan::Refusal,
        validate::{self, ValidGroup},
    },
};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use serde_json::json;

const NOW: Timestamp = Timestamp::constant(1_800_000_000, 0);
const LATER: Timestamp = Timestamp::constant(1_800_000_060, 0);

fn group() -> ValidGroup {
    let mut group = TaskGroup::new("acme", TaskGroupSpec::new(4));
    group.metadata.namespace = Some("crawl".into());
    validate::group(&group).unwrap()
}

fn done() -> Outcome {
    Outcome {
        stream: Applied::Unchanged,
        consumer: Applied::Unchanged,
        deployment: Applied::Unchanged,
        stream_info: None,
    }
}

fn deployment(ready: i32) -> Deployment {
    serde_json::from_value(json!({
        "metadata": {"generation": 1},
        "spec": {"replicas": 1, "selector": {}, "template": {}},
        "status": {"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1, "readyReplicas": ready},
    }))
    .unwrap()
}

fn judged(handler: HandlerFound, outcome: &Outcome, ready: i32, ending: Option<Refusal>) -> TaskGroupStatus {
    let findings = Findings {
        group: &group(),
        generation: Some(3),
        before: &TaskGroupStatus::default(),
        handler,
        outcome,
        deployment: Some(&deployment(ready)),
        numbers: None,
        closed_until: None,
        ending,
    };
    status(&findings, NOW)
}

/// `Ready`, `Reconciling` and `Stalled`, and the reason of the first.
fn summary(status: &TaskGroupStatus) -> String {
    let of = |type_| find(status, type_).unwrap().status == ConditionStatus::True;
    let word = match (
        of(ConditionType::Ready),
        of(ConditionType::Reconciling),
        of(ConditionType::Stalled),
    ) {
        (true, false, false) => "ready",
        (false, true, false) => "reconciling",
        (false, false, true) => "stalled",
        other => panic!("kstatus knows no such state: {other:?}"),
    };
    format!("{word}: {}", find(status, ConditionType::Ready).unwrap().reason)
}

#[test]
fn a_group_is_ready_reconciling_or_stalled_and_says_why() {
    use HandlerFound::{No, Yes};
    let refused = |reason| {
        Applied::Refused(Refusal {
            reason,
            message: "x".into(),
        })
    };
    let unreachable = || {
        Applied::Unknown(BrokerError::Unreachable {
            servers: "nats://nats".into(),
            cause: "x".into(),
        })
    };
    let not_owned = Outcome {
        stream: refused("NotOwned"),
        consumer: Applied::Waits,
        deployment: Applied::Waits,
        ..done()
    };
    let no_nats = Outcome {
        stream: unreachable(),
        consumer: unreachable(),
        ..done()
    };
    let no_handler = Outcome {
        deployment: Applied::Waits,
        ..done()
    };
    let draining = Refusal {
        reason: "Draining",
        message: "x".into(),
    };
    for (what, handler, outcome, ready, ending, expected) in [
        ("all is well", Yes, &done(), 1, None, "ready: Ready"),
        ("pods are not up yet", Yes, &done(), 0, None, "reconciling: RollingOut"),
        (
            "the handler is missing",
            No,
            &no_handler,
            0,
            None,
            "reconciling: HandlerNotFound",
        ),
        ("what lasts comes first", No, &not_owned, 0, None, "stalled: NotOwned"),
        ("NATS is away", Yes, &no_nats, 1, None, "reconciling: NatsUnreachable"),
        (
            "it is being deleted",
            Yes,
            &done(),
            1,
            Some(draining),
            "reconciling: Draining",
        ),
    ] {
        assert_eq!(summary(&judged(handler, outcome, ready, ending)), expected, "{what}");
    }
}

#[test]
fn the_time_of_a_condition_is_when_its_status_changed() {
    let before = judged(HandlerFound::Yes, &done(), 0, None);
    let again = |ready| {
        let findings = Findings {
            group: &group(),
            generation: Some(4),
            before: &before,
            handler: HandlerFound::Yes,
            outcome: &done(),
            deployment: Some(&deployment(ready)),
            numbers: None,
            closed_until: None,
            ending: None,
        };
        status(&findings, LATER)
    };
    let time = |status: &TaskGroupStatus| find(status, ConditionType::Ready).unwrap().last_transition_time.clone();
    assert_eq!(time(&again(0)), time(&before));
    assert_eq!(time(&again(1)), "2027-01-15T08:01:00Z");
    assert_eq!(again(0).observed_generation, Some(4));
}

#[test]
fn numbers_stay_until_there_are_new_ones() {
    let numbers = |before: &TaskGroupStatus, numbers| {
        let findings = Findings {
            group: &group(),
            generation: Some(3),
            before,
            handler: HandlerFound::Yes,
            outcome: &done(),
            deployment: None,
            numbers,
            closed_until: None,
            ending: None,
        };
        status(&findings, NOW)
    };
    let told = Numbers {
        pending: 7,
        in_flight: 4,
        delayed: 0,
        dead: 1,
    };
    let before = numbers(&TaskGroupStatus::default(), Some(told));
    let after = numbers(&before, None);
    assert_eq!(
        (after.pending, after.in_flight, after.dead_lettered),
        (Some(7), Some(4), Some(1))
    );
}

#[test]
fn a_closed_group_is_ready_and_says_until_when_it_is_closed() {
    let (group, outcome, deployment) = (group(), done(), deployment(1));
    let told = |closed_until, running| {
        let findings = Findings {
            group: &group,
            generation: Some(3),
            before: &TaskGroupStatus::default(),
            handler: HandlerFound::Yes,
            outcome: &outcome,
            deployment: Some(&deployment),
            numbers: Some(Numbers {
                in_flight: running,
                ..Numbers::default()
            }),
            closed_until,
            ending: None,
        };
        let status = status(&findings, NOW);
        [ConditionType::Ready, ConditionType::Closed, ConditionType::OverLimit].map(|type_| {
            let condition = find(&status, type_).unwrap();
            (
                format!("{:?} {}", condition.status, condition.reason),
                condition.message.clone(),
            )
        })
    };
    let [ready, closed, over_limit] = told(Some(LATER), 4);
    assert_eq!(
        [&ready.0, &closed.0, &over_limit.0],
        ["True Closed", "True RetryAfter", "False WithinLimit"]
    );
    assert_eq!(
        closed.1,
        "the handler answered 429 or 503 with Retry-After: deliveries go on at 2027-01-15T08:01:00Z; to reopen it \
         earlier, set spec.suspend to true and back"
    );
    let [ready, closed, over_limit] = told(None, 5);
    assert_eq!(
        [&ready.0, &closed.0, &over_limit.0],
        ["True Ready", "False Open", "True LimitLowered"]
    );
    assert!(
        over_limit.1.starts_with("5 tasks run, as the limit was lowered to 4"),
        "{}",
        over_limit.1
    );
}

#[test]
fn a_spec_that_can_not_be_used_keeps_what_was_said_of_the_pipeline() {
    let before = judged(HandlerFound::Yes, &done(), 1, None);
    let why = Verdict::stalled("InvalidSpec", "spec.queue: …".repeat(1000));
    let after = refused(&before, Some(4), &why, LATER);
    assert_eq!(summary(&after), "stalled: InvalidSpec");
    assert_eq!(
        find(&after, ConditionType::StreamReady),
        find(&before, ConditionType::StreamReady)
    );
    assert_eq!(after.stream, before.stream);
    let message = &find(&after, ConditionType::Ready).unwrap().message;
    assert_eq!(message.chars().count(), 4096, "the CRD's bound");
}
