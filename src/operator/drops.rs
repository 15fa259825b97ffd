//! Tasks that were dropped because their group keeps no dead letters: the operator counts them, and tells of them in an Event
//! per group and minute at most.

use super::{Context, Group, notices};
use crate::{
    broker,
    debounce::Debounced,
    protocol::{StreamName, cancel},
};
use futures::StreamExt;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::time;

/// Least time between two Events about one group.
const PAUSE: Duration = Duration::from_secs(60);

/// The reasons of tasks that were removed because somebody asked for it: that is no drop. nats-server gives the second reason
/// for a message that was deleted while a worker had it in flight.
const NO_DROPS: [&str; 2] = [cancel::TERM_REASON, "Unacknowledged message was deleted"];

/// Drops of one group that were not told yet.
struct Dropped {
    tasks: u64,
    last_reason: String,
}

impl Dropped {
    fn and(before: Option<Self>, reason: String) -> Self {
        Self {
            tasks: before.map_or(0, |before| before.tasks) + 1,
            last_reason: reason,
        }
    }
}

/// Listens for as long as it is polled.
pub async fn run(ctx: Arc<Context>) -> anyhow::Result<()> {
    let mut terminations = std::pin::pin!(broker::terminations(&ctx.broker).await?);
    let mut drops = Debounced::new(PAUSE);
    loop {
        let next = drops.due().unwrap_or_else(|| Instant::now() + PAUSE);
        tokio::select! {
            termination = terminations.next() => {
                let Some(broker::Termination { stream, reason }) = termination else { return Ok(()) };
                if !NO_DROPS.contains(&reason.as_str()) && keeps_no_dead_letters(&ctx, &stream) {
                    ctx.metrics.dropped.inc();
                    drops.merge(stream, Instant::now(), |before| Dropped::and(before, reason));
                }
            }
            () = time::sleep_until(next.into()) => {}
        }
        while let Some((stream, dropped)) = drops.take(Instant::now()) {
            let found = group_of(&ctx, &stream);
            if let Some(Ok(group)) = found.as_ref().map(|group| &group.0) {
                let event = notices::dropped(dropped.tasks, &dropped.last_reason);
                ctx.kubernetes.publish_anew(group, &event).await;
            }
        }
    }
}

/// The group that has the stream.
fn group_of(ctx: &Context, stream: &StreamName) -> Option<Arc<Group>> {
    ctx.caches.groups_of_queue(&stream.queue()?).next()
}

fn keeps_no_dead_letters(ctx: &Context, stream: &StreamName) -> bool {
    let found = group_of(ctx, stream);
    matches!(found.as_ref().map(|group| &group.0), Some(Ok(group)) if !group.spec.dead_letter.enabled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_drop_is_told_at_once_and_the_rest_once_a_minute() {
        let (mut drops, start) = (Debounced::new(PAUSE), Instant::now());
        let stream = StreamName::from("tg_a_b");
        let drop = |drops: &mut Debounced<_, _>, reason: &str, now| {
            drops.merge(stream.clone(), now, |before| Dropped::and(before, reason.to_owned()));
        };
        let told = |drops: &mut Debounced<StreamName, Dropped>, now| {
            drops.take(now).map(|(_, dropped)| (dropped.tasks, dropped.last_reason))
        };
        drop(&mut drops, "MaxAttempts", start);
        assert_eq!(told(&mut drops, start), Some((1, "MaxAttempts".into())));
        drop(&mut drops, "MaxAttempts", start);
        drop(&mut drops, "Permanent", start);
        assert_eq!(told(&mut drops, start), None);
        assert_eq!(told(&mut drops, start + PAUSE), Some((2, "Permanent".into())));
    }
}
