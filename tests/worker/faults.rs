//! Workers, handlers and brokers that die in the middle.

use crate::{
    bed::{Bed, Group, until},
    handler::{Handler, Hold, held, ok, two_held},
    numbers,
    support::proxy::Proxy,
};
use std::{collections::BTreeSet, sync::Arc, time::Duration};

#[tokio::test]
async fn the_tasks_of_a_killed_worker_run_again_on_another_and_none_is_lost() {
    let bed = Bed::with(&Group::default().concurrency(3).ack_wait(2)).await;
    let hold = Hold::new();
    let (doomed, other) = (held(&hold).await, held(&hold).await);
    let mut killed = bed.ready_worker(&doomed.url()).await;
    bed.publish_many(20).await;
    until("three run", async || doomed.books.running() == 3).await;
    killed.kill();
    until("they are cut off", async || doomed.books.running() == 0).await;

    let _worker = bed.ready_worker(&other.url()).await;
    hold.release(100);
    bed.empty_queue().await;
    assert_eq!(other.books.tasks().into_iter().collect::<BTreeSet<_>>(), numbers(20));
    let again: BTreeSet<_> = other
        .books
        .calls()
        .iter()
        .filter(|call| call.attempt() == 2)
        .map(|call| call.task().to_owned())
        .collect();
    assert_eq!(
        again,
        doomed.books.tasks().into_iter().collect(),
        "only what ran ran again"
    );
    assert!(other.books.peak() <= 3);
}

#[tokio::test]
async fn a_task_that_kills_its_workers_ends_as_a_dead_letter_without_another_run() {
    let bed = Bed::with(&Group::default().ack_wait(2).max_attempts(1)).await;
    let handler = held(&Hold::new()).await;
    let mut worker = bed.ready_worker(&handler.url()).await;
    bed.publish("deadly", "boom").await;
    until("it runs", async || handler.books.running() == 1).await;
    worker.kill();

    let _worker = bed.ready_worker(&handler.url()).await;
    let dead = bed.dead_letters(1).await;
    bed.empty_queue().await;
    assert_eq!(dead[0].headers["x-dead-reason"], "WorkerLost");
    assert_eq!(dead[0].headers["x-dead-attempts"], "1");
    assert_eq!(dead[0].payload, "boom");
    assert_eq!(handler.books.calls().len(), 1);
}

#[tokio::test]
async fn a_handler_that_goes_away_costs_the_waiting_tasks_no_attempt() {
    let bed = Bed::with_relay(&Group::default().concurrency(2)).await;
    let hold = Hold::new();
    let handler = held(&hold).await;
    let url = handler.url();
    let addr = url
        .trim_start_matches("http://")
        .trim_end_matches('/')
        .parse()
        .expect("an address");
    let worker = bed.ready_worker(&url).await;
    bed.publish_many(2).await;
    until("two run", async || handler.books.running() == 2).await;
    drop(handler);
    bed.publish("two-are-gone", "").await;
    // What ran is answered by the server's end, and its next attempt meets no server.
    hold.release(2);
    worker.not_ready("the handler on 127.0.0.1").await;
    for id in 10..40 {
        bed.publish(&id.to_string(), "").await;
    }
    let back = Handler::start_on(addr, Arc::default(), |_| async { ok() }).await;
    worker.ready().await;
    bed.empty_queue().await;
    assert_eq!(bed.nats.messages(taskgroup::protocol::subject::DEAD_STREAM).await, 0);
    for call in back.books.calls() {
        if call.task().parse::<u32>().is_ok_and(|id| id >= 10) {
            assert_eq!(
                call.attempt(),
                1,
                "task {} came while the handler was away",
                call.task()
            );
        }
    }
}

