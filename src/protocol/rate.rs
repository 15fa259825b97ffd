//! What the workers of a group share to keep the group's rate: the body of the group's one message in `TASKGROUP_RATE`.

use serde::{Deserialize, Serialize};

/// The starts that are reserved. Times are the NATS server's, in nanoseconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SharedRate {
    /// All slots before this time are reserved.
    pub next: u64,
    /// Time between two slots: the rate by which `next` was computed.
    pub interval: u64,
    /// Slots before `next` that a worker gave back when it stopped, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub free: Vec<u64>,
}
