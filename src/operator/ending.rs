//! The end of a TaskGroup: its `deletionPolicy` is kept to, and then it is let go.

use super::{
    Context, apply, desired,
    error::ApplyError,
    notices,
    observe::{self, BrokerView},
    plan::{self, Delayed, Ending, Refusal},
    reconcile::{Next, name, refuse},
    status::Verdict,
    validate::{self, Invalid, ValidGroup},
};
use crate::{
    api::{DeletionPolicy, TaskGroup, TaskGroupSpec},
    broker::{self, BrokerError},
    protocol::{StreamName, keys},
};
use serde_json::json;
use std::time::Duration;

/// How often a group that waits for its queue to run empty looks again.
pub const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// What comes next for a group that is being deleted.
pub enum End {
    /// It is gone.
    Gone,
    /// It can't go on yet.
    Blocked(Refusal),
    /// Its pipeline goes on for a while.
    Continue {
        /// Whether its stream takes no new tasks.
        closed: bool,
        /// What it waits for.
        waits: Refusal,
        /// What was seen in the broker.
        view: BrokerView,
    },
}

/// Does the next thing for a group that is being deleted.
pub async fn next(ctx: &Context, group: &TaskGroup, valid: &ValidGroup) -> Result<End, ApplyError> {
    let view = observe::ask_broker(&ctx.broker, &valid.queue.stream()).await;
    let (view, delayed) = match count_delayed(ctx, valid, &view).await {
        Ok(delayed) => (view, delayed),
        Err(error) => (BrokerView::Failed(error), Delayed::default()),
    };
    match plan::ending(valid, &view, delayed, &ctx.settings.instance, is_abandoned(group)) {
        Ending::Blocked(why) => Ok(End::Blocked(why)),
        Ending::Continue { closed, waits } => Ok(End::Continue { closed, waits, view }),
        Ending::Finish { stream } => match finish(ctx, group, valid, stream).await {
            Err(ApplyError::Broker(error)) if !is_abandoned(group) => {
                Ok(End::Blocked(plan::waits_for_nats(valid, &error.to_string())))
            }
            Err(ApplyError::Broker(_)) => let_go(ctx, group).await.map(|_| End::Gone),
            Err(error) => Err(error),
            Ok(()) => Ok(End::Gone),
        },
    }
}

/// The tasks in back-off of a group whose `deletionPolicy` asks for an empty queue.
async fn count_delayed(ctx: &Context, valid: &ValidGroup, view: &BrokerView) -> Result<Delayed, BrokerError> {
    let BrokerView::Seen {
        stream: Some(before), ..
    } = view
    else {
        return Ok(Delayed::default());
    };
    if !matches!(
        valid.deletion_policy,
        DeletionPolicy::Drain | DeletionPolicy::DeleteIfEmpty
    ) {
        return Ok(Delayed::default());
    }
    let tasks = ctx.broker.delayed(&valid.queue).await?;
    let after = ctx.broker.stream(&valid.queue.stream()).await?;
    Ok(Delayed {
        tasks,
        moved: after.is_none_or(|after| after.state.last_seq != before.state.last_seq),
    })
}

async fn finish(ctx: &Context, group: &TaskGroup, valid: &ValidGroup, delete_stream: bool) -> Result<(), ApplyError> {
    // The workers go first, so that nothing new starts on what is about to vanish.
    if let Some(deployment) = observe::deployment(ctx, group)
        && observe::is_owned_by(deployment.as_ref(), &valid.uid)
    {
        apply::delete_deployment(ctx, &deployment).await?;
    }
    let stream = valid.queue.stream();
    if delete_stream {
        // First what could come back into it; and once more what came to it while it went.
        ctx.broker.purge_queue(&valid.queue).await?;
        ctx.broker.delete_stream(&stream).await?;
        ctx.broker.purge_queue(&valid.queue).await?;
        ctx.publish(group, vec![notices::deleted(&stream)]).await;
    }
    tracing::info!(group = %name(group), %stream, deleted = delete_stream, "TaskGroup ended");
    let_go(ctx, group).await.map(|_| ())
}

/// Takes our finalizer off: Kubernetes then deletes the TaskGroup and what it owns.
pub async fn let_go(ctx: &Context, group: &TaskGroup) -> Result<Next, ApplyError> {
    apply::remove_finalizer(ctx, group).await?;
    ctx.forget(group);
    Ok(Next::Rest)
}

/// Ends a group whose spec can't be used: its queue is still known, and its tasks are still kept to
/// its `deletionPolicy`; only that nothing can be run any more, so that `Drain` waits like `DeleteIfEmpty`.
pub async fn end_invalid(ctx: &Context, group: &TaskGroup, invalid: &Invalid) -> Result<Next, ApplyError> {
    let had = group
        .status
        .as_ref()
        .and_then(|status| StreamName::from(status.stream.as_deref()?).queue());
    let mut usable = group.clone();
    usable.spec = TaskGroupSpec {
        queue: Some(had.unwrap_or_else(|| validate::queue(group)).name),
        deletion_policy: match group.spec.deletion_policy {
            DeletionPolicy::Drain => DeletionPolicy::DeleteIfEmpty,
            policy => policy,
        },
        ..TaskGroupSpec::new(1)
    };
    let Ok(valid) = validate::group(&usable) else {
        // With such a name or queue it never had a stream.
        return let_go(ctx, group).await;
    };
    let waits = match next(ctx, group, &valid).await? {
        End::Gone => return Ok(Next::Rest),
        End::Blocked(why) => why,
        End::Continue { closed, waits, view } => {
            if let BrokerView::Seen { stream: Some(info), .. } = view {
                let desired = desired::stream(&valid, &ctx.settings.instance, closed);
                let subjects = broker::overlay(&json!({"subjects": desired.subjects}), &info.config);
                ctx.broker.update_stream(&valid.queue.stream(), &subjects).await?;
            }
            waits
        }
    };
    let message = format!("{}; the spec can't be used: {invalid}", waits.message);
    refuse(
        ctx,
        group,
        &Verdict::waits(waits.reason, message),
        Next::After(LOOK_AGAIN),
    )
    .await
}

fn is_abandoned(group: &TaskGroup) -> bool {
    observe::is_asked(group, keys::ABANDON)
}
