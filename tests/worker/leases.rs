//! Workers that stand still or are cut off: their tasks go to others, and only when they run no more.

use crate::{
    bed::{Bed, Group, until},
    handler::{Books, Handler, Hold, held, held_with, ok, two_held},
    numbers,
    support::proxy::Proxy,
};
use axum::http::StatusCode;
use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};
use taskgroup::protocol::subject::DEAD_STREAM;

const LOST: &str = "taskgroup_worker_leases_lost_total";

#[tokio::test]
async fn a_worker_that_stood_still_says_nothing_about_a_task_that_another_runs_by_then() {
    let bed = Bed::with(&Group::default().concurrency(1).ack_wait(2)).await;
    let joint: Arc<Books> = Arc::default();
    let (early, late) = (Hold::new(), Hold::new());
    let frozen_handler = held(&early).await;
    let other_handler = held_with(&late, joint.clone()).await;
    let frozen = bed.ready_worker(&frozen_handler.url()).await;
    bed.publish("0", "").await;
    until("it runs", async || frozen_handler.books.running() == 1).await;
    frozen.freeze();
    // The answer waits in the frozen worker's socket.
    early.release(1);
    until("it is answered", async || frozen_handler.books.running() == 0).await;

    let _other = bed.ready_worker(&other_handler.url()).await;
    until("the other runs it", async || joint.running() == 1).await;
    bed.publish("1", "").await;
    frozen.thaw();
    until("it finds its lease lost", async || frozen.metric(LOST).await == 1.0).await;
    // An ack now would free the slot of the task that the other worker runs.
    let info = bed.consumer_info().await;
    assert_eq!((&info["num_ack_pending"], &info["num_pending"]), (&1.into(), &1.into()));
    early.release(10);
    late.release(10);
    bed.empty_queue().await;
    assert_eq!(joint.peak(), 1);
}

#[tokio::test]
async fn a_task_that_came_to_a_worker_that_stood_still_is_not_started_when_it_goes_on() {
    let bed = Bed::with(&Group::default().concurrency(1).ack_wait(2)).await;
    let hold = Hold::new();
    let (sleeper, other) = (held(&hold).await, held(&hold).await);
    let frozen = bed.ready_worker(&sleeper.url()).await;
    until("it waits for tasks", async || {
        bed.consumer_info().await["num_waiting"] == 1
    })
    .await;
    frozen.freeze();
    bed.publish("0", "").await;
    until("it is delivered to it", async || {
        bed.consumer_info().await["num_ack_pending"] == 1
    })
    .await;
    let _other = bed.ready_worker(&other.url()).await;
    until("the other runs it", async || other.books.running() == 1).await;
    frozen.thaw();
    until("it finds its lease lost", async || frozen.metric(LOST).await == 1.0).await;
    hold.release(10);
    bed.empty_queue().await;
    assert_eq!(
        sleeper.books.calls().len(),
        0,
        "its time was over before it could start"
    );
    assert_eq!(other.books.calls().len(), 1);
}

#[tokio::test]
async fn a_worker_that_is_cut_off_from_nats_runs_nothing_that_another_runs() {
    let bed = Bed::with(&Group::default().concurrency(3).ack_wait(2)).await;
    let hold = Hold::new();
    let (joint, near, far) = two_held(&hold).await;
    let proxy = Proxy::start(&bed.nats.url()).await;
    let cut_off = bed.ready_worker_behind(&proxy, &far.url()).await;
    bed.publish_many(12).await;
    until("three run", async || far.books.running() == 3).await;
    let _other = bed.ready_worker(&near.url()).await;
    proxy.cut();
    until("they run on the other", async || near.books.running() == 3).await;
    assert_eq!(far.books.aborted(), 3, "they were aborted before");
    proxy.restore();
    cut_off.ready().await;
    hold.release(100);
    bed.empty_queue().await;
    assert_eq!(joint.peak(), 3);
    assert_eq!(joint.tasks().into_iter().collect::<BTreeSet<_>>(), numbers(12));
    assert_eq!(joint.calls().len(), 15, "only what was aborted ran twice");
}

#[tokio::test]
async fn a_connection_that_is_silent_is_as_good_as_none() {
    let bed = Bed::with(&Group::default().concurrency(1).ack_wait(2)).await;
    let hold = Hold::new();
    let (joint, near, far) = two_held(&hold).await;
    let proxy = Proxy::start(&bed.nats.url()).await;
    let silent = bed.ready_worker_behind(&proxy, &far.url()).await;
    bed.publish_many(3).await;
    until("one runs", async || far.books.running() == 1).await;
    let _other = bed.ready_worker(&near.url()).await;
    proxy.freeze();
    until("it runs on the other", async || near.books.running() == 1).await;
    proxy.thaw();
    until("its lease is lost", async || silent.metric(LOST).await >= 1.0).await;
    hold.release(100);
    bed.empty_queue().await;
    assert_eq!(joint.peak(), 1);
}

#[tokio::test]
async fn a_transfer_that_arrives_when_another_worker_has_the_task_is_void() {
    // To the delays, and to the dead letters.
    for status in [StatusCode::INTERNAL_SERVER_ERROR, StatusCode::UNPROCESSABLE_ENTITY] {
        fails_into_a_silence(status).await;
    }
}

