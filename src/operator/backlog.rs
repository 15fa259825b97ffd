//! How many tasks wait, run, are in back-off and are dead: one paged sweep over all streams, and a question about a
//! consumer only where its queue is not empty. The sweep also finds what no advisory told.

use super::{Context, validate};
use crate::{
    api::{TaskGroup, TaskGroupStatus},
    broker::{BrokerError, StreamInfo, fingerprint},
    protocol::{
        Kind, Queue, StreamName,
        subject::{DEAD_STREAM, DELAY_STREAM, RATE_STREAM},
    },
};
use futures::{StreamExt, stream};
use kube::runtime::reflector::ObjectRef;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};
use tokio::time::{MissedTickBehavior, interval};

/// Questions about consumers under way at once: beyond this the server gains nothing.
const QUESTIONS: usize = 8;

/// What is made anew where it is missing.
const SHARED_STREAMS: [&str; 3] = [DEAD_STREAM, DELAY_STREAM, RATE_STREAM];

/// The backlog of one group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    /// Tasks waiting.
    pub pending: i64,
    /// Tasks being run.
    pub in_flight: i64,
    /// Tasks in back-off.
    pub delayed: i64,
    /// Dead tasks.
    pub dead: i64,
}

impl Numbers {
    /// What a status says, if it says all.
    fn of(status: &TaskGroupStatus) -> Option<Self> {
        Some(Self {
            pending: status.pending?,
            in_flight: status.in_flight?,
            delayed: status.delayed?,
            dead: status.dead_lettered?,
        })
    }
}

/// What is to be said about the backlog of the groups.
#[derive(Default)]
pub struct Backlog(Mutex<HashMap<StreamName, Numbers>>);

impl Backlog {
    /// The numbers for the status of a group; `None` where nothing new is to be said.
    pub fn to_say(&self, stream: &StreamName) -> Option<Numbers> {
        self.lock().get(stream).copied()
    }

    /// From now on the status is to say this.
    pub fn say(&self, stream: &StreamName, numbers: Numbers) {
        self.lock().insert(stream.clone(), numbers);
    }

