//! Rate limits, over all workers of a group.
//!
//! A start lies between the moment that the worker says (it writes the attempt's deadline into the request
//! just before it sends it) and the request's arrival here. Only what lies in a window for certain is counted in it:
//! the handler being slow can't look like a limit exceeded.

use crate::{
    bed::{Bed, Group, until},
    handler::{Call, Hold, held, one_waits, quick},
    numbers,
};
use jiff::Timestamp;
use std::{collections::BTreeSet, time::Duration};
use taskgroup::{api::RateLimit, protocol::subject::RATE_STREAM};

/// The moments between which a task started, in nanoseconds.
struct Start {
    said: i128,
    arrived: i128,
}

/// The starts in the order in which the workers say that they happened.
fn starts(calls: &[Call]) -> Vec<Start> {
    let timeout = Group::default().settings.timeouts.task.checked();
    let mut starts: Vec<Start> = calls
        .iter()
        .map(|call| {
            let deadline: Timestamp = call.header("X-Deadline").parse().expect("RFC 3339");
            Start {
                said: (deadline - timeout).as_nanosecond(),
                arrived: call.arrived.as_nanosecond(),
            }
        })
        .collect();
    starts.sort_by_key(|start| start.said);
    starts
}

/// Checks the rate in every window of `per`, and of 3 and 10 times `per`.
fn assert_kept(rate: &RateLimit, starts: &[Start]) {
    let per = i128::try_from(rate.per.checked().as_nanos()).expect("a day at most");
    for times in [1, 3, 10] {
        let (most, window) = (rate.tasks * times + rate.burst, per * i128::from(times));
        for (number, first) in starts.iter().enumerate() {
            let until = first.said + window;
            let within = starts[number..]
                .iter()
                .take_while(|start| start.said <= until)
                .filter(|start| start.arrived <= until)
                .count();
            assert!(
                i64::try_from(within).expect("small") <= most,
                "{within} starts within {times} times per, from start {number} on, and {rate:?} allows {most}"
            );
        }
    }
}

/// Which share of the rate was used, from the first start to the last.
#[allow(clippy::cast_precision_loss, reason = "a ratio")]
fn utilisation(rate: &RateLimit, starts: &[Start]) -> f64 {
    let span = starts[starts.len() - 1].said - starts[0].said;
    let possible = span as f64 * rate.tasks as f64 / rate.per.checked().as_nanos() as f64;
    let used = (starts.len() - 1) as f64 / possible;
    eprintln!("{:.2} % of {rate:?} were used", used * 100.0);
    used
}

fn rate_of(group: &Group) -> &RateLimit {
    group.settings.rate_limit.as_ref().expect("a rate")
}

/// Runs `count` tasks on so many workers.
async fn run(group: &Group, workers: usize, count: usize) -> Vec<Start> {
    let bed = Bed::with(group).await;
    let handler = quick().await;
    bed.publish_many(count).await;
    let mut running = Vec::new();
    for _ in 0..workers {
        running.push(bed.worker(&handler.url()).await);
    }
    bed.empty_queue().await;
    let calls = handler.books.calls();
    assert_eq!(calls.len(), count, "each task once");
    for worker in &running {
        let (reserved, refused, missed) = (
            worker.metric("taskgroup_worker_rate_reservations_total").await,
            worker.metric("taskgroup_worker_rate_conflicts_total").await,
            worker.metric("taskgroup_worker_rate_missed_total").await,
        );
        eprintln!("{reserved} reservations, {refused} refused, {missed} starts missed");
    }
    starts(&calls)
}

#[tokio::test]
async fn the_rate_holds_over_workers_that_are_killed_and_started() {
    let group = Group::default().concurrency(8).ack_wait(2).rate(20, 1000, 1);
    let bed = Bed::with(&group).await;
    let handler = quick().await;
    let mut killed = bed.ready_worker(&handler.url()).await;
    let _workers = (
        bed.ready_worker(&handler.url()).await,
        bed.ready_worker(&handler.url()).await,
    );
    bed.publish_many(200).await;
    until("some are done", async || handler.books.calls().len() >= 60).await;
    killed.kill();
    until("more are done", async || handler.books.calls().len() >= 100).await;
    let _another = bed.ready_worker(&handler.url()).await;
    bed.empty_queue().await;

    assert_eq!(handler.books.tasks().into_iter().collect::<BTreeSet<_>>(), numbers(200));
    let starts = starts(&handler.books.calls());
    assert_kept(rate_of(&group), &starts);
    // Half a percent, the start that the killed one had reserved, and a moment that the machine was busy.
    assert!(utilisation(rate_of(&group), &starts) > 0.95);
}