async fn fails_into_a_silence(status: StatusCode) {
    let mut group = Group::default().concurrency(1).ack_wait(2);
    group.settings.retry.initial_delay = "1h".into();
    group.settings.retry.max_delay = "1h".into();
    let bed = Bed::with(&group).await;
    let proxy = Arc::new(Proxy::start(&bed.nats.url()).await);
    let far = {
        let proxy = proxy.clone();
        Handler::start(move |_| {
            // From here on nothing reaches NATS, but it is on its way: also where the task goes on.
            proxy.freeze();
            async move { (status, String::new()) }
        })
        .await
    };
    let hold = Hold::new();
    let near = held(&hold).await;
    let silent = bed.ready_worker_behind(&proxy, &far.url()).await;
    bed.publish("1", "").await;
    until("it ran", async || far.books.calls().len() == 1).await;
    let _other = bed.ready_worker(&near.url()).await;
    until("it runs on the other", async || near.books.running() == 1).await;
    until("its lease is lost", async || silent.metric(LOST).await >= 1.0).await;
    proxy.thaw();
    bed.hear_of(2).await;
    hold.release(1);
    bed.empty_queue().await;
    let dead = bed.nats.messages(DEAD_STREAM).await;
    let calls = (far.books.calls().len(), near.books.calls().len());
    assert_eq!((calls, dead), ((1, 1), 0), "{status}");
}

#[tokio::test]
async fn a_done_task_whose_ack_was_lost_with_the_connection_is_acked_again_and_not_run_again() {
    let bed = Bed::with(&Group::default().concurrency(4).ack_wait(10)).await;
    let silent = Arc::new(AtomicBool::new(false));
    let hold = Hold::new();
    let proxy = Arc::new(Proxy::start(&bed.nats.url()).await);
    let handler = {
        let (silent, proxy, hold) = (silent.clone(), proxy.clone(), hold.clone());
        Handler::start(move |_| {
            let (silent, proxy, hold) = (silent.clone(), proxy.clone(), hold.clone());
            async move {
                hold.wait().await;
                if !silent.swap(true, SeqCst) {
                    // From here on no ack reaches NATS.
                    proxy.freeze();
                }
                ok()
            }
        })
        .await
    };
    let worker = bed.ready_worker_behind(&proxy, &handler.url()).await;
    bed.publish_many(4).await;
    until("all run", async || handler.books.running() == 4).await;
    hold.release(4);
    until("all are done", async || {
        worker.metric(r#"taskgroup_worker_tasks_total{outcome="done"}"#).await == 4.0
    })
    .await;
    proxy.cut();
    proxy.restore();
    bed.empty_queue().await;
    assert_eq!(handler.books.calls().len(), 4, "each ran once");
}

#[tokio::test]
async fn a_task_that_comes_late_through_a_silent_connection_is_not_run_beside_its_next_delivery() {
    let bed = Bed::with(&Group::default().concurrency(1).ack_wait(2)).await;
    let hold = Hold::new();
    let (near, far) = (held(&hold).await, held(&hold).await);
    let proxy = Proxy::start(&bed.nats.url()).await;
    let silent = bed.ready_worker_behind(&proxy, &far.url()).await;
    until("it asks for tasks", async || {
        bed.consumer_info().await["num_waiting"] == 1
    })
    .await;
    proxy.freeze();
    bed.publish_many(1).await;
    until("it is delivered into the silence", async || {
        bed.consumer_info().await["num_ack_pending"] == 1
    })
    .await;
    let _other = bed.ready_worker(&near.url()).await;
    until("it runs on the other", async || near.books.running() == 1).await;
    proxy.thaw();
    until("it asks again", async || bed.consumer_info().await["num_waiting"] == 1).await;
    bed.publish("after", "").await;
    hold.release(1);
    until("the next one runs", async || {
        near.books.running() + far.books.running() == 1
    })
    .await;
    hold.release(100);
    bed.empty_queue().await;
    silent.ready().await;
    let first = |books: &Books| books.calls().iter().filter(|call| call.task() == "0").count();
    assert_eq!((first(&near.books), first(&far.books)), (1, 0));
}

#[tokio::test]
async fn a_done_task_is_not_acked_any_more_when_another_worker_runs_it_by_then() {
    let bed = Bed::with(&Group::default().concurrency(1).ack_wait(2)).await;
    let (hold, noticed) = (Hold::new(), Hold::new());
    let proxy = Arc::new(Proxy::start(&bed.nats.url()).await);
    let far = {
        let (proxy, noticed, cut) = (proxy.clone(), noticed.clone(), std::sync::Mutex::new(false));
        Handler::start(move |_| {
            let noticed = noticed.clone();
            if !std::mem::replace(&mut *cut.lock().expect("a flag"), true) {
                // No ack of what is done now reaches NATS.
                proxy.cut();
            }
            async move {
                noticed.wait().await;
                ok()
            }
        })
        .await
    };
    let near = held(&hold).await;
    let cut_off = bed.ready_worker_behind(&proxy, &far.url()).await;
    bed.publish("0", "").await;
    until("it runs", async || far.books.running() == 1).await;
    until("it is cut off", async || {
        cut_off.logged("the connection to NATS is down") == 1
    })
    .await;
    noticed.release(1);
    until("it is done", async || {
        cut_off.metric(r#"taskgroup_worker_tasks_total{outcome="done"}"#).await == 1.0
    })
    .await;
    let _other = bed.ready_worker(&near.url()).await;
    until("it runs on the other", async || near.books.running() == 1).await;
    bed.publish("1", "").await;
    proxy.restore();
    cut_off.ready().await;
    until("it gave its ack up", async || {
        cut_off.metric("taskgroup_worker_acks_unconfirmed_total").await == 1.0
    })
    .await;
    let queued = bed.nats.messages(bed.stream().as_str()).await;
    assert_eq!((queued, near.books.running() + far.books.running()), (2, 1));
    hold.release(100);
    noticed.release(100);
    bed.empty_queue().await;
    assert_eq!(near.books.tasks()[0], "0");
}
