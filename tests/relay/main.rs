//! The relay against a real NATS server, without Kubernetes: each due task goes back into its queue exactly once, whenever
//! a relay dies, and none is lost.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test panics where it can't go on"
)]

#[path = "../support/mod.rs"]
mod support;

mod bed;

use async_nats::jetstream::AckKind;
use bed::{Bed, DELAY, ORIGIN, until};
use futures::StreamExt;
use serde_json::json;
use std::collections::BTreeSet;
use taskgroup::protocol::{Kind, Queue};

#[tokio::test]
async fn a_task_whose_back_off_is_over_goes_back_with_its_history_and_its_own_headers() {
    let mut bed = Bed::new().await;
    let acme = bed.group("acme").await;
    bed.start_relay();
    bed.delay(&acme, "a.b", 7).await;
    until("the task is back", async || bed.queued(&acme).await.len() == 1).await;
    let task = bed.queued(&acme).await.pop().unwrap();
    assert_eq!(task.subject.as_str(), acme.requeue("a.b"));
    assert_eq!(task.payload.as_ref(), b"payload");
    let headers: BTreeSet<_> = task
        .headers
        .iter()
        .map(|(name, values)| format!("{name}: {}", values[0]))
        .collect();
    let expected = [
        "Nats-Msg-Id: requeue:tg_x_acme:7:1790230470084404000",
        "Taskgroup-Attempts: 1",
        "Taskgroup-Group: ACME",
        "Taskgroup-Last-Failure: 2026-11-21T10:00:00Z",
        "Taskgroup-Origin: tg_x_acme:7:1790230470084404000",
        "X-Mine: kept",
    ];
    assert_eq!(headers, expected.map(ToOwned::to_owned).into());
    bed.until_nothing_is_due().await;
}

#[tokio::test]
async fn a_relay_that_died_after_it_stored_the_task_is_followed_by_one_that_only_acknowledges() {
    let mut bed = Bed::new().await;
    let acme = bed.group("acme").await;
    bed.publish_due(&acme, "1", 7).await;
    let taken = bed.take_due().await;
    // Without a message id: the second relay must find the first copy.
    bed.publish(&acme.requeue("1"), &[(ORIGIN, "tg_x_acme:7:1790230470084404000")])
        .await;
    taken.ack_with(AckKind::Nak(None)).await.unwrap();
    bed.start_relay();
    bed.until_nothing_is_due().await;
    assert_eq!(bed.queued(&acme).await.len(), 1);
    assert_eq!(bed.relayed("already_queued"), 1);
}

#[tokio::test]
async fn a_relay_that_died_before_it_stored_the_task_is_followed_by_one_that_does() {
    let mut bed = Bed::new().await;
    let acme = bed.group("acme").await;
    bed.publish_due(&acme, "1", 7).await;
    // An earlier task with the same id, from its publisher and from the delays.
    bed.publish(&acme.task("1"), &[]).await;
    bed.publish(&acme.requeue("1"), &[(ORIGIN, "tg_x_acme:3:1")]).await;
    let taken = bed.take_due().await;
    taken.ack_with(AckKind::Nak(None)).await.unwrap();
    bed.start_relay();
    bed.until_nothing_is_due().await;
    assert_eq!(bed.queued(&acme).await.len(), 3);
    assert_eq!(bed.relayed("queued"), 1);
}

#[tokio::test]
async fn an_origin_under_a_publishers_subject_does_not_pass_for_a_requeued_task() {
    let mut bed = Bed::new().await;
    let acme = bed.group("acme").await;
    bed.publish_due(&acme, "1", 7).await;
    bed.publish(&acme.task("1"), &[(ORIGIN, "tg_x_acme:7:1790230470084404000")])
        .await;
    let taken = bed.take_due().await;
    taken.ack_with(AckKind::Nak(None)).await.unwrap();
    bed.start_relay();
    bed.until_nothing_is_due().await;
    assert_eq!(bed.relayed("queued"), 1);
    assert_eq!(bed.queued(&acme).await.len(), 2);
}

#[tokio::test]
async fn two_relays_requeue_each_of_a_thousand_tasks_once() {
    let mut bed = Bed::new().await;
    let acme = bed.group("acme").await;
    bed.start_relay();
    bed.start_relay();
    bed.publish_many_due(&acme, 1000).await;
    bed.until_nothing_is_due().await;
    let tasks = bed.queued(&acme).await;
    let ids: BTreeSet<_> = tasks.iter().map(|task| task.subject.clone()).collect();
    assert_eq!((tasks.len(), ids.len()), (1000, 1000));
}

