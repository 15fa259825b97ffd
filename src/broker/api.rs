//! Requests to the JetStream API.

use super::{
    config::{ConsumerConfig, ConsumerInfo, FOR_EVER, StreamConfig, StreamInfo},
    connection::Broker,
    error::{BrokerError, Refusal, code},
};
use crate::protocol::{
    Kind, Queue, StreamName,
    subject::{self, DELAY_STREAM, RATE_STREAM},
};
use async_nats::client::RequestErrorKind;
use jiff::Timestamp;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use std::collections::HashMap;

#[derive(Deserialize)]
struct Refused {
    error: Option<Refusal>,
}

#[derive(Deserialize)]
struct Page<T> {
    total: usize,
    #[serde(default = "Vec::new")]
    streams: Vec<T>,
}

impl Broker {
    /// Sends one request to the JetStream API. `subject` lacks the prefix `$JS.API.`.
    pub(super) async fn request<T: DeserializeOwned>(
        &self,
        subject: String,
        body: &impl Serialize,
    ) -> Result<T, BrokerError> {
        self.check()?;
        let unreadable = |cause: serde_json::Error| BrokerError::Unreadable {
            request: subject.clone(),
            cause: cause.to_string(),
        };
        let body = serde_json::to_vec(body).map_err(unreadable)?;
        let answer = self.client.request(format!("$JS.API.{subject}"), body.into()).await;
        let answer = answer.map_err(|error| match error.kind() {
            RequestErrorKind::NoResponders => self.no_jetstream(),
            RequestErrorKind::TimedOut => self.unreachable(format!("no answer to {subject} in time")),
            _ => self.unreachable(error),
        })?;
        // Read twice: to skip over a page of streams costs far less than to keep it as untyped JSON first.
        let Refused { error } = serde_json::from_slice(&answer.payload).map_err(unreadable)?;
        match error {
            None => serde_json::from_slice(&answer.payload).map_err(unreadable),
            Some(refusal) if refusal.err_code == code::NOT_ENABLED_FOR_ACCOUNT => Err(self.no_jetstream()),
            Some(refusal) => Err(BrokerError::Refused {
                request: subject,
                code: refusal.err_code,
                description: refusal.description,
            }),
        }
    }

    /// Reads a stream; `None` where it does not exist.
    pub async fn stream(&self, stream: &StreamName) -> Result<Option<StreamInfo>, BrokerError> {
        absent(
            self.request(format!("STREAM.INFO.{stream}"), &json!({})).await,
            code::STREAM_NOT_FOUND,
        )
    }

    /// Creates a stream.
    pub async fn create_stream(&self, config: &StreamConfig) -> Result<StreamInfo, BrokerError> {
        self.request(format!("STREAM.CREATE.{}", config.name), config).await
    }

    /// Updates a stream to `config`, which holds all of the stream's fields.
    pub async fn update_stream(&self, stream: &StreamName, config: &Value) -> Result<StreamInfo, BrokerError> {
        self.request(format!("STREAM.UPDATE.{stream}"), config).await
    }

    /// Deletes a stream and its messages. A missing stream counts as deleted.
    pub async fn delete_stream(&self, stream: &StreamName) -> Result<(), BrokerError> {
        let deleted: Result<Value, _> = self.request(format!("STREAM.DELETE.{stream}"), &json!({})).await;
        absent(deleted, code::STREAM_NOT_FOUND).map(|_| ())
    }

    /// Lists all streams of the account, with their state.
    pub async fn streams(&self) -> Result<Vec<StreamInfo>, BrokerError> {
        let mut all = Vec::new();
        self.each_stream(|info| all.push(info)).await?;
        Ok(all)
    }

    /// Shows each stream of the account to `visit`, one page after another, so that they are never in memory all at once.
    pub async fn each_stream(&self, mut visit: impl FnMut(StreamInfo)) -> Result<(), BrokerError> {
        let mut seen = 0;
        loop {
            let page: Page<StreamInfo> = self.request("STREAM.LIST".into(), &json!({"offset": seen})).await?;
            let empty = page.streams.is_empty();
            seen += page.streams.len();
            page.streams.into_iter().for_each(&mut visit);
            if empty || seen >= page.total {
                return Ok(());
            }
        }
    }

    /// Reads the group's consumer; `None` where the consumer or its stream does not exist.
    pub async fn consumer(&self, stream: &StreamName) -> Result<Option<ConsumerInfo>, BrokerError> {
        let info = self
            .request(format!("CONSUMER.INFO.{stream}.{}", stream.consumer()), &json!({}))
            .await;
        absent(absent(info, code::CONSUMER_NOT_FOUND), code::STREAM_NOT_FOUND).map(Option::flatten)
    }

