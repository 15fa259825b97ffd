//! A real NATS server, and pipelines in it as the operator makes them.

use crate::servers::nats::NatsServer;
use futures::StreamExt;
use serde_json::json;
use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};
use taskgroup::{
    admin::ServeArgs,
    api::TaskGroup,
    broker::{self, Broker, NatsArgs},
    operator::{desired, validate},
    protocol::Queue,
    telemetry::LogFormat,
    worker::{self, HandlerArgs},
};

/// Tasks on their way to the server at once, while a backlog is filled up.
const WIDTH: usize = 512;

pub struct Bed {
    pub nats: NatsServer,
    broker: Broker,
    client: async_nats::Client,
    groups: AtomicUsize,
}

impl Bed {
    pub async fn start() -> Self {
        let nats = NatsServer::start().await;
        let broker = Broker::connect(&nats_args(&nats), "bench").await.unwrap();
        broker.link().wait_for(|link| link.up).await.unwrap();
        for shared in [broker::dead_letters, broker::delays, broker::rates] {
            broker.create_stream(&shared("bench", 1)).await.unwrap();
        }
        Self {
            client: nats.client().await,
            nats,
            broker,
            groups: AtomicUsize::new(0),
        }
    }

    /// A new group whose queue is empty, with the limit `concurrency`.
    pub async fn group(&self, concurrency: usize) -> Group<'_> {
        let name = format!("group-{}", self.groups.fetch_add(1, Ordering::Relaxed));
        let group: TaskGroup = serde_json::from_value(json!({
            "apiVersion": "taskgroup.io/v1alpha1",
            "kind": "TaskGroup",
            "metadata": {"name": name, "namespace": "bench", "uid": name},
            "spec": {"concurrency": concurrency, "workers": {"maxInflightPerPod": concurrency}},
        }))
        .unwrap();
        let valid = validate::group(&group).unwrap();
        let stream = desired::stream(&valid, "bench", false);
        self.broker.create_stream(&stream).await.unwrap();
        let consumer = desired::consumer(&valid, "bench", &[]);
        let queue = Queue::new("bench", name);
        self.broker.create_consumer(&queue.stream(), &consumer).await.unwrap();
        Group { bed: self, queue }
    }
}

pub struct Group<'a> {
    bed: &'a Bed,
    pub queue: Queue,
}

impl Group<'_> {
    /// Puts so many empty tasks into the queue, all confirmed.
    pub async fn fill(&self, tasks: usize) {
        let jetstream = async_nats::jetstream::new(self.bed.client.clone());
        futures::stream::iter(0..tasks)
            .for_each_concurrent(WIDTH, |id| {
                let (jetstream, subject) = (&jetstream, self.queue.task(&id.to_string()));
                async move {
                    let stored = jetstream.publish(subject, "".into()).await.unwrap();
                    stored.await.unwrap();
                }
            })
            .await;
    }

    /// Puts a task into the queue, and does not wait for the confirmation.
    pub async fn publish(&self, id: usize, payload: String) {
        let subject = self.queue.task(&id.to_string());
        self.bed.client.publish(subject, payload.into()).await.unwrap();
    }

    /// Arguments of a worker of this group.
    pub fn worker_args(&self, handler_url: &str) -> worker::Args {
        worker::Args {
            nats: nats_args(&self.bed.nats),
            serve: ServeArgs {
                admin_addr: ([127, 0, 0, 1], 0).into(),
                log_format: LogFormat::Text,
                log: "warn".into(),
            },
            namespace: self.queue.namespace.clone(),
            queue: self.queue.name.clone(),
            handler: HandlerArgs {
                handler_url: Some(handler_url.into()),
                ..HandlerArgs::default()
            },
            no_env: false,
        }
    }

    /// A client of the floor's own.
    pub async fn client(&self) -> async_nats::Client {
        self.bed.nats.client().await
    }

    pub fn nats_url(&self) -> String {
        self.bed.nats.url()
    }

    /// Removes the queue, with what is left in it.
    pub async fn delete(self) {
        self.bed.broker.delete_stream(&self.queue.stream()).await.unwrap();
    }
}

fn nats_args(nats: &NatsServer) -> NatsArgs {
    NatsArgs {
        nats_url: vec![nats.url()],
        nats_creds: None,
    }
}

/// Polls until `condition` holds.
pub async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(120), waiting).await;
    waited.unwrap_or_else(|_| panic!("in vain: {what}"));
}
