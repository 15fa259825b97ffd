//! The worker against a real NATS server, as a process of its own, with handlers in the test.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::float_cmp,
    clippy::redundant_closure_for_method_calls,
    reason = "a test panics where it can't go on, and counters are whole numbers"
)]

#[path = "../support/mod.rs"]
mod support;

mod bed;
mod callbacks;
mod cancel;
mod exec;
mod faults;
mod handler;
mod http;
mod in_process;
mod leases;
mod native;
mod outcomes;
mod process;
mod rate;
mod relay;
mod retries;
mod shutdown;
mod start;
mod throttling;

use bed::{Bed, Group, until};
use handler::{Books, Handler, Hold, held, ok, quick};
use std::{collections::BTreeSet, sync::Arc};

/// The names that [`Bed::publish_many`] gives.
fn numbers(count: usize) -> BTreeSet<String> {
    (0..count).map(|id| id.to_string()).collect()
}

#[tokio::test]
async fn a_task_reaches_the_handler_with_its_headers_and_leaves_the_queue() {
    let bed = Bed::with(&Group::default()).await;
    let handler = Handler::start(|_| async { ok() }).await;
    let _worker = bed.ready_worker(&handler.url()).await;
    let headers = [
        ("Content-Type", "application/json"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("X-Mine", "1"),
        ("Nats-Msg-Id", "once"),
        ("Connection", "close"),
    ];
    bed.publish_with("orders.42", &headers, r#"{"n": 1}"#).await;
    bed.empty_queue().await;

    let calls = handler.books.calls();
    assert_eq!(calls.len(), 1);
    let call = &calls[0];
    assert_eq!(call.payload, r#"{"n": 1}"#);
    for (name, value) in [
        ("X-Call-Id", "orders.42"),
        ("X-Task-Group", "acme"),
        ("X-Attempt", "1"),
        ("X-Max-Attempts", "5"),
        ("Content-Type", "application/json"),
        ("X-Mine", "1"),
        ("Nats-Msg-Id", ""),
        ("Connection", ""),
    ] {
        assert_eq!(call.header(name), value, "{name}");
    }
    let trace = call.header("traceparent");
    assert!(
        trace.starts_with("00-0af7651916cd43dd8448eb211c80319c-") && trace.ends_with("-01"),
        "{trace}"
    );
    assert!(
        !trace.contains("b7ad6b7169203331"),
        "the attempt is a step of its own: {trace}"
    );
    let deadline: jiff::Timestamp = call.header("X-Deadline").parse().expect("RFC 3339");
    assert!(deadline > jiff::Timestamp::now(), "one minute from then");
}

#[tokio::test]
async fn two_workers_reach_the_groups_limit_and_never_exceed_it_nor_their_own() {
    let mut group = Group::default().concurrency(4);
    group.settings.max_inflight = 3;
    let bed = Bed::with(&group).await;
    let joint: Arc<Books> = Arc::default();
    let handler = async || {
        let act = |_| async {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            ok()
        };
        Handler::start_on("127.0.0.1:0".parse().expect("an address"), joint.clone(), act).await
    };
    let (a, b) = (handler().await, handler().await);
    let _workers = (bed.ready_worker(&a.url()).await, bed.ready_worker(&b.url()).await);
    bed.publish_many(300).await;
    bed.empty_queue().await;

    assert_eq!(joint.peak(), 4, "the group's limit");
    assert_eq!((a.books.peak(), b.books.peak()), (3, 3), "each worker's own");
    assert_eq!(joint.calls().len(), 300, "each task once");
    assert_eq!(joint.tasks().into_iter().collect::<BTreeSet<_>>(), numbers(300));
}

#[tokio::test]
async fn a_thousand_tasks_run_at_once_when_the_group_may() {
    let mut group = Group::default().concurrency(1000);
    group.settings.max_inflight = 1000;
    let bed = Bed::with(&group).await;
    let hold = Hold::new();
    let handler = held(&hold).await;
    let worker = bed.ready_worker(&handler.url()).await;
    bed.publish_many(1500).await;
    until("the limit is reached", async || handler.books.running() == 1000).await;
    // A pull is for many tasks, not for one.
    let pulls = worker.metric("taskgroup_worker_pulls_total").await;
    assert!(pulls < 500.0, "{pulls} pulls for 1000 tasks");
    hold.release(1500);
    bed.empty_queue().await;
    assert_eq!(handler.books.calls().len(), 1500);
    assert_eq!(handler.books.peak(), 1000);
}

#[tokio::test]
async fn changed_settings_take_effect_on_what_starts_next_without_a_restart() {
    let mut group = Group::default().concurrency(1);
    let bed = Bed::with(&group).await;
    let hold = Hold::new();
    let handler = held(&hold).await;
    let worker = bed.ready_worker(&handler.url()).await;
    bed.publish_many(10).await;
    until("one runs", async || handler.books.running() == 1).await;

    group.concurrency = 3;
    group.settings.retry.max_attempts = 9;
    bed.change(&group).await;
    until("three run", async || handler.books.running() == 3).await;
    let attempts: Vec<_> = handler
        .books
        .calls()
        .iter()
        .map(|call| call.header("X-Max-Attempts").to_owned())
        .collect();
    assert_eq!(attempts, ["5", "9", "9"]);

    // Per pod, too, and the other way: what runs is not interrupted, and nothing more starts.
    group.settings.max_inflight = 2;
    bed.change(&group).await;
    until("the worker knows", async || {
        worker.metric("taskgroup_worker_slots").await == 2.0
    })
    .await;
    assert_eq!(handler.books.running(), 3);
    hold.release(2);
    until("two of three are done, and one more started", async || {
        handler.books.running() == 2 && handler.books.calls().len() == 4
    })
    .await;
    hold.release(100);
    bed.empty_queue().await;
    assert_eq!(handler.books.calls().len(), 10);
    assert_eq!(handler.books.peak(), 3);
}

/// Changes the group's settings by hand, without the operator's notice.
async fn change_without_notice(bed: &Bed, group: &Group) {
    let mut settings = group.settings.clone();
    settings.timeouts.task = "100ms".into();
    settings.retry.max_attempts = 1;
    let config = serde_json::json!({"metadata": {taskgroup::protocol::keys::SETTINGS: settings.to_json()}});
    let now = bed
        .broker
        .consumer(&bed.stream())
        .await
        .expect("an answer")
        .expect("a consumer");
    let config = taskgroup::broker::overlay(&config, &now.config);
    bed.broker
        .update_consumer(&bed.stream(), &config)
        .await
        .expect("changed");
}

#[tokio::test]
async fn a_changed_time_limit_is_found_out_after_a_reconnect_even_when_the_notice_is_lost() {
    let group = Group::default();
    let bed = Bed::with(&group).await;
    let handler = Handler::start(|_| std::future::pending()).await;
    let worker = bed.ready_worker(&handler.url()).await;
    change_without_notice(&bed, &group).await;
    bed.nats.restart().await;
    bed.connected().await;
    until("the worker knows", async || {
        worker.logged("the group's settings changed") == 1
    })
    .await;
    bed.publish("slow", "").await;
    let dead = bed.dead_letters(1).await;
    assert_eq!(dead[0].headers["x-dead-error"], "no answer within timeouts.task");
}

#[tokio::test]
async fn a_lost_notice_is_made_up_for_within_a_minute_without_any_cause() {
    let group = Group::default();
    let bed = Bed::with(&group).await;
    let handler = quick().await;
    let worker = bed.ready_worker(&handler.url()).await;
    change_without_notice(&bed, &group).await;
    until("the worker knows", async || {
        worker.logged("the group's settings changed") == 1
    })
    .await;
}
