//! From a changed limit to the changed consumer, one after another.

use crate::{
    bed::{Bed, Namespace, group_name},
    floor::{self, Floor},
    ours::Operator,
    seen::is_done,
};
use futures::StreamExt;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use std::time::{Duration, Instant};
use taskgroup::{
    api::TaskGroup,
    broker::Broker,
    operator::validate,
    protocol::{Kind, Queue},
};

/// A change that takes longer than this was lost.
const PATIENCE: Duration = Duration::from_secs(30);

/// Milliseconds from the start of each PATCH until the operator says that the consumer is changed,
/// which it does after JetStream confirmed it; and it is.
pub async fn ours(bed: &Bed, operator: &Operator<'_>, groups: usize, changes: usize) -> Vec<f64> {
    let namespace = &operator.namespace;
    let nats = bed.nats.client().await;
    let every_queue = Queue::new(namespace.name.as_str(), "*").of(Kind::Settings);
    let mut notices = nats.subscribe(every_queue).await.unwrap();
    nats.flush().await.unwrap();
    let mut times = Vec::new();
    for change in 0..changes {
        let (group, limit) = nth(change, groups);
        let queue = Queue::new(namespace.name.as_str(), group.as_str());
        let start = Instant::now();
        let patch = patch(namespace, &group, limit);
        let notice = async {
            let message = tokio::time::timeout(PATIENCE, notices.next()).await;
            let message = message.expect("a changed limit reaches the consumer").unwrap();
            assert_eq!(message.subject.as_str(), queue.of(Kind::Settings));
            start.elapsed()
        };
        let (_, time) = tokio::join!(patch, notice);
        confirm(&bed.broker, &queue, limit).await;
        times.push(milliseconds(time));
        until_idle(namespace, &group).await;
    }
    times
}

/// The same by hand: the PATCH, then the update of the consumer.
pub async fn floor(floor: &Floor<'_>, groups: usize, changes: usize) -> Vec<f64> {
    let mut times = Vec::new();
    for change in 0..changes {
        let (group, limit) = nth(change, groups);
        let queue = Queue::new(floor.namespace.name.as_str(), group.as_str());
        let start = Instant::now();
        let patched = patch(&floor.namespace, &group, limit).await;
        let consumer = floor::consumer(&validate::group(&patched).unwrap());
        floor
            .broker
            .update_consumer(&queue.stream(), &json!(consumer))
            .await
            .unwrap();
        times.push(milliseconds(start.elapsed()));
        confirm(floor.broker, &queue, limit).await;
    }
    times
}

/// Which group is changed, and to what: each time another group, if there are enough, and another limit.
fn nth(change: usize, groups: usize) -> (String, i64) {
    (group_name(change % groups), 3 + i64::try_from(change).unwrap())
}

async fn patch(namespace: &Namespace, group: &str, limit: i64) -> TaskGroup {
    let patch = Patch::Merge(json!({"spec": {"concurrency": limit}}));
    let api = namespace.groups();
    api.patch(group, &PatchParams::default(), &patch).await.unwrap()
}

async fn confirm(broker: &Broker, queue: &Queue, limit: i64) {
    let consumer = broker.consumer(&queue.stream()).await.unwrap().unwrap();
    assert_eq!(consumer.max_ack_pending(), limit, "the limit of {queue}");
}

/// Waits until the operator is through with the change: the next one finds it idle.
async fn until_idle(namespace: &Namespace, group: &str) {
    let (api, deadline) = (namespace.groups(), Instant::now() + PATIENCE);
    while !is_done(&api.get(group).await.unwrap()) {
        assert!(Instant::now() < deadline, "{group} gets no status");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
