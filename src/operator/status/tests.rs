//! What a user reads of a group.

use super::{Findings, Pipeline, find, status};
use crate::{
    api::{ConditionStatus, ConditionType, PodTemplate, Reason, TaskGroup, TaskGroupSpec, TaskGroupStatus},
    broker::BrokerError,
    operator::{
        apply::{Outcome, PartOutcome},
        backlog::Numbers,
        deployments::{ObservedDeployment, Rollout},
        refusal::Refusal,
        validate::{self, HandlerCheck, Run, ValidGroup, ValidHandler},
    },
};
use jiff::Timestamp;
use std::sync::Arc;

const NOW: Timestamp = Timestamp::constant(1_800_000_000, 0);
const LATER: Timestamp = Timestamp::constant(1_800_000_060, 0);

fn group() -> ValidGroup {
    let mut group = TaskGroup::new("acme", TaskGroupSpec::new(4));
    group.metadata.namespace = Some("crawl".into());
    validate::group(&group).unwrap()
}

fn done() -> Outcome {
    Outcome {
        stream: PartOutcome::Unchanged,
        consumer: PartOutcome::Unchanged,
        deployment: PartOutcome::Unchanged,
        ..Outcome::nothing(None)
    }
}

fn usable() -> HandlerCheck {
    HandlerCheck::Usable(Box::new(ValidHandler {
        name: "default".into(),
        run: Run::Native,
        template: PodTemplate::default(),
    }))
}

fn deployment(ready: i32) -> Arc<ObservedDeployment> {
    Arc::new(ObservedDeployment {
        wanted: 1,
        rollout: Some(Rollout {
            is_current: true,
            replicas: 1,
            updated: 1,
            ready,
            ..Rollout::default()
        }),
        ..ObservedDeployment::default()
    })
}

/// A status about generation 3 of a group whose workers are ready.
struct Judge {
    group: ValidGroup,
    before: TaskGroupStatus,
    handler: HandlerCheck,
    outcome: Outcome,
    ready: i32,
    numbers: Option<Numbers>,
    throttled_until: Option<Timestamp>,
}

impl Default for Judge {
    fn default() -> Self {
        Self {
            group: group(),
            before: TaskGroupStatus::default(),
            handler: usable(),
            outcome: done(),
            ready: 1,
            numbers: None,
            throttled_until: None,
        }
    }
}

impl Judge {
    fn at(&self, now: Timestamp) -> TaskGroupStatus {
        let findings = Findings {
            generation: Some(3),
            before: &self.before,
            outcome: &self.outcome,
            pipeline: Some(Pipeline {
                group: &self.group,
                handler: &self.handler,
                deployment: Some(deployment(self.ready)),
                numbers: self.numbers,
                throttled_until: self.throttled_until,
            }),
        };
        status(&findings, now)
    }
}

/// `Ready`, `Reconciling` and `Stalled`, and the reason of the first.
fn summary(status: &TaskGroupStatus) -> String {
    let of = |type_| find(status, type_).unwrap().status == ConditionStatus::True.as_str();
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
    let unreachable = || {
        PartOutcome::Unknown(BrokerError::Unreachable {
            servers: "nats://nats".into(),
            cause: "x".into(),
        })
    };
    let not_owned = Outcome {
        stream: PartOutcome::Refused(Refusal::stalled(Reason::NotOwned, "x")),
        consumer: PartOutcome::Waits,
        deployment: PartOutcome::Waits,
        ..done()
    };
    let no_nats = Outcome {
        stream: unreachable(),
        consumer: unreachable(),
        ..done()
    };
    let no_handler = Outcome {
        deployment: PartOutcome::Waits,
        ..done()
    };
    let draining = Outcome {
        refusal: Some(Refusal::waits(Reason::Draining, "x")),
        ..done()
    };
    for (what, handler, outcome, ready, expected) in [
        ("all is well", usable(), done(), 1, "ready: Ready"),
        ("pods are not up yet", usable(), done(), 0, "reconciling: RollingOut"),
        (
            "the handler is missing",
            HandlerCheck::Missing,
            no_handler,
            0,
            "reconciling: HandlerNotFound",
        ),
        (
            "what lasts comes first",
            HandlerCheck::Missing,
            not_owned,
            0,
            "stalled: NotOwned",
        ),
        ("NATS is away", usable(), no_nats, 1, "reconciling: NatsUnreachable"),
        ("it is being deleted", usable(), draining, 1, "reconciling: Draining"),
    ] {
        let judge = Judge {
            handler,
            outcome,
            ready,
            ..Judge::default()
        };
        assert_eq!(summary(&judge.at(NOW)), expected, "{what}");
    }
}

