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
use async_nats::jetstream::context::RequestErrorKind;
use jiff::Timestamp;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use std::collections::HashMap;

#[derive(Deserialize)]
struct Page<T> {
    total: usize,
    #[serde(default = "Vec::new")]
    streams: Vec<T>,
}

impl Broker {
    /// One request of the JetStream API, by its subject without `$JS.API.`.
    pub(super) async fn request<T: DeserializeOwned>(
        &self,
        subject: String,
        body: &impl Serialize,
    ) -> Result<T, BrokerError> {
        self.check()?;
        let answer: Value =
            self.jetstream
                .request(subject.clone(), body)
                .await
                .map_err(|error| match error.kind() {
                    RequestErrorKind::NoResponders => self.no_jetstream(),
                    RequestErrorKind::TimedOut => self.unreachable(format!("no answer to {subject} in time")),
                    _ => self.unreachable(error),
                })?;
        if let Some(refusal) = answer.get("error") {
            let refusal = Refusal::deserialize(refusal).map_err(|cause| BrokerError::Unreadable {
                request: subject.clone(),
                cause: cause.to_string(),
            })?;
            if refusal.err_code == code::NOT_ENABLED_FOR_ACCOUNT {
                return Err(self.no_jetstream());
            }
            return Err(BrokerError::Refused {
                request: subject,
                code: refusal.err_code,
                description: refusal.description,
            });
        }
        serde_json::from_value(answer).map_err(|cause| BrokerError::Unreadable {
            request: subject,
            cause: cause.to_string(),
        })
    }

    /// The stream as it is; `None` where there is none.
    pub async fn stream(&self, stream: &StreamName) -> Result<Option<StreamInfo>, BrokerError> {
        absent(
            self.request(format!("STREAM.INFO.{stream}"), &json!({})).await,
            code::STREAM_NOT_FOUND,
        )
    }

    /// Makes a stream.
    pub async fn create_stream(&self, config: &StreamConfig) -> Result<StreamInfo, BrokerError> {
        self.request(format!("STREAM.CREATE.{}", config.name), config).await
    }

    /// Changes a stream to `config`, which holds all its fields.
    pub async fn update_stream(&self, stream: &StreamName, config: &Value) -> Result<StreamInfo, BrokerError> {
        self.request(format!("STREAM.UPDATE.{stream}"), config).await
    }

    /// Deletes a stream with all that is in it; one that is gone already counts as deleted.
    pub async fn delete_stream(&self, stream: &StreamName) -> Result<(), BrokerError> {
        let deleted: Result<Value, _> = self.request(format!("STREAM.DELETE.{stream}"), &json!({})).await;
        absent(deleted, code::STREAM_NOT_FOUND).map(|_| ())
    }

    /// All streams of the account with what is in them.
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

    /// The group's consumer as it is; `None` where there is none, or no stream.
    pub async fn consumer(&self, stream: &StreamName) -> Result<Option<ConsumerInfo>, BrokerError> {
        let info = self
            .request(format!("CONSUMER.INFO.{stream}.{}", stream.consumer()), &json!({}))
            .await;
        absent(absent(info, code::CONSUMER_NOT_FOUND), code::STREAM_NOT_FOUND).map(Option::flatten)
    }

    /// Makes the group's consumer.
    pub async fn create_consumer(
        &self,
        stream: &StreamName,
        config: &ConsumerConfig,
    ) -> Result<ConsumerInfo, BrokerError> {
        let body = json!({"stream_name": stream.as_str(), "config": config, "action": "create"});
        self.request(format!("CONSUMER.CREATE.{stream}.{}", stream.consumer()), &body)
            .await
    }

    /// Changes the group's consumer to `config`, which holds all its fields.
    pub async fn update_consumer(&self, stream: &StreamName, config: &Value) -> Result<ConsumerInfo, BrokerError> {
        let body = json!({"stream_name": stream.as_str(), "config": config, "action": "update"});
        self.request(format!("CONSUMER.CREATE.{stream}.{}", stream.consumer()), &body)
            .await
    }

    /// Holds back all deliveries of the group's consumer, or lets them go on. What runs is not touched.
    pub async fn pause_consumer(&self, stream: &StreamName, paused: bool) -> Result<(), BrokerError> {
        let body = if paused {
            json!({"pause_until": FOR_EVER})
        } else {
            json!({})
        };
        self.pause(stream, &body).await
    }

    /// Holds back all deliveries of the group's consumer until `until`, whatever held them back before.
    pub async fn pause_consumer_until(&self, stream: &StreamName, until: Timestamp) -> Result<(), BrokerError> {
        self.pause(stream, &json!({"pause_until": until})).await
    }

    async fn pause(&self, stream: &StreamName, body: &Value) -> Result<(), BrokerError> {
        let _: Value = self
            .request(format!("CONSUMER.PAUSE.{stream}.{}", stream.consumer()), body)
            .await?;
        Ok(())
    }

    /// How many messages each queue has under the subjects of `kind`, in `stream`; a stream that is
    /// missing has none. Costs the server a walk over all those subjects: ask when
    /// [`super::StreamState`] of the stream changed, not on every round.
    pub async fn count_by_queue(&self, stream: &str, kind: Kind) -> Result<HashMap<Queue, u64>, BrokerError> {
        let mut counts = HashMap::new();
        for (subject, count) in self.subjects(stream, &kind.all()).await? {
            if let Some((_, queue)) = subject::queue_of(&subject) {
                *counts.entry(queue).or_insert(0) += count;
            }
        }
        Ok(counts)
    }

    /// How many tasks of a queue are in back-off, or are due and not yet back in their queue.
    pub async fn delayed(&self, queue: &Queue) -> Result<u64, BrokerError> {
        let mut count = 0;
        for subjects in [Kind::Delay, Kind::Due].map(|kind| queue.all(kind)) {
            count += self.subjects(DELAY_STREAM, &subjects).await?.values().sum::<u64>();
        }
        Ok(count)
    }

    /// The messages under each subject that `filter` matches.
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

    /// Removes what the shared streams keep of a queue: tasks in back-off, callbacks, its rate. Its dead
    /// letters stay.
    pub async fn purge_queue(&self, queue: &Queue) -> Result<(), BrokerError> {
        let delays = StreamName::from(DELAY_STREAM);
        for kind in [Kind::Delay, Kind::Callback] {
            self.purge(&delays, &queue.all(kind)).await?;
        }
        // A relay may have them in hand.
        for kind in [Kind::Due, Kind::CallbackDue] {
            self.remove(&delays, &queue.all(kind)).await?;
        }
        self.purge(&StreamName::from(RATE_STREAM), &queue.of(Kind::Rate))
            .await?;
        Ok(())
    }

    /// Tells the workers of a queue that their settings changed. A worker that misses it finds out
    /// by itself, only later.
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
