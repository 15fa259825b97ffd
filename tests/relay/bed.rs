//! A NATS server with the shared streams, groups as the operator would create them, and relays.

use crate::support::nats::NatsServer;
use async_nats::{
    HeaderMap,
    jetstream::{self, message::StreamMessage},
};
use futures::{StreamExt, TryStreamExt, stream};
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use prometheus_client::{encoding::text::encode, registry::Registry};
use serde_json::json;
use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};
use taskgroup::{
    broker::{Broker, NatsArgs, SharedStreams},
    protocol::{Kind, Queue},
    relay::{Owner, Relay, RelayMetrics},
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub const DELAY: &str = "TASKGROUP_DELAY";
pub const ORIGIN: &str = "Taskgroup-Origin";

/// How long a condition may take to come true before the test fails. Far more than it takes.
const PATIENCE: Duration = Duration::from_secs(120);

/// Waits until `condition` holds.
pub async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !condition().await {
        assert!(begun.elapsed() < PATIENCE, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Headers of a task in back-off whose first message was number `number`.
fn history(number: usize) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(ORIGIN, format!("tg_x_acme:{number}:1790230470084404000"));
    headers.insert("Taskgroup-Attempts", "1");
    headers.insert("Taskgroup-Group", "ACME");
    headers.insert("Taskgroup-Last-Failure", "2026-11-21T10:00:00Z");
    headers.insert("X-Mine", "kept");
    headers
}

pub struct Bed {
    pub nats: NatsServer,
    broker: Broker,
    shared_streams: SharedStreams,
    owned: Arc<Mutex<HashSet<Queue>>>,
    metrics: RelayMetrics,
    registry: Registry,
    relays: Vec<JoinHandle<()>>,
}

impl Bed {
    /// A server with the shared streams. No relay runs yet.
    pub async fn new() -> Self {
        let nats = NatsServer::start().await;
        let args = NatsArgs {
            nats_url: vec![nats.url()],
            nats_creds: None,
        };
        let broker = Broker::connect(&args, "test").await.unwrap();
        broker.settled(PATIENCE).await;
        let shared_streams = SharedStreams::new(broker.clone(), "test", 1);
        shared_streams.ensure().await.unwrap();
        let mut registry = Registry::default();
        Self {
            nats,
            broker,
            shared_streams,
            owned: Arc::default(),
            metrics: RelayMetrics::register(&mut registry),
            registry,
            relays: Vec::new(),
        }
    }

    /// Starts one more relay, which runs until the test ends.
    pub fn start_relay(&mut self) {
        let owned = self.owned.clone();
        let owners = Arc::new(move |queue: &Queue| {
            if owned.lock().contains(queue) {
                Owner::Known
            } else {
                Owner::Nobody
            }
        });
        let (broker, metrics) = (self.broker.clone(), self.metrics.clone());
        let relay = Relay::new(broker, owners, self.shared_streams.clone(), metrics);
        self.relays.push(tokio::spawn(relay.run(CancellationToken::new())));
    }

    /// A queue that a TaskGroup owns and that has no stream yet.
    pub fn owned(&self, name: &str) -> Queue {
        let queue = Queue::new("crawl", name);
        self.owned.lock().insert(queue.clone());
        queue
    }

    /// A queue with its stream.
    pub async fn group(&self, name: &str) -> Queue {
        self.with_stream(name, -1).await
    }

    /// A queue whose stream holds one task at most.
    pub async fn group_of_one_task(&self, name: &str) -> Queue {
        self.with_stream(name, 1).await
    }

    /// Takes the bound off a queue.
    pub async fn give_room(&self, queue: &Queue) {
        self.put_stream("UPDATE", queue, -1).await;
    }

    async fn with_stream(&self, name: &str, max_tasks: i64) -> Queue {
        let queue = self.owned(name);
        self.put_stream("CREATE", &queue, max_tasks).await;
        queue
    }

    async fn put_stream(&self, how: &str, queue: &Queue, max_tasks: i64) {
        let stream = queue.stream();
        let config = json!({
            "name": stream.as_str(), "subjects": queue.subjects(), "retention": "workqueue", "discard": "new",
            "max_msgs": max_tasks,
        });
        let answer = self.nats.api(&format!("STREAM.{how}.{stream}"), config).await;
        assert!(answer.get("error").is_none(), "{answer}");
    }

    /// Stores a message and waits until it is stored.
    pub async fn publish(&self, subject: &str, headers: &[(&str, &str)]) {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, *value);
        }
        self.store(subject.to_owned(), map).await;
    }

    async fn store(&self, subject: String, headers: HeaderMap) {
        let jetstream = self.nats.jetstream().await;
        let ack = jetstream.publish_with_headers(subject, headers, "payload".into());
        ack.await.unwrap().await.unwrap();
    }

    /// A task in back-off, for a second.
    pub async fn delay(&self, queue: &Queue, id: &str, number: usize) {
        let mut headers = history(number);
        let at = Timestamp::now().checked_add(SignedDuration::from_secs(1)).unwrap();
        headers.insert("Nats-Schedule", format!("@at {at}"));
        headers.insert("Nats-Schedule-Target", queue.of_message(Kind::Due, id, 7));
        self.store(queue.of_message(Kind::Delay, id, 7), headers).await;
    }

    /// A task whose back-off is over.
    pub async fn publish_due(&self, queue: &Queue, id: &str, number: usize) {
        self.store(queue.of_message(Kind::Due, id, 7), history(number)).await;
    }

    /// Tasks whose back-off is over, each with an id and a first message of its own.
    pub async fn publish_many_due(&self, queue: &Queue, count: usize) {
        let jetstream = self.nats.jetstream().await;
        stream::iter(0..count)
            .map(|number| {
                let subject = queue.of_message(Kind::Due, &format!("task-{number}"), 7);
                let publish = jetstream.publish_with_headers(subject, history(number), "x".into());
                async { publish.await?.await }
            })
            .buffer_unordered(256)
            .try_collect::<Vec<_>>()
            .await
            .unwrap();
    }

    pub async fn until_nothing_is_due(&self) {
        until("nothing is due any more", async || self.nats.messages(DELAY).await == 0).await;
    }

    /// What a relay gets that dies before it does anything: a delivery, which the next one sees counted.
    pub async fn take_due(&self) -> jetstream::Message {
        let stream = self.nats.jetstream().await.get_stream(DELAY).await.unwrap();
        let consumer: jetstream::consumer::PullConsumer = stream.get_consumer("relay").await.unwrap();
        let mut messages = consumer.fetch().max_messages(1).messages().await.unwrap();
        messages.next().await.unwrap().unwrap()
    }

    /// The tasks of a queue, without taking them out.
    pub async fn queued(&self, queue: &Queue) -> Vec<StreamMessage> {
        let jetstream = self.nats.jetstream().await;
        let stream = jetstream.get_stream(queue.stream().as_str()).await.unwrap();
        let state = stream.cached_info().state.clone();
        stream::iter(state.first_sequence..=state.last_sequence)
            .then(|sequence| stream.get_raw_message(sequence))
            .filter_map(|message| async { message.ok() })
            .collect()
            .await
    }

    pub async fn dead_letter(&self, subject: &str) -> StreamMessage {
        let jetstream = self.nats.jetstream().await;
        let letters = jetstream.get_stream("TASKGROUP_DEAD").await.unwrap();
        letters.get_last_raw_message_by_subject(subject).await.unwrap()
    }

    /// A metric of the relays by its name and labels; 0 where it is not there yet.
    pub fn metric(&self, name: &str) -> u64 {
        let mut text = String::new();
        encode(&mut text, &self.registry).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.map_or(0, |value| value.trim().parse().unwrap())
    }

    /// How many due tasks had this outcome.
    pub fn relayed(&self, result: &str) -> u64 {
        self.metric(&format!(
            "taskgroup_operator_relayed_tasks_total{{result=\"{result}\"}}"
        ))
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        for relay in &self.relays {
            relay.abort();
        }
    }
}