    /// The group is gone.
    pub fn remove(&self, stream: &StreamName) {
        self.lock().remove(stream);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<StreamName, Numbers>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sweeps now and every `backlog_interval`, for as long as it is polled.
pub async fn run(ctx: Arc<Context>) {
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

/// What is kept from one sweep to the next.
#[derive(Default)]
struct Sweep {
    last: HashMap<StreamName, Numbers>,
    dead: Shared,
    delayed: Shared,
}

impl Sweep {
    async fn run(&mut self, ctx: &Context) -> Result<(), BrokerError> {
        let since = Instant::now();
        let streams: HashMap<StreamName, StreamInfo> = ctx
            .broker
            .streams()
            .await?
            .into_iter()
            .map(|info| (info.name(), info))
            .collect();
        find_strays(ctx, &streams, since);
        self.count_shared(ctx, &streams).await?;

        let groups = ctx.groups.state();
        let stream_of: HashMap<_, _> = groups
            .iter()
            .map(|group| (validate::queue(group).stream(), group))
            .collect();
        let busy: Vec<StreamName> = streams
            .iter()
            .filter(|(name, info)| info.state.messages > 0 && stream_of.contains_key(name))
            .map(|(name, _)| name.clone())
            .collect();
        let in_flight: HashMap<StreamName, u64> = stream::iter(busy)
            .map(|name| async move {
                let info = ctx.broker.consumer(&name).await;
                (name, info)
            })
            .buffer_unordered(QUESTIONS)
            .filter_map(|(name, info)| async move { Some((name, info.ok()??.num_ack_pending)) })
            .collect()
            .await;

        let mut now = HashMap::new();
        for (name, group) in stream_of {
            let Some(info) = streams.get(&name) else { continue };
            let running = in_flight.get(&name).copied().unwrap_or(0).min(info.state.messages);
            let count = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
            let queue = validate::queue(group);
            let numbers = Numbers {
                pending: count(info.state.messages - running),
                in_flight: count(running),
                delayed: count(self.delayed.of(&queue)),
                dead: count(self.dead.of(&queue)),
            };
            let said = ctx
                .backlog
                .to_say(&name)
                .or_else(|| group.status.as_ref().and_then(Numbers::of));
            if is_news(said, numbers, self.last.get(&name).copied()) {
                ctx.backlog.say(&name, numbers);
                ctx.trigger(ObjectRef::from_obj(group.as_ref()));
            }
            now.insert(name, numbers);
        }
        self.last = now;
        Ok(())
    }

    /// Counts what the shared streams hold of each queue, each only when it changed.
    async fn count_shared(
        &mut self,
        ctx: &Context,
        streams: &HashMap<StreamName, StreamInfo>,
    ) -> Result<(), BrokerError> {
        self.dead.renew(ctx, streams, DEAD_STREAM, &[Kind::Dead]).await?;
        self.delayed
            .renew(ctx, streams, DELAY_STREAM, &[Kind::Delay, Kind::Due])
            .await?;
        if SHARED_STREAMS
            .iter()
            .all(|name| streams.contains_key(&StreamName::from(*name)))
        {
            return Ok(());
        }
        ctx.shared_streams.ensure().await
    }
}

/// What a shared stream holds of each queue.
#[derive(Default)]
struct Shared {
    by_queue: HashMap<Queue, u64>,
    /// Messages and last number when it was counted.
    state: Option<(u64, u64)>,
}

impl Shared {
    async fn renew(
        &mut self,
        ctx: &Context,
        streams: &HashMap<StreamName, StreamInfo>,
        stream: &str,
        kinds: &[Kind],
    ) -> Result<(), BrokerError> {
        let Some(info) = streams.get(&StreamName::from(stream)) else {
            *self = Self::default();
            return Ok(());
        };
        let state = (info.state.messages, info.state.last_seq);
        if self.state == Some(state) {
            return Ok(());
        }
        let mut by_queue = HashMap::new();
        if info.state.messages > 0 {
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

/// Has those groups looked at whose stream is not as it was seen last.
fn find_strays(ctx: &Context, streams: &HashMap<StreamName, StreamInfo>, since: Instant) {
    let fingerprints = streams
        .iter()
        .map(|(name, info)| (name.clone(), fingerprint(&info.config)))
        .collect();
    for stream in ctx.known.strays(&fingerprints, since) {
        tracing::debug!(%stream, "not as it was seen last");
        ctx.known.changed(&stream);
        ctx.trigger_stream(&stream);
    }
}

/// Whether `now` is worth a write: a number came from or went to zero, moved by a tenth or more, or
/// has settled (it is the same in two sweeps) at something else than the status says.
fn is_news(said: Option<Numbers>, now: Numbers, last: Option<Numbers>) -> bool {
    let Some(said) = said else { return true };
    if said == now {
        return false;
    }
    let moved = |said: i64, now: i64| {
        (said == 0) != (now == 0) || said.abs_diff(now).saturating_mul(10) >= said.max(now).unsigned_abs()
    };
    last == Some(now)
        || [
            (said.pending, now.pending),
            (said.in_flight, now.in_flight),
            (said.delayed, now.delayed),
            (said.dead, now.dead),
        ]
        .into_iter()
        .any(|(said, now)| said != now && moved(said, now))
}

/// The TaskGroups whose stream this is, or would be.
pub fn groups_of(groups: &[Arc<TaskGroup>], stream: &StreamName) -> Vec<ObjectRef<TaskGroup>> {
    let Some(queue) = stream.queue() else { return Vec::new() };
    groups
        .iter()
        .filter(|group| validate::queue(group) == queue)
        .map(|group| ObjectRef::from_obj(group.as_ref()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(pending: i64, in_flight: i64, dead: i64) -> Numbers {
        Numbers {
            pending,
            in_flight,
            delayed: 0,
            dead,
        }
    }

    #[test]
    fn only_a_change_that_matters_is_news() {
        let said = Some(numbers(1000, 4, 0));
        for (now, last, news) in [
            (numbers(1000, 4, 0), None, false),
            (numbers(950, 4, 0), None, false),
            (numbers(950, 4, 0), Some(numbers(950, 4, 0)), true),
            (numbers(900, 4, 0), None, true),
            (numbers(1000, 0, 0), None, true),
            (numbers(1000, 4, 1), None, true),
        ] {
            assert_eq!(is_news(said, now, last), news, "{now:?}");
        }
        let delayed = Numbers {
            delayed: 1,
            ..numbers(1000, 4, 0)
        };
        assert!(is_news(said, delayed, None), "a task in back-off");
        assert!(is_news(None, numbers(0, 0, 0), None), "nothing was said yet");
    }
}
