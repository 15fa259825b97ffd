//! The streams that all groups share, and the relay's consumer: made where they are missing.

use super::{
    config::{dead_letters, delays, rates},
    connection::Broker,
    error::BrokerError,
};
use crate::protocol::StreamName;
use std::sync::Arc;
use tokio::sync::Mutex;

/// Makes the streams that all groups share. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct SharedStreams(Arc<Inner>);

struct Inner {
    broker: Broker,
    instance: String,
    replicas: u8,
    one_at_a_time: Mutex<()>,
}

impl SharedStreams {
    /// The shared streams as the installation `instance` makes them, with so many copies.
    pub fn new(broker: Broker, instance: &str, replicas: u8) -> Self {
        Self(Arc::new(Inner {
            broker,
            instance: instance.to_owned(),
            replicas,
            one_at_a_time: Mutex::default(),
        }))
    }

    /// Makes what is missing. An existing stream stays as it is: other installations may share it.
    ///
    /// # Errors
    /// What the broker says.
    pub async fn ensure(&self) -> Result<(), BrokerError> {
        let Inner {
            broker,
            instance,
            replicas,
            one_at_a_time,
        } = &*self.0;
        let _one_at_a_time = one_at_a_time.lock().await;
        for config in [
            dead_letters(instance, *replicas),
            delays(instance, *replicas),
            rates(instance, *replicas),
        ] {
            let name = StreamName::from(config.name.as_str());
            if broker.stream(&name).await?.is_none() {
                broker.create_stream(&config).await?;
                tracing::info!("created stream {name}");
            }
        }
        broker.ensure_relay(instance).await
    }
}
