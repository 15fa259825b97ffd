//! Triggers a reconcile of those groups whose stream or consumer somebody else changed.

use super::Context;
use crate::{
    broker::{self, BrokerEvent},
    debounce::Debounced,
};
use futures::StreamExt;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::time;

/// Least time between two reconciles of a group because of such changes: many workers may throttle a group at once.
const PAUSE: Duration = Duration::from_secs(1);

/// Which look at a changed stream this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    /// At once.
    First,
    /// Once more: a request that we heard is under way, and must be through by then.
    Second,
}

/// Listens for as long as it is polled.
pub async fn run(ctx: Arc<Context>) -> anyhow::Result<()> {
    let mut events = Box::pin(broker::events(&ctx.broker).await?);
    let mut looks = Debounced::new(PAUSE);
    loop {
        let next = looks.due().unwrap_or_else(|| Instant::now() + PAUSE);
        tokio::select! {
            event = events.next() => {
                let Some(BrokerEvent::Changed(stream)) = event else { return Ok(()) };
                tracing::debug!(%stream, "somebody changed it");
                looks.put(stream, Instant::now(), Look::First);
            }
            () = time::sleep_until(next.into()) => {}
        }
        let now = Instant::now();
        while let Some((stream, look)) = looks.take(now) {
            ctx.triggers.stream_changed(&stream, &ctx.caches, &ctx.memory);
            if look == Look::First {
                looks.put(stream, now, Look::Second);
            }
        }
    }
}
