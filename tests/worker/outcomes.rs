//! How a task ends, by what the handler says.

use crate::{
    bed::{Bed, Group, until},
    handler::{Handler, ok},
};
use axum::http::StatusCode;
use std::time::Duration;

#[tokio::test]
async fn a_task_that_fails_is_tried_again_until_it_is_done() {
    let bed = Bed::with_relay(&Group::default()).await;
    let handler = Handler::start(|call| async move {
        if call.attempt() < 3 {
            (StatusCode::SERVICE_UNAVAILABLE, "not yet".to_owned())
        } else {
            ok()
        }
    })
    .await;
    let worker = bed.ready_worker(&handler.url()).await;
    bed.publish("a", "").await;
    until("it was tried three times", async || handler.books.calls().len() == 3).await;
    bed.empty_queue().await;
    let attempts: Vec<_> = handler.books.calls().iter().map(|call| call.attempt()).collect();
    assert_eq!(attempts, [1, 2, 3]);
    assert_eq!(
        worker
            .metric(r#"taskgroup_worker_tasks_total{outcome="retried"}"#)
            .await,
        2.0
    );
    assert_eq!(
        worker.metric(r#"taskgroup_worker_tasks_total{outcome="done"}"#).await,
        1.0
    );
}

#[tokio::test]
async fn a_task_that_always_fails_ends_as_a_dead_letter_with_all_that_is_known() {
    let bed = Bed::with_relay(&Group::default().max_attempts(2)).await;
    let handler = Handler::start(|_| async {
        (
            StatusCode::BAD_GATEWAY,
            format!("first line\nsecond{}", " ".repeat(5000)),
        )
    })
    .await;
    let worker = bed.ready_worker(&handler.url()).await;
    bed.publish_with(
        "orders.7",
        &[("X-Mine", "kept"), ("Nats-Msg-Id", "theirs")],
        "the payload",
    )
    .await;
    let dead = bed.dead_letters(1).await;
    bed.empty_queue().await;

    assert_eq!(handler.books.calls().len(), 2);
    assert_eq!(dead[0].subject, "dead.crawl.acme.orders.7");
    assert_eq!(dead[0].payload, "the payload");
    let headers = &dead[0].headers;
    for (name, value) in [
        ("x-mine", "kept"),
        ("x-dead-group", "acme"),
        ("x-dead-reason", "MaxAttempts"),
        ("x-dead-error", "status 502: first line second"),
        ("x-dead-attempts", "2"),
    ] {
        assert_eq!(headers.get(name).map(String::as_str), Some(value), "{name}");
    }
    assert!(headers["nats-msg-id"].starts_with("tg_crawl_acme:2:"), "{headers:?}");
    let at: jiff::Timestamp = headers["x-dead-at"].parse().expect("RFC 3339");
    assert!(at <= jiff::Timestamp::now());
    assert_eq!(
        worker
            .metric(r#"taskgroup_worker_dead_letters_total{reason="MaxAttempts"}"#)
            .await,
        1.0
    );
}

#[tokio::test]
async fn a_refused_task_is_dead_at_once() {
    let bed = Bed::with(&Group::default()).await;
    let handler = Handler::start(|call| async move {
        let status = StatusCode::from_bytes(call.payload.as_bytes()).expect("a status");
        (status, "no".to_owned())
    })
    .await;
    let _worker = bed.ready_worker(&handler.url()).await;
    for status in ["400", "404", "302"] {
        bed.publish(status, status).await;
    }
    let dead = bed.dead_letters(3).await;
    bed.empty_queue().await;
    assert_eq!(handler.books.calls().len(), 3, "each was tried once");
    let mut errors: Vec<_> = dead.iter().map(|dead| dead.headers["x-dead-error"].as_str()).collect();
    errors.sort_unstable();
    assert_eq!(
        errors,
        [
            "status 302: redirects are not followed, give the handler's final URL",
            "status 400: no",
            "status 404: no"
        ]
    );
    assert!(dead.iter().all(|dead| dead.headers["x-dead-reason"] == "Permanent"));
}

#[tokio::test]
async fn an_attempt_is_aborted_at_its_time_limit_and_counts_as_failed() {
    let mut group = Group::default().max_attempts(2);
    group.settings.timeouts.task = "200ms".into();
    let bed = Bed::with_relay(&group).await;
    let handler = Handler::start(|_| std::future::pending()).await;
    let _worker = bed.ready_worker(&handler.url()).await;
    bed.publish("a", "").await;
    let dead = bed.dead_letters(1).await;
    assert_eq!(dead[0].headers["x-dead-error"], "no answer within timeouts.task");
    assert_eq!(dead[0].headers["x-dead-attempts"], "2");
    until("both requests are aborted", async || handler.books.aborted() == 2).await;
}

#[tokio::test]
async fn without_dead_letters_a_dead_task_is_dropped_and_counted() {
    let mut group = Group::default();
    group.settings.dead_letter.enabled = false;
    let bed = Bed::with(&group).await;
    let handler = Handler::start(|_| async { (StatusCode::GONE, String::new()) }).await;
    let worker = bed.ready_worker(&handler.url()).await;
    bed.publish("a", "").await;
    bed.empty_queue().await;
    bed.dead_letters(0).await;
    let dropped = r#"taskgroup_worker_tasks_total{outcome="dropped"}"#;
    until("it is counted", async || worker.metric(dropped).await == 1.0).await;
}

#[tokio::test]
async fn nothing_leaves_the_queue_before_its_dead_letter_is_stored() {
    let bed = Bed::empty().await;
    bed.create_stream().await;
    // Shorter than the wait for the missing stream, so that the lease must be kept meanwhile.
    bed.create_consumer(&Group::default().ack_wait(2)).await;
    let handler = Handler::start(|_| async { (StatusCode::BAD_REQUEST, String::new()) }).await;
    let worker = bed.ready_worker(&handler.url()).await;
    bed.publish("a", "").await;
    until("the worker found no stream for dead letters", async || {
        worker.logged("no stream listens to this subject; the operator makes it") == 1
    })
    .await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(
        bed.nats.messages(bed.stream().as_str()).await,
        1,
        "it is still in the queue"
    );
    bed.create_dead_letters().await;
    bed.dead_letters(1).await;
    bed.empty_queue().await;
    assert_eq!(handler.books.calls().len(), 1, "the handler was asked once");
}

#[tokio::test]
async fn a_task_longer_than_ack_wait_runs_once() {
    let bed = Bed::with(&Group::default().ack_wait(2)).await;
    let handler = Handler::start(|_| async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        ok()
    })
    .await;
    let _workers = (
        bed.ready_worker(&handler.url()).await,
        bed.ready_worker(&handler.url()).await,
    );
    bed.publish("a", "").await;
    bed.empty_queue().await;
    assert_eq!(handler.books.calls().len(), 1);
}

#[tokio::test]
async fn a_message_under_a_foreign_subject_becomes_a_dead_letter_and_does_not_hold_up_the_queue() {
    let bed = Bed::with_relay(&Group::default().concurrency(1).ack_wait(2)).await;
    // A stream that was adopted, or edited, holds messages under other subjects than the group's.
    let stream = bed.stream();
    let mut config = bed.nats.stream(stream.as_str()).await.expect("the stream");
    let own = config["subjects"].clone();
    config["subjects"]
        .as_array_mut()
        .expect("subjects")
        .push("orders.>".into());
    bed.nats.api(&format!("STREAM.UPDATE.{stream}"), config.clone()).await;
    bed.nats.publish("orders.new", "").await;
    config["subjects"] = own;
    bed.nats.api(&format!("STREAM.UPDATE.{stream}"), config).await;
    bed.publish("after", "").await;
    let handler = Handler::start(|_| async { ok() }).await;
    let _worker = bed.ready_worker(&handler.url()).await;
    until("the group's own task is run", async || {
        handler.books.tasks() == ["after"]
    })
    .await;
    let dead = bed.dead_letters(1).await;
    assert_eq!(dead[0].headers["x-dead-reason"], "ForeignSubject");
    assert_eq!(dead[0].subject, "dead.crawl.acme.orders.new");
    bed.empty_queue().await;
}
