//! Keeps what the worker knows about its group up to date: the settings in the consumer's metadata,
//! the consumer's own `ack_wait` and `max_ack_pending`, and the server's time.
//!
//! Read at start, on the operator's notice, after every reconnect, when the pull loop finds the
//! consumer gone, and about every 30 seconds, so that a missed notice is made up for.

use super::{
    Worker,
    backoff::{Backoff, jittered},
    clock::Clock,
};
use crate::{
    broker::{Broker, BrokerError, ConsumerInfo},
    protocol::{Queue, keys, settings::WorkerSettings},
};
use futures::StreamExt;
use jiff::Timestamp;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{sync::watch, time};

/// How often the consumer is read without any cause, about.
const REREAD: Duration = Duration::from_secs(30);

/// By how much the server's time may be in doubt where tasks start by it.
const GOOD_ENOUGH: Duration = Duration::from_micros(250);

/// How often it is asked for once more to get there.
const MORE_ANSWERS: usize = 7;

/// What the workers of a group are to keep to.
#[derive(Clone, Debug, PartialEq)]
pub struct Terms {
    /// The settings that the operator wrote.
    pub settings: WorkerSettings,
    /// How long a delivery without a sign of life counts.
    pub ack_wait: Duration,
    /// The limit of the group, all its workers together.
    pub concurrency: u32,
}

#[cfg(test)]
impl Terms {
    /// Those of a group `acme` that sets nothing.
    pub fn of_acme() -> Self {
        Self {
            settings: WorkerSettings {
                group: "acme".into(),
                ..WorkerSettings::default()
            },
            ack_wait: Duration::from_secs(30),
            concurrency: 1,
        }
    }
}

/// What the worker knows about its group.
#[derive(Clone, Debug, PartialEq)]
pub struct Known {
    /// The terms last read: what runs goes on by them even while the consumer is away.
    pub terms: Option<Arc<Terms>>,
    /// Why no tasks can be asked for at present; `None` when they can.
    pub missing: Option<String>,
    /// Until when nothing new may start: the group is closed, or suspended.
    pub paused_until: Option<Timestamp>,
}

/// What a look at the consumer shows.
#[derive(Debug)]
struct Seen {
    terms: Terms,
    paused_until: Option<Timestamp>,
}

/// Reads the terms, over and over, for as long as it is polled.
pub async fn watch(worker: Arc<Worker>) {
    let Worker {
        broker,
        queue,
        known,
        look_again,
        clock,
        ..
    } = &*worker;
    let mut link = broker.link();
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    let mut notices = match broker.settings_notices(queue).await {
        Ok(notices) => notices.boxed(),
        // Only a closed client refuses; then nothing else works either.
        Err(_) => futures::stream::pending().boxed(),
    };
    loop {
        link.borrow_and_update();
        let read = match ask(broker, queue, clock).await {
            Ok(consumer) => read(consumer.as_ref(), queue),
            // What is known stays known: the tasks that run go on.
            Err(error @ BrokerError::Unreachable { .. }) if known.borrow().terms.is_some() => {
                tracing::debug!(%error, "the group's settings can't be read; trying again");
                Ok(None)
            }
            Err(error) => Err(error.to_string()),
        };
        let found = matches!(read, Ok(Some(_)));
        tell(known, read);
        if has_rate(&known.borrow()) {
            // The first answer, or one on a busy machine, leaves the time too much in doubt for starts that
            // are a millisecond apart.
            for _ in 0..MORE_ANSWERS {
                if clock.error() < GOOD_ENOUGH || ask(broker, queue, clock).await.is_err() {
                    break;
                }
            }
        }
        let pause = if found {
            backoff.reset();
            jittered(REREAD)
        } else {
            backoff.next()
        };
        tokio::select! {
            () = time::sleep(pause) => {}
            Some(()) = notices.next() => {}
            Ok(()) = link.changed() => {}
            () = look_again.notified() => {
                // The consumer is gone: the operator may need a moment to put it back.
                time::sleep(jittered(Duration::from_millis(100))).await;
            }
        }
    }
}

/// Reads the consumer, and sets the clock by the answer.
async fn ask(broker: &Broker, queue: &Queue, clock: &Clock) -> Result<Option<ConsumerInfo>, BrokerError> {
    let sent = Instant::now();
    let answer = broker.consumer(&queue.stream()).await;
    if let Ok(Some(ConsumerInfo { ts: Some(time), .. })) = answer {
        clock.heard(sent, Instant::now(), time);
    }
    answer
}

fn has_rate(known: &Known) -> bool {
    known.terms.as_ref().is_some_and(|terms| terms.settings.rate.is_some())
}

fn tell(known: &watch::Sender<Known>, read: Result<Option<Seen>, String>) {
    known.send_if_modified(|known| {
        let before = known.clone();
        match read {
            Ok(Some(Seen { terms, paused_until })) => {
                known.missing = None;
                known.paused_until = paused_until;
                if known.terms.as_deref() != Some(&terms) {
                    log_change(known.terms.as_deref(), &terms);
                    known.terms = Some(Arc::new(terms));
                }
            }
            Ok(None) => {}
            Err(missing) => known.missing = Some(missing),
        }
        *known != before
    });
}

fn log_change(before: Option<&Terms>, now: &Terms) {
    let settings = &now.settings;
    tracing::info!(
        group = settings.group,
        concurrency = now.concurrency,
        max_inflight = settings.max_inflight,
        task_timeout = ?settings.task_timeout(),
        ack_wait = ?now.ack_wait,
        max_attempts = settings.max_attempts,
        dead_letter = settings.dead_letter,
        "{}",
        if before.is_some() { "the group's settings changed" } else { "the group's settings" }
    );
}

/// The terms that a consumer states, or why it states none.
fn read(consumer: Option<&ConsumerInfo>, queue: &Queue) -> Result<Option<Seen>, String> {
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
    let concurrency = u32::try_from(consumer.max_ack_pending()).unwrap_or(u32::MAX);
    Ok(Some(Seen {
        terms: Terms {
            settings,
            ack_wait: consumer.ack_wait(),
            concurrency,
        },
        paused_until: consumer.paused_until(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn consumer(metadata: &serde_json::Value) -> ConsumerInfo {
        serde_json::from_value(json!({"config": {
            "ack_wait": 30_000_000_000_u64, "max_ack_pending": 4, "metadata": metadata,
        }}))
        .expect("a consumer")
    }

    #[test]
    fn the_terms_are_the_consumers_own_and_those_in_its_metadata() {
        let settings = WorkerSettings {
            group: "acme".into(),
            max_attempts: 3,
            ..WorkerSettings::default()
        }
        .to_json();
        let terms = read(
            Some(&consumer(&json!({keys::SETTINGS: settings}))),
            &Queue::new("a", "b"),
        );
        let Seen { terms, .. } = terms.expect("readable").expect("terms");
        assert_eq!((terms.concurrency, terms.ack_wait), (4, Duration::from_secs(30)));
        assert_eq!(
            (terms.settings.group.as_str(), terms.settings.max_attempts),
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
        ] {
            let error = read(consumer.as_ref(), &queue).expect_err(says);
            assert!(error.contains(says), "{error}");
        }
    }
}
