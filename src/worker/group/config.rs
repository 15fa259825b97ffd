//! The configuration of a group as its workers read it from the consumer: the settings in the metadata, and the
//! consumer's own `ack_wait` and `max_ack_pending`. Pure.

use crate::{
    broker::ConsumerInfo,
    protocol::{Queue, keys, settings::WorkerSettings},
    worker::rate::Rate,
};
use jiff::Timestamp;
use std::time::Duration;

/// What the workers of a group keep to.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupConfig {
    settings: WorkerSettings,
    ack_wait: Duration,
    concurrency: u32,
}

/// What a look at the consumer shows.
#[derive(Debug)]
pub struct Observed {
    /// The configuration.
    pub config: GroupConfig,
    /// Until when the consumer delivers nothing, where it is paused.
    pub paused_until: Option<Timestamp>,
}

impl GroupConfig {
    pub fn settings(&self) -> &WorkerSettings {
        &self.settings
    }

    /// How soon JetStream redelivers a task whose lease is not renewed.
    pub fn ack_wait(&self) -> Duration {
        self.ack_wait
    }

    /// The limit of the group, all its workers together.
    pub fn concurrency(&self) -> u32 {
        self.concurrency
    }

    /// Most tasks in this process at once. Beyond the group's limit none would come.
    pub fn capacity(&self) -> u32 {
        self.settings.max_inflight.min(self.concurrency)
    }

    /// The rate at which tasks start, if the group has one.
    pub fn rate(&self) -> Option<Rate> {
        self.settings.rate_limit.as_ref().map(Rate::from)
    }

    /// Logs the configuration, which has replaced `before`.
    pub fn log(&self, before: Option<&Self>) {
        let settings = &self.settings;
        tracing::info!(
            group = settings.group,
            concurrency = self.concurrency,
            max_inflight = settings.max_inflight,
            task_timeout = ?settings.timeouts.task.checked(),
            ack_wait = ?self.ack_wait,
            max_attempts = settings.retry.max_attempts,
            dead_letter = settings.dead_letter.enabled,
            "{}",
            if before.is_some() { "the group's settings changed" } else { "the group's settings" }
        );
    }
}

/// Reads the configuration that a consumer states, or says what is missing and what to do.
pub fn read(consumer: Option<&ConsumerInfo>, queue: &Queue) -> Result<Observed, String> {
    let (stream, name) = (queue.stream(), queue.consumer());
    let Some(consumer) = consumer else {
        return Err(format!(
            "NATS has no stream {stream} with a consumer {name} yet: the operator makes them; look at the TaskGroup of queue {queue}"
        ));
    };
    let Some(text) = consumer.metadata(keys::SETTINGS) else {
        return Err(format!(
            "the consumer {name} of stream {stream} has no {} in its metadata: the operator writes it; look at the TaskGroup of queue {queue}",
            keys::SETTINGS
        ));
    };
    let settings = WorkerSettings::from_json(text).map_err(|error| {
        format!(
            "{} of the consumer {name} of stream {stream} can't be read ({error}): run operator and workers of one version",
            keys::SETTINGS
        )
    })?;
    Ok(Observed {
        config: GroupConfig {
            settings,
            ack_wait: consumer.ack_wait(),
            concurrency: u32::try_from(consumer.max_ack_pending()).unwrap_or(u32::MAX),
        },
        paused_until: consumer.paused_until(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::TaskGroupSpec;
    use serde_json::json;

    fn consumer(metadata: &serde_json::Value) -> ConsumerInfo {
        serde_json::from_value(json!({"config": {
            "ack_wait": 30_000_000_000_u64, "max_ack_pending": 4, "metadata": metadata,
        }}))
        .expect("a consumer")
    }

    #[test]
    fn the_configuration_is_the_consumers_own_and_the_settings_in_its_metadata() {
        let mut spec = TaskGroupSpec::new(4);
        spec.retry.max_attempts = 3;
        let settings = WorkerSettings::of("acme", &spec).to_json();
        let observed = read(
            Some(&consumer(&json!({keys::SETTINGS: settings}))),
            &Queue::new("a", "b"),
        );
        let config = observed.expect("readable").config;
        assert_eq!((config.concurrency, config.ack_wait), (4, Duration::from_secs(30)));
        assert_eq!(
            (config.settings.group.as_str(), config.settings.retry.max_attempts),
            ("acme", 3)
        );
    }

    #[test]
    fn what_is_missing_is_said_with_what_to_do() {
        let queue = Queue::new("a", "b");
        for (consumer, says) in [
            (
                None,
                "NATS has no stream tg_a_b with a consumer workers-a yet: the operator makes them",
            ),
            (
                Some(consumer(&json!({}))),
                "has no taskgroup.io/settings in its metadata",
            ),
            (
                Some(consumer(&json!({keys::SETTINGS: "{"}))),
                "EOF while parsing an object at line 1 column 1): run operator and workers of one version",
            ),
            (
                Some(consumer(
                    &json!({keys::SETTINGS: json!({"timeouts": {"task": "1d"}}).to_string()}),
                )),
                "must be a duration such as 500ms, 90s or 1h30m): run operator and workers of one version",
            ),
        ] {
            let error = read(consumer.as_ref(), &queue).expect_err(says);
            assert!(error.contains(says), "{error}");
        }
    }
}
