//! Due messages that are there, and that the relay's consumer counts as done all the same. A NATS that is
//! stopped while it removes a message can bring that back when it starts again, but not that a relay
//! had it in hand (seen with 2.15.1, a few times in ten restarts under load): nobody would ever get it.

use crate::{
    broker::{Broker, BrokerError, Receipt, StoredMessage},
    names::{DELAY_STREAM, DUE_SUBJECTS, StreamName},
    task::history,
};
use std::collections::BTreeSet;

/// Messages of one look, at the most. There are a few, if any.
const MOST: usize = 1000;

/// What was there when it was looked last.
#[derive(Default)]
pub struct Forgotten(BTreeSet<u64>);

impl Forgotten {
    /// Puts those messages before the consumer again that were forgotten when it was looked last, and still
    /// are: what is acknowledged just now is gone then. Says how many.
    pub async fn look(&mut self, broker: &Broker) -> Result<usize, BrokerError> {
        let (delays, floor) = (StreamName::from(DELAY_STREAM), broker.relay_floor().await?);
        let mut found = BTreeSet::new();
        let mut again = 0;
        for subjects in DUE_SUBJECTS {
            let mut from = 1;
            while from <= floor && found.len() < MOST {
                let message = broker.next_message(&delays, subjects, from).await?;
                let Some(message) = message.filter(|message| message.stored().sequence <= floor) else {
                    break;
                };
                let sequence = message.stored().sequence;
                from = sequence + 1;
                if self.0.contains(&sequence) {
                    put_again(broker, &delays, &message).await?;
                    again += 1;
                } else {
                    found.insert(sequence);
                }
            }
        }
        self.0 = found;
        Ok(again)
    }
}

/// A copy first, so that it is there at any time. If this ends in between, the copy is not stored twice.
async fn put_again(broker: &Broker, delays: &StreamName, message: &StoredMessage) -> Result<(), BrokerError> {
    let stored = message.stored();
    let mut headers: Vec<_> = super::decide::headers_to_keep(message.headers())
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    headers.extend([
        (history::AGAIN.to_owned(), stored.sequence.to_string()),
        ("Nats-Msg-Id".to_owned(), format!("again:{}", stored.origin(delays))),
    ]);
    // Stored just now, or in an earlier try.
    let (Receipt::Stored | Receipt::Duplicate) = broker.store(message.subject(), &headers, message.payload()).await?;
    broker.delete_message(delays, stored.sequence).await
}
