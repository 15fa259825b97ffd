//! The one message per group that its workers share to keep a rate: read, and changed only by who has
//! read the last change.

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

/// How long an answer is waited for. It usually takes less than a millisecond; and when NATS was
/// restarted in between it never comes, while tasks wait.
const PATIENCE: Duration = Duration::from_secs(1);

#[derive(Deserialize)]
struct Answer {
    error: Option<Refusal>,
    #[serde(default)]
    seq: u64,
}

impl Broker {
    /// The rate of a group as it was stored last, and its number; `None` where there is none yet.
    ///
    /// In a cluster any server that has a copy answers, maybe one that is a little behind: then
    /// [`Broker::store_rate`] refuses what is built on it.
    pub async fn rate(&self, queue: &Queue) -> Result<Option<(u64, Bytes)>, BrokerError> {
        let subject = format!("$JS.API.DIRECT.GET.{RATE_STREAM}.{}", queue.of(Kind::Rate));
        let answer = self.ask_for_rate(subject.clone(), Request::new()).await?;
        // 404: nothing under this subject.
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

    /// Stores the rate of a group, and returns its number, if the last one stored has the number `last`
    /// (0 for none); else it is refused with [`code::WRONG_LAST_SEQUENCE`].
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
