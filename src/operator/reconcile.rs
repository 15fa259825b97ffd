//! The steps for one TaskGroup, in order: observe, validate, desired, plan, apply, status.

use super::{
    Context,
    apply::{self, Applied, Outcome},
    backlog::Numbers,
    closing, desired,
    ending::{self, End},
    error::ApplyError,
    metrics::Object,
    notices,
    observe::{self, BrokerView},
    plan::{self, Desired, Plan, Refusal},
    status::{self, Findings, HandlerFound, Verdict},
    validate::{self, ValidGroup, ValidHandler},
};
use crate::{
    api::{TaskGroup, TaskGroupStatus},
    broker,
    protocol::keys::{self, FINALIZER},
};
use jiff::Timestamp;
use kube::{ResourceExt, runtime::controller::Action};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// How often a group that waits for another to give up its queue looks again, should the news of it be missed.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// How long NATS may be away before the groups say so: a restart is not worth thousands of writes.
pub const NATS_GRACE: Duration = Duration::from_secs(5);

/// What comes after a reconcile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// All is well: look again at the next resync.
    Resync,
    /// Look again after this time, give or take.
    After(Duration),
    /// Look again after this time exactly, or at the next resync.
    At(Duration),
    /// Something failed: try again, later each time.
    BackOff,
    /// Nothing to look at until something changes.
    Rest,
}

/// Brings one TaskGroup in step with its spec.
pub async fn reconcile(group: Arc<TaskGroup>, ctx: Arc<Context>) -> Result<Action, ApplyError> {
    let (namespace, name) = (group.namespace().unwrap_or_default(), group.name_any());
    let group = ctx
        .written_groups
        .newer(Some(group.clone()), &namespace, &name)
        .unwrap_or(group);
    let next = match run(&ctx, &group).await {
        // What our role lacks is said, as long as it allows that.
        Err(error) if error.reason() == "Forbidden" => {
            let verdict = Verdict::waits(error.reason(), error.advice());
            if refuse(&ctx, &group, &verdict, Next::BackOff).await.is_err() {
                return Err(error);
            }
            tracing::warn!(group = %self::name(&group), reason = error.reason(), "{}", error.advice());
            Next::BackOff
        }
        result => result?,
    };
    Ok(ctx
        .retries
        .action(&namespace, &name, next, ctx.settings.resync_interval))
}

async fn run(ctx: &Context, group: &Arc<TaskGroup>) -> Result<Next, ApplyError> {
    let deleting = group.metadata.deletion_timestamp.is_some();
    let held = group.finalizers().iter().any(|name| name == FINALIZER);
    if deleting && !held {
        ctx.forget(group);
        return Ok(Next::Rest);
    }
    let valid = match validate::group(group) {
        Ok(valid) => valid,
        // What can't be built may be deleted all the same, if only its queue can be told.
        Err(invalid) if deleting => return ending::end_invalid(ctx, group, &invalid).await,
        Err(invalid) => {
            return refuse(
                ctx,
                group,
                &Verdict::stalled("InvalidSpec", invalid.to_string()),
                Next::Rest,
            )
            .await;
        }
    };
    if let Some(rival) = observe::rival(ctx, group) {
        if deleting {
            return ending::let_go(ctx, group).await;
        }
        let queue = &valid.queue.name;
        let message = format!(
            "TaskGroup {rival} of this namespace has the queue {queue} already: give this one another spec.queue, or \
             delete one of the two"
        );
        return refuse(
            ctx,
            group,
            &Verdict::stalled("QueueConflict", message),
            Next::After(LOOK_AGAIN),
        )
        .await;
    }
    if !deleting && !held {
        let group = apply::add_finalizer(ctx, group).await?;
        return keep(ctx, &group, &valid, None).await;
    }
    if deleting {
        return match ending::next(ctx, group, &valid).await? {
            End::Gone => Ok(Next::Rest),
            End::Blocked(why) => {
                let verdict = Verdict::waits(why.reason, why.message);
                refuse(ctx, group, &verdict, Next::BackOff).await
            }
            End::Continue { closed, waits, view } => {
                keep(ctx, group, &valid, Some(LastDays { closed, waits, view })).await
            }
        };
    }
    keep(ctx, group, &valid, None).await
}

/// The pipeline of a group that is being deleted goes on for a while.
struct LastDays {
    closed: bool,
    waits: Refusal,
    view: BrokerView,
}

