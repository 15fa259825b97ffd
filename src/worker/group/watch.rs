//! Keeps the state of a group up to date, and the server's time.
//!
//! The consumer is read at start, on the operator's notice, after every reconnect, when the pull loop finds the consumer
//! gone, and about every 30 seconds, which makes up for a missed notice.

use super::{Group, config};
use crate::{
    broker::{BrokerError, ConsumerInfo},
    worker::backoff::{Backoff, jittered},
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::time;

/// How often the consumer is read without any cause, about.
const REREAD: Duration = Duration::from_secs(30);

/// How much doubt about the server's time is good enough for starts by a rate.
const GOOD_ENOUGH: Duration = Duration::from_micros(250);

/// How often the server is asked once more for its time to get there.
const MORE_ANSWERS: usize = 7;

/// How long the operator may need to put a consumer back that is gone, about.
const PUT_BACK: Duration = Duration::from_millis(100);

/// Reads the consumer, over and over, for as long as it is polled.
pub async fn watch(group: Arc<Group>) {
    let (broker, state) = (group.broker(), group.state());
    let mut link = broker.link();
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    loop {
        link.borrow_and_update();
        let found = match ask(&group).await {
            Ok(consumer) => {
                let observed = config::read(consumer.as_ref(), group.queue());
                let found = observed.is_ok();
                state.observed(observed);
                found
            }
            // What is known stays known, and the tasks in flight go on.
            Err(error @ BrokerError::Unreachable { .. }) if state.snapshot().config().is_some() => {
                tracing::debug!(%error, "the group's settings can't be read; trying again");
                false
            }
            Err(error) => {
                state.observed(Err(error.to_string()));
                false
            }
        };
        if state.snapshot().rate().is_some() {
            // The first answer, or one on a busy machine, leaves the time too much in doubt for starts that are a
            // millisecond apart.
            for _ in 0..MORE_ANSWERS {
                if group.runtime().clock().error() < GOOD_ENOUGH || ask(&group).await.is_err() {
                    break;
                }
            }
        }
        let pause = if found {
            backoff.reset();
            jittered(REREAD)
        } else {
            backoff.next()
        };
        tokio::select! {
            () = time::sleep(pause) => {}
            () = state.noticed() => {}
            Ok(()) = link.changed() => {}
            () = state.suspected() => time::sleep(jittered(PUT_BACK)).await,
        }
    }
}

/// Reads the consumer, and sets the clock by the answer.
async fn ask(group: &Group) -> Result<Option<ConsumerInfo>, BrokerError> {
    let sent = Instant::now();
    let answer = group.broker().consumer(&group.queue().stream()).await;
    if let Ok(Some(ConsumerInfo { ts: Some(time), .. })) = answer {
        group.runtime().clock().heard(sent, Instant::now(), time);
    }
    answer
}
