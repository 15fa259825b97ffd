//! Desired × observed, as tables.

use super::{FinalizerStep, Plan, Step, plan};
use crate::{
    api::{DeletionPolicy, PodTemplate, Reason, TaskGroup, TaskGroupSpec},
    broker::{BrokerError, ConsumerInfo, Position, StreamInfo, StreamState},
    operator::{
        context::Settings,
        deployments::ObservedDeployment,
        desired::{self, PodSettings},
        lifecycle::{self, Intake, Lifecycle, lifecycle},
        memory::{Memory, Moment},
        observe::{BrokerView, Delayed, Observed},
        subject::Subject,
        validate::{self, Checked, HandlerCheck, Run, ValidGroup, ValidHandler},
    },
    protocol::keys,
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Map, Value, json};
use std::{sync::Arc, time::Duration};

fn task_group() -> TaskGroup {
    let mut group = TaskGroup::new("acme", TaskGroupSpec::new(4));
    group.metadata.namespace = Some("crawl".into());
    group.metadata.uid = Some("uid-1".into());
    group
}

fn group() -> ValidGroup {
    validate::group(&task_group()).unwrap()
}

fn handler() -> ValidHandler {
    ValidHandler {
        name: "default".into(),
        run: Run::Upstream {
            url: "http://svc/".into(),
            http2: false,
            ca: None,
        },
        template: PodTemplate::default(),
    }
}

fn settings() -> Settings {
    Settings {
        instance: "test".into(),
        pods: PodSettings {
            image: "taskgroup".into(),
            nats_url: "nats://nats".into(),
            nats_creds_secret: None,
            log_format: "text",
        },
        backlog_interval: Duration::from_secs(10),
        resync_interval: Duration::from_secs(600),
        callback_allow: Vec::new(),
        watch_namespace: None,
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
    BrokerView::Seen {
        stream: Some(StreamInfo {
            config: config(&desired::stream(group, "test", false), changed),
            state: StreamState::default(),
        }),
        consumer: Some(ConsumerInfo {
            delivered: Position::default(),
            config: config(&desired::consumer(group, "test", &[]), &json!({})),
            num_pending: 0,
            num_ack_pending: 0,
            paused: false,
            pause_remaining: 0,
            ts: None,
        }),
        delayed: Delayed::default(),
    }
}

fn unreachable() -> BrokerView {
    BrokerView::Failed(BrokerError::Unreachable {
        servers: "nats://nats".into(),
        cause: "no connection".into(),
    })
}

/// A worker Deployment as it may be found.
#[derive(Clone, Copy, Debug)]
enum Found {
    Absent,
    InStep,
    Differs,
    Foreign,
}

fn deployment(found: Found) -> Option<Arc<ObservedDeployment>> {
    let desired = desired::deployment(&group(), &handler(), &settings().pods);
    let applied = desired["metadata"]["annotations"][keys::APPLIED].as_str();
    let (owner, applied) = match found {
        Found::Absent => return None,
        Found::InStep => ("uid-1", applied),
        Found::Differs => ("uid-1", Some("another")),
        Found::Foreign => ("uid-2", applied),
    };
    Some(Arc::new(ObservedDeployment {
        name: "acme-workers".into(),
        owner: Some(owner.into()),
        applied: applied.map(Into::into),
        ..ObservedDeployment::default()
    }))
}

fn moment() -> Moment {
    let key = Subject::new(Arc::new(task_group())).key;
    Memory::default().now(&key)
}

fn planned_for(group: TaskGroup, broker: &BrokerView, found: Found) -> Plan {
    let subject = Subject::new(Arc::new(group));
    let observed = Observed {
        broker: broker.clone(),
        asked: moment(),
        handler: None,
        deployment: deployment(found),
        rival: None,
    };
    let checked = Checked {
        handler: HandlerCheck::Usable(Box::new(handler())),
        ..validate::check(&subject, None)
    };
    let lifecycle = lifecycle(&subject, &checked, &observed, "test");
    let desired = desired::desired(&lifecycle, &checked, &settings());
    plan(&subject, checked.group.as_ref(), desired, &observed, "test")
}

fn planned(broker: &BrokerView, found: Found, adopt: bool) -> Plan {
    let mut group = task_group();
    if adopt {
        group.metadata.annotations = Some([(keys::ADOPT.into(), "true".into())].into());
    }
    planned_for(group, broker, found)
}

/// The plan in words: what happens to the stream, the consumer and the Deployment.
fn words(plan: &Plan) -> [String; 3] {
    fn word<C, U, D>(step: &Step<C, U, D>) -> String {
        match step {
            Step::Keep => "keep".into(),
            Step::Create(_) => "create".into(),
            Step::Update(_) => "update".into(),
            Step::Delete(_) => "delete".into(),
            Step::Leave => "leave".into(),
            Step::Wait => "wait".into(),
            Step::Refuse(refusal) => refusal.reason.to_string(),
            Step::Unknown(_) => "unknown".into(),
        }
    }
    [word(&plan.stream), word(&plan.consumer.config), word(&plan.deployment)]
}

#[test]
fn a_plan_is_what_differs() {
    use Found::{Absent, Differs, Foreign, InStep};
    let group = group();
    let nothing = BrokerView::Seen {
        stream: None,
        consumer: None,
        delayed: Delayed::default(),
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
            &BrokerView::InStep { throttled_until: None },
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
            Foreign,
            false,
            ["keep", "keep", "NotOwned"],
        ),
    ] {
        assert_eq!(words(&planned(view, deployment, adopt)), expected, "{what}");
    }
}