#[tokio::test]
async fn a_slow_rate_holds_over_two_workers() {
    let group = Group::default().rate(1, 2000, 1);
    let starts = run(&group, 2, 6).await;
    assert_kept(rate_of(&group), &starts);
    assert!(utilisation(rate_of(&group), &starts) > 0.98);
}

#[tokio::test]
async fn what_was_saved_up_starts_at_once_and_no_more() {
    let group = Group::default().concurrency(40).rate(1, 1000, 10);
    let bed = Bed::with(&group).await;
    let handler = quick().await;
    let _worker = bed.ready_worker(&handler.url()).await;
    bed.publish_many(10).await;
    bed.empty_queue().await;
    // Not a wait for anything: nothing happens, which is what saves up starts, more than ten if it could.
    tokio::time::sleep(Duration::from_secs(12)).await;
    for id in 10..24 {
        bed.publish(&id.to_string(), "").await;
    }
    bed.empty_queue().await;

    let starts = starts(&handler.books.calls());
    assert_eq!(starts.len(), 24);
    assert_kept(rate_of(&group), &starts);
    // Without anything saved up, ten starts take nine seconds.
    for (first, last) in [(0, 9), (10, 19)] {
        let span = starts[last].said - starts[first].said;
        assert!(span < 5_000_000_000, "starts {first} to {last} took {span} ns");
    }
    let span = starts[23].said - starts[19].said;
    assert!(span > 3_900_000_000, "four more, one by one: {span} ns");
}

/// Why so little is asked of these: what they show is that the rate is never exceeded. That it is used, slower
/// rates show here, and the simulation for all.
const UNOPTIMISED: &str = "a tenth of what an optimised worker reaches on a machine of its own";

/// 11 seconds of 1000 starts per second.
async fn a_thousand_per_second(workers: u32, burst: i64) -> (RateLimit, Vec<Start>) {
    let mut group = Group::default().concurrency(400).rate(1000, 1000, burst);
    group.settings.max_inflight = 400 / workers;
    let starts = run(&group, workers as usize, 11_000).await;
    assert_kept(rate_of(&group), &starts);
    (rate_of(&group).clone(), starts)
}

#[tokio::test]
async fn a_thousand_per_second_start_on_one_worker() {
    let (rate, starts) = a_thousand_per_second(1, 200).await;
    assert!(utilisation(&rate, &starts[200..]) > 0.2, "{UNOPTIMISED}");
}

#[tokio::test]
async fn a_thousand_per_second_start_on_two_workers() {
    let (rate, starts) = a_thousand_per_second(2, 200).await;
    assert!(utilisation(&rate, &starts[200..]) > 0.2, "{UNOPTIMISED}");
}

#[tokio::test]
async fn a_thousand_per_second_start_without_a_burst() {
    // Here whatever starts 6 ms late is lost.
    let (rate, starts) = a_thousand_per_second(2, 1).await;
    assert!(utilisation(&rate, &starts) > 0.1, "{UNOPTIMISED}");
}

#[tokio::test]
async fn a_faster_rate_holds_for_the_tasks_that_wait_already() {
    let group = Group::default().concurrency(50).rate(1, 60_000, 1);
    let (bed, handler, worker) = one_waits(&group, 300).await;
    assert_eq!(
        worker.metric("taskgroup_worker_in_flight").await,
        1.0,
        "one is in flight and waits, no more"
    );
    let group = group.rate(500, 1000, 1);
    bed.change(&group).await;
    bed.empty_queue().await;
    assert_kept(rate_of(&group), &starts(&handler.books.calls())[1..]);
}

#[tokio::test]
async fn a_slower_rate_holds_for_the_tasks_that_wait_already() {
    let group = Group::default().concurrency(100).rate(500, 1000, 1);
    let bed = Bed::with(&group).await;
    let handler = quick().await;
    let worker = bed.ready_worker(&handler.url()).await;
    bed.publish_many(1000).await;
    until("some are done", async || handler.books.calls().len() > 100).await;
    bed.change(&group.clone().rate(1, 3_600_000, 1)).await;
    until("the worker knows", async || {
        worker.logged("the group's settings changed") == 1
    })
    .await;
    let so_far = handler.books.calls().len();
    // What was under way, and one by the new rate.
    let more = || handler.books.calls().len() - so_far;
    until("no more tasks are running", async || {
        worker.metric("taskgroup_worker_in_flight").await <= 10.0
    })
    .await;
    bed.change(&group.rate(1, 3_600_000, 2)).await;
    until("the worker knows that, too", async || {
        worker.logged("the group's settings changed") == 2
    })
    .await;
    assert!(more() <= 11, "{} more started", more());
}

