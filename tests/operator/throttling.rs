//! A handler's `Retry-After` throttles a group for a while: the status shows it, the operator leaves it alone, and it ends by
//! itself. And what else a group says of its tasks: more run than the limit, some are in back-off, some were dropped.

use crate::bed::Bed;
use futures::StreamExt;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

impl Bed {
    /// Throttles a group as its workers do.
    async fn throttle(&self, queue: &str, time: SignedDuration) -> Timestamp {
        let until = Timestamp::now().checked_add(time).unwrap();
        let pause = json!({"pause_until": until.to_string()});
        let subject = format!("CONSUMER.PAUSE.{}.{}", self.stream(queue), self.consumer());
        let answer = self.nats.api(&subject, pause).await;
        assert_eq!(answer["paused"], true, "{answer}");
        until
    }

    async fn consumer_paused(&self, queue: &str) -> (bool, Value) {
        let consumer = self.nats.consumer(&self.stream(queue)).await.unwrap();
        (
            consumer["paused"].as_bool().unwrap_or(false),
            consumer["config"]["pause_until"].clone(),
        )
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_throttled_group_says_so_stays_ready_and_goes_on_by_itself() {
    let bed = Bed::new().await;
    bed.made("acme", json!({"concurrency": 2})).await;
    bed.pods_become_ready("acme").await;
    bed.until_condition("acme", "Ready", "True").await;
    bed.until_says("acme", "Throttled", "False", "NotThrottled").await;
    let until = bed.throttle("acme", SignedDuration::from_secs(8)).await;
    let message = bed.until_says("acme", "Throttled", "True", "RetryAfter").await;
    let second = until.to_string();
    let shown = message.split("deliveries go on at ").nth(1).unwrap();
    let shown: Timestamp = shown.split(';').next().unwrap().parse().unwrap();
    assert!(
        shown >= until && shown.duration_since(until) < SignedDuration::from_secs(1),
        "{second} as {message}"
    );
    bed.until_says("acme", "Ready", "True", "Throttled").await;
    // Nothing tells that it is over.
    bed.until_says("acme", "Throttled", "False", "NotThrottled").await;
    bed.until_says("acme", "Ready", "True", "Ready").await;
    assert!(!bed.consumer_paused("acme").await.0);
    let events = bed.events("acme").await;
    assert!(!events.iter().any(|event| event.starts_with("Throttled")), "{events:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_is_known_and_over_also_after_a_restart_of_the_operator() {
    let mut bed = Bed::new().await;
    bed.made("acme", json!({"concurrency": 2})).await;
    bed.stop_operator().await;
    let until = bed.throttle("acme", SignedDuration::from_secs(10)).await;
    bed.start_operator();
    bed.until_says("acme", "Throttled", "True", "RetryAfter").await;
    let (paused, pause_until) = bed.consumer_paused("acme").await;
    assert!(paused, "it is left alone");
    assert_eq!(pause_until.as_str().unwrap().parse::<Timestamp>().unwrap(), until);
    bed.until_says("acme", "Throttled", "False", "NotThrottled").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspension_overrides_a_pause_and_its_end_lifts_both() {
    let bed = Bed::new().await;
    bed.made("acme", json!({"concurrency": 2})).await;
    bed.throttle("acme", SignedDuration::from_hours(1)).await;
    bed.until_says("acme", "Throttled", "True", "RetryAfter").await;
    // Another change leaves it throttled.
    bed.patch_spec("acme", json!({"concurrency": 3})).await;
    bed.until_consumer("acme", "max_ack_pending", json!(3)).await;
    assert!(bed.consumer_paused("acme").await.0);

    bed.patch_spec("acme", json!({"suspend": true})).await;
    bed.until_consumer("acme", "pause_until", json!("2262-01-01T00:00:00Z"))
        .await;
    bed.until_condition("acme", "Suspended", "True").await;
    bed.until_says("acme", "Throttled", "False", "NotThrottled").await;
    // A worker that throttles the group now does not end the suspension.
    bed.throttle("acme", SignedDuration::from_secs(1)).await;
    bed.until_consumer("acme", "pause_until", json!("2262-01-01T00:00:00Z"))
        .await;

    bed.patch_spec("acme", json!({"suspend": false})).await;
    bed.until("deliveries go on", || async {
        (!bed.consumer_paused("acme").await.0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hundreds_of_pauses_are_few_writes() {
    let bed = Bed::new().await;
    bed.made("acme", json!({"concurrency": 2})).await;
    let version = |group: taskgroup::api::TaskGroup| group.metadata.resource_version.unwrap();
    let mut last = version(bed.groups().get("acme").await.unwrap());
    let mut writes = 0;
    for number in 0..300 {
        bed.throttle("acme", SignedDuration::from_millis(60_000 + number * 100))
            .await;
        let now = version(bed.groups().get("acme").await.unwrap());
        writes += i32::from(now != last);
        last = now;
    }
    bed.until_says("acme", "Throttled", "True", "RetryAfter").await;
    assert!(writes < 10, "{writes} writes");
}

#[tokio::test(flavor = "multi_thread")]
async fn more_running_tasks_than_a_lowered_limit_are_shown_until_they_are_done() {
    let bed = Bed::new().await;
    bed.made("acme", json!({"concurrency": 4})).await;
    for id in 0..4 {
        bed.nats.publish(&bed.subject("acme", &id.to_string()), "").await;
    }
    let stream = bed.nats.jetstream().await.get_stream(bed.stream("acme")).await.unwrap();
    let consumer: async_nats::jetstream::consumer::PullConsumer = stream.get_consumer(&bed.consumer()).await.unwrap();
    let messages = consumer.fetch().max_messages(4).messages().await.unwrap();
    let running: Vec<_> = messages.map(Result::unwrap).collect().await;
    bed.until("four run", || async {
        (bed.status("acme").await.in_flight == Some(4)).then_some(())
    })
    .await;
    bed.until_says("acme", "OverLimit", "False", "WithinLimit").await;
    bed.patch_spec("acme", json!({"concurrency": 1})).await;
    let message = bed.until_says("acme", "OverLimit", "True", "LimitLowered").await;
    assert!(
        message.contains("4 tasks run, because the limit was lowered to 1"),
        "{message}"
    );
    for task in running {
        task.double_ack().await.unwrap();
    }
    bed.until_says("acme", "OverLimit", "False", "WithinLimit").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_in_back_off_are_counted() {
    let bed = Bed::new().await;
    bed.made("acme", json!({"concurrency": 1})).await;
    bed.made("other", json!({"concurrency": 1, "storage": {"maxTasks": 1}}))
        .await;
    bed.until("the relay's consumer", || bed.nats.relay()).await;
    for id in ["1", "2", "3"] {
        bed.delay("acme", id, SignedDuration::from_hours(1)).await;
    }
    // One that is due and waits for its full queue.
    bed.nats.publish(&bed.subject("other", "first"), "").await;
    bed.delay("other", "1", SignedDuration::ZERO).await;
    bed.until("all are counted", || async {
        let (one, other) = (bed.status("acme").await, bed.status("other").await);
        let numbers = (one.delayed, one.pending, other.delayed, other.pending);
        (numbers == (Some(3), Some(0), Some(1), Some(1))).then_some(())
    })
    .await;
    let purge = json!({"filter": format!("delay.{}.acme.>", bed.namespace)});
    bed.nats.api("STREAM.PURGE.TASKGROUP_DELAY", purge).await;
    bed.until("they are gone", || async {
        (bed.status("acme").await.delayed == Some(0)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dropped_tasks_are_told_and_cancelled_ones_are_not() {
    let bed = Bed::new().await;
    for (name, keeps) in [("drops", false), ("keeps", true)] {
        bed.made(name, json!({"concurrency": 10, "deadLetter": {"enabled": keeps}}))
            .await;
        let stream = bed.nats.jetstream().await.get_stream(bed.stream(name)).await.unwrap();
        let consumer: async_nats::jetstream::consumer::PullConsumer =
            stream.get_consumer(&bed.consumer()).await.unwrap();
        for reason in ["Cancelled", "MaxAttempts"] {
            bed.nats.publish(&bed.subject(name, reason), "").await;
            let mut tasks = consumer.batch().max_messages(1).messages().await.unwrap();
            let task = tasks.next().await.unwrap().unwrap();
            let client = bed.nats.client().await;
            let term = format!("+TERM {reason}");
            client.request(task.reply.clone().unwrap(), term.into()).await.unwrap();
        }
        // A task that is removed while it is in flight.
        bed.nats.publish(&bed.subject(name, "removed"), "").await;
        let mut tasks = consumer.batch().max_messages(1).messages().await.unwrap();
        let task = tasks.next().await.unwrap().unwrap();
        stream
            .delete_message(task.info().unwrap().stream_sequence)
            .await
            .unwrap();
    }
    let told = bed
        .until("an Event", || async {
            let events = bed.events("drops").await;
            events.into_iter().find(|event| event.starts_with("TaskDropped"))
        })
        .await;
    assert_eq!(
        told,
        "TaskDropped: 1 task was dropped (MaxAttempts); to keep such tasks, set spec.deadLetter.enabled to true"
    );
    assert_eq!(bed.metric("taskgroup_operator_dropped_tasks_total"), 1);
    let events = bed.events("keeps").await;
    assert!(
        !events.iter().any(|event| event.starts_with("TaskDropped")),
        "{events:?}"
    );
}
