//! What the tests of the worker run on: a real NATS, and a group's pipeline as the operator would make it.

use crate::{
    process::Worker,
    relay::Relay,
    support::{nats::NatsServer, proxy::Proxy},
};
use futures::{StreamExt, stream};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    process::Command,
    time::{Duration, Instant},
};
use taskgroup::{
    api::{RateLimit, TaskGroupSpec},
    broker::{Arrival, Broker, ConsumerConfig, Delivery, NatsArgs, StreamConfig, dead_letters, delays, overlay, rates},
    protocol::{
        Kind, Queue, StreamName, keys,
        settings::WorkerSettings,
        subject::{DEAD_STREAM, DELAY_STREAM},
    },
};
use tokio::time::sleep;

/// How long anything may take before a test gives up; nothing here takes more than a few seconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `condition` holds.
pub async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !condition().await {
        assert!(begun.elapsed() < PATIENCE, "waited in vain: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// The pipeline of a group.
#[derive(Clone)]
pub struct Group {
    pub concurrency: i64,
    pub ack_wait: Duration,
    pub settings: WorkerSettings,
}

impl Default for Group {
    fn default() -> Self {
        let mut spec = TaskGroupSpec::new(4);
        spec.timeouts.task = "1m".into();
        Self {
            concurrency: spec.concurrency,
            ack_wait: spec.timeouts.ack_wait.checked(),
            settings: WorkerSettings::of("acme", &spec),
        }
    }
}

impl Group {
    pub fn concurrency(mut self, concurrency: i64) -> Self {
        self.concurrency = concurrency;
        self
    }

    pub fn ack_wait(mut self, seconds: u64) -> Self {
        self.ack_wait = Duration::from_secs(seconds);
        self
    }

    pub fn max_attempts(mut self, attempts: i64) -> Self {
        self.settings.retry.max_attempts = attempts;
        self
    }

    /// `tasks` starts per `per_ms` milliseconds, and `burst` saved up.
    pub fn rate(mut self, tasks: i64, per_ms: u64, burst: i64) -> Self {
        let per = format!("{per_ms}ms").into();
        self.settings.rate_limit = Some(RateLimit { tasks, per, burst });
        self
    }

    fn consumer(&self) -> ConsumerConfig {
        let metadata = BTreeMap::from([(keys::SETTINGS.to_owned(), self.settings.to_json())]);
        ConsumerConfig::workers("workers-crawl".into(), self.concurrency, self.ack_wait, metadata)
    }
}

/// A NATS of this test's own, and the queue `crawl/acme` in it.
pub struct Bed {
    pub nats: NatsServer,
    pub broker: Broker,
    pub queue: Queue,
    relay: Option<Relay>,
    pid_file: tempfile::TempPath,
}

impl Bed {
    /// With the pipeline of `group`.
    pub async fn with(group: &Group) -> Self {
        let bed = Self::empty().await;
        bed.create_stream().await;
        bed.create_shared_streams().await;
        bed.create_consumer(group).await;
        bed
    }

    /// With the pipeline of `group`, and the operator's relay, which brings tasks back from the delays.
    pub async fn with_relay(group: &Group) -> Self {
        let mut bed = Self::with(group).await;
        bed.relay = Some(Relay::start(&bed.broker, &bed.queue).await);
        bed
    }

    /// With nothing in it.
    pub async fn empty() -> Self {
        let pid_file = tempfile::NamedTempFile::new().expect("a file").into_temp_path();
        let nats = NatsServer::start_with(&format!("pid_file: {:?}", pid_file.display().to_string())).await;
        let broker = Broker::connect(&nats_args(&nats), "test").await.expect("a client");
        let bed = Self {
            nats,
            broker,
            queue: Queue::new("crawl", "acme"),
            relay: None,
            pid_file,
        };
        bed.connected().await;
        bed
    }

    /// Waits until our own client is connected (again).
    pub async fn connected(&self) {
        until("the test's own connection", async || self.broker.check().is_ok()).await;
    }

    /// Restarts NATS in good order, as in an upgrade. (`self.nats.restart()` crashes it.)
    pub async fn restart_nats(&self) {
        let pid = std::fs::read_to_string(&self.pid_file).expect("the server's pid file");
        let sent = Command::new("kill")
            .args(["-INT", pid.trim()])
            .status()
            .expect("kill can be run");
        assert!(sent.success(), "NATS was gone already");
        until("NATS has stopped", async || self.nats.monitor("/healthz").is_err()).await;
        self.nats.resume().await;
    }

    pub fn stream(&self) -> StreamName {
        self.queue.stream()
    }

    pub async fn create_stream(&self) {
        self.create_stream_of(&self.queue).await;
    }

    /// Creates the pipeline of another group.
    pub async fn create_group(&self, queue: &Queue, group: &Group) {
        self.create_stream_of(queue).await;
        let made = self.broker.create_consumer(&queue.stream(), &group.consumer()).await;
        made.expect("a consumer");
    }

    async fn create_stream_of(&self, queue: &Queue) {
        let config = StreamConfig {
            name: queue.stream().to_string(),
            subjects: queue.subjects(),
            retention: taskgroup::broker::Retention::WorkQueue,
            ..dead_letters("test", 1)
        };
        self.create(config).await;
    }

    pub async fn create_dead_letters(&self) {
        self.create(dead_letters("test", 1)).await;
    }

    pub async fn create_delays(&self) {
        self.create(delays("test", 1)).await;
    }

    /// Those that all groups share.
    pub async fn create_shared_streams(&self) {
        self.create_dead_letters().await;
        self.create_delays().await;
        self.create(rates("test", 1)).await;
    }

    async fn create(&self, config: StreamConfig) {
        let made = self.broker.create_stream(&config).await;
        made.unwrap_or_else(|error| panic!("no stream {}: {error}", config.name));
    }

    pub async fn create_rates(&self) {
        let made = self.broker.create_stream(&rates("test", 1)).await;
        made.expect("the stream of the rates");
    }

    pub async fn create_consumer(&self, group: &Group) {
        let made = self.broker.create_consumer(&self.stream(), &group.consumer()).await;
        made.expect("a consumer");
    }

    /// Changes the group as the operator does.
    pub async fn change(&self, group: &Group) {
        self.change_of(&self.queue, group).await;
    }

    /// Changes a group as the operator does.
    pub async fn change_of(&self, queue: &Queue, group: &Group) {
        let stream = queue.stream();
        let now = self
            .broker
            .consumer(&stream)
            .await
            .expect("an answer")
            .expect("a consumer");
        let config = overlay(&group.consumer(), &now.config);
        self.broker
            .update_consumer(&stream, &config)
            .await
            .expect("a changed consumer");
        self.broker.notify_settings(queue).await.expect("a notice");
    }

    /// Puts a task into the queue.
    pub async fn publish(&self, id: &str, payload: &str) {
        self.publish_with(id, &[], payload).await;
    }

    /// Puts a task with headers into the queue.
    pub async fn publish_with(&self, id: &str, headers: &[(&str, &str)], payload: &str) {
        let headers: Vec<_> = headers
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()))
            .collect();
        let payload = payload.to_owned().into();
        let stored = self.broker.store(&self.queue.task(id), &headers, payload).await;
        stored.map(|_| ()).expect("a stored task");
    }

    /// Puts a message under any subject.
    pub async fn store(&self, subject: &str, headers: &[(&str, &str)]) {
        let headers: Vec<_> = headers
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()))
            .collect();
        let stored = self.broker.store(subject, &headers, "".into()).await;
        stored.map(|_| ()).expect("a stored message");
    }

    /// The next task, delivered to the test as to a worker.
    pub async fn deliver_by_hand(&self) -> Delivery {
        let mut inbox = self.broker.pull_inbox(&self.stream()).await.expect("an inbox");
        inbox.ask(1, 1, PATIENCE, PATIENCE / 3).await.expect("a pull");
        loop {
            match inbox.next().await {
                Some(Arrival::Task(task)) => return *task,
                Some(Arrival::Heartbeat) => {}
                _ => panic!("no task came"),
            }
        }
    }

    /// Puts `count` tasks into the queue, named by their number from 0.
    pub async fn publish_many(&self, count: usize) {
        let publish = |id: usize| async move { self.publish(&id.to_string(), "").await };
        // In order, but not each only when the one before is confirmed.
        stream::iter((0..count).map(publish)).buffered(64).collect::<()>().await;
    }

    /// Waits until the queue is empty: nothing waits, nothing runs, and nothing is in back-off.
    pub async fn empty_queue(&self) {
        let stream = self.stream();
        until("the queue is empty", async || {
            let queued = async || self.nats.messages(stream.as_str()).await;
            queued().await + self.nats.messages(DELAY_STREAM).await + queued().await == 0
        })
        .await;
    }

    /// Asks the workers about a task that is to be cancelled, as the operator does; the first answer.
    pub async fn ask_to_cancel(&self, id: &str, up_to: u64) -> String {
        self.ask_to_cancel_of(&self.queue, id, up_to).await
    }

    /// The same about a task of another group.
    pub async fn ask_to_cancel_of(&self, queue: &Queue, id: &str, up_to: u64) -> String {
        let question = serde_json::json!({"id": id, "upTo": up_to}).to_string();
        let client = self.nats.client().await;
        let answer = client.request(queue.of(Kind::WorkerCancel), question.into()).await;
        let answer: Value = serde_json::from_slice(&answer.expect("an answer").payload).expect("JSON");
        answer["state"].as_str().expect("a state").to_owned()
    }

    /// Returns when so many workers have answered a question: what they sent before has arrived.
    pub async fn hear_of(&self, workers: usize) {
        let client = self.nats.client().await;
        let inbox = client.new_inbox();
        let answers = client.subscribe(inbox.clone()).await.expect("an inbox");
        let question = r#"{"id": "nobody's", "upTo": 0}"#;
        let asked = client.publish_with_reply(self.queue.of(Kind::WorkerCancel), inbox, question.into());
        asked.await.expect("a question");
        assert_eq!(answers.take(workers).count().await, workers);
    }

    /// Waits for `count` dead letters, and returns them with their headers (names in lower case).
    pub async fn dead_letters(&self, count: usize) -> Vec<Dead> {
        let mut letters = Vec::new();
        until("the dead letters", async || {
            letters = self.letters().await;
            letters.len() == count
        })
        .await;
        letters
    }

    async fn letters(&self) -> Vec<Dead> {
        let jetstream = self.nats.jetstream().await;
        let stream = jetstream.get_stream(DEAD_STREAM).await.expect("the stream");
        let mut letters = Vec::new();
        let mut from = 1;
        while let Ok(message) = stream.get_first_raw_message_by_subject("dead.>", from).await {
            from = message.sequence + 1;
            letters.push(Dead {
                subject: message.subject.to_string(),
                payload: String::from_utf8_lossy(&message.payload).into_owned(),
                headers: message
                    .headers
                    .iter()
                    .map(|(name, values)| {
                        (
                            name.to_string().to_lowercase(),
                            values.first().map_or("", |value| value.as_str()).to_owned(),
                        )
                    })
                    .collect(),
            });
        }
        letters
    }

    /// The consumer in the server's words.
    pub async fn consumer_info(&self) -> Value {
        self.nats.consumer(self.stream().as_str()).await.expect("a consumer")
    }

    /// A worker process for the handler at `url`, once it has started. Not yet ready.
    pub async fn worker(&self, url: &str) -> Worker {
        Worker::start(&self.nats.url(), &self.queue, url).await
    }

    /// A worker process that is ready, and reaches NATS through `proxy` only.
    pub async fn ready_worker_behind(&self, proxy: &Proxy, url: &str) -> Worker {
        let worker = Worker::start(&proxy.url(), &self.queue, url).await;
        worker.ready().await;
        worker
    }

    /// A worker process that is ready.
    pub async fn ready_worker(&self, url: &str) -> Worker {
        let worker = self.worker(url).await;
        worker.ready().await;
        worker
    }
}

/// A dead letter.
#[derive(Debug)]
pub struct Dead {
    pub subject: String,
    pub payload: String,
    pub headers: BTreeMap<String, String>,
}

pub fn nats_args(nats: &NatsServer) -> NatsArgs {
    NatsArgs {
        nats_url: vec![nats.url()],
        nats_creds: None,
    }
}
