//! What all reconciles and services share, by component. Each component keeps its state private.

use super::{
    caches::Caches, desired::PodSettings, kubernetes::Kubernetes, memory::Memory, metrics::Metrics, triggers::Triggers,
};
use crate::broker::{Broker, SharedStreams};
use std::time::Duration;

/// Settings of this installation.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name of the installation.
    pub instance: String,
    /// What all worker pods have in common.
    pub pods: PodSettings,
    /// Time between two sweeps over the backlog.
    pub backlog_interval: Duration,
    /// The operator checks a group that nothing happened to in full after this time.
    pub resync_interval: Duration,
    /// Hosts and networks that callbacks may go to.
    pub callback_allow: Vec<String>,
    /// The only namespace that is watched; all namespaces without it.
    pub watch_namespace: Option<String>,
}

/// What all reconciles and services share.
pub struct Context {
    /// Writes to Kubernetes.
    pub kubernetes: Kubernetes,
    /// NATS.
    pub broker: Broker,
    /// The streams that all groups share.
    pub shared_streams: SharedStreams,
    /// What the watches show.
    pub caches: Caches,
    /// What is remembered about each group.
    pub memory: Memory,
    /// Triggers reconciles.
    pub triggers: Triggers,
    /// Settings of this installation.
    pub settings: Settings,
    /// What is counted.
    pub metrics: Metrics,
}
