//! The operator's relay by itself, without the rest of the operator: it brings tasks back whose back-off
//! is over. All that it needs of Kubernetes is who has the queue.

use kube::runtime::{reflector, watcher::Event};
use std::{sync::Arc, time::Duration};
use taskgroup::{
    api::{TaskGroup, TaskGroupSpec},
    broker::Broker,
    names::Queue,
    operator::{
        Context,
        context::{Settings, Stores},
        desired::PodSettings,
        metrics::Metrics,
        relay,
    },
};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;

/// Relays until it is dropped.
pub struct Relay(JoinHandle<()>);

impl Relay {
    /// The relay of an operator that knows one TaskGroup, of this queue.
    pub async fn start(broker: &Broker, queue: &Queue) -> Self {
        broker.ensure_relay("test").await.expect("the relay's consumer");
        let (groups, mut group_writer) = reflector::store();
        let mut group = TaskGroup::new(&queue.name, TaskGroupSpec::new(1));
        group.metadata.namespace = Some(queue.namespace.clone());
        for event in [Event::Init, Event::InitApply(group), Event::InitDone] {
            group_writer.apply_watcher_event(&event);
        }
        let (handlers, mut handler_writer) = reflector::store();
        let (deployments, mut deployment_writer) = reflector::store();
        handler_writer.apply_watcher_event(&Event::Init);
        handler_writer.apply_watcher_event(&Event::InitDone);
        deployment_writer.apply_watcher_event(&Event::Init);
        deployment_writer.apply_watcher_event(&Event::InitDone);
        let stores = Stores {
            groups,
            handlers,
            deployments,
        };
        let settings = Settings {
            instance: "test".into(),
            pods: PodSettings {
                image: String::new(),
                nats_url: String::new(),
                nats_creds_secret: None,
                log_format: "text",
            },
            backlog_interval: Duration::from_secs(3600),
            resync_interval: Duration::from_secs(3600),
            callback_allow: Vec::new(),
            watch_namespace: None,
            shared_replicas: 1,
        };
        let nowhere = kube::Config::new("http://127.0.0.1:9".parse().expect("a URL"));
        let client = kube::Client::try_from(nowhere).expect("a client");
        let metrics = Metrics::register(&mut prometheus_client::registry::Registry::default());
        let (triggers, _) = mpsc::unbounded_channel();
        let context = Context::new(client, broker.clone(), settings, stores, metrics, triggers);
        Self(tokio::spawn(async move {
            // A store is ready for as long as its writer lives.
            let _writers = (group_writer, handler_writer, deployment_writer);
            relay::run(Arc::new(context), CancellationToken::new()).await;
        }))
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.0.abort();
    }
}
