//! What a group's workers need to know and may change while they run. The operator writes it to
//! the metadata of the group's consumer, so that a change needs no new pod.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The settings of one group's workers, as JSON under [`crate::names::keys::SETTINGS`].
///
/// `ackWait` and `concurrency` are not here: they are fields of the consumer itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    /// Longest wait after the first attempt, in milliseconds.
    pub initial_delay_ms: u64,
    /// Longest wait after any attempt, in milliseconds.
    pub max_delay_ms: u64,
    /// How much longer the longest wait is after each further attempt; at least 1.
    pub multiplier: f64,
    /// Longest time that a handler's `Retry-After` closes the group, in milliseconds.
    pub max_retry_after_ms: u64,
    /// How long a task may wait before it is not started any more, in milliseconds; 0 is for ever.
    pub expire_ms: u64,
    /// How many tasks may start per time, all pods together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// Hosts and networks that callbacks may go to beside public ones; see `--callback-allow`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub callback_allow: Vec<String>,
}

/// How many tasks may start per time, all pods together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rate {
    /// Tasks per `per`; at least 1.
    pub tasks: u64,
    /// The time they are spread over, in milliseconds; at least 1000.
    pub per_ms: u64,
    /// Starts that may be saved up; at least 1.
    pub burst: u64,
}

impl Default for WorkerSettings {
    /// Those of a TaskGroup that says nothing but its concurrency, for a group named `default`.
    fn default() -> Self {
        Self {
            group: "default".to_owned(),
            max_inflight: 100,
            task_timeout_ms: 30_000,
            max_attempts: 5,
            dead_letter: true,
            initial_delay_ms: 1000,
            max_delay_ms: 300_000,
            multiplier: 2.0,
            max_retry_after_ms: 3_600_000,
            expire_ms: 0,
            rate: None,
            callback_allow: Vec::new(),
        }
    }
}

impl WorkerSettings {
    /// Longest time of one attempt.
    pub fn task_timeout(&self) -> Duration {
        Duration::from_millis(self.task_timeout_ms)
    }

    /// How long a task may wait; `None` is for ever.
    pub fn expire(&self) -> Option<Duration> {
        (self.expire_ms > 0).then(|| Duration::from_millis(self.expire_ms))
    }

    /// Longest time that a handler's `Retry-After` closes the group.
    pub fn max_retry_after(&self) -> Duration {
        Duration::from_millis(self.max_retry_after_ms)
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
