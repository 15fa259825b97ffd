//! Follows the connection to NATS: it decides whether the operator is ready, and a new connection triggers a reconcile of
//! every group, because anything may have changed meanwhile, or all be lost.

use super::{Context, NATS_GRACE};
use crate::{
    admin::Health,
    broker::{BrokerError, Link},
};
use std::sync::Arc;
use tokio::{sync::watch, time};

/// Follows the connection for as long as it is polled.
pub async fn run(ctx: Arc<Context>, health: Health) -> anyhow::Result<()> {
    let mut link = ctx.broker.link();
    loop {
        let now = *link.borrow_and_update();
        ctx.metrics.nats_up.set(i64::from(now.up));
        if now.up {
            ctx.memory.all_changed();
            ctx.triggers.all(&ctx.caches);
            prepare(&ctx, &health, link.clone()).await;
        } else {
            health.not_ready(unreachable(&ctx));
            tokio::select! {
                _ = link.changed() => continue,
                // NATS stays away, and the groups say so.
                () = time::sleep(NATS_GRACE) => ctx.triggers.all(&ctx.caches),
            }
        }
        link.changed().await?;
    }
}

fn unreachable(ctx: &Context) -> String {
    ctx.broker
        .check()
        .err()
        .map_or_else(|| "NATS came back".to_owned(), |error: BrokerError| error.to_string())
}

/// Creates the shared streams, and then the operator is ready. Returns early when the connection changes; only this receiver
/// sees that, so that the caller's shows the change, too.
async fn prepare(ctx: &Context, health: &Health, mut link: watch::Receiver<Link>) {
    loop {
        match ctx.shared_streams.ensure().await {
            Ok(()) => return health.ready(),
            Err(error) => {
                tracing::warn!("waiting: {error}");
                health.not_ready(error.to_string());
            }
        }
        let now = *link.borrow();
        tokio::select! {
            _ = link.wait_for(|link| *link != now) => return,
            () = time::sleep(NATS_GRACE) => {}
        }
    }
}
