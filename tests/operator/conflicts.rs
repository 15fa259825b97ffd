//! What others have, or wrote wrongly: nothing of theirs is touched, the group says what is in the way,
//! and goes on by itself when it is gone. No group disturbs another.

use crate::bed::{Bed, http_handler, workers};
use crate::support::nats::NatsServer;
use futures::future::join_all;
use kube::api::{DeleteParams, PostParams};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn of_two_groups_with_one_queue_the_younger_waits_until_the_older_is_gone() {
    let bed = Bed::new().await;
    bed.made("older", json!({"queue": "shared", "concurrency": 2})).await;
    bed.make("younger", json!({"queue": "shared", "concurrency": 9})).await;
    let message = bed.until_says("younger", "Ready", "False", "QueueConflict").await;
    assert!(
        message.contains("TaskGroup older of this namespace has the queue shared"),
        "{message}"
    );
    bed.until_says("younger", "Stalled", "True", "QueueConflict").await;
    bed.until_consumer("shared", "max_ack_pending", json!(2)).await;
    assert!(bed.deployment("younger").await.is_none());
    bed.until_condition("older", "StreamReady", "True").await;

    bed.delete("older").await;
    bed.until_gone("older").await;
    bed.until_consumer("shared", "max_ack_pending", json!(9)).await;
    bed.until_deployment("younger").await;
    bed.pods_become_ready("younger").await;
    bed.until_condition("younger", "Ready", "True").await;
    bed.until_condition("younger", "Stalled", "False").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_the_group_that_waits_for_a_queue_leaves_the_queue_alone() {
    let bed = Bed::new().await;
    bed.made("older", json!({"queue": "shared", "concurrency": 2})).await;
    bed.nats.publish(&bed.subject("shared", "1"), "").await;
    bed.make("younger", json!({"queue": "shared", "concurrency": 9})).await;
    bed.until_reason("younger", "QueueConflict").await;
    bed.delete("younger").await;
    bed.until_gone("younger").await;
    assert_eq!(bed.nats.messages(&bed.stream("shared")).await, 1);
    bed.patch_spec("older", json!({"concurrency": 3})).await;
    bed.until_consumer("shared", "max_ack_pending", json!(3)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_groups_made_at_once_with_one_queue_exactly_one_gets_it() {
    let bed = Bed::new().await;
    let names: Vec<String> = (0..8).map(|number| format!("rival-{number}")).collect();
    let spec = json!({"queue": "shared", "concurrency": 2});
    join_all(names.iter().map(|name| bed.make(name, spec.clone()))).await;
    let holder = bed
        .until("one has the queue and all others know it", || async {
            let mut holders = Vec::new();
            for name in &names {
                let conditions = bed.status(name).await.conditions;
                let reason = |type_: &str| {
                    let found = conditions.iter().find(|condition| condition.type_ == type_);
                    found.map(|condition| (condition.status.clone(), condition.reason.clone()))
                };
                match reason("Ready")?.1.as_str() {
                    "QueueConflict" => {}
                    "RollingOut" if reason("ConsumerReady")?.0 == "True" => holders.push(name.clone()),
                    _ => return None,
                }
            }
            (holders.len() == 1).then(|| holders.remove(0))
        })
        .await;
    let stream = bed.nats.stream(&bed.stream("shared")).await.unwrap();
    assert_eq!(stream["metadata"]["taskgroup.io/name"], holder);
    for name in &names {
        assert_eq!(bed.deployment(name).await.is_some(), *name == holder, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_handler_a_group_accepts_tasks_and_gets_workers_when_the_handler_comes() {
    let mut bed = Bed::without_operator(NatsServer::start().await).await;
    bed.start_operator();
    bed.make("acme", json!({"concurrency": 2, "handlerRef": {"name": "resize"}}))
        .await;
    let message = bed.until_says("acme", "HandlerFound", "False", "HandlerNotFound").await;
    assert!(
        message.contains("TaskHandler resize") && message.contains("spec.handlerRef.name"),
        "{message}"
    );
    bed.until_reason("acme", "HandlerNotFound").await;
    bed.until_condition("acme", "ConsumerReady", "True").await;
    bed.nats.publish(&bed.subject("acme", "1"), "").await;
    assert!(bed.deployment("acme").await.is_none());

    bed.make_handler("resize", http_handler()).await;
    bed.until_deployment("acme").await;
    bed.until_condition("acme", "HandlerFound", "True").await;
    assert_eq!(bed.nats.messages(&bed.stream("acme")).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_go_on_while_their_handler_is_unusable_or_gone() {
    let bed = Bed::new().await;
    bed.made("acme", json!({"concurrency": 2})).await;
    bed.pods_become_ready("acme").await;
    bed.until_condition("acme", "Ready", "True").await;
    let before = bed.deployment("acme").await.unwrap();

    let mut renamed = http_handler();
    renamed["template"]["spec"]["containers"][0]["name"] = json!("app");
    bed.change_handler("default", renamed).await;
    let message = bed.until_says("acme", "HandlerFound", "False", "InvalidHandler").await;
    assert!(
        message.contains("TaskHandler default") && message.contains("no container named `handler`"),
        "{message}"
    );
    bed.until_says("acme", "Stalled", "True", "InvalidHandler").await;
    bed.until_condition("acme", "WorkersReady", "True").await;

    bed.handlers()
        .delete("default", &DeleteParams::default())
        .await
        .unwrap();
    bed.until_reason("acme", "HandlerNotFound").await;
    bed.until_condition("acme", "WorkersReady", "True").await;
    let now = bed.deployment("acme").await.unwrap();
    assert_eq!(
        now.metadata.generation, before.metadata.generation,
        "the workers are left alone"
    );

    let mut fixed = http_handler();
    fixed["template"]["spec"]["containers"][0]["image"] = json!("handler:2");
    bed.make_handler("default", fixed).await;
    bed.until("the new image", || async {
        let pod = bed.deployment("acme").await?.spec?.template.spec?;
        (pod.containers[0].image.as_deref() == Some("handler:2")).then_some(())
    })
    .await;
    bed.pods_become_ready("acme").await;
    bed.until_condition("acme", "Ready", "True").await;
}

fn handler_with(container: &Value) -> Value {
    json!({"http": {"port": 8080}, "template": {"spec": {"containers": [container]}}})
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unusable_pod_template_is_said_in_the_words_of_the_api_server_and_recovers() {
    let bed = Bed::new().await;
    let variants = [
        (
            "no-policy",
            json!({"name": "handler", "image": "i", "imagePullPolicy": "Sometimes"}),
            "imagePullPolicy: Unsupported value",
        ),
        (
            "wrong-type",
            json!({"name": "handler", "image": "i", "ports": [{"containerPort": "eighty"}]}),
            "containerPort",
        ),
        (
            "typo",
            json!({"name": "handler", "image": "i", "comand": ["/run"]}),
            "comand",
        ),
    ];
    for (name, container, _) in &variants {
        bed.make_handler(name, handler_with(container)).await;
        bed.make(name, json!({"concurrency": 2, "handlerRef": {"name": name}}))
            .await;
    }
    for (name, _, cause) in &variants {
        let message = bed.until_says(name, "WorkersReady", "False", "InvalidTemplate").await;
        assert!(message.contains(cause), "{message}");
        assert!(
            message.contains("correct spec.template of the TaskHandler"),
            "{message}"
        );
        bed.until_says(name, "Ready", "False", "InvalidTemplate").await;
        bed.until_says(name, "Stalled", "True", "InvalidTemplate").await;
        bed.until_condition(name, "ConsumerReady", "True").await;
        assert!(bed.deployment(name).await.is_none());
    }
    for (name, _, _) in &variants {
        bed.change_handler(name, http_handler()).await;
        bed.until_deployment(name).await;
        bed.until_says(name, "Stalled", "False", "RollingOut").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_that_fail_are_tried_ever_less_often_and_do_not_hold_up_a_good_one() {
    const BAD: usize = 20;
    let mut bed = Bed::without_operator(NatsServer::start().await).await;
    bed.make_handler("default", http_handler()).await;
    let unusable = json!({"name": "handler", "image": "i", "imagePullPolicy": "Sometimes"});
    bed.make_handler("bad", handler_with(&unusable)).await;
    let mut args = bed.operator_args();
    args.concurrency = 2;
    bed.start_operator_with(bed.api.client_named(&bed.user_agent()), args);
    let names: Vec<String> = (0..BAD).map(|number| format!("bad-{number}")).collect();
    for name in &names {
        bed.make(name, json!({"concurrency": 1, "handlerRef": {"name": "bad"}}))
            .await;
    }
    bed.made("good", json!({"concurrency": 1})).await;

    let count = |name: &str, resource: &str, subresource: &str, requested: &str| {
        let requests = bed.api.requests_of(&bed.user_agent());
        let matches = requests.iter().filter(|request| {
            request.verb == "patch"
                && request.resource == resource
                && request.subresource == subresource
                && request.name == requested
        });
        (name.to_owned(), matches.count())
    };
    let tries = || -> Vec<(String, usize)> {
        names
            .iter()
            .map(|name| count(name, "deployments", "", &workers(name)))
            .collect()
    };
    let tries = bed
        .until("each bad group was tried three times", || async {
            Some(tries()).filter(|tries| tries.iter().all(|(_, count)| *count >= 3))
        })
        .await;
    // Pauses of 1, 2, 4, … s: a loop without them would have tried hundreds of times.
    assert!(tries.iter().all(|(_, count)| *count <= 8), "{tries:?}");
    for name in &names {
        let (_, writes) = count(name, "taskgroups", "status", name);
        assert!(
            writes <= 3,
            "{writes} writes of the status of {name}, and nothing new to say"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_of_somebody_else_is_left_alone_until_it_is_removed() {
    let bed = Bed::new().await;
    // One as others make them, and one that looks like ours but belongs to nobody.
    let ours = json!({"app.kubernetes.io/managed-by": "taskgroup", "taskgroup.io/group": "marked"});
    for (group, labels) in [("plain", json!({"app": "theirs"})), ("marked", ours)] {
        let theirs = json!({
            "metadata": {"name": workers(group), "labels": labels},
            "spec": {
                "replicas": 3,
                "selector": {"matchLabels": labels},
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {"containers": [{"name": "handler", "image": "theirs:1"}]},
                },
            },
        });
        let theirs = serde_json::from_value(theirs).unwrap();
        let theirs = bed.deployments().create(&PostParams::default(), &theirs).await.unwrap();
        bed.make(group, json!({"concurrency": 2})).await;
        let message = bed.until_says(group, "WorkersReady", "False", "NotOwned").await;
        assert!(
            message.contains(&workers(group)) && message.contains("delete it"),
            "{message}"
        );
        bed.until_says(group, "Stalled", "True", "NotOwned").await;
        assert_eq!(bed.deployment(group).await.unwrap(), theirs, "untouched");

        bed.deployments()
            .delete(&workers(group), &DeleteParams::default())
            .await
            .unwrap();
        bed.until("ours in its place", || async {
            bed.deployment(group).await?.metadata.owner_references
        })
        .await;
        bed.until_reason(group, "RollingOut").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_a_group_leaves_a_deployment_of_somebody_else() {
    let bed = Bed::new().await;
    let labels = json!({"app": "theirs"});
    let theirs = serde_json::from_value(json!({
        "metadata": {"name": workers("acme")},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "a", "image": "a"}]}},
        },
    }));
    bed.deployments()
        .create(&PostParams::default(), &theirs.unwrap())
        .await
        .unwrap();
    bed.make("acme", json!({"concurrency": 2})).await;
    bed.until_reason("acme", "NotOwned").await;
    bed.delete("acme").await;
    bed.until_gone("acme").await;
    assert!(bed.deployment("acme").await.is_some());
}

/// Makes a stream at the place of a group's, as somebody else would.
async fn their_stream(bed: &Bed, queue: &str, metadata: Value) -> Value {
    let stream = bed.stream(queue);
    let config = json!({
        "name": stream,
        "subjects": [bed.subject(queue, ">")],
        "retention": "workqueue",
        "storage": "file",
        "max_msgs": 77,
        "metadata": metadata,
    });
    bed.nats.api(&format!("STREAM.CREATE.{stream}"), config).await;
    bed.nats.publish(&bed.subject(queue, "1"), "theirs").await;
    bed.nats.stream(&stream).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_without_our_mark_is_left_alone_until_it_is_adopted_with_its_messages() {
    let bed = Bed::new().await;
    let theirs = their_stream(&bed, "acme", json!({"team": "crawl"})).await;
    bed.make("acme", json!({"concurrency": 2})).await;
    let message = bed.until_says("acme", "StreamReady", "False", "NotOwned").await;
    assert!(
        message.contains("is not marked") && message.contains("taskgroup.io/adopt: \"true\""),
        "{message}"
    );
    bed.until_says("acme", "Stalled", "True", "NotOwned").await;
    assert_eq!(bed.nats.stream(&bed.stream("acme")).await.unwrap(), theirs, "untouched");
    assert!(bed.nats.consumer(&bed.stream("acme")).await.is_none());
    assert!(bed.deployment("acme").await.is_none());

    bed.annotate("acme", "taskgroup.io/adopt", "true").await;
    bed.until_condition("acme", "ConsumerReady", "True").await;
    bed.until_deployment("acme").await;
    let stream = bed.nats.stream(&bed.stream("acme")).await.unwrap();
    assert_eq!(stream["metadata"]["taskgroup.io/name"], "acme");
    assert_eq!(stream["metadata"]["team"], "crawl", "their own mark stays");
    assert_eq!(stream["max_msgs"], -1, "it is as the spec says now");
    assert_eq!(
        bed.nats.messages(&bed.stream("acme")).await,
        1,
        "the queued message is kept"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_another_installation_is_untouched_also_when_the_group_is_deleted() {
    let bed = Bed::new().await;
    let mark = json!({
        "taskgroup.io/instance": "other",
        "taskgroup.io/namespace": bed.namespace,
        "taskgroup.io/name": "acme",
        "taskgroup.io/uid": "1",
    });
    let theirs = their_stream(&bed, "acme", mark).await;
    bed.make("acme", json!({"concurrency": 2})).await;
    let message = bed.until_says("acme", "StreamReady", "False", "NotOwned").await;
    assert!(message.contains("of installation other"), "{message}");
    bed.delete("acme").await;
    bed.until_gone("acme").await;
    assert_eq!(bed.nats.stream(&bed.stream("acme")).await.unwrap(), theirs);
    assert_eq!(bed.nats.messages(&bed.stream("acme")).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_in_the_way_that_is_deleted_makes_room_by_itself() {
    let bed = Bed::new().await;
    their_stream(&bed, "acme", json!({})).await;
    bed.make("acme", json!({"concurrency": 2})).await;
    bed.until_reason("acme", "NotOwned").await;
    bed.nats
        .api(&format!("STREAM.DELETE.{}", bed.stream("acme")), json!({}))
        .await;
    bed.until_condition("acme", "ConsumerReady", "True").await;
    bed.until_deployment("acme").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_stream_on_our_subjects_is_said_and_makes_room_when_it_is_changed() {
    let bed = Bed::new().await;
    let config = |subject: String| json!({"name": "ORDERS", "subjects": [subject], "storage": "file"});
    bed.nats
        .api("STREAM.CREATE.ORDERS", config(format!("tasks.{}.>", bed.namespace)))
        .await;
    bed.make("acme", json!({"concurrency": 2})).await;
    let message = bed.until_says("acme", "StreamReady", "False", "SubjectsTaken").await;
    assert!(
        message.contains("another stream listens to these subjects"),
        "{message}"
    );
    bed.nats.api("STREAM.UPDATE.ORDERS", config("orders.>".into())).await;
    bed.until_condition("acme", "ConsumerReady", "True").await;
}
