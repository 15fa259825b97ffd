//! Requests over plain NATS, and the replies to them.

use super::{connection::Broker, error::BrokerError};
use async_nats::{Client, Message};
use bytes::Bytes;
use futures::{Stream, StreamExt};
use serde::Serialize;

/// A request that waits for a reply.
pub struct Question {
    client: Client,
    message: Message,
}

impl Broker {
    /// Yields requests under `subject`. Each goes to one subscriber of the same `group`.
    pub async fn questions(
        &self,
        subject: String,
        group: Option<&str>,
    ) -> Result<impl Stream<Item = Question> + Send + use<>, BrokerError> {
        let messages = match group {
            Some(group) => self.client.queue_subscribe(subject, group.to_owned()).await,
            None => self.client.subscribe(subject).await,
        };
        let client = self.client.clone();
        let messages = messages.map_err(|error| self.unreachable(error))?;
        Ok(messages.map(move |message| Question {
            client: client.clone(),
            message,
        }))
    }
}

impl Question {
    /// Subject of the request.
    pub fn subject(&self) -> &str {
        &self.message.subject
    }

    /// Body of the request.
    pub fn payload(&self) -> &[u8] {
        &self.message.payload
    }

    /// Headers of the request.
    pub fn headers(&self) -> Vec<(String, String)> {
        let headers = self.message.headers.iter().flat_map(|headers| headers.iter());
        headers
            .flat_map(|(name, values)| values.iter().map(|value| (name.to_string(), value.to_string())))
            .collect()
    }

    /// Replies with JSON, where the sender waits for a reply.
    pub async fn answer(&self, answer: &impl Serialize) {
        match serde_json::to_vec(answer) {
            Ok(answer) => self.send(answer.into()).await,
            Err(error) => tracing::debug!(%error, "an answer could not be written"),
        }
    }

    /// Replies with a text, where the sender waits for a reply.
    pub async fn say(&self, text: impl Into<String>) {
        self.send(text.into().into()).await;
    }

    async fn send(&self, answer: Bytes) {
        let Some(reply) = self.message.reply.clone() else {
            return;
        };
        if let Err(error) = self.client.publish(reply, answer).await {
            tracing::debug!(%error, "an answer could not be sent");
        }
    }
}