#[test]
fn suspend_pauses_and_resume_lets_go_on() {
    let (pause, suspension) = (
        Some(("2026-11-21T10:00:00Z", 60)),
        Some(("2262-01-01T00:00:00Z", 7_000_000_000)),
    );
    // A pause of the workers is left alone; only the spec suspends.
    for (suspend, pause_until, expected) in [
        (false, None, None),
        (false, pause, None),
        (false, suspension, Some(false)),
        (true, None, Some(true)),
        (true, pause, Some(true)),
        (true, suspension, None),
    ] {
        let mut group = task_group();
        group.spec.suspend = suspend;
        let mut view = seen(&validate::group(&group).unwrap(), &json!({}));
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
        let plan = planned_for(group, &view, Found::InStep);
        assert_eq!(
            plan.consumer.pause, expected,
            "suspend: {suspend}, paused until {pause_until:?}"
        );
    }
}

#[test]
fn a_refusal_says_what_to_do() {
    let group = group();
    let Step::Refuse(refusal) = planned(&seen(&group, &json!({"metadata": {}})), Found::Absent, false).stream else {
        panic!("not refused");
    };
    assert_eq!(
        refusal.message,
        "stream tg_crawl_acme exists and is not marked as a TaskGroup's: use another spec.queue, delete the stream, or \
         take it over with the annotation taskgroup.io/adopt: \"true\" (it then listens to tasks.crawl.acme.>, \
         requeue.crawl.acme.>)"
    );
}

