//! Questions that others ask over plain NATS, and their answers.

use super::{connection::Broker, error::BrokerError};
use async_nats::{Client, Message};
use futures::{Stream, StreamExt};
use serde::Serialize;

/// A question that waits for an answer.
pub struct Question {
    client: Client,
    message: Message,
}

impl Broker {
    /// Questions asked under `subject`; of those who ask for them with the same `group`, one gets each.
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
    /// What was asked.
    pub fn payload(&self) -> &[u8] {
        &self.message.payload
    }

    /// Answers, where an answer is waited for.
    pub async fn answer(&self, answer: &impl Serialize) {
        let (Some(reply), Ok(answer)) = (self.message.reply.clone(), serde_json::to_vec(answer)) else {
            return;
        };
        if let Err(error) = self.client.publish(reply, answer.into()).await {
            tracing::debug!(%error, "an answer could not be sent");
        }
    }
}