    /// Creates the group's consumer.
    pub async fn create_consumer(
        &self,
        stream: &StreamName,
        config: &ConsumerConfig,
    ) -> Result<ConsumerInfo, BrokerError> {
        let body = json!({"stream_name": stream.as_str(), "config": config, "action": "create"});
        self.request(format!("CONSUMER.CREATE.{stream}.{}", stream.consumer()), &body)
            .await
    }

    /// Updates the group's consumer to `config`, which holds all of the consumer's fields.
    pub async fn update_consumer(&self, stream: &StreamName, config: &Value) -> Result<ConsumerInfo, BrokerError> {
        let body = json!({"stream_name": stream.as_str(), "config": config, "action": "update"});
        self.request(format!("CONSUMER.CREATE.{stream}.{}", stream.consumer()), &body)
            .await
    }

    /// Pauses the group's consumer, or resumes it. Running tasks are not touched.
    pub async fn pause_consumer(&self, stream: &StreamName, paused: bool) -> Result<(), BrokerError> {
        let body = if paused {
            json!({"pause_until": FOR_EVER})
        } else {
            json!({})
        };
        self.pause(stream, &body).await
    }

    /// Pauses the group's consumer until `until`. An earlier pause no longer counts.
    pub async fn pause_consumer_until(&self, stream: &StreamName, until: Timestamp) -> Result<(), BrokerError> {
        self.pause(stream, &json!({"pause_until": until})).await
    }

    async fn pause(&self, stream: &StreamName, body: &Value) -> Result<(), BrokerError> {
        let _: Value = self
            .request(format!("CONSUMER.PAUSE.{stream}.{}", stream.consumer()), body)
            .await?;
        Ok(())
    }

    /// Counts the messages of each queue under the subjects of `kind`. A missing stream has none. The server walks over
    /// all those subjects, so call this when the stream's [`super::StreamState`] changed, not on every sweep.
    pub async fn count_by_queue(&self, stream: &str, kind: Kind) -> Result<HashMap<Queue, u64>, BrokerError> {
        let mut counts = HashMap::new();
        for (subject, count) in self.subjects(stream, &kind.all()).await? {
            if let Some((_, queue)) = subject::queue_of(&subject) {
                *counts.entry(queue).or_insert(0) += count;
            }
        }
        Ok(counts)
    }

    /// Counts the tasks of a queue that are in back-off, or due and not yet requeued.
    pub async fn delayed(&self, queue: &Queue) -> Result<u64, BrokerError> {
        let mut count = 0;
        for subjects in [Kind::Delay, Kind::Due].map(|kind| queue.all(kind)) {
            count += self.subjects(DELAY_STREAM, &subjects).await?.values().sum::<u64>();
        }
        Ok(count)
    }

    /// Counts the messages under each subject that `filter` matches.
    async fn subjects(&self, stream: &str, filter: &str) -> Result<HashMap<String, u64>, BrokerError> {
        #[derive(Deserialize)]
        struct Subjects {
            state: State,
            #[serde(default)]
            total: usize,
        }
        #[derive(Deserialize)]
        struct State {
            #[serde(default)]
            subjects: HashMap<String, u64>,
        }
        let mut all = HashMap::new();
        let mut seen = 0;
        loop {
            let body = json!({"subjects_filter": filter, "offset": seen});
            let page = self.request(format!("STREAM.INFO.{stream}"), &body).await;
            let Some(page): Option<Subjects> = absent(page, code::STREAM_NOT_FOUND)? else {
                return Ok(HashMap::new());
            };
            let empty = page.state.subjects.is_empty();
            seen += page.state.subjects.len();
            all.extend(page.state.subjects);
            if empty || seen >= page.total {
                return Ok(all);
            }
        }
    }

    /// Removes a queue's messages from the shared streams: tasks in back-off, callbacks, and the rate. The queue's dead
    /// letters stay.
    pub async fn purge_queue(&self, queue: &Queue) -> Result<(), BrokerError> {
        let delays = StreamName::from(DELAY_STREAM);
        for kind in [Kind::Delay, Kind::Callback] {
            self.purge(&delays, &queue.all(kind)).await?;
        }
        // One by one, as a relay may have them in flight.
        for kind in [Kind::Due, Kind::CallbackDue] {
            self.remove(&delays, &queue.all(kind)).await?;
        }
        self.purge(&StreamName::from(RATE_STREAM), &queue.of(Kind::Rate))
            .await?;
        Ok(())
    }

    /// Tells the workers of a queue that their settings changed. A worker that misses the notice reads the settings
    /// within half a minute.
    pub async fn notify_settings(&self, queue: &Queue) -> Result<(), BrokerError> {
        self.client
            .publish(queue.of(Kind::Settings), bytes::Bytes::new())
            .await
            .map_err(|error| self.unreachable(error))
    }
}

pub(super) fn absent<T>(result: Result<T, BrokerError>, not_found: u64) -> Result<Option<T>, BrokerError> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.is(not_found) => Ok(None),
        Err(error) => Err(error),
    }
}
