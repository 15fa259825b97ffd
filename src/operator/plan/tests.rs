//! Desired × observed, as tables.

use super::{Delayed, Desired, Ending, Plan, Step, ending, plan};
use crate::{
    api::{DeletionPolicy, PodTemplate, TaskGroup, TaskGroupSpec},
    broker::{BrokerError, ConsumerInfo, Position, StreamInfo, StreamState},
    operator::{
        desired::{self, PodSettings},
        observe::{BrokerView, DeploymentView},
        validate::{self, Run, ValidGroup, ValidHandler},
    },
};
use serde_json::{Map, Value, json};

fn group() -> ValidGroup {
    let mut group = TaskGroup::new("acme", TaskGroupSpec::new(4));
    group.metadata.namespace = Some("crawl".into());
    group.metadata.uid = Some("uid-1".into());
    validate::group(&group).unwrap()
}

fn wanted(group: &ValidGroup) -> Desired {
    let handler = ValidHandler {
        name: "default".into(),
        run: Run::Upstream {
            url: "http://svc/".into(),
            http2: false,
            ca: None,
        },
        template: PodTemplate::default(),
    };
    let pods = PodSettings {
        image: "taskgroup".into(),
        nats_url: "nats://nats".into(),
        nats_creds_secret: None,
        log_format: "text",
    };
    Desired {
        stream: desired::stream(group, "test", false),
        consumer: desired::consumer(group, "test", &[]),
        paused: group.suspend,
        deployment: Some(desired::deployment(group, &handler, &pods)),
    }
}

/// A configuration as JetStream returns it, with some fields changed.
fn config<T: serde::Serialize>(ours: &T, changed: &Value) -> Map<String, Value> {
    let Ok(Value::Object(mut config)) = serde_json::to_value(ours) else {
        panic!("not an object")
    };
    config.insert("max_waiting".into(), json!(512));
    config.extend(changed.as_object().unwrap().clone());
    config
}

fn seen(group: &ValidGroup, changed: &Value) -> BrokerView {
    let desired = wanted(group);
    BrokerView::Seen {
        stream: Some(StreamInfo {
            config: config(&desired.stream, changed),
            state: StreamState::default(),
        }),
        consumer: Some(ConsumerInfo {
            delivered: Position::default(),
            config: config(&desired.consumer, &json!({})),
            num_pending: 0,
            num_ack_pending: 0,
            paused: false,
            pause_remaining: 0,
            ts: None,
        }),
    }
}

fn unreachable() -> BrokerView {
    BrokerView::Failed(BrokerError::Unreachable {
        servers: "nats://nats".into(),
        cause: "no connection".into(),
    })
}

fn planned(view: &BrokerView, deployment: &DeploymentView, adopt: bool) -> Plan {
    let group = group();
    plan(&group, &wanted(&group), view, deployment, "test", adopt)
}

/// The plan in words: what happens to the stream, the consumer and the Deployment.
fn words(plan: &Plan) -> [String; 3] {
    fn word<C, U>(step: &Step<C, U>) -> String {
        match step {
            Step::Keep => "keep".into(),
            Step::Create(_) => "create".into(),
            Step::Update(_) => "update".into(),
            Step::Wait => "wait".into(),
            Step::Refuse(refusal) => refusal.reason.into(),
            Step::Unknown(_) => "unknown".into(),
        }
    }
    [word(&plan.stream), word(&plan.consumer.config), word(&plan.deployment)]
}