/// A deletion in words.
fn end(group: &ValidGroup, broker: &BrokerView, abandoned: bool) -> String {
    match lifecycle::end(group, broker, "test", abandoned) {
        Lifecycle::Leaving { stream: true } => "leaves with the stream".into(),
        Lifecycle::Leaving { stream: false } => "leaves without the stream".into(),
        Lifecycle::Waiting { intake, why } => {
            let intake = if intake == Intake::Draining { "draining" } else { "open" };
            format!("{} {intake}", why.reason)
        }
        Lifecycle::Blocked(why) => format!("{} blocks", why.reason),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_deletion_keeps_to_the_deletion_policy() {
    use DeletionPolicy::{Delete, DeleteIfEmpty, Drain, Retain};
    let draining = json!({"subjects": ["requeue.crawl.acme.>"]});
    let open = json!({});
    // Somebody edited the subjects, or an earlier version made them. The stream still takes new tasks.
    let edited = json!({"subjects": ["tasks.crawl.acme.>", "requeue.crawl.acme.>", "more.>"]});
    // Policy, whether the stream is draining, messages in it, abandoned → what comes next.
    for (policy, fields, messages, abandoned, expected) in [
        (Delete, &open, 5, false, "leaves with the stream"),
        (Retain, &open, 5, false, "leaves without the stream"),
        (Retain, &draining, 5, false, "Retaining open"),
        (Drain, &open, 5, false, "Draining draining"),
        (Drain, &open, 0, false, "Draining draining"),
        (Drain, &draining, 5, false, "Draining draining"),
        (Drain, &draining, 0, false, "leaves with the stream"),
        (Drain, &draining, 5, true, "leaves without the stream"),
        (DeleteIfEmpty, &open, 5, false, "NotEmpty open"),
        (DeleteIfEmpty, &open, 0, false, "NotEmpty draining"),
        (DeleteIfEmpty, &draining, 5, false, "NotEmpty open"),
        (DeleteIfEmpty, &draining, 0, false, "leaves with the stream"),
        (DeleteIfEmpty, &open, 5, true, "leaves without the stream"),
        (Drain, &edited, 0, false, "Draining draining"),
        (DeleteIfEmpty, &edited, 0, false, "NotEmpty draining"),
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
        assert_eq!(
            end(&group, &view, abandoned),
            expected,
            "{policy:?} {fields} {messages} {abandoned}"
        );
    }
}

#[test]
fn a_queue_is_empty_only_when_no_task_is_in_back_off_or_on_its_way() {
    let mut group = group();
    let some = |tasks, moved| Delayed { tasks, moved };
    for (now, waits) in [(some(0, false), false), (some(3, false), true), (some(0, true), true)] {
        let mut view = seen(&group, &json!({"subjects": ["requeue.crawl.acme.>"]}));
        if let BrokerView::Seen { delayed, .. } = &mut view {
            *delayed = now;
        }
        for (policy, intake) in [
            (DeletionPolicy::Drain, Intake::Draining),
            (DeletionPolicy::DeleteIfEmpty, Intake::Open),
        ] {
            group.deletion_policy = policy;
            match lifecycle::end(&group, &view, "test", false) {
                Lifecycle::Leaving { stream: true } => assert!(!waits, "{policy:?} {now:?}"),
                Lifecycle::Waiting { intake: found, why } => {
                    assert!(waits, "{policy:?} {now:?}");
                    assert_eq!(found, intake, "{policy:?}: more may come");
                    assert_eq!(
                        why.message.contains(", 3 are in back-off"),
                        now.tasks == 3,
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
fn a_deletion_without_the_broker_waits_until_it_is_abandoned() {
    let group = group();
    let Lifecycle::Blocked(why) = lifecycle::end(&group, &unreachable(), "test", false) else {
        panic!("not blocked")
    };
    assert_eq!(why.reason, Reason::NatsUnreachable);
    assert!(
        why.message
            .contains("annotate the TaskGroup with taskgroup.io/abandon: \"true\""),
        "{}",
        why.message
    );
    assert_eq!(end(&group, &unreachable(), true), "leaves without the stream");
}

#[test]
fn the_stream_of_another_is_not_deleted() {
    let group = group();
    let unmarked = seen(&group, &json!({"metadata": {}}));
    assert_eq!(end(&group, &unmarked, false), "leaves without the stream");
}

#[test]
fn a_plan_holds_the_whole_deletion() {
    let deleted = |policy, finalizers: &[&str]| {
        let mut group = task_group();
        group.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
        group.metadata.finalizers = Some(finalizers.iter().map(|&name| name.to_owned()).collect());
        group.spec.deletion_policy = policy;
        group
    };
    let held = [keys::FINALIZER];
    let here = seen(&group(), &json!({}));
    let mut invalid = deleted(DeletionPolicy::Drain, &held);
    invalid.spec.concurrency = 0;
    let with_tasks = {
        let mut view = here.clone();
        if let BrokerView::Seen {
            stream: Some(stream), ..
        } = &mut view
        {
            stream.state.messages = 2;
        }
        view
    };
    for (what, group, broker, found, expected, finalizer, purge) in [
        (
            "a new group gets the finalizer first",
            task_group(),
            &here,
            Found::Absent,
            ["keep", "keep", "create"],
            FinalizerStep::Add,
            false,
        ),
        (
            "workers, stream and finalizer go",
            deleted(DeletionPolicy::Delete, &held),
            &here,
            Found::InStep,
            ["delete", "leave", "delete"],
            FinalizerStep::Remove,
            true,
        ),
        (
            "a kept stream is not purged",
            deleted(DeletionPolicy::Retain, &held),
            &here,
            Found::Differs,
            ["leave", "leave", "delete"],
            FinalizerStep::Remove,
            false,
        ),
        (
            "somebody else's Deployment stays",
            deleted(DeletionPolicy::Delete, &held),
            &here,
            Found::Foreign,
            ["delete", "leave", "leave"],
            FinalizerStep::Remove,
            true,
        ),
        (
            "a draining pipeline is kept",
            deleted(DeletionPolicy::Drain, &held),
            &with_tasks,
            Found::InStep,
            ["update", "keep", "keep"],
            FinalizerStep::Keep,
            false,
        ),
        (
            "without NATS all stays",
            deleted(DeletionPolicy::Delete, &held),
            &unreachable(),
            Found::InStep,
            ["leave", "leave", "leave"],
            FinalizerStep::Keep,
            false,
        ),
        (
            "a spec that can't be used keeps its pods, and its tasks wait",
            invalid,
            &with_tasks,
            Found::InStep,
            ["keep", "leave", "leave"],
            FinalizerStep::Keep,
            false,
        ),
    ] {
        let plan = planned_for(group, broker, found);
        assert_eq!(
            (words(&plan), plan.finalizer, plan.purge),
            (expected.map(ToOwned::to_owned), finalizer, purge),
            "{what}"
        );
    }
}
