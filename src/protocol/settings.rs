//! The settings of a group's workers, which may change while they run. The operator writes them to the metadata of the
//! group's consumer, so a change needs no new pod.

use crate::api::{self, TaskGroupSpec};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The settings of one group's workers, as JSON under [`super::keys::SETTINGS`].
///
/// `ackWait` and `concurrency` are fields of the consumer itself. Operator and workers of neighboring versions run
/// together during an upgrade: a field that is missing has its default, and an unknown one is ignored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WorkerSettings {
    /// Name of the TaskGroup, which the handler gets as `X-Task-Group`.
    pub group: String,
    /// Most tasks that one pod runs at once; at least 1.
    pub max_inflight: u32,
    /// Longest time of one attempt, in milliseconds.
    pub task_timeout_ms: u64,
    /// Attempts before a task is dead; at least 1.
    pub max_attempts: u32,
    /// Whether a dead task is kept in the dead-letter stream. If not, it is dropped and counted.
    pub dead_letter: bool,
    /// Longest wait after the first attempt, in milliseconds.
    pub initial_delay_ms: u64,
    /// Longest wait after any attempt, in milliseconds.
    pub max_delay_ms: u64,
    /// Factor by which the longest wait grows with each further attempt; at least 1.
    pub multiplier: f64,
    /// Longest time for which a handler's `Retry-After` throttles the group, in milliseconds.
    pub max_retry_after_ms: u64,
    /// How long a task may wait since its publication, in milliseconds; 0 means forever. An older one is not started.
    pub expire_ms: u64,
    /// How many tasks may start per period, across all pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// Hosts and networks that callbacks may go to beside public ones (`--callback-allow`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub callback_allow: Vec<String>,
}

/// How many tasks may start per period, across all pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rate {
    /// Tasks per period; at least 1.
    pub tasks: u64,
    /// Length of the period in milliseconds; at least 1000.
    pub per_ms: u64,
    /// Starts that may be saved up; at least 1.
    pub burst: u64,
}

impl Default for Rate {
    fn default() -> Self {
        Self {
            tasks: 1,
            per_ms: 1000,
            burst: 1,
        }
    }
}

impl Default for WorkerSettings {
    /// The settings of a TaskGroup that sets nothing but its concurrency.
    fn default() -> Self {
        Self {
            group: String::new(),
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
    /// The settings that a TaskGroup's spec contains, after it was checked. On its way to the workers, a live field of
    /// the spec passes only here.
    pub fn of(group: &str, spec: &TaskGroupSpec) -> Self {
        let TaskGroupSpec { timeouts, retry, .. } = spec;
        Self {
            group: group.to_owned(),
            task_timeout_ms: ms(&timeouts.task),
            max_attempts: u32::try_from(retry.max_attempts).unwrap_or(1),
            dead_letter: spec.dead_letter.enabled,
            initial_delay_ms: ms(&retry.initial_delay),
            max_delay_ms: ms(&retry.max_delay),
            multiplier: retry.multiplier,
            max_retry_after_ms: ms(&retry.max_retry_after),
            expire_ms: ms(&timeouts.expire),
            rate: spec.rate_limit.as_ref().map(|rate| Rate {
                tasks: u64::try_from(rate.tasks).unwrap_or(1),
                per_ms: ms(&rate.per),
                burst: u64::try_from(rate.burst).unwrap_or(1),
            }),
            ..Self::default()
        }
    }

    /// Longest time of one attempt.
    pub fn task_timeout(&self) -> Duration {
        Duration::from_millis(self.task_timeout_ms)
    }

    /// How long a task may wait; `None` means forever.
    pub fn expire(&self) -> Option<Duration> {
        (self.expire_ms > 0).then(|| Duration::from_millis(self.expire_ms))
    }

    /// Longest time for which a handler's `Retry-After` throttles the group.
    pub fn max_retry_after(&self) -> Duration {
        Duration::from_millis(self.max_retry_after_ms)
    }

    /// The settings as the line of JSON that the consumer's metadata holds.
    pub fn to_json(&self) -> String {
        // A struct of plain numbers, booleans, and strings can always be written.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads what [`WorkerSettings::to_json`] of this or a neighboring version wrote.
    ///
    /// # Errors
    /// A text that is not JSON, or a field of another type, with the position in the text.
    pub fn from_json(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }
}

/// Milliseconds of a duration that was checked, so that it can be read.
fn ms(duration: &api::Duration) -> u64 {
    let duration = duration.parse().unwrap_or_default();
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