#[test]
fn a_plan_is_what_differs() {
    use DeploymentView::{Absent, Differs, Foreign, InStep};
    let group = group();
    let nothing = BrokerView::Seen {
        stream: None,
        consumer: None,
    };
    let in_step = seen(&group, &json!({}));
    let edited = seen(&group, &json!({"max_msgs": 7}));
    let other_storage = seen(&group, &json!({"storage": "memory"}));
    let limits = seen(&group, &json!({"retention": "limits"}));
    let unmarked = seen(&group, &json!({"metadata": {}}));
    let elsewhere =
        json!({"taskgroup.io/instance": "x", "taskgroup.io/namespace": "crawl", "taskgroup.io/name": "acme"});
    let foreign = seen(&group, &json!({"metadata": elsewhere}));
    for (what, view, deployment, adopt, expected) in [
        (
            "nothing is there",
            &nothing,
            Absent,
            false,
            ["create", "create", "create"],
        ),
        ("all is there", &in_step, InStep, false, ["keep", "keep", "keep"]),
        (
            "all is known to be there",
            &BrokerView::InStep,
            InStep,
            false,
            ["keep", "keep", "keep"],
        ),
        (
            "the stream was edited",
            &edited,
            Differs,
            false,
            ["update", "keep", "update"],
        ),
        (
            "storage can't be changed",
            &other_storage,
            InStep,
            false,
            ["Immutable", "wait", "wait"],
        ),
        (
            "retention can't be changed",
            &limits,
            Absent,
            true,
            ["Immutable", "wait", "wait"],
        ),
        (
            "an unmarked stream is not ours",
            &unmarked,
            Absent,
            false,
            ["NotOwned", "wait", "wait"],
        ),
        (
            "until it is adopted",
            &unmarked,
            Absent,
            true,
            ["update", "keep", "create"],
        ),
        (
            "another's stream is not ours",
            &foreign,
            InStep,
            false,
            ["NotOwned", "wait", "wait"],
        ),
        (
            "no answer, no pods yet",
            &unreachable(),
            Absent,
            false,
            ["unknown", "unknown", "wait"],
        ),
        (
            "no answer, pods follow all the same",
            &unreachable(),
            Differs,
            false,
            ["unknown", "unknown", "update"],
        ),
        (
            "another's Deployment",
            &in_step,
            Foreign("acme-workers".into()),
            false,
            ["keep", "keep", "NotOwned"],
        ),
    ] {
        assert_eq!(words(&planned(view, &deployment, adopt)), expected, "{what}");
    }
}

#[test]
fn suspend_pauses_and_resume_lets_go_on() {
    let mut group = group();
    let (closing, suspension) = (
        Some(("2026-11-21T10:00:00Z", 60)),
        Some(("2262-01-01T00:00:00Z", 7_000_000_000)),
    );
    // A closing is left alone; what suspends is only ever the spec.
    for (suspend, pause_until, expected) in [
        (false, None, None),
        (false, closing, None),
        (false, suspension, Some(false)),
        (true, None, Some(true)),
        (true, closing, Some(true)),
        (true, suspension, None),
    ] {
        group.suspend = suspend;
        let mut view = seen(&group, &json!({}));
        if let (
            BrokerView::Seen {
                consumer: Some(info), ..
            },
            Some((until, seconds)),
        ) = (&mut view, pause_until)
        {
            info.paused = true;
            info.pause_remaining = seconds * 1_000_000_000;
            info.config.insert("pause_until".into(), json!(until));
        }
        let plan = plan(&group, &wanted(&group), &view, &DeploymentView::InStep, "test", false);
        assert_eq!(
            plan.consumer.pause, expected,
            "suspend: {suspend}, paused until {pause_until:?}"
        );
    }
}

#[test]
fn a_refusal_says_what_to_do() {
    let group = group();
    let Step::Refuse(refusal) = planned(&seen(&group, &json!({"metadata": {}})), &DeploymentView::Absent, false).stream
    else {
        panic!("not refused");
    };
    assert_eq!(
        refusal.message,
        "stream tg_crawl_acme exists and is not marked as a TaskGroup's: use another spec.queue, delete the stream, or \
         take it over with the annotation taskgroup.io/adopt: \"true\" (it then listens to tasks.crawl.acme.>)"
    );
}

