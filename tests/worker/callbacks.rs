//! Callbacks: they say how a task ended, hold no slot, and outlive their worker.

use crate::{
    bed::{Bed, Group, until},
    handler::{Call, Handler, Hold, held, ok},
};
use axum::http::StatusCode;
use taskgroup::protocol::{
    settings::WorkerSettings,
    subject::{DEAD_STREAM, DELAY_STREAM},
};

fn group() -> Group {
    let group = Group::default().concurrency(1);
    Group {
        settings: WorkerSettings {
            callback_allow: vec!["127.0.0.0/8".into()],
            ..group.settings
        },
        ..group
    }
}

async fn answers(status: StatusCode, body: &'static str) -> Handler {
    Handler::start(move |_| async move { (status, body.to_owned()) }).await
}

fn assert_headers(call: &Call, expected: &[(&str, &str)]) {
    for (name, value) in expected {
        assert_eq!(call.header(name), *value, "{name}");
    }
}

async fn no_callback_is_left(bed: &Bed) {
    until("no callback is left", async || {
        bed.nats.messages(DELAY_STREAM).await == 0
    })
    .await;
}

#[tokio::test]
async fn a_callback_says_how_the_task_ended() {
    let bed = Bed::with(&group()).await;
    let caller = answers(StatusCode::ACCEPTED, "").await;
    let handler = Handler::start(|call| async move {
        if call.task() == "good" {
            (StatusCode::OK, "the result".to_owned())
        } else {
            (StatusCode::UNPROCESSABLE_ENTITY, "the reason".to_owned())
        }
    })
    .await;
    let _worker = bed.ready_worker(&handler.url()).await;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let headers = [
        ("X-Callback-Url", &*caller.url()),
        ("traceparent", trace),
        ("X-Mine", "1"),
    ];
    for id in ["good", "bad"] {
        bed.publish_with(id, &headers, "").await;
        until("the callback is made", async || {
            caller.books.tasks().contains(&id.to_owned())
        })
        .await;
    }
    no_callback_is_left(&bed).await;
    let calls = caller.books.calls();
    assert_eq!(calls.len(), 2);
    let common = [
        ("X-Function-Name", "acme"),
        ("traceparent", trace),
        ("X-Mine", ""),
        ("X-Callback-Url", ""),
    ];
    for (call, body, status) in [(&calls[0], "the result", "200"), (&calls[1], "the reason", "422")] {
        assert_eq!(call.payload, body);
        assert_headers(call, &[("X-Function-Status", status)]);
        assert_headers(call, &common);
        assert!(
            call.header("X-Duration-Seconds")
                .parse::<f64>()
                .is_ok_and(|seconds| seconds < 60.0)
        );
    }
    assert_eq!(bed.nats.messages(DEAD_STREAM).await, 1);
}

#[tokio::test]
async fn a_callback_that_takes_long_holds_no_slot_and_is_made_by_another_worker_if_its_own_dies() {
    let bed = Bed::with_relay(&group()).await;
    let hold = Hold::new();
    let slow = held(&hold).await;
    let handler = Handler::start(|_| async { ok() }).await;
    let mut worker = bed.ready_worker(&handler.url()).await;
    bed.publish_with("0", &[("X-Callback-Url", &slow.url())], "").await;
    until("the callback is under way", async || slow.books.running() == 1).await;
    bed.publish("1", "").await;
    until("the next task is done", async || {
        bed.nats.messages(bed.stream().as_str()).await == 0
    })
    .await;
    worker.kill();
    until("the callback is cut off", async || slow.books.running() == 0).await;
    hold.release(1);
    let _other = bed.ready_worker(&handler.url()).await;
    until("the callback is made", async || slow.books.calls().len() == 2).await;
    no_callback_is_left(&bed).await;
    assert_eq!(handler.books.tasks(), ["0", "1"], "no task ran again");
}

#[tokio::test]
async fn a_callback_goes_to_no_address_inside_the_cluster_unless_that_is_allowed() {
    let bed = Bed::with(&Group::default()).await;
    let caller = answers(StatusCode::OK, "").await;
    let handler = Handler::start(|_| async { ok() }).await;
    let worker = bed.ready_worker(&handler.url()).await;
    let local = caller.url().replace("127.0.0.1", "localhost");
    for (id, url) in [
        ("ip", &caller.url()),
        ("name", &local),
        ("none", &"ftp://example.com/".to_owned()),
    ] {
        bed.publish_with(id, &[("X-Callback-Url", url)], "").await;
    }
    let refused = r#"taskgroup_worker_callbacks_total{result="refused"}"#;
    until("all are refused", async || worker.metric(refused).await == 3.0).await;
    bed.empty_queue().await;
    assert_eq!(caller.books.calls().len(), 0);
    assert_eq!(handler.books.calls().len(), 3, "the tasks are done all the same");
}

#[tokio::test]
async fn a_redirected_callback_is_followed_with_its_body_and_checked_again() {
    let bed = Bed::with(&group()).await;
    let last = answers(StatusCode::OK, "").await;
    let target = last.url();
    let first = Handler::start_with_headers(move |call| {
        let location = if call.task() == "inside" {
            target.clone()
        } else {
            "http://169.254.169.254/latest".to_owned()
        };
        async move {
            let location = vec![("Location".to_owned(), location)];
            (StatusCode::TEMPORARY_REDIRECT, location, String::new())
        }
    })
    .await;
    let handler = Handler::start(|_| async { ok() }).await;
    let worker = bed.ready_worker(&handler.url()).await;
    for id in ["inside", "elsewhere"] {
        bed.publish_with(id, &[("X-Callback-Url", &first.url())], "").await;
    }
    let refused = r#"taskgroup_worker_callbacks_total{result="refused"}"#;
    until("one is refused", async || worker.metric(refused).await == 1.0).await;
    until("one is made", async || last.books.calls().len() == 1).await;
    assert_eq!(last.books.calls()[0].payload, "done\n");
    no_callback_is_left(&bed).await;
}