#[tokio::test]
async fn tasks_wait_for_a_full_queue_without_holding_up_others_and_none_is_lost() {
    let mut bed = Bed::new().await;
    let (full, acme) = (bed.group_of_one_task("full").await, bed.group("acme").await);
    bed.publish(&full.task("first"), &[]).await;
    bed.start_relay();
    // More than the relay requeues at once.
    bed.publish_many_due(&full, 300).await;
    bed.publish_due(&acme, "1", 1000).await;
    until("the other group has its task", async || {
        bed.queued(&acme).await.len() == 1
    })
    .await;
    until("the rest waits", async || {
        bed.relayed("full") >= 300 && bed.metric("taskgroup_operator_relay_waiting") == 300
    })
    .await;
    assert_eq!(bed.nats.count(DELAY, &full.all(Kind::Due)).await, 300);

    bed.give_room(&full).await;
    bed.until_nothing_is_due().await;
    let tasks = bed.queued(&full).await;
    let ids: BTreeSet<_> = tasks.iter().map(|task| task.subject.clone()).collect();
    assert_eq!((tasks.len(), ids.len()), (301, 301));
}

#[tokio::test]
async fn a_task_waits_for_the_stream_of_a_queue_that_has_an_owner() {
    let mut bed = Bed::new().await;
    let acme = bed.owned("acme");
    bed.start_relay();
    bed.publish_due(&acme, "1", 7).await;
    until("the relay looked in vain", async || bed.relayed("no_stream") >= 1).await;
    assert_eq!(bed.nats.messages("TASKGROUP_DEAD").await, 0);
    bed.group("acme").await;
    bed.until_nothing_is_due().await;
    assert_eq!(bed.queued(&acme).await.len(), 1);
}

#[tokio::test]
async fn a_task_without_a_queue_becomes_a_dead_letter_with_all_that_is_known() {
    let mut bed = Bed::new().await;
    bed.start_relay();
    bed.publish_due(&Queue::new("crawl", "gone"), "1", 7).await;
    bed.until_nothing_is_due().await;
    let letter = bed.dead_letter("dead.crawl.gone.1").await;
    assert_eq!(letter.payload.as_ref(), b"payload");
    for (name, value) in [
        ("X-Dead-Reason", "QueueGone"),
        ("X-Dead-Attempts", "1"),
        ("X-Dead-Group", "ACME"),
        ("X-Dead-Last-Failure", "2026-11-21T10:00:00Z"),
        ("X-Dead-Origin", "tg_x_acme:7:1790230470084404000"),
        ("X-Mine", "kept"),
    ] {
        let found = letter.headers.get(name).map(async_nats::HeaderValue::as_str);
        assert_eq!(found, Some(value), "{name}");
    }
    assert!(letter.headers.get(ORIGIN).is_none());
}

#[tokio::test]
async fn a_tombstone_that_its_worker_left_goes_away() {
    let mut bed = Bed::new().await;
    let acme = bed.group("acme").await;
    bed.start_relay();
    bed.publish(&acme.of_message(Kind::DueTombstone, "1", 7), &[]).await;
    bed.until_nothing_is_due().await;
    assert_eq!(bed.queued(&acme).await.len(), 0);
}

#[tokio::test]
async fn a_relay_whose_consumer_is_deleted_restores_it_and_goes_on() {
    let mut bed = Bed::new().await;
    let acme = bed.group("acme").await;
    bed.start_relay();
    bed.publish_due(&acme, "1", 1).await;
    bed.until_nothing_is_due().await;
    bed.nats.api(&format!("CONSUMER.DELETE.{DELAY}.relay"), json!({})).await;
    bed.publish_due(&acme, "2", 2).await;
    bed.until_nothing_is_due().await;
    assert_eq!(bed.queued(&acme).await.len(), 2);
}

#[tokio::test]
async fn a_callback_is_made_by_one_worker_and_tried_again_when_that_could_not() {
    let mut bed = Bed::new().await;
    let acme = bed.group("acme").await;
    bed.start_relay();
    let client = bed.nats.client().await;
    let subject = acme.of(Kind::WorkerCallback);
    let mut worker = client.queue_subscribe(subject, "workers".into()).await.unwrap();
    client.flush().await.unwrap();
    for id in ["good", "bad"] {
        let subject = acme.of_message(Kind::CallbackDue, id, 7);
        let headers = [
            ("X-Call-Id", id),
            ("X-Callback-Url", "http://example.com/"),
            ("Nats-Msg-Id", id),
        ];
        bed.publish(&subject, &headers).await;
    }
    let mut asked = Vec::new();
    while asked.len() < 3 {
        let request = worker.next().await.unwrap();
        let headers = request.headers.unwrap();
        assert_eq!(headers.get("X-Callback-Url").unwrap().as_str(), "http://example.com/");
        assert!(headers.get("Nats-Msg-Id").is_none());
        let id = headers.get("X-Call-Id").unwrap().to_string();
        let reply = match (id.as_str(), asked.contains(&"bad".to_owned())) {
            ("good", _) => "ok",
            (_, false) => "retry",
            (_, true) => "give-up",
        };
        asked.push(id);
        client.publish(request.reply.unwrap(), reply.into()).await.unwrap();
    }
    asked.sort();
    assert_eq!(asked, ["bad", "bad", "good"]);
    bed.until_nothing_is_due().await;
    let count = |result| bed.metric(&format!("taskgroup_operator_callbacks_total{{result=\"{result}\"}}"));
    assert_eq!((count("made"), count("again"), count("dropped")), (1, 1, 1));
}
