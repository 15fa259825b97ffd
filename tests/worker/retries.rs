//! What is tried again, what is not, and that neither is lost or doubled on the way.

use crate::{
    bed::{Bed, Group, until},
    handler::{Handler, Hold, held, ok},
};
use axum::http::StatusCode;
use serde_json::json;
use taskgroup::protocol::{
    Kind, dead_letter, history,
    subject::{DEAD_STREAM, DELAY_STREAM},
};

#[tokio::test]
async fn a_task_in_back_off_holds_no_slot() {
    let mut group = Group::default().concurrency(1);
    group.settings.retry.initial_delay = "24h".into();
    group.settings.retry.max_delay = "24h".into();
    let bed = Bed::with(&group).await;
    let handler = Handler::start(|call| async move {
        if call.task() == "fails" {
            (StatusCode::INTERNAL_SERVER_ERROR, String::new())
        } else {
            ok()
        }
    })
    .await;
    let _worker = bed.ready_worker(&handler.url()).await;
    bed.publish("fails", "").await;
    bed.publish_many(3).await;
    until("the others are done", async || {
        bed.nats.messages(bed.stream().as_str()).await == 0
    })
    .await;
    assert_eq!(handler.books.tasks(), ["fails", "0", "1", "2"]);
    assert_eq!(bed.nats.messages(DELAY_STREAM).await, 1, "it waits for hours");
}

#[tokio::test]
async fn a_task_keeps_its_count_of_attempts_and_its_age_on_its_way_through_the_delays() {
    let mut group = Group::default().max_attempts(3);
    group.settings.retry.initial_delay = "10ms".into();
    let bed = Bed::with_relay(&group).await;
    let handler = Handler::start(|_| async { (StatusCode::BAD_GATEWAY, "no".to_owned()) }).await;
    let _worker = bed.ready_worker(&handler.url()).await;
    bed.publish_with("a", &[("X-Mine", "kept")], "payload").await;
    let dead = bed.dead_letters(1).await;
    let calls = handler.books.calls();
    let attempts: Vec<_> = calls.iter().map(|call| call.attempt()).collect();
    assert_eq!(attempts, [1, 2, 3]);
    for call in &calls {
        assert_eq!((call.payload.as_str(), call.header("X-Mine")), ("payload", "kept"));
        let ours = call
            .headers
            .keys()
            .find(|name| name.as_str().starts_with(history::PREFIX));
        assert_eq!(ours, None, "the handler sees nothing of the history");
    }
    let headers = &dead[0].headers;
    assert_eq!(headers["x-dead-attempts"], "3");
    assert_eq!(headers["x-dead-status"], "502");
    assert!(
        headers["x-dead-first-failure"] < headers["x-dead-last-failure"],
        "{headers:?}"
    );
    assert!(
        !headers.keys().any(|name| name.starts_with(history::PREFIX)),
        "{headers:?}"
    );
    bed.empty_queue().await;
}

#[tokio::test]
async fn attempts_that_died_with_their_workers_count_beside_those_that_failed() {
    let mut group = Group::default().max_attempts(2).ack_wait(2);
    group.settings.retry.initial_delay = "10ms".into();
    let bed = Bed::with_relay(&group).await;
    let handler = Handler::start(|call| async move {
        if call.attempt() == 1 {
            (StatusCode::BAD_GATEWAY, "no".to_owned())
        } else {
            std::future::pending().await
        }
    })
    .await;
    let mut worker = bed.ready_worker(&handler.url()).await;
    bed.publish("deadly", "").await;
    until("the second attempt runs", async || handler.books.calls().len() == 2).await;
    worker.kill();
    let _worker = bed.ready_worker(&handler.url()).await;
    let dead = bed.dead_letters(1).await;
    assert_eq!(dead[0].headers["x-dead-reason"], "WorkerLost");
    assert_eq!(dead[0].headers["x-dead-attempts"], "2");
    assert_eq!(handler.books.calls().len(), 2);
}

