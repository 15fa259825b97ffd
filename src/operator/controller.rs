//! The controller: it reconciles the groups that a watch, a trigger, or a timer names.

use super::{
    Args, Context, Group, Handler, NATS_GRACE, error::ApplyError, index::GroupKey, metrics::ReconcileLabel,
    reconcile::reconcile, requeue::Requeue, watch,
};
use futures::StreamExt;
use kube::{
    Client,
    runtime::{
        controller::{self, Action, Controller},
        reflector::{ObjectRef, store::Writer},
    },
};
use std::{sync::Arc, time::Instant};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;

/// Where the watches write what they show, and what triggers reconciles.
pub struct Inputs {
    /// The store of the TaskGroups.
    pub groups: Writer<Group>,
    /// The store of the TaskHandlers.
    pub handlers: Writer<Handler>,
    /// The triggered groups.
    pub triggered: UnboundedReceiver<ObjectRef<Group>>,
}

/// Reconciles until `shutdown`, and then until no reconcile is under way any more.
pub async fn run(
    ctx: Arc<Context>,
    client: Client,
    inputs: Inputs,
    args: Args,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let groups = inputs.groups.as_reader();
    let of_handler = ctx.clone();
    let stop = shutdown.clone();
    Controller::for_stream(watch::groups(&client, inputs.groups, ctx.clone()), groups)
        .with_config(controller::Config::default().concurrency(args.concurrency))
        .owns_stream(watch::deployments(&client, ctx.clone()))
        .watches_stream(
            watch::handlers(&client, inputs.handlers, ctx.clone()),
            move |handler: Handler| watch::groups_of(&of_handler, &handler),
        )
        .reconcile_on(UnboundedReceiverStream::new(inputs.triggered))
        .graceful_shutdown_on(shutdown.cancelled_owned())
        .run(
            move |group, ctx| reconcile_when_ready(group, ctx, stop.clone()),
            on_error,
            ctx,
        )
        .for_each(|result| async move {
            match result {
                Err(controller::Error::QueueError(error)) => {
                    tracing::warn!(%error, "a watch of the Kubernetes API broke; trying again");
                }
                // The reconcile itself logged its result.
                Err(error) => tracing::debug!(%error, "controller"),
                Ok(_) => {}
            }
        })
        .await;
    Ok(())
}

/// Waits until it is known what there is: a watch that has not shown everything yet, or a connection that is still being
/// made, would look like something missing.
async fn reconcile_when_ready(
    group: Arc<Group>,
    ctx: Arc<Context>,
    shutdown: CancellationToken,
) -> Result<Action, ApplyError> {
    let ready = async {
        ctx.caches.shown().await;
        ctx.broker.settled(NATS_GRACE).await;
    };
    tokio::select! {
        biased;
        () = ready => {}
        () = shutdown.cancelled() => return Ok(Action::await_change()),
    }
    let start = Instant::now();
    let result = reconcile(group, ctx.clone()).await;
    let label = if result.is_ok() { "success" } else { "error" };
    ctx.metrics
        .reconciles
        .get_or_create(&ReconcileLabel { result: label })
        .inc();
    ctx.metrics.duration.observe(start.elapsed().as_secs_f64());
    result
}

#[allow(clippy::needless_pass_by_value, reason = "the controller's signature")]
fn on_error(group: Arc<Group>, error: &ApplyError, ctx: Arc<Context>) -> Action {
    let key = GroupKey::of(group.as_ref());
    tracing::warn!(group = %key, reason = %error.reason(), "{}", error.advice());
    ctx.memory.action(&key, Requeue::BackOff, ctx.settings.resync_interval)
}
