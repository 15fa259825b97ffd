//! The one message per group by which workers share a rate. A worker may change it only if it has read the last change.

use super::{
    connection::Broker,
    error::{BrokerError, Refusal, code},
};
use crate::protocol::{Kind, Queue, subject::RATE_STREAM};
use async_nats::{
    HeaderMap, Message, Request,
    client::RequestErrorKind,
    header::{NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, NATS_SEQUENCE},
};
use bytes::Bytes;
use serde::Deserialize;
use std::time::Duration;

/// Longest wait for an answer, which usually takes less than a millisecond. When NATS restarts in between, the answer
/// never comes, while tasks wait.
const PATIENCE: Duration = Duration::from_secs(1);

#[derive(Deserialize)]
struct Answer {
    error: Option<Refusal>,
    #[serde(default)]
    seq: u64,
}

impl Broker {
    /// Reads a group's rate and its sequence number; `None` where there is none yet.
    ///
    /// In a cluster, any server with a copy answers, and it may be a little behind. [`Broker::store_rate`] then refuses
    /// the change that is built on it.
    pub async fn rate(&self, queue: &Queue) -> Result<Option<(u64, Bytes)>, BrokerError> {
        let subject = format!("$JS.API.DIRECT.GET.{RATE_STREAM}.{}", queue.of(Kind::Rate));
        let answer = self.ask_for_rate(subject.clone(), Request::new()).await?;
        // 404: no message has this subject.
        if answer.status.is_some_and(|status| status.as_u16() == 404) {
            return Ok(None);
        }
        let number = answer.headers.as_ref().and_then(|headers| headers.get(NATS_SEQUENCE));
        match number.and_then(|number| number.as_str().parse().ok()) {
            Some(number) => Ok(Some((number, answer.payload))),
            None => Err(BrokerError::Unreadable {
                request: subject,
                cause: format!("no number of a message in it (status {:?})", answer.status),
            }),
        }
    }

    /// Stores a group's rate and returns its sequence number, if the last stored one has the number `last` (0 for
    /// none). Otherwise JetStream refuses it with [`code::WRONG_LAST_SEQUENCE`].
    pub async fn store_rate(&self, queue: &Queue, rate: Bytes, last: u64) -> Result<u64, BrokerError> {
        let mut headers = HeaderMap::new();
        headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, last.to_string().as_str());
        let subject = queue.of(Kind::Rate);
        let request = Request::new().payload(rate).headers(headers);
        let answer = self.ask_for_rate(subject.clone(), request).await?;
        match serde_json::from_slice::<Answer>(&answer.payload) {
            Ok(Answer { error: None, seq }) => Ok(seq),
            Ok(Answer {
                error: Some(refusal), ..
            }) => Err(BrokerError::Refused {
                request: format!("a message to {subject}"),
                code: refusal.err_code,
                description: refusal.description,
            }),
            Err(cause) => Err(BrokerError::Unreadable {
                request: format!("a message to {subject}"),
                cause: cause.to_string(),
            }),
        }
    }

    async fn ask_for_rate(&self, subject: String, request: Request) -> Result<Message, BrokerError> {
        self.check()?;
        let answer = self.client.send_request(subject, request.timeout(Some(PATIENCE))).await;
        answer.map_err(|error| match error.kind() {
            RequestErrorKind::NoResponders => BrokerError::Refused {
                request: format!("the stream {RATE_STREAM}"),
                code: code::STREAM_NOT_FOUND,
                description: "it does not exist; the operator makes it: look at the operator's log".to_owned(),
            },
            RequestErrorKind::TimedOut => self.unreachable(format!("no answer of the stream {RATE_STREAM} in time")),
            _ => self.unreachable(error),
        })
    }
}