#[test]
fn the_time_of_a_condition_is_when_its_status_changed() {
    let starting = Judge {
        ready: 0,
        ..Judge::default()
    };
    let before = starting.at(NOW);
    let again = |ready| {
        let judge = Judge {
            before: before.clone(),
            ready,
            ..Judge::default()
        };
        judge.at(LATER)
    };
    let time = |status: &TaskGroupStatus| find(status, ConditionType::Ready).unwrap().last_transition_time.0;
    assert_eq!(time(&again(0)), NOW);
    assert_eq!(time(&again(1)), LATER);
    assert_eq!(again(0).observed_generation, Some(3));
}

#[test]
fn numbers_stay_until_there_are_new_ones() {
    let told = Judge {
        numbers: Some(Numbers {
            pending: 7,
            in_flight: 4,
            delayed: 0,
            dead: 1,
        }),
        ..Judge::default()
    };
    let after = Judge {
        before: told.at(NOW),
        ..Judge::default()
    };
    let after = after.at(NOW);
    assert_eq!(
        (after.pending, after.in_flight, after.dead_lettered),
        (Some(7), Some(4), Some(1))
    );
}

#[test]
fn a_throttled_group_is_ready_and_says_until_when_it_is_throttled() {
    let told = |throttled_until, running| {
        let judge = Judge {
            numbers: Some(Numbers {
                in_flight: running,
                ..Numbers::default()
            }),
            throttled_until,
            ..Judge::default()
        };
        let status = judge.at(NOW);
        [ConditionType::Ready, ConditionType::Throttled, ConditionType::OverLimit].map(|type_| {
            let condition = find(&status, type_).unwrap();
            (
                format!("{} {}", condition.status, condition.reason),
                condition.message.clone(),
            )
        })
    };
    let [ready, throttled, over_limit] = told(Some(LATER), 4);
    assert_eq!(
        [&ready.0, &throttled.0, &over_limit.0],
        ["True Throttled", "True RetryAfter", "False WithinLimit"]
    );
    assert_eq!(
        throttled.1,
        "the handler answered 429 or 503 with Retry-After: deliveries go on at 2027-01-15T08:01:00Z; to let them go on \
         earlier, set spec.suspend to true and back"
    );
    let [ready, throttled, over_limit] = told(None, 5);
    assert_eq!(
        [&ready.0, &throttled.0, &over_limit.0],
        ["True Ready", "False NotThrottled", "True LimitLowered"]
    );
    assert!(
        over_limit
            .1
            .starts_with("5 tasks run, because the limit was lowered to 4"),
        "{}",
        over_limit.1
    );
}

#[test]
fn a_spec_that_can_not_be_used_keeps_what_was_said_of_the_pipeline() {
    let before = Judge::default().at(NOW);
    let why = Refusal::stalled(Reason::InvalidSpec, "spec.queue: …".repeat(1000));
    let findings = Findings {
        generation: Some(4),
        before: &before,
        outcome: &Outcome::nothing(Some(why)),
        pipeline: None,
    };
    let after = status(&findings, LATER);
    assert_eq!(summary(&after), "stalled: InvalidSpec");
    assert_eq!(
        find(&after, ConditionType::StreamReady),
        find(&before, ConditionType::StreamReady)
    );
    assert_eq!(after.stream, before.stream);
    let message = &find(&after, ConditionType::Ready).unwrap().message;
    assert_eq!(message.chars().count(), 4096, "the CRD's bound");
}
