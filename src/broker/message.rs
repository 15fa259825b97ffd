//! Single messages of a stream: reads one, or removes those of a task.

use super::{
    api::absent,
    connection::Broker,
    error::{BrokerError, code},
};
use crate::protocol::{Stored, StreamName};
use async_nats::jetstream::{message::StreamMessage, stream::RawMessage};
use serde::Deserialize;
use serde_json::{Value, json};

/// A message in a stream.
#[derive(Clone, Debug)]
pub struct StoredMessage(StreamMessage);

impl StoredMessage {
    /// Identity of the message. It differs from that of a message with the same number in a re-created stream.
    pub fn stored(&self) -> Stored {
        Stored {
            sequence: self.0.sequence,
            at: u64::try_from(self.0.time.unix_timestamp_nanos()).unwrap_or_default(),
        }
    }

    /// The first value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        Some(self.0.headers.get(name)?.as_str())
    }
}

impl Broker {
    /// Reads the last message under `subject`; `None` where there is none, or no such stream.
    pub async fn last_message(&self, stream: &StreamName, subject: &str) -> Result<Option<StoredMessage>, BrokerError> {
        self.message(stream, &json!({"last_by_subj": subject})).await
    }

    /// Reads the message with this sequence number; `None` where it is gone, or there is no such stream.
    pub async fn message_at(&self, stream: &StreamName, sequence: u64) -> Result<Option<StoredMessage>, BrokerError> {
        self.message(stream, &json!({"seq": sequence})).await
    }

    /// Reads the first message from `sequence` on whose subject matches `filter`; `None` where there is none, or no
    /// such stream.
    pub async fn next_message(
        &self,
        stream: &StreamName,
        filter: &str,
        sequence: u64,
    ) -> Result<Option<StoredMessage>, BrokerError> {
        let which = json!({"next_by_subj": filter, "seq": sequence});
        self.message(stream, &which).await
    }

    async fn message(&self, stream: &StreamName, which: &Value) -> Result<Option<StoredMessage>, BrokerError> {
        #[derive(Deserialize)]
        struct Answer {
            message: RawMessage,
        }
        let request = format!("STREAM.MSG.GET.{stream}");
        let answer = self.request::<Answer>(request.clone(), which).await;
        let answer = absent(absent(answer, code::MESSAGE_NOT_FOUND), code::STREAM_NOT_FOUND)?;
        let Some(Answer { message }) = answer.flatten() else {
            return Ok(None);
        };
        StreamMessage::try_from(message)
            .map(|message| Some(StoredMessage(message)))
            .map_err(|cause| BrokerError::Unreadable {
                request,
                cause: cause.to_string(),
            })
    }

    /// Deletes the message with this sequence number. A missing message counts as deleted.
    pub async fn delete_message(&self, stream: &StreamName, sequence: u64) -> Result<(), BrokerError> {
        let deleted = self
            .request::<Value>(
                format!("STREAM.MSG.DELETE.{stream}"),
                &json!({"seq": sequence, "no_erase": true}),
            )
            .await;
        match deleted {
            // For a missing message, JetStream uses the general code of a failed deletion.
            Err(BrokerError::Refused {
                code: code::DELETE_FAILED,
                description,
                ..
            }) if description.contains("no message found") => Ok(()),
            deleted => absent(absent(deleted, code::SEQUENCE_NOT_FOUND), code::MESSAGE_NOT_FOUND).map(|_| ()),
        }
    }

    /// Deletes all messages whose subject matches `filter` one by one, and returns their number. A missing stream has
    /// none.
    pub async fn remove(&self, stream: &StreamName, filter: &str) -> Result<u64, BrokerError> {
        let mut removed = 0;
        let mut from = 0;
        while let Some(message) = self.next_message(stream, filter, from).await? {
            let sequence = message.stored().sequence;
            self.delete_message(stream, sequence).await?;
            removed += 1;
            from = sequence + 1;
        }
        Ok(removed)
    }

    /// Deletes all messages whose subject matches `filter` at once, and returns their number. Use this only where no
    /// consumer can have such a message in flight. After it, nats-server (2.15.1, measured) moves the consumer's floor
    /// up to the message with the next ack, and never again delivers what is in flight below.
    pub async fn purge(&self, stream: &StreamName, filter: &str) -> Result<u64, BrokerError> {
        #[derive(Deserialize)]
        struct Answer {
            #[serde(default)]
            purged: u64,
        }
        let answer = self
            .request::<Answer>(format!("STREAM.PURGE.{stream}"), &json!({"filter": filter}))
            .await;
        Ok(absent(answer, code::STREAM_NOT_FOUND)?.map_or(0, |answer| answer.purged))
    }
}
