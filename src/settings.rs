//! What a group's workers need to know and may change while they run. The operator writes it to
//! the metadata of the group's consumer, so that a change needs no new pod.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The settings of one group's workers, as JSON under [`crate::names::keys::SETTINGS`].
///
/// `ackWait` and `concurrency` are not here: they are fields of the consumer itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkerSettings {
    /// Name of the TaskGroup, told to the handler as `X-Task-Group`.
    pub group: String,
    /// Most tasks one pod runs at once; at least 1.
    pub max_inflight: u32,
    /// Longest time of one attempt, in milliseconds.
    pub task_timeout_ms: u64,
    /// Attempts before a task is dead; at least 1.
    pub max_attempts: u32,
    /// Whether a dead task is kept in the dead-letter stream (else it is dropped and counted).
    pub dead_letter: bool,
}

impl WorkerSettings {
    /// Longest time of one attempt.
    pub fn task_timeout(&self) -> Duration {
        Duration::from_millis(self.task_timeout_ms)
    }

    /// As the one line of JSON that the consumer's metadata holds.
    pub fn to_json(&self) -> String {
        // A struct of plain numbers, booleans and strings can always be written.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads what [`WorkerSettings::to_json`] wrote.
    ///
    /// # Errors
    /// A text that is not JSON or lacks a field, with the place in it.
    pub fn from_json(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }
}
