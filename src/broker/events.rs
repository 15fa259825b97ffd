//! What others change in JetStream: heard from the server's advisories.
//!
//! nats-server 2.15 sends no advisory when a consumer is *changed*; the request itself can be
//! heard, though, as it is an ordinary message on `$JS.API.CONSUMER.CREATE.…`. Our own changes are
//! left out: the reconcile that made them knows.

use super::connection::Broker;
use crate::names::{CONSUMER, StreamName};
use futures::{Stream, StreamExt, stream};
use serde::Deserialize;

/// What happened in the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BrokerEvent {
    /// Somebody else made, changed, deleted, paused or resumed the stream or its consumer.
    Changed(StreamName),
}

#[derive(Deserialize)]
struct Advisory<'a> {
    #[serde(borrow)]
    client: Option<Client<'a>>,
}

#[derive(Deserialize)]
struct Client<'a> {
    #[serde(borrow, default)]
    name: Option<std::borrow::Cow<'a, str>>,
}

/// What others change, for as long as the client lives (also across connections; what happens while
/// there is none is missed: [`super::Link::epoch`] tells).
///
/// # Errors
/// A client that is closed.
pub async fn events(broker: &Broker) -> Result<impl Stream<Item = BrokerEvent> + Send + use<>, anyhow::Error> {
    let advisories = [
        "$JS.EVENT.ADVISORY.STREAM.CREATED.*".to_owned(),
        "$JS.EVENT.ADVISORY.STREAM.UPDATED.*".to_owned(),
        "$JS.EVENT.ADVISORY.STREAM.DELETED.*".to_owned(),
        format!("$JS.EVENT.ADVISORY.CONSUMER.CREATED.*.{CONSUMER}"),
        format!("$JS.EVENT.ADVISORY.CONSUMER.DELETED.*.{CONSUMER}"),
        format!("$JS.EVENT.ADVISORY.CONSUMER.PAUSE.*.{CONSUMER}"),
        format!("$JS.API.CONSUMER.CREATE.*.{CONSUMER}"),
        format!("$JS.API.CONSUMER.DURABLE.CREATE.*.{CONSUMER}"),
    ];
    let mut subscriptions = Vec::new();
    for subject in advisories {
        subscriptions.push(broker.client.subscribe(subject).await?);
    }
    let our_name = broker.name().to_owned();
    let our_inboxes = format!("_INBOX.{our_name}.");
    Ok(stream::select_all(subscriptions).filter_map(move |message| {
        let is_ours = message
            .reply
            .as_ref()
            .is_some_and(|reply| reply.starts_with(&our_inboxes))
            || serde_json::from_slice::<Advisory>(&message.payload)
                .ok()
                .and_then(|advisory| advisory.client?.name)
                .is_some_and(|name| name == our_name);
        let event = (!is_ours).then(|| changed(&message.subject)).flatten();
        async move { event }
    }))
}

/// The group's stream that a subject above is about.
fn changed(subject: &str) -> Option<BrokerEvent> {
    let tokens: Vec<_> = subject.split('.').collect();
    let stream = match tokens.as_slice() {
        ["$JS", "EVENT", "ADVISORY", "STREAM" | "CONSUMER", _, stream, ..]
        | ["$JS", "API", "CONSUMER", "CREATE", stream, _]
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
            "$JS.EVENT.ADVISORY.CONSUMER.PAUSE.tg_a_b.workers",
            "$JS.API.CONSUMER.CREATE.tg_a_b.workers",
            "$JS.API.CONSUMER.DURABLE.CREATE.tg_a_b.workers",
        ] {
            assert_eq!(changed(subject), event, "{subject}");
        }
        assert_eq!(changed("$JS.EVENT.ADVISORY.STREAM.DELETED.ORDERS"), None);
        assert_eq!(changed("$JS.API.STREAM.INFO.tg_a_b"), None);
    }
}