#[test]
fn an_end_keeps_to_the_deletion_policy() {
    use DeletionPolicy::{Delete, DeleteIfEmpty, Drain, Retain};
    let closed = json!({"subjects": ["requeue.crawl.acme.>"]});
    let open = json!({});
    // Policy, whether the queue is closed, messages in it, abandoned → what comes next.
    for (policy, fields, messages, abandon, expected) in [
        (Delete, &open, 5, false, "finish with the stream"),
        (Retain, &open, 5, false, "finish without the stream"),
        (Retain, &closed, 5, false, "Retaining open"),
        (Drain, &open, 5, false, "Draining closed"),
        (Drain, &open, 0, false, "Draining closed"),
        (Drain, &closed, 5, false, "Draining closed"),
        (Drain, &closed, 0, false, "finish with the stream"),
        (Drain, &closed, 5, true, "finish without the stream"),
        (DeleteIfEmpty, &open, 5, false, "NotEmpty open"),
        (DeleteIfEmpty, &open, 0, false, "NotEmpty closed"),
        (DeleteIfEmpty, &closed, 5, false, "NotEmpty open"),
        (DeleteIfEmpty, &closed, 0, false, "finish with the stream"),
        (DeleteIfEmpty, &open, 5, true, "finish without the stream"),
    ] {
        let mut group = group();
        group.deletion_policy = policy;
        let mut view = seen(&group, fields);
        if let BrokerView::Seen {
            stream: Some(stream), ..
        } = &mut view
        {
            stream.state.messages = messages;
        }
        let next = match ending(&group, &view, Delayed::default(), "test", abandon) {
            Ending::Finish { stream: true } => "finish with the stream".into(),
            Ending::Finish { stream: false } => "finish without the stream".into(),
            Ending::Continue { closed, waits } => {
                format!("{} {}", waits.reason, if closed { "closed" } else { "open" })
            }
            Ending::Blocked(why) => why.reason.into(),
        };
        assert_eq!(next, expected, "{policy:?} {fields} {messages} {abandon}");
    }
}

#[test]
fn a_queue_is_empty_only_when_no_task_is_in_back_off_or_on_its_way() {
    let mut group = group();
    let closed = seen(&group, &json!({"subjects": ["requeue.crawl.acme.>"]}));
    let some = |tasks, moved| Delayed { tasks, moved };
    for (delayed, waits) in [(some(0, false), false), (some(3, false), true), (some(0, true), true)] {
        for (policy, still_closed) in [(DeletionPolicy::Drain, true), (DeletionPolicy::DeleteIfEmpty, false)] {
            group.deletion_policy = policy;
            match ending(&group, &closed, delayed, "test", false) {
                Ending::Finish { stream: true } => assert!(!waits, "{policy:?} {delayed:?}"),
                Ending::Continue { closed, waits: why } => {
                    assert!(waits, "{policy:?} {delayed:?}");
                    assert_eq!(closed, still_closed, "{policy:?}: more may come");
                    assert_eq!(
                        why.message.contains(", 3 are in back-off"),
                        delayed.tasks == 3,
                        "{}",
                        why.message
                    );
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn an_end_without_the_broker_waits_until_it_is_abandoned() {
    let group = group();
    let Ending::Blocked(why) = ending(&group, &unreachable(), Delayed::default(), "test", false) else {
        panic!("not blocked")
    };
    assert_eq!(why.reason, "NatsUnreachable");
    assert!(
        why.message
            .contains("annotate the TaskGroup with taskgroup.io/abandon: \"true\""),
        "{}",
        why.message
    );
    assert_eq!(
        ending(&group, &unreachable(), Delayed::default(), "test", true),
        Ending::Finish { stream: false }
    );
}

#[test]
fn the_stream_of_another_is_not_deleted() {
    let group = group();
    let unmarked = seen(&group, &json!({"metadata": {}}));
    assert_eq!(
        ending(&group, &unmarked, Delayed::default(), "test", false),
        Ending::Finish { stream: false }
    );
}
