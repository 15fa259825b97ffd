//! What is due goes back into its queue: each task exactly once, whenever a relay dies, and none is lost.

use crate::{
    bed::{Bed, http_handler},
    support::nats::NatsServer,
};
use async_nats::{HeaderMap, jetstream};
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::json;
use std::collections::BTreeSet;

const DELAY: &str = "TASKGROUP_DELAY";
const ORIGIN: &str = "Taskgroup-Origin";

/// Headers of a task in back-off whose first message was number `number`.
fn history(number: usize) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(ORIGIN, format!("tg_x_acme:{number}:1790230470084404000"));
    headers.insert("Taskgroup-Attempts", "1");
    headers.insert("X-Mine", "kept");
    headers
}

impl Bed {
    fn due(&self, queue: &str, id: &str) -> String {
        format!("due.{}.{queue}.{id}.7", self.namespace)
    }

    /// A task whose back-off is over.
    async fn publish_due(&self, queue: &str, id: &str, number: usize) {
        let jetstream = self.nats.jetstream().await;
        let ack = jetstream.publish_with_headers(self.due(queue, id), history(number), "payload".into());
        ack.await.unwrap().await.unwrap();
    }

    async fn until_nothing_is_due(&self) {
        self.until("nothing is due any more", || async {
            (self.nats.messages(DELAY).await == 0).then_some(())
        })
        .await;
    }

    /// The consumer that all relays share.
    async fn relay_consumer(&self) -> jetstream::consumer::PullConsumer {
        let stream = self.nats.jetstream().await.get_stream(DELAY).await.unwrap();
        stream.get_consumer("relay").await.unwrap()
    }

    /// What a relay gets that dies before it does anything: a delivery, which the next one sees counted.
    async fn take_due(&self) -> jetstream::Message {
        let consumer = self.relay_consumer().await;
        let mut messages = consumer.fetch().max_messages(1).messages().await.unwrap();
        messages.next().await.unwrap().unwrap()
    }

    /// All tasks of a queue by their ids, without taking them out.
    async fn queued(&self, queue: &str) -> Vec<jetstream::message::StreamMessage> {
        let stream = self
            .nats
            .jetstream()
            .await
            .get_stream(self.stream(queue))
            .await
            .unwrap();
        let state = stream.cached_info().state.clone();
        stream::iter(state.first_sequence..=state.last_sequence)
            .then(|sequence| stream.get_raw_message(sequence))
            .filter_map(|message| async { message.ok() })
            .collect()
            .await
    }

