//! A handler that wants no tasks for a while throttles its group, on every worker.

use crate::{
    bed::{Bed, Group, until},
    handler::{Call, Handler, Hold, ok, one_waits},
};
use axum::http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use std::sync::{Arc, Mutex};
use taskgroup::protocol::subject::{DEAD_STREAM, DELAY_STREAM};

/// Refuses the first task until `seconds` later, and notes what comes before.
struct Refuses {
    until: Mutex<Option<Timestamp>>,
    too_early: Mutex<Vec<String>>,
}

impl Refuses {
    async fn start(answer: impl Fn(Timestamp) -> String + Send + Sync + 'static, seconds: i64) -> (Handler, Arc<Self>) {
        let refuses = Arc::new(Self {
            until: Mutex::default(),
            too_early: Mutex::default(),
        });
        let books = refuses.clone();
        let answer = Arc::new(answer);
        let handler = Handler::start_with_headers(move |call: Call| {
            let (books, answer) = (books.clone(), answer.clone());
            async move {
                let now = Timestamp::now();
                let mut until = books.until.lock().expect("the time");
                match *until {
                    None => {
                        let end = now + SignedDuration::from_secs(seconds);
                        *until = Some(end);
                        (
                            StatusCode::TOO_MANY_REQUESTS,
                            vec![("Retry-After".to_owned(), answer(end))],
                            String::new(),
                        )
                    }
                    Some(until) => {
                        // A date in the header has no fractions of a second.
                        if now + SignedDuration::from_secs(1) < until {
                            books.too_early.lock().expect("the list").push(call.task().to_owned());
                        }
                        let (status, body) = ok();
                        (status, Vec::new(), body)
                    }
                }
            }
        })
        .await;
        (handler, refuses)
    }
}

async fn throttles(answer: impl Fn(Timestamp) -> String + Send + Sync + 'static) {
    let bed = Bed::with_relay(&Group::default().concurrency(4).max_attempts(1)).await;
    let (handler, refuses) = Refuses::start(answer, 3).await;
    let workers = [
        bed.ready_worker(&handler.url()).await,
        bed.ready_worker(&handler.url()).await,
    ];
    bed.publish("refused", "").await;
    until("the group is throttled", async || {
        bed.consumer_info().await["paused"] == true
    })
    .await;
    bed.publish_many(10).await;
    bed.empty_queue().await;
    assert_eq!(refuses.too_early.lock().expect("the list").as_slice(), &[] as &[String]);
    // The refused one came again, and had not used up its only attempt.
    let calls = handler.books.calls();
    assert_eq!(calls.len(), 12);
    assert!(calls.iter().all(|call| call.attempt() == 1), "{calls:?}");
    assert_eq!(bed.nats.messages(DEAD_STREAM).await, 0);
    let throttles = workers[0].metric("taskgroup_worker_throttles_total").await
        + workers[1].metric("taskgroup_worker_throttles_total").await;
    assert_eq!(throttles, 1.0);
}

#[tokio::test]
async fn retry_after_in_seconds_throttles_the_group_on_every_worker_and_ends_by_itself() {
    throttles(|_| "3".to_owned()).await;
}

#[tokio::test]
async fn retry_after_as_a_date_does_the_same() {
    throttles(|until| until.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()).await;
}

#[tokio::test]
async fn a_throttling_lasts_no_longer_than_the_group_allows() {
    let mut group = Group::default();
    group.settings.retry.max_retry_after = "1s".into();
    let bed = Bed::with_relay(&group).await;
    let (handler, _refuses) = Refuses::start(|_| "86400".to_owned(), 0).await;
    let _worker = bed.ready_worker(&handler.url()).await;
    bed.publish("refused", "").await;
    bed.empty_queue().await;
    assert_eq!(handler.books.calls().len(), 2);
}

#[tokio::test]
async fn a_throttling_that_ends_does_not_end_a_suspension() {
    let bed = Bed::with_relay(&Group::default()).await;
    let (handler, _refuses) = Refuses::start(|_| "2".to_owned(), 2).await;
    let _worker = bed.ready_worker(&handler.url()).await;
    bed.publish("refused", "").await;
    until("it waits for the end of the throttling", async || {
        bed.nats.messages(DELAY_STREAM).await == 1 && bed.nats.messages(bed.stream().as_str()).await == 0
    })
    .await;
    bed.broker.pause_consumer(&bed.stream(), true).await.expect("paused");
    bed.broker.notify_settings(&bed.queue).await.expect("a notice");
    until("it is back in its queue", async || {
        bed.nats.messages(bed.stream().as_str()).await == 1
    })
    .await;
    let info = bed.consumer_info().await;
    assert_eq!((&info["paused"], &info["num_pending"]), (&true.into(), &1.into()));
    bed.broker.pause_consumer(&bed.stream(), false).await.expect("resumed");
    until("it runs", async || handler.books.calls().len() == 2).await;
    bed.empty_queue().await;
}

/// Whether a task is in its queue, and neither in flight nor in the delays.
async fn is_queued(bed: &Bed) -> bool {
    let info = bed.consumer_info().await;
    info["num_pending"] == 1 && info["num_ack_pending"] == 0 && bed.nats.messages(DELAY_STREAM).await == 0
}

#[tokio::test]
async fn a_suspension_that_its_worker_has_not_heard_of_outlives_a_throttling() {
    let bed = Bed::with_relay(&Group::default()).await;
    let hold = Hold::new();
    let waits = hold.clone();
    let handler = Handler::start_with_headers(move |_| {
        let hold = waits.clone();
        async move {
            hold.wait().await;
            let header = ("Retry-After".to_owned(), "1".to_owned());
            (StatusCode::SERVICE_UNAVAILABLE, vec![header], String::new())
        }
    })
    .await;
    let _worker = bed.ready_worker(&handler.url()).await;
    bed.publish("refused", "").await;
    until("it runs", async || handler.books.running() == 1).await;
    // No notice.
    bed.broker.pause_consumer(&bed.stream(), true).await.expect("paused");
    hold.release(1);
    until("it is back in its queue", async || is_queued(&bed).await).await;
    let info = bed.consumer_info().await;
    assert_eq!((&info["paused"], &info["num_pending"]), (&true.into(), &1.into()));
}

#[tokio::test]
async fn a_delivered_task_that_waits_for_its_start_does_not_start_in_a_group_that_is_suspended_meanwhile() {
    let (bed, handler, _worker) = one_waits(&Group::default().rate(1, 3000, 1), 2).await;
    bed.broker.pause_consumer(&bed.stream(), true).await.expect("paused");
    bed.broker.notify_settings(&bed.queue).await.expect("a notice");
    until("it is back in its queue", async || is_queued(&bed).await).await;
    assert_eq!(handler.books.calls().len(), 1);
    bed.broker.pause_consumer(&bed.stream(), false).await.expect("resumed");
    bed.empty_queue().await;
    assert_eq!(handler.books.calls().len(), 2);
}
