//! The relay by itself, without an operator: it requeues tasks whose back-off is over.

use std::sync::Arc;
use taskgroup::{
    broker::{Broker, SharedStreams},
    protocol::Queue,
    relay::{self, Owner, RelayMetrics},
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Relays until it is dropped.
pub struct Relay(JoinHandle<()>);

impl Relay {
    /// The relay of an operator that watches one TaskGroup, of this queue.
    pub async fn start(broker: &Broker, queue: &Queue) -> Self {
        let shared_streams = SharedStreams::new(broker.clone(), "test", 1);
        shared_streams.ensure().await.expect("the shared streams");
        let known = queue.clone();
        let owners = Arc::new(
            move |queue: &Queue| {
                if *queue == known { Owner::Known } else { Owner::Nobody }
            },
        );
        let metrics = RelayMetrics::register(&mut prometheus_client::registry::Registry::default());
        let relay = relay::Relay::new(broker.clone(), owners, shared_streams, metrics);
        Self(tokio::spawn(relay.run(CancellationToken::new())))
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.0.abort();
    }
}
