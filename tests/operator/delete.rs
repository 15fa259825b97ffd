//! Deleting a TaskGroup keeps to its `deletionPolicy`.

use crate::bed::{Bed, workers};
use jiff::SignedDuration;
use serde_json::json;

/// A group with this policy and two queued tasks.
async fn with_tasks(policy: &str) -> Bed {
    let bed = Bed::new().await;
    bed.made("acme", json!({"concurrency": 2, "deletionPolicy": policy}))
        .await;
    for id in ["1", "2"] {
        bed.nats.publish(&bed.subject("acme", id), "").await;
    }
    bed
}

/// Does all tasks of the queue, as a worker would.
pub async fn run_all(bed: &Bed) {
    use futures::StreamExt;
    let stream = bed.nats.jetstream().await.get_stream(bed.stream("acme")).await.unwrap();
    let consumer: async_nats::jetstream::consumer::PullConsumer = stream.get_consumer(&bed.consumer()).await.unwrap();
    let mut tasks = consumer.fetch().max_messages(100).messages().await.unwrap();
    while let Some(task) = tasks.next().await {
        task.unwrap().double_ack().await.unwrap();
    }
}

async fn no_deployment(bed: &Bed) {
    assert!(bed.deployments().get_opt(&workers("acme")).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn delete_removes_stream_consumer_and_deployment() {
    let bed = with_tasks("Delete").await;
    bed.delete("acme").await;
    bed.until_gone("acme").await;
    assert_eq!(bed.group_streams().await, [""; 0]);
    no_deployment(&bed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retain_keeps_the_tasks_for_a_group_of_this_name_made_later() {
    let bed = with_tasks("Retain").await;
    bed.delete("acme").await;
    bed.until_gone("acme").await;
    no_deployment(&bed).await;
    assert_eq!(bed.nats.messages(&bed.stream("acme")).await, 2);

    let again = bed.made("acme", json!({"concurrency": 5})).await;
    assert_eq!(bed.nats.messages(&bed.stream("acme")).await, 2);
    let stream = bed.nats.stream(&bed.stream("acme")).await.unwrap();
    assert_eq!(
        stream["metadata"]["taskgroup.io/uid"],
        json!(again.metadata.uid.unwrap()),
        "taken over"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn drain_runs_what_is_queued_and_takes_nothing_new() {
    let bed = with_tasks("Drain").await;
    bed.delete("acme").await;
    let message = bed.until_reason("acme", "Draining").await;
    assert!(message.contains("2 tasks are to be run first"), "{message}");
    let draining = format!("requeue.{}.acme.>", bed.namespace);
    bed.until_stream("acme", "subjects", json!([draining])).await;
    let refused = bed
        .nats
        .jetstream()
        .await
        .publish(bed.subject("acme", "3"), "".into())
        .await
        .unwrap()
        .await;
    assert!(refused.is_err(), "a publisher is told at once");
    assert!(
        bed.deployments().get_opt(&workers("acme")).await.unwrap().is_some(),
        "workers go on"
    );

    run_all(&bed).await;
    bed.until_gone("acme").await;
    assert_eq!(bed.group_streams().await, [""; 0]);
    no_deployment(&bed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_group_that_drains_says_what_it_waits_for_and_can_be_resumed() {
    let bed = with_tasks("Drain").await;
    bed.patch_spec("acme", json!({"suspend": true})).await;
    bed.until_condition("acme", "Suspended", "True").await;
    bed.delete("acme").await;
    let message = bed.until_reason("acme", "Draining").await;
    assert!(message.contains("suspended: set spec.suspend to false"), "{message}");
    bed.patch_spec("acme", json!({"suspend": false})).await;
    bed.until_condition("acme", "Suspended", "False").await;
    run_all(&bed).await;
    bed.until_gone("acme").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn delete_if_empty_waits_for_an_empty_queue_and_accepts_tasks_meanwhile() {
    let bed = with_tasks("DeleteIfEmpty").await;
    bed.delete("acme").await;
    let message = bed.until_reason("acme", "NotEmpty").await;
    assert!(message.contains("holds 2 tasks"), "{message}");
    bed.nats.publish(&bed.subject("acme", "3"), "still open").await;
    run_all(&bed).await;
    bed.until_gone("acme").await;
    assert_eq!(bed.group_streams().await, [""; 0]);
    no_deployment(&bed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_policy_can_be_changed_while_the_deletion_waits() {
    let bed = with_tasks("DeleteIfEmpty").await;
    bed.delete("acme").await;
    bed.until_reason("acme", "NotEmpty").await;
    bed.patch_spec("acme", json!({"deletionPolicy": "Delete"})).await;
    bed.until_gone("acme").await;
    assert_eq!(bed.group_streams().await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_turned_into_retain_opens_the_queue_again() {
    let bed = with_tasks("Drain").await;
    bed.delete("acme").await;
    bed.until_reason("acme", "Draining").await;
    bed.patch_spec("acme", json!({"deletionPolicy": "Retain"})).await;
    bed.until_gone("acme").await;
    bed.nats.publish(&bed.subject("acme", "3"), "").await;
    assert_eq!(bed.nats.messages(&bed.stream("acme")).await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_with_a_spec_that_can_not_be_used_can_be_deleted() {
    let bed = with_tasks("Drain").await;
    bed.patch_spec("acme", json!({"queue": "other"})).await;
    bed.until_reason("acme", "InvalidSpec").await;
    bed.delete("acme").await;
    let message = bed.until_reason("acme", "NotEmpty").await;
    assert!(
        message.contains("holds 2 tasks") && message.contains("the spec can't be used"),
        "{message}"
    );
    run_all(&bed).await;
    bed.until_gone("acme").await;
    assert_eq!(bed.group_streams().await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn drain_waits_for_tasks_in_back_off_and_runs_them() {
    let bed = with_tasks("Drain").await;
    bed.until("the relay's consumer", || bed.nats.relay()).await;
    bed.delay("acme", "3", SignedDuration::from_secs(6)).await;
    bed.delete("acme").await;
    bed.until_reason("acme", "Draining").await;
    run_all(&bed).await;
    bed.until("it says what it waits for", || async {
        let group = bed.groups().get("acme").await.ok()?;
        let conditions = group.status?.conditions;
        let ready = conditions.into_iter().find(|condition| condition.type_ == "Ready")?;
        ready
            .message
            .contains("0 tasks are to be run first, 0 of them run now, 1 is in back-off")
            .then_some(())
    })
    .await;
    bed.until("the task comes back", || async {
        (bed.nats.messages(&bed.stream("acme")).await == 1).then_some(())
    })
    .await;
    let requeued = format!("requeue.{}.acme.3", bed.namespace);
    assert_eq!(bed.nats.count(&bed.stream("acme"), ">").await, 1);
    assert_eq!(bed.nats.count(&bed.stream("acme"), &requeued).await, 1);
    run_all(&bed).await;
    bed.until_gone("acme").await;
    assert_eq!(bed.group_streams().await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn delete_if_empty_waits_for_tasks_in_back_off() {
    let bed = Bed::new().await;
    bed.made("acme", json!({"concurrency": 2, "deletionPolicy": "DeleteIfEmpty"}))
        .await;
    bed.until("the relay's consumer", || bed.nats.relay()).await;
    bed.delay("acme", "1", SignedDuration::from_secs(6)).await;
    bed.delete("acme").await;
    let message = bed.until_reason("acme", "NotEmpty").await;
    assert!(
        message.contains("the queue holds 0 tasks, 1 is in back-off"),
        "{message}"
    );
    bed.until("the task comes back", || async {
        (bed.nats.count(&bed.stream("acme"), &bed.requeued("acme", "1")).await == 1).then_some(())
    })
    .await;
    run_all(&bed).await;
    bed.until_gone("acme").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn delete_takes_what_the_shared_streams_keep_and_retain_leaves_it() {
    let bed = Bed::new().await;
    bed.until("the relay's consumer", || bed.nats.relay()).await;
    for (name, policy) in [("goes", "Delete"), ("stays", "Retain")] {
        bed.made(name, json!({"concurrency": 2, "deletionPolicy": policy}))
            .await;
        bed.delay(name, "1", SignedDuration::from_hours(1)).await;
        bed.nats
            .publish(&format!("callback.{}.{name}.1", bed.namespace), "")
            .await;
        bed.nats.publish(&format!("rate.{}.{name}", bed.namespace), "").await;
    }
    for name in ["goes", "stays"] {
        bed.delete(name).await;
        bed.until_gone(name).await;
    }
    for (name, left) in [("goes", 0), ("stays", 1)] {
        for (stream, subject) in [
            ("TASKGROUP_DELAY", format!("delay.{}.{name}.>", bed.namespace)),
            ("TASKGROUP_DELAY", format!("callback.{}.{name}.>", bed.namespace)),
            ("TASKGROUP_RATE", format!("rate.{}.{name}", bed.namespace)),
        ] {
            assert_eq!(bed.nats.count(stream, &subject).await, left, "{subject}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retained_queue_gets_its_tasks_back_from_their_back_off() {
    let bed = with_tasks("Retain").await;
    bed.until("the relay's consumer", || bed.nats.relay()).await;
    bed.delete("acme").await;
    bed.until_gone("acme").await;
    bed.delay("acme", "3", SignedDuration::ZERO).await;
    bed.until("the task comes back", || async {
        (bed.nats.messages(&bed.stream("acme")).await == 3).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_whose_queue_was_changed_to_that_of_another_takes_only_its_own_stream_with_it() {
    let bed = with_tasks("Delete").await;
    bed.made("other", json!({"concurrency": 1})).await;
    bed.patch_spec("acme", json!({"queue": "other"})).await;
    bed.until_reason("acme", "InvalidSpec").await;
    bed.delete("acme").await;
    bed.until_gone("acme").await;
    assert_eq!(bed.group_streams().await, [bed.stream("other")]);
}
