//! A task that somebody cancels: the workers' part of it. (The operator's is in `tests/operator/cancel.rs`.)

use crate::{
    bed::{Bed, Group, until},
    handler::{Hold, held, one_waits},
};

#[tokio::test]
async fn a_running_task_is_aborted_and_removed_before_the_answer() {
    let bed = Bed::with(&Group::default().concurrency(1)).await;
    let hold = Hold::new();
    let handler = held(&hold).await;
    let worker = bed.ready_worker(&handler.url()).await;
    bed.publish_many(2).await;
    until("one runs", async || handler.books.running() == 1).await;
    assert_eq!(bed.ask_to_cancel("0", 1).await, "running");
    assert_eq!(bed.nats.messages(bed.stream().as_str()).await, 1, "it is gone");
    until("the next one runs", async || handler.books.tasks() == ["0", "1"]).await;
    assert_eq!(handler.books.aborted(), 1);
    assert_eq!(handler.books.peak(), 1);
    let cancelled = r#"taskgroup_worker_tasks_total{outcome="cancelled"}"#;
    assert_eq!(worker.metric(cancelled).await, 1.0);
    hold.release(1);
    bed.empty_queue().await;
    assert_eq!(bed.ask_to_cancel("1", 2).await, "finished");
    assert_eq!(bed.ask_to_cancel("7", 0).await, "none");
}

#[tokio::test]
async fn a_task_that_was_cancelled_while_it_was_queued_is_not_started_but_a_later_one_of_its_id_is() {
    let bed = Bed::with(&Group::default()).await;
    let hold = Hold::new();
    hold.release(10);
    let handler = held(&hold).await;
    let _worker = bed.ready_worker(&handler.url()).await;
    bed.broker.pause_consumer(&bed.stream(), true).await.expect("paused");
    bed.publish("a", "cancelled").await;
    assert_eq!(bed.ask_to_cancel("a", 1).await, "none");
    bed.publish("a", "meant").await;
    bed.broker.pause_consumer(&bed.stream(), false).await.expect("resumed");
    bed.empty_queue().await;
    let payloads: Vec<_> = handler.books.calls().into_iter().map(|call| call.payload).collect();
    assert_eq!(payloads, ["meant"]);
    assert_eq!(
        bed.ask_to_cancel("a", 1).await,
        "queued",
        "who asks again hears that it was removed"
    );
}

#[tokio::test]
async fn a_delivered_task_that_waits_for_its_start_was_queued() {
    let (bed, handler, _worker) = one_waits(&Group::default().rate(1, 3_600_000, 1), 2).await;
    assert_eq!(bed.ask_to_cancel("1", 2).await, "queued");
    bed.empty_queue().await;
    assert_eq!(handler.books.calls().len(), 1);
}
