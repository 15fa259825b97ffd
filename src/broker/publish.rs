//! Publishing with the server's confirmation that a stream stored the message.

use super::{
    connection::Broker,
    error::{BrokerError, Refusal, code},
};
use async_nats::{
    HeaderMap, Request,
    client::RequestErrorKind,
    header::{HeaderName, HeaderValue},
};
use bytes::Bytes;
use serde::Deserialize;

#[derive(Deserialize)]
struct Answer {
    error: Option<Refusal>,
    #[serde(default)]
    duplicate: bool,
}

/// A stream's confirmation that it keeps a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Receipt {
    /// The stream stored the message now.
    Stored,
    /// The stream knows the message's `Nats-Msg-Id` and dropped this copy.
    Duplicate,
}

impl Broker {
    /// Publishes a message and waits until a stream has stored it, or had stored one with the same `Nats-Msg-Id`.
    /// Headers that NATS can't carry (a line break in a value) are left out.
    pub async fn store(
        &self,
        subject: &str,
        headers: &[(String, String)],
        payload: Bytes,
    ) -> Result<Receipt, BrokerError> {
        self.check()?;
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), value.parse::<HeaderValue>()) {
                map.append(name, value);
            }
        }
        let refused = |code, description: String| BrokerError::Refused {
            request: format!("a message to {subject}"),
            code,
            description,
        };
        let request = Request::new().payload(payload).headers(map);
        let answer = self.client.send_request(subject.to_owned(), request).await;
        let answer = answer.map_err(|error| match error.kind() {
            RequestErrorKind::NoResponders => refused(
                code::NO_LISTENER,
                "no stream listens to this subject; the operator makes it".to_owned(),
            ),
            RequestErrorKind::MaxPayloadExceeded => refused(
                code::TOO_LARGE,
                format!("it is larger than max_payload of the NATS server ({error}); raise max_payload there"),
            ),
            RequestErrorKind::TimedOut => self.unreachable(format!("no answer to a message to {subject} in time")),
            _ => self.unreachable(&error),
        })?;
        match serde_json::from_slice::<Answer>(&answer.payload) {
            Ok(Answer { error: None, duplicate }) => Ok(if duplicate { Receipt::Duplicate } else { Receipt::Stored }),
            Ok(Answer {
                error: Some(refusal), ..
            }) => Err(refused(refusal.err_code, refusal.description)),
            Err(cause) => Err(BrokerError::Unreadable {
                request: format!("a message to {subject}"),
                cause: cause.to_string(),
            }),
        }
    }

    /// Largest message, with headers, that the server takes, in bytes.
    pub fn max_payload(&self) -> usize {
        self.client.max_payload()
    }
}