#[tokio::test]
async fn a_worker_that_loses_nats_cuts_its_tasks_off_and_they_run_again() {
    let bed = Bed::with(&Group::default().concurrency(2).ack_wait(3)).await;
    let hold = Hold::new();
    let handler = held(&hold).await;
    let worker = bed.ready_worker(&handler.url()).await;
    bed.publish_many(5).await;
    until("two run", async || handler.books.running() == 2).await;
    bed.nats.stop();
    worker.not_ready("no connection to NATS").await;
    until("both are cut off", async || handler.books.aborted() == 2).await;
    assert_eq!(worker.metric("taskgroup_worker_leases_lost_total").await, 2.0);

    bed.nats.resume().await;
    bed.connected().await;
    hold.release(100);
    bed.empty_queue().await;
    assert_eq!(handler.books.tasks().into_iter().collect::<BTreeSet<_>>(), numbers(5));
    assert_eq!(handler.books.calls().len(), 7, "the two that were cut off ran twice");
    assert_eq!(handler.books.peak(), 2);
}

/// 400 tasks on two workers while NATS goes down and comes back three times.
async fn run_through_restarts(bed: &Bed, restart: impl AsyncFn()) -> Handler {
    let handler = Handler::start(|_| async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        ok()
    })
    .await;
    let _workers = (
        bed.ready_worker(&handler.url()).await,
        bed.ready_worker(&handler.url()).await,
    );
    bed.publish_many(400).await;
    for some in [50, 150, 250] {
        until("some are done", async || handler.books.calls().len() >= some).await;
        restart().await;
    }
    bed.connected().await;
    bed.empty_queue().await;
    assert_eq!(handler.books.tasks().into_iter().collect::<BTreeSet<_>>(), numbers(400));
    handler
}

#[tokio::test]
async fn a_restart_of_nats_in_the_middle_loses_nothing_and_keeps_the_limit() {
    let bed = Bed::with(&Group::default().concurrency(8)).await;
    let handler = run_through_restarts(&bed, async || bed.restart_nats().await).await;
    assert_eq!(handler.books.peak(), 8);
}

#[tokio::test]
async fn a_crash_of_nats_in_the_middle_loses_nothing_and_keeps_the_limit() {
    let bed = Bed::with(&Group::default().concurrency(8)).await;
    // A single server that crashes forgets the deliveries of its last moments, and makes them again.
    let handler = run_through_restarts(&bed, async || bed.nats.restart().await).await;
    assert!(
        handler.books.peak() <= 8,
        "never more than 8, but {}",
        handler.books.peak()
    );
}

#[tokio::test]
async fn what_nats_forgot_to_have_delivered_is_cut_off_before_another_worker_gets_it() {
    let mut group = Group::default().concurrency(4);
    group.settings.max_inflight = 3;
    let bed = Bed::with(&group).await;
    let hold = Hold::new();
    let (joint, near, far) = two_held(&hold).await;
    let proxy = Proxy::start(&bed.nats.url()).await;
    let slow = bed.ready_worker_behind(&proxy, &far.url()).await;
    bed.publish_many(3).await;
    until("one is full", async || far.books.running() == 3).await;
    let quick = bed.ready_worker(&near.url()).await;
    bed.publish("3", "").await;
    until("the other has the fourth", async || near.books.running() == 1).await;

    bed.nats.stop();
    // What a server that crashes may have lost: here, all of it.
    let state = "store-0/jetstream/$G/streams/tg_crawl_acme/obs/workers-crawl/o.dat";
    std::fs::remove_file(bed.nats.dir().join(state)).expect("the consumer's state");
    proxy.cut();
    bed.nats.resume().await;
    until("one worker is back before the other", async || {
        quick.logged("ready: asking for tasks") == 2
    })
    .await;
    proxy.restore();
    for worker in [&quick, &slow] {
        until("it looked", async || {
            worker.logged("forgot to have delivered are cut off") == 1
        })
        .await;
    }
    until("all run again", async || joint.running() == 4).await;
    hold.release(100);
    bed.empty_queue().await;
    assert_eq!(joint.peak(), 4);
    assert_eq!(joint.tasks().into_iter().collect::<BTreeSet<_>>(), numbers(4));
}

