//! Counts how many tasks wait, run, are in back-off, and are dead: one paged sweep over all streams, and a question about a
//! consumer only where its queue is not empty. The sweep also finds what no advisory told.

use super::{Context, Group, backlog::Numbers, index::GroupKey, validate};
use crate::{
    api::TaskGroup,
    broker::{BrokerError, fingerprint},
    protocol::{
        Kind, Queue, StreamName,
        subject::{DEAD_STREAM, DELAY_STREAM, RATE_STREAM},
    },
};
use futures::{StreamExt, stream};
use std::{collections::HashMap, sync::Arc, time::Instant};
use tokio::time::{MissedTickBehavior, interval};

/// Questions about consumers under way at once: more gain nothing at the server.
const QUESTIONS: usize = 8;

/// The streams that the operator creates anew where they are missing.
const SHARED_STREAMS: [&str; 3] = [DEAD_STREAM, DELAY_STREAM, RATE_STREAM];

/// Sweeps now and every `backlog_interval`, for as long as it is polled.
pub async fn run(ctx: Arc<Context>) -> anyhow::Result<()> {
    let mut timer = interval(ctx.settings.backlog_interval);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut sweep = Sweep::default();
    loop {
        timer.tick().await;
        if let Err(error) = sweep.run(&ctx).await {
            tracing::debug!(%error, "no backlog this time");
        }
    }
}

/// What a sweep keeps of each stream: a whole stream's configuration takes some kB.
struct Swept {
    fingerprint: u64,
    messages: u64,
    last_seq: u64,
}

/// What is kept from one sweep to the next.
#[derive(Default)]
struct Sweep {
    dead: SharedCount,
    delayed: SharedCount,
}

impl Sweep {
    async fn run(&mut self, ctx: &Context) -> Result<(), BrokerError> {
        let since = Instant::now();
        let mut streams = HashMap::new();
        let keep = |info: crate::broker::StreamInfo| {
            let swept = Swept {
                fingerprint: fingerprint(&info.config),
                messages: info.state.messages,
                last_seq: info.state.last_seq,
            };
            streams.insert(info.name(), swept);
        };
        ctx.broker.each_stream(keep).await?;
        find_strays(ctx, &streams, since);
        self.dead.renew(ctx, &streams, DEAD_STREAM, &[Kind::Dead]).await?;
        self.delayed
            .renew(ctx, &streams, DELAY_STREAM, &[Kind::Delay, Kind::Due])
            .await?;
        if SHARED_STREAMS
            .iter()
            .any(|name| !streams.contains_key(&StreamName::from(*name)))
        {
            ctx.shared_streams.ensure().await?;
        }
        let groups = ctx.caches.all_groups();
        ctx.memory.retain(|key| ctx.caches.group(key).is_some());
        let in_flight = in_flight(ctx, &groups, &streams).await;
        for group in readable(&groups) {
            let queue = validate::queue(group);
            let name = queue.stream();
            let Some(swept) = streams.get(&name) else { continue };
            let running = in_flight.get(&name).copied().unwrap_or(0).min(swept.messages);
            let count = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
            let numbers = Numbers {
                pending: count(swept.messages - running),
                in_flight: count(running),
                delayed: count(self.delayed.of(&queue)),
                dead: count(self.dead.of(&queue)),
            };
            let key = GroupKey::of(group);
            if ctx
                .memory
                .swept(&key, numbers, group.status.as_ref().and_then(Numbers::of))
            {
                ctx.triggers.group(&key);
            }
        }
        Ok(())
    }
}

fn readable(groups: &[Arc<Group>]) -> impl Iterator<Item = &TaskGroup> {
    groups.iter().filter_map(|group| group.0.as_ref().ok())
}

/// Triggers a reconcile of those groups whose stream is not as it was seen last.
fn find_strays(ctx: &Context, streams: &HashMap<StreamName, Swept>, since: Instant) {
    for group in ctx.caches.all_groups() {
        let Ok(group) = &group.0 else { continue };
        let (key, stream) = (GroupKey::of(group), validate::queue(group).stream());
        let exists = streams.get(&stream).map(|swept| swept.fingerprint);
        if ctx.memory.is_stray(&key, exists, since) {
            tracing::debug!(%stream, "not as it was seen last");
            ctx.memory.broker_changed(&key);
            ctx.triggers.group(&key);
        }
    }
}

/// How many tasks run of each queue that is not empty.
async fn in_flight(
    ctx: &Context,
    groups: &[Arc<Group>],
    streams: &HashMap<StreamName, Swept>,
) -> HashMap<StreamName, u64> {
    let names = readable(groups).map(|group| validate::queue(group).stream());
    let busy: Vec<_> = names
        .filter(|name| streams.get(name).is_some_and(|swept| swept.messages > 0))
        .collect();
    stream::iter(busy)
        .map(|name| async move {
            let info = ctx.broker.consumer(&name).await;
            (name, info)
        })
        .buffer_unordered(QUESTIONS)
        .filter_map(|(name, info)| async move { Some((name, info.ok()??.num_ack_pending)) })
        .collect()
        .await
}

/// How many messages a shared stream holds of each queue.
#[derive(Default)]
struct SharedCount {
    by_queue: HashMap<Queue, u64>,
    /// Messages, and the number of the last one, at the time of the count.
    state: Option<(u64, u64)>,
}

impl SharedCount {
    /// Counts anew if the stream changed.
    async fn renew(
        &mut self,
        ctx: &Context,
        streams: &HashMap<StreamName, Swept>,
        stream: &str,
        kinds: &[Kind],
    ) -> Result<(), BrokerError> {
        let Some(swept) = streams.get(&StreamName::from(stream)) else {
            *self = Self::default();
            return Ok(());
        };
        let state = (swept.messages, swept.last_seq);
        if self.state == Some(state) {
            return Ok(());
        }
        let mut by_queue = HashMap::new();
        if swept.messages > 0 {
            for kind in kinds {
                for (queue, count) in ctx.broker.count_by_queue(stream, *kind).await? {
                    *by_queue.entry(queue).or_insert(0) += count;
                }
            }
        }
        *self = Self {
            by_queue,
            state: Some(state),
        };
        Ok(())
    }

    fn of(&self, queue: &Queue) -> u64 {
        self.by_queue.get(queue).copied().unwrap_or(0)
    }
}
