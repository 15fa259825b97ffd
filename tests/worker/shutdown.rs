//! SIGTERM: finish what runs, start nothing, lose nothing.

use crate::{
    bed::{Bed, Group, until},
    handler::{Handler, Hold, held, ok},
};

#[tokio::test]
async fn a_worker_that_is_asked_to_stop_finishes_what_runs_and_starts_nothing() {
    let bed = Bed::with(&Group::default().concurrency(8)).await;
    let hold = Hold::new();
    let handler = held(&hold).await;
    let mut worker = bed.ready_worker(&handler.url()).await;
    bed.publish_many(3).await;
    until("three run", async || handler.books.running() == 3).await;
    // The hook of the handler's container, a little before SIGTERM reaches the worker.
    let hook = worker.ask("/drained");

    worker.terminate();
    worker.not_ready("shutting down").await;
    // What it asked for is taken back: nobody waits at the consumer, and what comes now is not for it.
    until("no pull waits", async || bed.consumer_info().await["num_waiting"] == 0).await;
    bed.publish("late", "").await;
    assert!(!hook.is_finished(), "three tasks run");
    hold.release(1);
    until("one is done", async || handler.books.running() == 2).await;
    assert!(!hook.is_finished(), "two tasks run");
    hold.release(100);
    assert_eq!(hook.await.expect("an answer"), (200, "drained\n".to_owned()));
    assert!(worker.exit().await.success());

    assert_eq!(handler.books.calls().len(), 3, "nothing new was started");
    assert_eq!(handler.books.aborted(), 0);
    let info = bed.consumer_info().await;
    assert_eq!((&info["num_ack_pending"], &info["num_pending"]), (&0.into(), &1.into()));

    let _next = bed.ready_worker(&handler.url()).await;
    bed.empty_queue().await;
    assert_eq!(handler.books.calls()[3].attempt(), 1, "the late one was never touched");
}

#[tokio::test]
async fn a_hook_of_a_worker_that_goes_on_waits() {
    let bed = Bed::with(&Group::default()).await;
    let handler = Handler::start(|_| async { ok() }).await;
    let mut worker = bed.ready_worker(&handler.url()).await;
    let hook = worker.ask("/drained");
    bed.publish_many(5).await;
    bed.empty_queue().await;
    assert!(!hook.is_finished(), "it works still");
    worker.terminate();
    assert_eq!(hook.await.expect("an answer").0, 200);
    assert!(worker.exit().await.success());
}

#[tokio::test]
async fn workers_that_come_and_go_run_each_task_exactly_once() {
    // Quick tasks, so that some are on their way to a worker at the moment that it is asked to stop.
    let bed = Bed::with(&Group::default().concurrency(20).max_attempts(1).ack_wait(3)).await;
    let handler = Handler::start(|_| async { ok() }).await;
    bed.publish_many(4000).await;
    let mut worker = bed.ready_worker(&handler.url()).await;
    for some in (400..4000).step_by(400) {
        let next = bed.worker(&handler.url()).await;
        until("some are done", async || handler.books.calls().len() >= some).await;
        worker.terminate();
        assert!(worker.exit().await.success());
        worker = next;
    }
    bed.empty_queue().await;
    // With one attempt each, a task that was requeued, or delivered to nobody, would be dead now.
    assert_eq!(bed.nats.messages(taskgroup::protocol::subject::DEAD_STREAM).await, 0);
    assert_eq!(handler.books.calls().len(), 4000);
    assert!(
        handler.books.peak() <= 20,
        "never more than 20, but {}",
        handler.books.peak()
    );
}

#[tokio::test]
async fn what_can_not_be_finished_in_time_is_requeued() {
    let mut group = Group::default();
    group.settings.timeouts.task = "1s".into();
    let bed = Bed::empty().await;
    bed.create_stream().await;
    bed.create_consumer(&group).await;
    // No stream for the dead letter: the task can neither end nor leave the queue.
    let handler = Handler::start(|_| async { (axum::http::StatusCode::BAD_REQUEST, String::new()) }).await;
    let mut worker = bed.ready_worker(&handler.url()).await;
    bed.publish("a", "").await;
    until("the worker found no stream for dead letters", async || {
        worker.logged("no stream listens to this subject") == 1
    })
    .await;
    worker.terminate();
    assert!(worker.exit().await.success());
    assert_eq!(worker.logged("not finished before this worker has to stop"), 1);
    assert_eq!(bed.nats.messages(bed.stream().as_str()).await, 1);
    // At once, not after ackWait.
    bed.create_dead_letters().await;
    let _next = bed.ready_worker(&handler.url()).await;
    bed.dead_letters(1).await;
}