#[tokio::test]
async fn what_was_delivered_a_second_time_is_not_given_to_another_worker_when_nats_is_restarted() {
    let bed = Bed::with(&Group::default().concurrency(1).ack_wait(6)).await;
    let hold = Hold::new();
    let (joint, one, other) = two_held(&hold).await;
    bed.publish("0", "").await;
    // By somebody who then dies.
    let _lost = bed.deliver_by_hand().await;
    let _workers = (bed.ready_worker(&one.url()).await, bed.ready_worker(&other.url()).await);
    until("it runs", async || joint.running() == 1).await;
    bed.restart_nats().await;
    until("the other asks for tasks", async || {
        bed.consumer_info().await["num_waiting"] == 1 || joint.calls().len() > 1
    })
    .await;
    hold.release(2);
    bed.empty_queue().await;
    assert_eq!(joint.calls().len(), 1);
}

#[tokio::test]
async fn what_workers_left_behind_that_died_keeps_to_a_limit_that_was_lowered_meanwhile() {
    let group = Group::default().concurrency(3).ack_wait(2);
    let bed = Bed::with_relay(&group).await;
    bed.publish_many(3).await;
    for _ in 0..3 {
        let _lost = bed.deliver_by_hand().await;
    }
    // The broker's own limit does not hold for what it delivers again.
    bed.change(&group.concurrency(1)).await;
    let hold = Hold::new();
    let (joint, one, other) = two_held(&hold).await;
    let _workers = (bed.ready_worker(&one.url()).await, bed.ready_worker(&other.url()).await);
    for done in 1..=3 {
        until("the next runs", async || joint.calls().len() >= done).await;
        hold.release(1);
    }
    bed.empty_queue().await;
    assert_eq!((joint.peak(), joint.calls().len()), (1, 3));
}

#[tokio::test]
async fn a_consumer_that_is_deleted_and_made_again_is_pulled_from_again() {
    let group = Group::default();
    let bed = Bed::with(&group).await;
    let handler = Handler::start(|_| async { ok() }).await;
    let worker = bed.ready_worker(&handler.url()).await;
    bed.nats
        .api("CONSUMER.DELETE.tg_crawl_acme.workers-crawl", serde_json::json!({}))
        .await;
    worker
        .not_ready("NATS has no stream tg_crawl_acme with a consumer workers-crawl")
        .await;
    bed.create_consumer(&group).await;
    worker.ready().await;
    bed.publish_many(10).await;
    bed.empty_queue().await;
    assert_eq!(handler.books.calls().len(), 10);
    // The reason is said once, not with every try.
    assert_eq!(worker.logged("not asking for tasks: NATS has no stream"), 1);
}

#[tokio::test]
async fn a_task_that_the_broker_forgot_to_have_delivered_is_not_run_again() {
    // With 1, it may come again after it is done; with 3, it does while it runs.
    for concurrency in [1, 3] {
        let group = Group::default().concurrency(concurrency);
        let bed = Bed::with(&group).await;
        let hold = Hold::new();
        let handler = held(&hold).await;
        let worker = bed.ready_worker(&handler.url()).await;
        bed.publish("0", "").await;
        until("it runs", async || handler.books.running() == 1).await;
        // The new consumer knows of no delivery, and answers no ack for one.
        bed.nats
            .api("CONSUMER.DELETE.tg_crawl_acme.workers-crawl", serde_json::json!({}))
            .await;
        bed.create_consumer(&group).await;
        if concurrency > 1 {
            until("it comes again", async || worker.logged("not run again") == 1).await;
        }
        hold.release(1);
        bed.empty_queue().await;
        assert_eq!(handler.books.calls().len(), 1, "concurrency {concurrency}");
    }
}

#[tokio::test]
async fn a_nats_that_lost_everything_is_worked_with_again_once_it_is_filled() {
    let group = Group::default();
    let bed = Bed::with(&group).await;
    let handler = Handler::start(|_| async { ok() }).await;
    let worker = bed.ready_worker(&handler.url()).await;
    bed.nats.wipe().await;
    bed.connected().await;
    worker.not_ready("NATS has no stream tg_crawl_acme").await;
    bed.create_stream().await;
    bed.create_consumer(&group).await;
    worker.ready().await;
    bed.publish_many(10).await;
    bed.empty_queue().await;
    assert_eq!(handler.books.calls().len(), 10);
}
