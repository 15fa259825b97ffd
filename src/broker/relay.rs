//! The relay's side of the delay stream: its consumer, and the publications of its messages elsewhere.

use super::{
    api::absent,
    config::as_nanos,
    connection::Broker,
    error::{BrokerError, Refusal, code},
    pull::Delivery,
};
use crate::protocol::{
    Kind, Queue, callback, keys,
    subject::{DELAY_STREAM, DUE_KINDS, RELAY},
};
use async_nats::{
    HeaderMap, Request,
    client::RequestErrorKind,
    header::{HeaderName, HeaderValue},
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::Duration;

/// Time after which JetStream redelivers the messages of a dead relay to another one.
const ACK_WAIT: Duration = Duration::from_secs(30);

/// What became of a publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Publication {
    /// A stream has the message, or had it already.
    Stored,
    /// The stream has no room now.
    Full,
    /// The message is larger than the stream takes.
    TooLarge,
    /// No stream listens to the subject.
    NoStream,
}

#[derive(Deserialize)]
struct Answer {
    error: Option<Refusal>,
}

impl Broker {
    /// Creates the consumer of the delay stream where it is missing.
    pub async fn ensure_relay(&self, instance: &str) -> Result<(), BrokerError> {
        let info = self
            .request(format!("CONSUMER.INFO.{DELAY_STREAM}.{RELAY}"), &json!({}))
            .await;
        let found: Option<Value> = absent(info, code::CONSUMER_NOT_FOUND)?;
        if found.is_some() {
            return Ok(());
        }
        let config = json!({
            "durable_name": RELAY,
            "name": RELAY,
            "deliver_policy": "all",
            "ack_policy": "explicit",
            "ack_wait": as_nanos(ACK_WAIT),
            "max_deliver": -1,
            // A message that waits for a full queue counts as delivered. It must not hold up other groups.
            "max_ack_pending": -1,
            "filter_subjects": DUE_KINDS.map(Kind::all),
            "metadata": {keys::INSTANCE: instance},
        });
        let body = json!({"stream_name": DELAY_STREAM, "config": config, "action": "create"});
        let _: Value = self
            .request(format!("CONSUMER.CREATE.{DELAY_STREAM}.{RELAY}"), &body)
            .await?;
        tracing::info!("consumer {RELAY} of stream {DELAY_STREAM} made");
        Ok(())
    }

    /// Counts the messages before the relays: those not delivered yet, and those in flight or to be tried again. `None`
    /// where the consumer is missing.
    pub async fn relay_backlog(&self) -> Result<Option<(u64, u64)>, BrokerError> {
        #[derive(Deserialize)]
        struct Info {
            #[serde(default)]
            num_pending: u64,
            #[serde(default)]
            num_ack_pending: u64,
        }
        let info = self
            .request(format!("CONSUMER.INFO.{DELAY_STREAM}.{RELAY}"), &json!({}))
            .await;
        let info: Option<Info> = absent(absent(info, code::CONSUMER_NOT_FOUND), code::STREAM_NOT_FOUND)?.flatten();
        Ok(info.map(|info| (info.num_pending, info.num_ack_pending)))
    }

    /// Publishes `message` under `subject` with these headers, and waits until a stream has stored it, or says that it
    /// had one with the same `Nats-Msg-Id`.
    pub async fn republish(
        &self,
        message: &Delivery,
        subject: &str,
        headers: &[(&str, &str)],
    ) -> Result<Publication, BrokerError> {
        self.check()?;
        let request = Request::new().payload(message.payload()).headers(map(headers));
        let answer = match self.client.send_request(subject.to_owned(), request).await {
            Ok(answer) => answer,
            Err(error) => {
                return match error.kind() {
                    RequestErrorKind::NoResponders => Ok(Publication::NoStream),
                    RequestErrorKind::MaxPayloadExceeded => Ok(Publication::TooLarge),
                    _ => Err(self.unreachable(&error)),
                };
            }
        };
        let answer: Answer = serde_json::from_slice(&answer.payload).map_err(|cause| BrokerError::Unreadable {
            request: format!("a message to {subject}"),
            cause: cause.to_string(),
        })?;
        match answer.error {
            None => Ok(Publication::Stored),
            Some(refusal) if refusal.err_code == code::STREAM_FULL => Ok(Publication::Full),
            Some(refusal) if refusal.err_code == code::MESSAGE_TOO_LARGE => Ok(Publication::TooLarge),
            Some(refusal) => Err(BrokerError::Refused {
                request: format!("a message to {subject}"),
                code: refusal.err_code,
                description: refusal.description,
            }),
        }
    }

    /// Asks one of the queue's workers to make the callback that `message` is; `None` when no worker replied in time.
    pub async fn ask_for_callback(
        &self,
        queue: &Queue,
        message: &Delivery,
        headers: &[(&str, &str)],
        patience: Duration,
    ) -> Result<Option<callback::Reply>, BrokerError> {
        self.check()?;
        let request = Request::new()
            .payload(message.payload())
            .headers(map(headers))
            .timeout(Some(patience));
        match self.client.send_request(queue.of(Kind::WorkerCallback), request).await {
            Ok(answer) => Ok(Some(callback::Reply::read(&answer.payload))),
            Err(error) => match error.kind() {
                RequestErrorKind::NoResponders | RequestErrorKind::TimedOut => Ok(None),
                RequestErrorKind::MaxPayloadExceeded => Ok(Some(callback::Reply::GiveUp)),
                _ => Err(self.unreachable(&error)),
            },
        }
    }
}

/// Headers that NATS can't carry are left out.
fn map(headers: &[(&str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), value.parse::<HeaderValue>()) {
            map.append(name, value);
        }
    }
    map
}
