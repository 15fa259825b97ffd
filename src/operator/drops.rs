//! Tasks that were dropped, as their group keeps no dead letters: counted, and told by an Event per group
//! and minute at most.

use super::{Context, notices, validate};
use crate::{
    api::TaskGroup,
    broker,
    protocol::{StreamName, cancel},
};
use futures::StreamExt;
use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::time;

/// Least time between two Events about one group.
const PAUSE: Duration = Duration::from_secs(60);

/// The reasons of tasks that were removed as somebody asked for it: that is no drop. The second is
/// nats-server's for a message that was deleted while a worker had it in hand.
const NO_DROPS: [&str; 2] = [cancel::TERM_REASON, "Unacknowledged message was deleted"];

/// What is not told yet.
#[derive(Default)]
struct Drops(HashMap<StreamName, Untold>);

struct Untold {
    tasks: u64,
    last_reason: String,
    not_before: Instant,
}

/// What is to be told about one group.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Tell {
    stream: StreamName,
    tasks: u64,
    last_reason: String,
}

impl Drops {
    fn add(&mut self, stream: StreamName, reason: String, now: Instant) {
        let untold = self.0.entry(stream).or_insert(Untold {
            tasks: 0,
            last_reason: String::new(),
            not_before: now,
        });
        untold.tasks += 1;
        untold.last_reason = reason;
    }

    /// What is to be told by now.
    fn take(&mut self, now: Instant) -> Vec<Tell> {
        let due = self.0.iter_mut().filter(|(_, untold)| now >= untold.not_before);
        let tell = due
            .filter(|(_, untold)| untold.tasks > 0)
            .map(|(stream, untold)| {
                untold.not_before = now + PAUSE;
                Tell {
                    stream: stream.clone(),
                    tasks: std::mem::take(&mut untold.tasks),
                    last_reason: std::mem::take(&mut untold.last_reason),
                }
            })
            .collect();
        self.0.retain(|_, untold| untold.tasks > 0 || now < untold.not_before);
        tell
    }

    /// When there is something to tell.
    fn next(&self) -> Option<Instant> {
        let untold = self.0.values().filter(|untold| untold.tasks > 0);
        untold.map(|untold| untold.not_before).min()
    }
}

/// Listens for as long as it is polled.
pub async fn run(ctx: Arc<Context>) -> anyhow::Result<()> {
    let mut terminations = std::pin::pin!(broker::terminations(&ctx.broker).await?);
    let mut drops = Drops::default();
    loop {
        let next = drops.next().unwrap_or_else(|| Instant::now() + PAUSE);
        tokio::select! {
            termination = terminations.next() => {
                let Some(termination) = termination else { return Ok(()) };
                if !NO_DROPS.contains(&termination.reason.as_str()) && keeps_no_dead_letters(&ctx, &termination.stream) {
                    ctx.metrics.dropped.inc();
                    drops.add(termination.stream, termination.reason, Instant::now());
                }
            }
            () = time::sleep_until(next.into()) => {}
        }
        for tell in drops.take(Instant::now()) {
            if let Some(group) = group_of(&ctx, &tell.stream) {
                let event = notices::dropped(tell.tasks, &tell.last_reason);
                ctx.publish_anew(&group, &event).await;
            }
        }
    }
}

fn group_of(ctx: &Context, stream: &StreamName) -> Option<Arc<TaskGroup>> {
    let queue = stream.queue()?;
    ctx.groups.find(|group| validate::queue(group) == queue)
}

fn keeps_no_dead_letters(ctx: &Context, stream: &StreamName) -> bool {
    group_of(ctx, stream).is_some_and(|group| !group.spec.dead_letter.enabled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_drop_is_told_at_once_and_the_rest_once_a_minute() {
        let (mut drops, now) = (Drops::default(), Instant::now());
        let stream = StreamName::from("tg_a_b");
        let tell = |tasks, reason: &str| Tell {
            stream: stream.clone(),
            tasks,
            last_reason: reason.into(),
        };
        assert_eq!(drops.next(), None);
        drops.add(stream.clone(), "MaxAttempts".into(), now);
        assert_eq!(drops.take(now), [tell(1, "MaxAttempts")]);
        assert_eq!(drops.next(), None);
        drops.add(stream.clone(), "MaxAttempts".into(), now);
        drops.add(stream.clone(), "Permanent".into(), now);
        assert_eq!(drops.take(now), []);
        assert_eq!(drops.next(), Some(now + PAUSE));
        assert_eq!(drops.take(now + PAUSE), [tell(2, "Permanent")]);
        drops.take(now + PAUSE * 3);
        assert!(drops.0.is_empty(), "what is told is forgotten");
    }
}