#[tokio::test]
async fn tasks_that_wait_start_when_the_rate_is_removed() {
    let mut group = Group::default().concurrency(10).rate(1, 60_000, 1);
    let (bed, handler, _worker) = one_waits(&group, 50).await;
    group.settings.rate_limit = None;
    bed.change(&group).await;
    bed.empty_queue().await;
    assert_eq!(handler.books.calls().len(), 50);
}

#[tokio::test]
async fn the_rate_holds_while_nats_restarts() {
    let group = Group::default().concurrency(8).ack_wait(4).rate(20, 1000, 1);
    let bed = Bed::with(&group).await;
    let handler = quick().await;
    let _workers = (
        bed.ready_worker(&handler.url()).await,
        bed.ready_worker(&handler.url()).await,
    );
    bed.publish_many(150).await;
    until("some are done", async || handler.books.calls().len() >= 40).await;
    bed.restart_nats().await;
    until("more are done", async || handler.books.calls().len() >= 90).await;
    bed.nats.restart().await;
    bed.connected().await;
    bed.empty_queue().await;
    assert_eq!(handler.books.tasks().into_iter().collect::<BTreeSet<_>>(), numbers(150));
    assert_kept(rate_of(&group), &starts(&handler.books.calls()));
}

#[tokio::test]
async fn nothing_starts_while_the_rate_can_not_be_kept_and_the_log_says_why() {
    let group = Group::default().rate(1000, 1000, 1);
    let bed = Bed::empty().await;
    bed.create_stream().await;
    bed.create_dead_letters().await;
    bed.create_consumer(&group).await;
    let handler = quick().await;
    let worker = bed.ready_worker(&handler.url()).await;
    bed.publish_many(5).await;
    until("it was tried again", async || {
        worker.logged("no start can be reserved; trying again") > 2
    })
    .await;
    assert_eq!(handler.books.calls().len(), 0);
    assert_eq!(
        worker.logged("the stream TASKGROUP_RATE: it does not exist; the operator makes it"),
        worker.logged("trying again\",\"error") + worker.logged("tasks wait, as their starts can't be reserved"),
    );
    assert_eq!(worker.logged("tasks wait, as their starts can't be reserved"), 1);
    bed.create_rates().await;
    bed.empty_queue().await;
    assert_eq!(handler.books.calls().len(), 5);
    assert_eq!(worker.logged("tasks start again"), 1);
}

/// What the workers share, as it is in NATS.
async fn shared(bed: &Bed) -> serde_json::Value {
    let stream = bed
        .nats
        .jetstream()
        .await
        .get_stream(RATE_STREAM)
        .await
        .expect("the stream");
    let subject = bed.queue.of(taskgroup::protocol::Kind::Rate);
    let message = stream
        .get_last_raw_message_by_subject(&subject)
        .await
        .expect("a message");
    serde_json::from_slice(&message.payload).expect("JSON")
}

#[tokio::test]
async fn a_worker_that_ends_leaves_the_start_that_it_had_reserved_to_the_others() {
    let group = Group::default().rate(1, 15_000, 1);
    let (bed, handler, mut worker) = one_waits(&group, 2).await;
    until("a start is reserved", async || {
        worker.metric("taskgroup_worker_rate_reservations_total").await == 2.0
    })
    .await;
    let reserved = shared(&bed).await;
    worker.terminate();
    assert!(worker.exit().await.success());
    let left = shared(&bed).await;
    assert_eq!(
        (&left["next"], left["free"].as_array().map(Vec::len)),
        (&reserved["next"], Some(1))
    );

    let _other = bed.ready_worker(&handler.url()).await;
    bed.empty_queue().await;
    assert_eq!(handler.books.calls().len(), 2);
    let used = shared(&bed).await;
    assert_eq!(used["next"], reserved["next"], "no other start was reserved");
    assert_eq!(used.get("free"), None);
}

#[tokio::test]
async fn a_task_that_waits_for_its_start_keeps_its_lease() {
    let hold = Hold::new();
    let group = Group::default().ack_wait(2).rate(1, 6000, 1);
    let bed = Bed::with(&group).await;
    let handler = held(&hold).await;
    let _worker = bed.ready_worker(&handler.url()).await;
    hold.release(10);
    bed.publish_many(2).await;
    bed.empty_queue().await;
    let attempts: Vec<_> = handler.books.calls().iter().map(Call::attempt).collect();
    assert_eq!(attempts, [1, 1], "six seconds in flight, and ackWait is two");
}
