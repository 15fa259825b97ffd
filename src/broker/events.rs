//! Changes that others make in JetStream.
//!
//! The server announces deletions by advisories. For other changes it sends no advisory that would help: nats-server
//! 2.15 sends none when a consumer changes, and those about streams do not say who made the change. But every request
//! can be observed as an ordinary message on `$JS.API.…`, and its reply inbox tells our requests from others'. A
//! request is observed *before* the server carries it out.

use super::{cancel::REPLICAS, connection::Broker};
use crate::protocol::StreamName;
use futures::{Stream, StreamExt, stream};
use serde::Deserialize;

/// An event in the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BrokerEvent {
    /// Somebody else created, changed, deleted, paused, or resumed the stream or its consumer.
    Changed(StreamName),
}

/// Yields what others change, for as long as the client lives. Changes made while there is no connection are missed;
/// [`super::Link::epoch`] tells that there was a gap.
///
/// # Errors
/// A client that is closed.
pub async fn events(broker: &Broker) -> Result<impl Stream<Item = BrokerEvent> + Send + use<>, anyhow::Error> {
    let subjects = [
        "$JS.EVENT.ADVISORY.STREAM.DELETED.*",
        "$JS.EVENT.ADVISORY.CONSUMER.DELETED.*.*",
        "$JS.API.STREAM.CREATE.*",
        "$JS.API.STREAM.UPDATE.*",
        "$JS.API.CONSUMER.CREATE.*.*",
        // With the consumer's filter at the end, where it has one.
        "$JS.API.CONSUMER.CREATE.*.*.>",
        "$JS.API.CONSUMER.DURABLE.CREATE.*.*",
        "$JS.API.CONSUMER.PAUSE.*.*",
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

/// A task that its worker removed without running it to the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Termination {
    /// Stream of the task's group.
    pub stream: StreamName,
    /// The worker's reason.
    pub reason: String,
}

/// Yields the tasks that workers remove without running them to the end, as the server announces them. Each goes to one
/// replica.
///
/// # Errors
/// A client that is closed.
pub async fn terminations(broker: &Broker) -> Result<impl Stream<Item = Termination> + Send + use<>, anyhow::Error> {
    #[derive(Deserialize)]
    struct Advisory {
        stream: String,
        consumer: String,
        #[serde(default)]
        reason: String,
    }
    let subject = "$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.*.*";
    let advisories = broker.client.queue_subscribe(subject, REPLICAS.to_owned()).await?;
    Ok(advisories.filter_map(|message| async move {
        let advisory: Advisory = serde_json::from_slice(&message.payload).ok()?;
        let stream = StreamName::from(advisory.stream.as_str());
        stream.has_consumer(&advisory.consumer).then_some(Termination {
            stream,
            reason: advisory.reason,
        })
    }))
}

/// The group's stream that an observed subject is about.
fn changed(subject: &str) -> Option<BrokerEvent> {
    let tokens: Vec<_> = subject.split('.').collect();
    let (stream, consumer) = match tokens.as_slice() {
        ["$JS", "EVENT", "ADVISORY", "STREAM", _, stream] | ["$JS", "API", "STREAM", "CREATE" | "UPDATE", stream] => {
            (stream, None)
        }
        ["$JS", "EVENT", "ADVISORY", "CONSUMER", _, stream, consumer]
        | ["$JS", "API", "CONSUMER", "CREATE", stream, consumer, ..]
        | ["$JS", "API", "CONSUMER", "PAUSE", stream, consumer]
        | ["$JS", "API", "CONSUMER", "DURABLE", "CREATE", stream, consumer] => (stream, Some(consumer)),
        _ => return None,
    };
    let stream = StreamName::from(*stream);
    let is_a_groups = match consumer {
        Some(consumer) => stream.has_consumer(consumer),
        None => stream.queue().is_some(),
    };
    is_a_groups.then_some(BrokerEvent::Changed(stream))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_changes_of_group_streams_are_events() {
        let event = Some(BrokerEvent::Changed(StreamName::from("tg_a_b")));
        for subject in [
            "$JS.EVENT.ADVISORY.STREAM.DELETED.tg_a_b",
            "$JS.EVENT.ADVISORY.CONSUMER.DELETED.tg_a_b.workers-a",
            "$JS.API.STREAM.UPDATE.tg_a_b",
            "$JS.API.CONSUMER.PAUSE.tg_a_b.workers-a",
            "$JS.API.CONSUMER.CREATE.tg_a_b.workers-a",
            "$JS.API.CONSUMER.DURABLE.CREATE.tg_a_b.workers-a",
        ] {
            assert_eq!(changed(subject), event, "{subject}");
        }
        for subject in [
            "$JS.EVENT.ADVISORY.STREAM.DELETED.ORDERS",
            "$JS.API.STREAM.INFO.tg_a_b",
            "$JS.API.CONSUMER.CREATE.tg_a_b.theirs",
            "$JS.API.CONSUMER.PAUSE.TASKGROUP_DELAY.relay",
        ] {
            assert_eq!(changed(subject), None, "{subject}");
        }
    }
}
