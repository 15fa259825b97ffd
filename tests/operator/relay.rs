//! The relay as a part of the operator: it is killed, frozen, and told by the watch who owns a queue. `tests/relay` has the rest.

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

/// How many due tasks came to this.
fn metric(bed: &Bed, result: &str) -> u64 {
    bed.metric(&format!(
        "taskgroup_operator_relayed_tasks_total{{result=\"{result}\"}}"
    ))
}
