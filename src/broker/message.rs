//! Single messages of a stream: looks at one, removes those of a task.

use super::{
    api::absent,
    connection::Broker,
    error::{BrokerError, code},
};
use crate::protocol::{Stored, StreamName};
use async_nats::jetstream::{message::StreamMessage, stream::RawMessage};
use serde::Deserialize;
use serde_json::{Value, json};

/// A message that a stream holds.
#[derive(Clone, Debug)]
pub struct StoredMessage(StreamMessage);

impl StoredMessage {
    /// What tells it from every other message, also from one with its number in a stream that was made
    /// again.
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
    /// The last message under `subject`; `None` where there is none, or no such stream.
    pub async fn last_message(&self, stream: &StreamName, subject: &str) -> Result<Option<StoredMessage>, BrokerError> {
        self.message(stream, &json!({"last_by_subj": subject})).await
    }

    /// The message with this number; `None` where it is gone, or there is no such stream.
    pub async fn message_at(&self, stream: &StreamName, sequence: u64) -> Result<Option<StoredMessage>, BrokerError> {
        self.message(stream, &json!({"seq": sequence})).await
    }

    /// The first message from number `sequence` on whose subject `filter` matches; `None` where there is
    /// none, or no such stream.
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

    /// Removes the message with this number; one that is gone already counts as removed.
    pub async fn delete_message(&self, stream: &StreamName, sequence: u64) -> Result<(), BrokerError> {
        let deleted = self
            .request::<Value>(
                format!("STREAM.MSG.DELETE.{stream}"),
                &json!({"seq": sequence, "no_erase": true}),
            )
            .await;
        match deleted {
            // One that is gone is refused by the general code for a deletion that failed.
            Err(BrokerError::Refused {
                code: code::DELETE_FAILED,
                description,
                ..
            }) if description.contains("no message found") => Ok(()),
            deleted => absent(absent(deleted, code::SEQUENCE_NOT_FOUND), code::MESSAGE_NOT_FOUND).map(|_| ()),
        }
    }

    /// Removes all messages whose subject `filter` matches, one by one, and says how many; none where there
    /// is no such stream.
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

    /// The same, all at once. Only where no consumer can have such a message in hand: nats-server (seen
    /// with 2.15.1) then moves the consumer's floor up to it with the next ack, and never again delivers
    /// what is in hand below that.
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
