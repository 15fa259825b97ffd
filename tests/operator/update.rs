//! A change of the manifest changes the pipeline: live where it can be, by new pods where it must
//! be, and with a reason where it can't be.

use crate::bed::{Bed, http_handler, workers};
use k8s_openapi::api::apps::v1::Deployment;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};

fn settings(consumer: &Value) -> Value {
    let text = consumer["config"]["metadata"]["taskgroup.io/settings"]
        .as_str()
        .unwrap();
    serde_json::from_str(text).unwrap()
}

fn pod_template(deployment: &Deployment) -> Value {
    serde_json::to_value(&deployment.spec.as_ref().unwrap().template).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn live_fields_reach_the_broker_and_leave_the_pods_alone() {
    let bed = Bed::new().await;
    bed.made("acme", json!({"concurrency": 2})).await;
    let before = bed.deployments().get(&workers("acme")).await.unwrap();

    bed.patch_spec(
        "acme",
        json!({"concurrency": 8, "timeouts": {"task": "45s", "ackWait": "10s"}}),
    )
    .await;
    bed.until_consumer("acme", "max_ack_pending", json!(8)).await;
    bed.patch_spec(
        "acme",
        json!({
            "retry": {"maxAttempts": 3, "initialDelay": "2s", "maxDelay": "10s", "multiplier": 3, "maxRetryAfter": "5m"},
            "deadLetter": {"enabled": false},
            "rateLimit": {"tasks": 30, "per": "1m", "burst": 2},
            "timeouts": {"expire": "1h"},
        }),
    )
    .await;
    let consumer = bed
        .until("the settings arrive", || async {
            let consumer = bed.nats.consumer(&bed.stream("acme")).await?;
            (settings(&consumer)["retry"]["maxAttempts"] == 3).then_some(consumer)
        })
        .await;
    assert_eq!(consumer["config"]["ack_wait"], 10_000_000_000_u64);
    assert_eq!(
        settings(&consumer),
        json!({
            "group": "acme", "maxInflight": 8,
            "timeouts": {"task": "45s", "ackWait": "10s", "expire": "1h"},
            "retry": {
                "maxAttempts": 3, "initialDelay": "2s", "maxDelay": "10s", "multiplier": 3.0, "maxRetryAfter": "5m",
            },
            "deadLetter": {"enabled": false},
            "rateLimit": {"tasks": 30, "per": "1m", "burst": 2},
        })
    );
    let storage = json!({"maxTasks": 10, "maxBytes": "1Mi", "maxTaskSize": 1000, "duplicateWindow": "1m"});
    bed.patch_spec("acme", json!({"storage": storage})).await;
    bed.until_stream("acme", "max_msgs", json!(10)).await;
    let stream = bed.nats.stream(&bed.stream("acme")).await.unwrap();
    assert_eq!(
        [
            &stream["max_bytes"],
            &stream["max_msg_size"],
            &stream["duplicate_window"]
        ],
        [&json!(1 << 20), &json!(1000), &json!(60_000_000_000_u64)]
    );

    bed.until_condition("acme", "StreamReady", "True").await;
    let after = bed.deployments().get(&workers("acme")).await.unwrap();
    assert_eq!(pod_template(&after), pod_template(&before));
    assert_eq!(
        after.metadata.generation, before.metadata.generation,
        "not even touched"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_the_settings_is_announced_to_the_workers() {
    use futures::StreamExt;
    let bed = Bed::new().await;
    bed.made("acme", json!({"concurrency": 2})).await;
    let client = bed.nats.client().await;
    let mut notices = client
        .subscribe(format!("settings.{}.acme", bed.namespace))
        .await
        .unwrap();
    client.flush().await.unwrap();
    bed.patch_spec("acme", json!({"timeouts": {"task": "1m"}})).await;
    notices.next().await.unwrap();
    let consumer = bed.nats.consumer(&bed.stream("acme")).await.unwrap();
    assert_eq!(
        settings(&consumer)["timeouts"]["task"],
        "1m",
        "what was announced is there already"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn more_concurrency_than_a_pod_takes_makes_more_pods() {
    let bed = Bed::new().await;
    bed.made("acme", json!({"concurrency": 2, "workers": {"maxInflightPerPod": 2}}))
        .await;
    bed.patch_spec("acme", json!({"concurrency": 5})).await;
    bed.until("three pods", || async {
        let deployment = bed.deployments().get(&workers("acme")).await.unwrap();
        (deployment.spec.unwrap().replicas == Some(3)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn env_and_the_handler_roll_the_pods_of_every_group_that_refers_to_it() {
    let bed = Bed::new().await;
    for group in ["a", "b"] {
        bed.made(group, json!({"concurrency": 1})).await;
    }
    let before = bed.deployments().get(&workers("a")).await.unwrap();
    bed.patch_spec("a", json!({"env": [{"name": "KEY", "value": "v"}]}))
        .await;
    bed.until("the variable reaches the pods", || async {
        let after = bed.deployments().get(&workers("a")).await.unwrap();
        (pod_template(&after) != pod_template(&before)).then_some(())
    })
    .await;

    let mut handler = bed.handlers().get("default").await.unwrap();
    let spec = handler.spec.template.as_mut().unwrap();
    spec.spec["containers"][0]["image"] = json!("handler:v2");
    bed.handlers()
        .replace("default", &PostParams::default(), &handler)
        .await
        .unwrap();
    for group in ["a", "b"] {
        bed.until("the new image", || async {
            let after = bed.deployments().get(&workers(group)).await.unwrap();
            (pod_template(&after)["spec"]["containers"][0]["image"] == "handler:v2").then_some(())
        })
        .await;
    }
    let after = bed.deployments().get(&workers("a")).await.unwrap();
    assert_eq!(
        pod_template(&after)["spec"]["containers"][0]["env"],
        json!([{"name": "KEY", "value": "v"}])
    );
    bed.patch_spec("a", json!({"env": null})).await;
    bed.until("the variable is gone", || async {
        let after = bed.deployments().get(&workers("a")).await.unwrap();
        pod_template(&after)["spec"]["containers"][0]["env"]
            .is_null()
            .then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn suspend_holds_deliveries_back_and_resume_lets_them_go_on() {
    let bed = Bed::new().await;
    bed.made("acme", json!({"concurrency": 2})).await;
    bed.patch_spec("acme", json!({"suspend": true})).await;
    let (_, message) = bed.until_condition("acme", "Suspended", "True").await;
    assert!(message.contains("no task starts"), "{message}");
    assert_eq!(bed.nats.consumer(&bed.stream("acme")).await.unwrap()["paused"], true);
    bed.nats
        .publish(&bed.subject("acme", "1"), "the queue still accepts")
        .await;
    // A change meanwhile does not wake it up.
    bed.patch_spec("acme", json!({"concurrency": 3})).await;
    bed.until_consumer("acme", "max_ack_pending", json!(3)).await;
    assert_eq!(bed.nats.consumer(&bed.stream("acme")).await.unwrap()["paused"], true);

    bed.patch_spec("acme", json!({"suspend": false})).await;
    bed.until_condition("acme", "Suspended", "False").await;
    assert!(bed.nats.consumer(&bed.stream("acme")).await.unwrap()["paused"].as_bool() != Some(true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_made_suspended_starts_suspended() {
    let bed = Bed::new().await;
    bed.made("acme", json!({"concurrency": 2, "suspend": true})).await;
    assert_eq!(bed.nats.consumer(&bed.stream("acme")).await.unwrap()["paused"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_changed_is_refused_with_the_way_back_and_nothing_is_lost() {
    let bed = Bed::new().await;
    bed.made("acme", json!({"concurrency": 2})).await;
    bed.nats.publish(&bed.subject("acme", "1"), "").await;

    bed.patch_spec("acme", json!({"queue": "other"})).await;
    let message = bed.until_reason("acme", "InvalidSpec").await;
    assert!(
        message.contains("spec.queue: can't be changed") && message.contains("set it back"),
        "{message}"
    );
    bed.until_condition("acme", "Stalled", "True").await;
    assert_eq!(bed.nats.stream(&bed.stream("other")).await, None);
    bed.patch_spec("acme", json!({"queue": null})).await;
    bed.until_condition("acme", "Stalled", "False").await;

    bed.patch_spec("acme", json!({"storage": {"type": "Memory"}})).await;
    let message = bed.until_reason("acme", "Immutable").await;
    assert!(message.contains(r#"storage: "file" instead of "memory""#), "{message}");
    assert!(message.contains("set spec.storage.type back"), "{message}");
    bed.patch_spec("acme", json!({"storage": {"type": "File"}})).await;
    bed.until_condition("acme", "StreamReady", "True").await;
    assert_eq!(bed.nats.messages(&bed.stream("acme")).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lower_bound_of_the_queue_drops_no_task() {
    let bed = Bed::new().await;
    bed.made("acme", json!({"concurrency": 2})).await;
    for id in 0..5 {
        bed.nats.publish(&bed.subject("acme", &id.to_string()), "").await;
    }
    bed.patch_spec("acme", json!({"storage": {"maxTasks": 2}})).await;
    bed.until_stream("acme", "max_msgs", json!(2)).await;
    assert_eq!(bed.nats.messages(&bed.stream("acme")).await, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_with_another_handler_are_left_alone() {
    let bed = Bed::new().await;
    bed.make_handler("slow", http_handler()).await;
    bed.made("a", json!({"concurrency": 1})).await;
    bed.made("b", json!({"concurrency": 1, "handlerRef": {"name": "slow"}}))
        .await;
    let before = bed.deployments().get(&workers("a")).await.unwrap();
    let mut handler = bed.handlers().get("slow").await.unwrap();
    handler.spec.template.as_mut().unwrap().spec["containers"][0]["image"] = json!("slow:v2");
    bed.handlers()
        .replace("slow", &PostParams::default(), &handler)
        .await
        .unwrap();
    bed.until("the new image", || async {
        let after = bed.deployments().get(&workers("b")).await.unwrap();
        (pod_template(&after)["spec"]["containers"][0]["image"] == "slow:v2").then_some(())
    })
    .await;
    let after = bed.deployments().get(&workers("a")).await.unwrap();
    assert_eq!(after.metadata.resource_version, before.metadata.resource_version);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_becomes_a_program_changes_the_pods() {
    let bed = Bed::new().await;
    bed.make_handler(
        "code",
        json!({
            "http": {"port": 8080},
            "template": {"spec": {"containers": [{"name": "handler", "image": "code:1"}]}},
        }),
    )
    .await;
    bed.made("acme", json!({"concurrency": 2, "handlerRef": {"name": "code"}}))
        .await;
    let spec = json!({"spec": {"http": null, "exec": {"command": ["/app/run"]}}});
    let patched = bed
        .handlers()
        .patch("code", &PatchParams::default(), &Patch::Merge(spec))
        .await;
    patched.unwrap();
    bed.until("its pods have an installer", || async {
        let deployment = bed.deployments().get(&workers("acme")).await.unwrap();
        let pod = deployment.spec?.template.spec?;
        (!pod.init_containers.unwrap_or_default().is_empty()).then_some(())
    })
    .await;
}
