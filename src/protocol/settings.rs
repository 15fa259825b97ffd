//! The settings of a group's workers, which may change while they run. The operator writes them to the metadata of the
//! group's consumer, so a change needs no new pod.

use crate::api::{
    DeadLetter, RateLimit, Retry, TaskGroupSpec, Timeouts,
    bounds::{Problem, TASK_GROUP},
};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// The settings of one group's workers, as JSON under [`super::keys::SETTINGS`].
///
/// Sections of the TaskGroup's spec pass as the user wrote them, under their own names. A new field in a section
/// therefore reaches the workers without a change here. `concurrency` and the `ackWait` that JetStream keeps are fields
/// of the consumer itself.
///
/// Operator and workers of neighboring versions run together during an upgrade: a field that is missing has its
/// default, and an unknown one is ignored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WorkerSettings {
    /// Name of the TaskGroup, which the handler gets as `X-Task-Group`.
    pub group: String,
    /// Most tasks that one pod runs at once; at least 1.
    pub max_inflight: u32,
    /// Hosts and networks that callbacks may go to beside public ones (`--callback-allow`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub callback_allow: Vec<String>,
    /// `spec.timeouts`.
    pub timeouts: Timeouts,
    /// `spec.retry`.
    pub retry: Retry,
    /// `spec.deadLetter`.
    pub dead_letter: DeadLetter,
    /// `spec.rateLimit`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimit>,
}

/// Settings that a worker can't act on.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The text is not JSON, or a field has another type.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// A duration can't be read.
    #[error("{0}")]
    Unreadable(String),
}

impl Default for WorkerSettings {
    /// The settings of a TaskGroup that sets nothing but its concurrency.
    fn default() -> Self {
        Self::of("", &TaskGroupSpec::new(1))
    }
}

impl WorkerSettings {
    /// The settings that a TaskGroup's checked spec contains. A caller that knows better replaces `max_inflight` and
    /// `callback_allow`.
    pub fn of(group: &str, spec: &TaskGroupSpec) -> Self {
        Self {
            group: group.to_owned(),
            max_inflight: u32::try_from(spec.workers.max_inflight_per_pod).unwrap_or(1),
            callback_allow: Vec::new(),
            timeouts: spec.timeouts.clone(),
            retry: spec.retry.clone(),
            dead_letter: spec.dead_letter.clone(),
            rate_limit: spec.rate_limit.clone(),
        }
    }

    /// The settings as the line of JSON that the consumer's metadata holds.
    pub fn to_json(&self) -> String {
        // A struct of plain numbers, booleans, and strings can always be written.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads what [`WorkerSettings::to_json`] of this or a neighboring version wrote.
    ///
    /// # Errors
    /// A text that is not JSON, a field of another type, or an unreadable duration.
    pub fn from_json(text: &str) -> Result<Self, SettingsError> {
        let settings: Self = serde_json::from_str(text)?;
        // The sections have the names and the form that they have in the spec.
        let problems = TASK_GROUP.unreadable_durations(&json!({"spec": settings}));
        if problems.is_empty() {
            return Ok(settings);
        }
        let problems = problems
            .into_iter()
            .map(|Problem { field, message }| format!("{field}: {message}"));
        Err(SettingsError::Unreadable(problems.collect::<Vec<_>>().join("; ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn the_sections_of_the_spec_pass_as_the_user_wrote_them() {
        let sections = json!({
            "timeouts": {"task": "90s", "ackWait": "1m", "expire": "0s"},
            "retry": {
                "maxAttempts": 3, "initialDelay": "1000ms", "maxDelay": "1m30s", "multiplier": 1.5, "maxRetryAfter": "60s",
            },
            "deadLetter": {"enabled": false},
            "rateLimit": {"tasks": 5, "per": "60s", "burst": 2},
        });
        let mut spec = sections.clone();
        spec["concurrency"] = json!(1);
        let spec: TaskGroupSpec = serde_json::from_value(spec).expect("a spec");
        let settings = WorkerSettings::of("acme", &spec);
        let mut expected = sections;
        expected["group"] = json!("acme");
        expected["maxInflight"] = json!(100);
        let json: Value = serde_json::from_str(&settings.to_json()).expect("JSON");
        assert_eq!(json, expected);
        assert_eq!(
            WorkerSettings::from_json(&settings.to_json()).expect("readable"),
            settings
        );
    }

    #[test]
    fn what_is_missing_has_the_default_of_a_task_group() {
        let settings =
            WorkerSettings::from_json(r#"{"retry": {"maxAttempts": 3}, "rateLimit": {}}"#).expect("readable");
        let default = WorkerSettings::default();
        assert_eq!(default.max_inflight, 100);
        assert_eq!(settings.retry.max_delay, default.retry.max_delay);
        assert_eq!(
            WorkerSettings {
                retry: default.retry.clone(),
                rate_limit: None,
                ..settings
            },
            default
        );
    }

    #[test]
    fn no_worker_acts_on_settings_that_it_can_not_read() {
        for (text, says) in [
            (
                r#"{"timeouts": {"task": "1d"}, "rateLimit": {"per": ""}}"#,
                "spec.timeouts.task: Invalid value: \"1d\": must be a duration such as 500ms, 90s or 1h30m; \
                 spec.rateLimit.per: Invalid value: \"\": must be a duration such as 500ms, 90s or 1h30m",
            ),
            (
                r#"{"deadLetter": {"enabled": 1}}"#,
                "invalid type: integer `1`, expected a boolean at line 1 column 28",
            ),
        ] {
            let error = WorkerSettings::from_json(text).expect_err(text);
            let mut found: Vec<_> = error.to_string().split("; ").map(ToOwned::to_owned).collect();
            let mut expected: Vec<_> = says.split("; ").map(ToOwned::to_owned).collect();
            found.sort();
            expected.sort();
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn settings_within_the_wider_bounds_of_a_newer_operator_are_read() {
        for text in [
            r#"{"timeouts": {"task": "48h", "expire": "1ms"}}"#,
            r#"{"retry": {"maxAttempts": 5000, "maxDelay": "10ms"}}"#,
            r#"{"rateLimit": {"burst": 1000000}}"#,
        ] {
            assert!(WorkerSettings::from_json(text).is_ok(), "{text}");
        }
    }
}