#[tokio::test]
async fn a_task_that_went_on_elsewhere_but_whose_ack_was_lost_is_not_run() {
    // A worker died between a hand-over and its ack. Where the task is by now:
    for place in ["delayed", "due", "in its queue again", "dead"] {
        let bed = Bed::with(&Group::default().concurrency(1)).await;
        bed.publish("a", "").await;
        let delivery = bed.deliver_by_hand().await;
        let origin = delivery.stored().origin(&bed.stream()).to_string();
        let (queue, sequence) = (&bed.queue, delivery.stored().sequence);
        let (subject, header) = match place {
            "delayed" => (queue.of_message(Kind::Delay, "a", sequence), history::ORIGIN),
            "due" => (queue.of_message(Kind::Due, "a", sequence), history::ORIGIN),
            "in its queue again" => (queue.requeue("a"), history::ORIGIN),
            _ => (queue.dead("a"), dead_letter::ORIGIN),
        };
        bed.store(&subject, &[(header, &origin), (history::ATTEMPTS, "1")])
            .await;
        delivery
            .nak(std::time::Duration::ZERO, std::time::Duration::from_secs(5))
            .await
            .expect("a NAK");
        let handler = Handler::start(|_| async { ok() }).await;
        let worker = bed.ready_worker(&handler.url()).await;
        until("the queue is empty", async || {
            bed.nats.messages(bed.stream().as_str()).await == 0
        })
        .await;
        let attempts: Vec<_> = handler.books.calls().iter().map(|call| call.attempt()).collect();
        let expected: &[u32] = if place == "in its queue again" { &[2] } else { &[] };
        assert_eq!(attempts, expected, "{place}");
        let transferred = worker
            .metric(r#"taskgroup_worker_tasks_total{outcome="transferred"}"#)
            .await;
        assert_eq!(transferred, 1.0, "{place}");
    }
}

#[tokio::test]
async fn a_task_that_came_back_removes_what_it_was_before_it_runs() {
    let bed = Bed::with(&Group::default().concurrency(1)).await;
    bed.publish("a", "").await;
    let before = bed.deliver_by_hand().await;
    let origin = before.stored().origin(&bed.stream()).to_string();
    let sequence = before.stored().sequence;
    let history = [(history::ORIGIN, origin.as_str()), (history::ATTEMPTS, "1")];
    bed.store(&bed.queue.of_message(Kind::Due, "a", sequence), &history)
        .await;
    bed.store(&bed.queue.requeue("a"), &history).await;
    let hold = Hold::new();
    let handler = held(&hold).await;
    // The slot is taken by the message before, which is let go by being removed.
    let _worker = bed.ready_worker(&handler.url()).await;
    bed.nats
        .api(
            "CONSUMER.CREATE.tg_crawl_acme.workers-crawl",
            json!({
                "stream_name": "tg_crawl_acme", "action": "update",
                "config": {"durable_name": "workers-crawl", "name": "workers-crawl", "ack_policy": "explicit", "max_ack_pending": 2,
                    "max_deliver": -1, "metadata": bed.consumer_info().await["config"]["metadata"]},
            }),
        )
        .await;
    until("it runs", async || handler.books.running() == 1).await;
    assert_eq!(bed.nats.messages(bed.stream().as_str()).await, 1, "only it is left");
    assert_eq!(bed.nats.messages(DELAY_STREAM).await, 0);
    hold.release(1);
    bed.empty_queue().await;
    assert_eq!(handler.books.calls()[0].attempt(), 2);
}

#[tokio::test]
async fn history_headers_of_a_publisher_count_for_nothing() {
    let bed = Bed::with(&Group::default()).await;
    bed.publish("victim", "").await;
    let handler = Handler::start(|_| async { ok() }).await;
    let forged = [
        (history::ATTEMPTS, "99"),
        (history::ORIGIN, "tg_crawl_acme:1:0"),
        (history::PUBLISHED, "0"),
        ("X-Mine", "1"),
    ];
    bed.publish_with("forger", &forged, "").await;
    let _worker = bed.ready_worker(&handler.url()).await;
    bed.empty_queue().await;
    let mut calls = handler.books.calls();
    calls.sort_by(|a, b| a.header("X-Call-Id").cmp(b.header("X-Call-Id")));
    let seen: Vec<_> = calls
        .iter()
        .map(|call| (call.header("X-Call-Id"), call.attempt(), call.header("X-Mine")))
        .collect();
    assert_eq!(seen, [("forger", 1, "1"), ("victim", 1, "")]);
    assert!(calls.iter().all(|call| call.header(history::ATTEMPTS).is_empty()));
    assert_eq!(bed.nats.messages(DEAD_STREAM).await, 0);
}

#[tokio::test]
async fn a_task_that_waited_too_long_is_not_started() {
    let mut group = Group::default();
    group.settings.timeouts.expire = "1s".into();
    let bed = Bed::with(&group).await;
    bed.publish("old", "payload").await;
    let stored = jiff::Timestamp::now();
    until("it is too old", async || {
        jiff::Timestamp::now().duration_since(stored) > jiff::SignedDuration::from_millis(1500)
    })
    .await;
    let handler = Handler::start(|_| async { ok() }).await;
    let _worker = bed.ready_worker(&handler.url()).await;
    bed.publish("fresh", "").await;
    let dead = bed.dead_letters(1).await;
    bed.empty_queue().await;
    assert_eq!(handler.books.tasks(), ["fresh"]);
    assert_eq!(dead[0].headers["x-dead-reason"], "Expired");
    assert_eq!(
        (dead[0].payload.as_str(), dead[0].headers["x-dead-attempts"].as_str()),
        ("payload", "0")
    );
}

#[tokio::test]
async fn a_task_that_is_published_twice_with_one_id_is_one_task() {
    let bed = Bed::with(&Group::default()).await;
    let handler = Handler::start(|_| async { ok() }).await;
    let _worker = bed.ready_worker(&handler.url()).await;
    for _ in 0..2 {
        bed.publish_with("a", &[("Nats-Msg-Id", "a")], "").await;
        bed.empty_queue().await;
    }
    bed.publish("b", "").await;
    bed.empty_queue().await;
    assert_eq!(handler.books.tasks(), ["a", "b"], "also when the first is done already");
    assert_eq!(bed.nats.messages(DEAD_STREAM).await, 0);
}

#[tokio::test]
async fn a_forged_history_does_not_hold_up_a_task() {
    let bed = Bed::with_relay(&Group::default().concurrency(1)).await;
    let handler = Handler::start(|_| async { ok() }).await;
    let _worker = bed.ready_worker(&handler.url()).await;
    // JetStream counts from 1, and refuses questions about number 0.
    for (id, origin) in [
        ("none", "x:0:0".to_owned()),
        ("own", format!("{}:0:0", bed.stream())),
        ("last", format!("{}:{}:{}", bed.stream(), u64::MAX, u64::MAX)),
    ] {
        let headers = [
            (history::ORIGIN, origin.as_str()),
            (history::ATTEMPTS, "0"),
            (history::PUBLISHED, "18446744073709551615"),
        ];
        bed.store(&bed.queue.requeue(id), &headers).await;
    }
    bed.publish("after", "").await;
    bed.empty_queue().await;
    assert_eq!(handler.books.tasks(), ["none", "own", "last", "after"]);
}