/// Keeps the pipeline of a group as desired.
async fn keep(
    ctx: &Context,
    group: &Arc<TaskGroup>,
    valid: &ValidGroup,
    last_days: Option<LastDays>,
) -> Result<Next, ApplyError> {
    let stream = valid.queue.stream();
    let (found, handler) = find_handler(ctx, group, valid);
    let desired = Desired {
        stream: desired::stream(
            valid,
            &ctx.settings.instance,
            last_days.as_ref().is_some_and(|last_days| last_days.closed),
        ),
        consumer: desired::consumer(valid, &ctx.settings.instance, &ctx.settings.callback_allow),
        paused: valid.suspend,
        deployment: handler.map(|handler| desired::deployment(valid, &handler, &ctx.settings.pods)),
    };
    let wanted = broker::hash(&(&desired.stream, &desired.consumer, desired.paused));

    let asked = ctx.known.now(&stream);
    let (view, ending) = match last_days {
        Some(last_days) => (last_days.view, Some(last_days.waits)),
        None => (view(ctx, valid, wanted).await, None),
    };
    let observed = observe::deployment(ctx, group);
    let deployment_view = observe::view_deployment(
        observed.as_deref(),
        desired.deployment.as_ref(),
        &valid.uid,
        ctx.known_generation(&valid.uid),
    );
    if deployment_view == observe::DeploymentView::InStep
        && let Some(generation) = observed.as_ref().and_then(|deployment| deployment.metadata.generation)
    {
        ctx.remember_generation(&valid.uid, generation);
    }
    let adopt = observe::is_asked(group, keys::ADOPT);
    let plan = plan::plan(valid, &desired, &view, &deployment_view, &ctx.settings.instance, adopt);
    let made = matches!(plan.stream, plan::Step::Create(_));
    let seen = seen_fingerprint(&view, &plan);
    let closed_until = closed_until(ctx, valid, &view);

    let outcome = apply::apply(ctx, valid, plan).await;
    if outcome.stream.is_done() && outcome.consumer.is_done() {
        let changed = outcome
            .stream_info
            .as_ref()
            .map(|info| broker::fingerprint(&info.config));
        if let Some(fingerprint) = changed.or(seen) {
            ctx.known.record(&stream, asked, wanted, fingerprint, closed_until);
        }
        if made {
            ctx.backlog.say(&stream, Numbers::default());
        }
    }

    let before = group.status.clone().unwrap_or_default();
    let closed = ctx
        .closings
        .say(&stream, closed_until, Timestamp::now(), Instant::now());
    let deployment = observe::deployment(ctx, group);
    let after = status::status(
        &Findings {
            group: valid,
            generation: group.metadata.generation,
            before: &before,
            handler: found,
            outcome: &outcome,
            deployment: deployment.as_deref(),
            numbers: ctx.backlog.to_say(&stream),
            closed_until: closed.until,
            ending: ending.clone(),
        },
        Timestamp::now(),
    );
    report(ctx, group, &before, &after, &outcome).await?;
    Ok(next(&outcome, ending.is_some(), closed.look_again))
}

fn find_handler(ctx: &Context, group: &TaskGroup, valid: &ValidGroup) -> (HandlerFound, Option<ValidHandler>) {
    let Some(handler) = observe::handler(ctx, group) else {
        return (HandlerFound::No, None);
    };
    let checked = validate::handler(&handler).and_then(|handler| validate::fits(valid, &handler).map(|()| handler));
    match checked {
        Ok(handler) => (HandlerFound::Yes, Some(handler)),
        Err(invalid) => (HandlerFound::Invalid(invalid), None),
    }
}

/// What the broker has, asked only where we don't know.
async fn view(ctx: &Context, valid: &ValidGroup, wanted: u64) -> BrokerView {
    let stream = valid.queue.stream();
    if let Err(error) = ctx.broker.check() {
        return BrokerView::Failed(error);
    }
    if ctx.known.is_in_step(&stream, wanted, ctx.settings.resync_interval) {
        return BrokerView::InStep;
    }
    observe::ask_broker(&ctx.broker, &stream).await
}

/// Until when the workers closed the group: as seen now, or as known.
fn closed_until(ctx: &Context, valid: &ValidGroup, view: &BrokerView) -> Option<Timestamp> {
    match view {
        // What suspends it overrides a closing.
        _ if valid.suspend => None,
        BrokerView::InStep => ctx.known.closed_until(&valid.queue.stream()),
        BrokerView::Failed(_) => ctx.closings.said(&valid.queue.stream()),
        BrokerView::Seen { .. } => closing::seen(view),
    }
}

/// The fingerprint of a stream that was asked for and is left as it is.
fn seen_fingerprint(view: &BrokerView, plan: &Plan) -> Option<u64> {
    match (view, &plan.stream) {
        (BrokerView::Seen { stream: Some(info), .. }, plan::Step::Keep) => Some(broker::fingerprint(&info.config)),
        _ => None,
    }
}

/// Writes the status and tells the user what is worth telling.
async fn report(
    ctx: &Context,
    group: &TaskGroup,
    before: &TaskGroupStatus,
    after: &TaskGroupStatus,
    outcome: &Outcome,
) -> Result<(), ApplyError> {
    for (object, part) in ["stream", "consumer", "deployment"].into_iter().zip(outcome.parts()) {
        match part {
            Applied::Changed(what) => {
                ctx.metrics.changes.get_or_create(&Object { object }).inc();
                tracing::info!(group = %name(group), "{what}");
            }
            Applied::Failed(error) => tracing::warn!(group = %name(group), reason = error.reason(), "{error}"),
            _ => {}
        }
    }
    apply::write_status(ctx, group, after).await?;
    ctx.publish(group, notices::notices(before, after, outcome)).await;
    Ok(())
}

/// Says why a group is left as it is.
pub(super) async fn refuse(ctx: &Context, group: &TaskGroup, why: &Verdict, next: Next) -> Result<Next, ApplyError> {
    let before = group.status.clone().unwrap_or_default();
    let after = status::refused(&before, group.metadata.generation, why, Timestamp::now());
    apply::write_status(ctx, group, &after).await?;
    ctx.publish(group, notices::transitions(&before, &after)).await;
    Ok(next)
}

fn next(outcome: &Outcome, ending: bool, look_again: Option<Duration>) -> Next {
    let failed = outcome
        .parts()
        .into_iter()
        .any(|part| matches!(part, Applied::Failed(_)));
    let unknown = outcome
        .parts()
        .into_iter()
        .any(|part| matches!(part, Applied::Unknown(_)));
    // No watch shows us somebody else's Deployment, nor its end.
    let in_the_way = matches!(outcome.deployment, Applied::Refused(_));
    if failed || unknown || in_the_way {
        Next::BackOff
    } else if ending {
        Next::After(ending::LOOK_AGAIN)
    } else {
        look_again.map_or(Next::Resync, Next::At)
    }
}

/// `namespace/name`, for the log.
pub fn name(group: &TaskGroup) -> String {
    format!("{}/{}", group.namespace().unwrap_or_default(), group.name_any())
}