    /// A group, its streams, and no operator any more.
    async fn with_a_group_and_no_operator() -> Self {
        let mut bed = Self::new().await;
        bed.made("acme", json!({"concurrency": 2})).await;
        bed.until("the relay's consumer", || bed.nats.relay()).await;
        bed.stop_operator().await;
        bed
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_whose_back_off_is_over_goes_back_with_its_history_and_its_own_headers() {
    let bed = Bed::new().await;
    bed.made("acme", json!({"concurrency": 2})).await;
    let mut headers = history(7);
    let at = jiff::Timestamp::now().checked_add(jiff::SignedDuration::from_secs(1));
    headers.insert("Nats-Schedule", format!("@at {}", at.unwrap()));
    headers.insert("Nats-Schedule-Target", bed.due("acme", "a.b"));
    let jetstream = bed.nats.jetstream().await;
    let subject = format!("delay.{}.acme.a.b.7", bed.namespace);
    let ack = jetstream.publish_with_headers(subject, headers, "payload".into());
    ack.await.unwrap().await.unwrap();

    bed.until("the task is back", || async {
        (bed.nats.messages(&bed.stream("acme")).await == 1).then_some(())
    })
    .await;
    let task = bed.queued("acme").await.pop().unwrap();
    assert_eq!(task.subject.as_str(), bed.requeued("acme", "a.b"));
    assert_eq!(task.payload.as_ref(), b"payload");
    let headers: BTreeSet<_> = task
        .headers
        .iter()
        .map(|(name, values)| format!("{name}: {}", values[0]))
        .collect();
    let expected = [
        "Nats-Msg-Id: requeue:tg_x_acme:7:1790230470084404000",
        "Taskgroup-Attempts: 1",
        "Taskgroup-Origin: tg_x_acme:7:1790230470084404000",
        "X-Mine: kept",
    ];
    assert_eq!(headers, expected.map(ToOwned::to_owned).into());
    bed.until_nothing_is_due().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_died_after_it_stored_the_task_is_followed_by_one_that_only_acknowledges() {
    let mut bed = Bed::with_a_group_and_no_operator().await;
    bed.publish_due("acme", "1", 7).await;
    let taken = bed.take_due().await;
    // Without a message id: what keeps a second copy away is that the first is found.
    let jetstream = bed.nats.jetstream().await;
    let mut headers = HeaderMap::new();
    headers.insert(ORIGIN, "tg_x_acme:7:1790230470084404000");
    let copy = jetstream.publish_with_headers(bed.subject("acme", "1"), headers, "payload".into());
    copy.await.unwrap().await.unwrap();
    taken.ack_with(jetstream::AckKind::Nak(None)).await.unwrap();
    bed.start_operator();
    bed.until_nothing_is_due().await;
    assert_eq!(bed.nats.messages(&bed.stream("acme")).await, 1);
    assert_eq!(metric(&bed, "already_queued"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_died_before_it_stored_the_task_is_followed_by_one_that_does() {
    let mut bed = Bed::with_a_group_and_no_operator().await;
    bed.publish_due("acme", "1", 7).await;
    // Another task of the same id, from before.
    bed.nats.publish(&bed.subject("acme", "1"), "").await;
    let taken = bed.take_due().await;
    taken.ack_with(jetstream::AckKind::Nak(None)).await.unwrap();
    bed.start_operator();
    bed.until_nothing_is_due().await;
    assert_eq!(bed.nats.messages(&bed.stream("acme")).await, 2);
    assert_eq!(metric(&bed, "queued"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_a_worker_finished_meanwhile_is_not_queued_again() {
    let bed = Bed::with_a_group_and_no_operator().await;
    bed.publish_due("acme", "1", 7).await;
    let taken = bed.take_due().await;
    let mut operator = bed.start_binary();
    bed.until("the relay asks for more", || async {
        (bed.nats.relay().await?["num_waiting"] == 1).then_some(())
    })
    .await;
    // The relay is given the task and freezes; the worker has finished it and purges what is due of it.
    operator.signal("STOP");
    taken.ack_with(jetstream::AckKind::Nak(None)).await.unwrap();
    bed.until("the task is delivered once more", || async {
        (bed.nats.relay().await?["delivered"]["consumer_seq"] == 2).then_some(())
    })
    .await;
    let purge = json!({"filter": bed.due("acme", "1")});
    bed.nats.api(&format!("STREAM.PURGE.{DELAY}"), purge).await;
    operator.signal("CONT");
    bed.until("the relay has looked at it", || async {
        bed.admin("/livez")?;
        (metric(&bed, "already_run") >= 1).then_some(())
    })
    .await;
    assert_eq!(bed.nats.messages(&bed.stream("acme")).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_wait_for_a_full_queue_without_holding_up_others_and_none_is_lost() {
    let bed = Bed::new().await;
    bed.made("full", json!({"concurrency": 2, "storage": {"maxTasks": 1}}))
        .await;
    bed.made("acme", json!({"concurrency": 2})).await;
    bed.nats.publish(&bed.subject("full", "first"), "").await;
    // More than the relay has hands.
    for number in 0..300 {
        bed.publish_due("full", &format!("task-{number}"), number).await;
    }
    bed.publish_due("acme", "1", 1000).await;
    bed.until("the other group has its task", || async {
        (bed.nats.messages(&bed.stream("acme")).await == 1).then_some(())
    })
    .await;
    bed.until("the rest waits", || async {
        (metric(&bed, "full") >= 300 && bed.metric("taskgroup_operator_relay_waiting") == 300).then_some(())
    })
    .await;
    assert_eq!(
        bed.nats.count(DELAY, &format!("due.{}.full.>", bed.namespace)).await,
        300
    );

    bed.patch_spec("full", json!({"storage": {"maxTasks": 0}})).await;
    bed.until_nothing_is_due().await;
    let ids: BTreeSet<_> = bed.queued("full").await.into_iter().map(|task| task.subject).collect();
    assert_eq!(ids.len(), 301);
    assert_eq!(bed.nats.messages(&bed.stream("full")).await, 301);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_waits_for_the_stream_of_a_queue_that_a_task_group_has() {
    let bed = Bed::without_operator(NatsServer::start().await).await;
    let mut bed = bed;
    bed.make_handler("default", http_handler()).await;
    let foreign = json!({"name": bed.stream("acme"), "subjects": ["elsewhere"], "retention": "workqueue"});
    bed.nats
        .api(&format!("STREAM.CREATE.{}", bed.stream("acme")), foreign)
        .await;
    bed.start_operator();
    bed.make("acme", json!({"concurrency": 2})).await;
    bed.until_reason("acme", "NotOwned").await;
    bed.until("the relay's consumer", || bed.nats.relay()).await;
    bed.publish_due("acme", "1", 7).await;
    bed.until("the relay looked in vain", || async {
        (metric(&bed, "no_stream") >= 1).then_some(())
    })
    .await;
    assert_eq!(bed.nats.messages("TASKGROUP_DEAD").await, 0);
    bed.annotate("acme", "taskgroup.io/adopt", "true").await;
    bed.until_nothing_is_due().await;
    assert_eq!(bed.nats.messages(&bed.stream("acme")).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_without_a_queue_becomes_a_dead_letter() {
    let bed = Bed::new().await;
    bed.until("the relay's consumer", || bed.nats.relay()).await;
    bed.publish_due("gone", "1", 7).await;
    bed.until_nothing_is_due().await;
    let dead = bed.nats.jetstream().await.get_stream("TASKGROUP_DEAD").await.unwrap();
    let letter = dead
        .get_last_raw_message_by_subject(&format!("dead.{}.gone.1", bed.namespace))
        .await
        .unwrap();
    assert_eq!(letter.payload.as_ref(), b"payload");
    for (name, value) in [
        ("X-Dead-Reason", "QueueGone"),
        ("X-Dead-Attempts", "1"),
        ("X-Dead-Origin", "tg_x_acme:7:1790230470084404000"),
        ("X-Mine", "kept"),
    ] {
        assert_eq!(letter.headers.get(name).unwrap().as_str(), value, "{name}");
    }
    assert!(letter.headers.get(ORIGIN).is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn five_thousand_due_tasks_are_relayed_each_once_by_relays_that_are_killed() {
    let bed = Bed::with_a_group_and_no_operator().await;
    let mut operator = bed.start_binary();
    let jetstream = bed.nats.jetstream().await;
    stream::iter(0..5000_usize)
        .map(|number| {
            let headers = history(number);
            let subject = bed.due("acme", &number.to_string());
            let jetstream = jetstream.clone();
            async move {
                jetstream
                    .publish_with_headers(subject, headers, "x".into())
                    .await?
                    .await
            }
        })
        .buffer_unordered(256)
        .try_collect::<Vec<_>>()
        .await
        .unwrap();
    for part in [1000, 2500] {
        bed.until("a part is through", || async {
            (bed.nats.messages(&bed.stream("acme")).await >= part).then_some(())
        })
        .await;
        operator.kill();
        println!("killed with {} left", bed.nats.messages(DELAY).await);
        operator = bed.start_binary();
    }
    bed.until_nothing_is_due().await;
    let ids: BTreeSet<_> = bed.queued("acme").await.into_iter().map(|task| task.subject).collect();
    assert_eq!(ids.len(), 5000);
    assert_eq!(bed.nats.messages(&bed.stream("acme")).await, 5000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callback_is_made_by_one_worker_and_tried_again_when_that_could_not() {
    let bed = Bed::new().await;
    bed.made("acme", json!({"concurrency": 2})).await;
    let client = bed.nats.client().await;
    let subject = format!("worker-callback.{}.acme", bed.namespace);
    let mut worker = client.queue_subscribe(subject, "workers".into()).await.unwrap();
    client.flush().await.unwrap();
    let jetstream = bed.nats.jetstream().await;
    for id in ["good", "bad"] {
        let mut headers = HeaderMap::new();
        headers.insert("X-Callback-Url", "http://example.com/");
        headers.insert("Nats-Msg-Id", id);
        let ack = jetstream.publish_with_headers(
            format!("callback-due.{}.acme.{id}.7", bed.namespace),
            headers,
            id.to_owned().into(),
        );
        ack.await.unwrap().await.unwrap();
    }
    let mut asked = Vec::new();
    while asked.len() < 3 {
        let request = worker.next().await.unwrap();
        let headers = request.headers.unwrap();
        assert_eq!(headers.get("X-Callback-Url").unwrap().as_str(), "http://example.com/");
        assert!(headers.get("Nats-Msg-Id").is_none());
        let answer = match (request.payload.as_ref(), asked.iter().any(|id| id == "bad")) {
            (b"good", _) => "ok",
            (_, false) => "retry",
            (_, true) => "give-up",
        };
        asked.push(String::from_utf8(request.payload.to_vec()).unwrap());
        client.publish(request.reply.unwrap(), answer.into()).await.unwrap();
    }
    asked.sort();
    assert_eq!(asked, ["bad", "bad", "good"]);
    bed.until_nothing_is_due().await;
    let count = |result| bed.metric(&format!("taskgroup_operator_callbacks_total{{result=\"{result}\"}}"));
    assert_eq!((count("made"), count("again"), count("dropped")), (1, 1, 1));
}

/// How many due tasks came to this.
fn metric(bed: &Bed, result: &str) -> u64 {
    bed.metric(&format!(
        "taskgroup_operator_relayed_tasks_total{{result=\"{result}\"}}"
    ))
}
