//! What others change in JetStream.
//!
//! Deletions are heard from the server's advisories. For changes there are none that would help:
//! nats-server 2.15 sends none when a consumer is changed, and those about streams do not say by
//! whom. But the requests themselves can be heard, as ordinary messages on `$JS.API.…`, and their
//! reply inbox tells ours from others'. A request is heard *before* it is carried out.

use super::{cancel::REPLICAS, connection::Broker};
use crate::names::{CONSUMER, StreamName};
use futures::{Stream, StreamExt, stream};
use serde::Deserialize;

/// What happened in the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BrokerEvent {
    /// Somebody else made, changed, deleted, paused or resumed the stream or its consumer.
    Changed(StreamName),
}

/// What others change, for as long as the client lives (also across connections; what happens while
/// there is none is missed: [`super::Link::epoch`] tells).
///
/// # Errors
/// A client that is closed.
pub async fn events(broker: &Broker) -> Result<impl Stream<Item = BrokerEvent> + Send + use<>, anyhow::Error> {
    let subjects = [
        "$JS.EVENT.ADVISORY.STREAM.DELETED.*".to_owned(),
        format!("$JS.EVENT.ADVISORY.CONSUMER.DELETED.*.{CONSUMER}"),
        "$JS.API.STREAM.CREATE.*".to_owned(),
        "$JS.API.STREAM.UPDATE.*".to_owned(),
        format!("$JS.API.CONSUMER.CREATE.*.{CONSUMER}"),
        format!("$JS.API.CONSUMER.DURABLE.CREATE.*.{CONSUMER}"),
        format!("$JS.API.CONSUMER.PAUSE.*.{CONSUMER}"),
    ];
    let mut subscriptions = Vec::new();
    for subject in subjects {
        subscriptions.push(broker.client.subscribe(subject).await?);
    }
    let our_inboxes = broker.inboxes();
    Ok(stream::select_all(subscriptions).filter_map(move |message| {
        let is_ours = message
            .reply
            .as_ref()
            .is_some_and(|reply| reply.starts_with(&our_inboxes));
        let event = (!is_ours).then(|| changed(&message.subject)).flatten();
        async move { event }
    }))
}

/// A task that its worker removed without doing it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Termination {
    /// The stream of its group.
    pub stream: StreamName,
    /// Why, in the worker's words.
    pub reason: String,
}

/// The tasks that are removed without being done, as the server tells it; each comes to one replica.
///
/// # Errors
/// A client that is closed.
pub async fn terminations(broker: &Broker) -> Result<impl Stream<Item = Termination> + Send + use<>, anyhow::Error> {
    #[derive(Deserialize)]
    struct Advisory {
        stream: String,
        #[serde(default)]
        reason: String,
    }
    let subject = format!("$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.*.{CONSUMER}");
    let advisories = broker.client.queue_subscribe(subject, REPLICAS.to_owned()).await?;
    Ok(advisories.filter_map(|message| async move {
        let advisory: Advisory = serde_json::from_slice(&message.payload).ok()?;
        Some(Termination {
            stream: StreamName::from(advisory.stream.as_str()),
            reason: advisory.reason,
        })
    }))
}

/// The group's stream that a subject above is about.
fn changed(subject: &str) -> Option<BrokerEvent> {
    let tokens: Vec<_> = subject.split('.').collect();
    let stream = match tokens.as_slice() {
        ["$JS", "EVENT", "ADVISORY", "STREAM" | "CONSUMER", _, stream, ..]
        | ["$JS", "API", "STREAM", "CREATE" | "UPDATE", stream]
        | ["$JS", "API", "CONSUMER", "CREATE" | "PAUSE", stream, _]
        | ["$JS", "API", "CONSUMER", "DURABLE", "CREATE", stream, _] => StreamName::from(*stream),
        _ => return None,
    };
    stream.queue().map(|_| BrokerEvent::Changed(stream))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_changes_of_group_streams_are_events() {
        let event = Some(BrokerEvent::Changed(StreamName::from("tg_a_b")));
        for subject in [
            "$JS.EVENT.ADVISORY.STREAM.DELETED.tg_a_b",
            "$JS.EVENT.ADVISORY.CONSUMER.DELETED.tg_a_b.workers",
            "$JS.API.STREAM.UPDATE.tg_a_b",
            "$JS.API.CONSUMER.PAUSE.tg_a_b.workers",
            "$JS.API.CONSUMER.CREATE.tg_a_b.workers",
            "$JS.API.CONSUMER.DURABLE.CREATE.tg_a_b.workers",
        ] {
            assert_eq!(changed(subject), event, "{subject}");
        }
        assert_eq!(changed("$JS.EVENT.ADVISORY.STREAM.DELETED.ORDERS"), None);
        assert_eq!(changed("$JS.API.STREAM.INFO.tg_a_b"), None);
    }
}
