//! The steps for one TaskGroup, in order: observe, validate, desired, plan, apply, status, and one status patch.

use super::{
    Context, Group,
    apply::{self, Outcome, Part, PartOutcome},
    backlog::Numbers,
    desired,
    error::ApplyError,
    index::GroupKey,
    lifecycle::{self, Lifecycle},
    metrics::PartLabel,
    notices,
    observe::{self, BrokerView, Observed},
    plan,
    refusal::Refusal,
    requeue::Requeue,
    status::{self, Findings, Pipeline},
    subject::Subject,
    validate::{self, Checked},
};
use crate::{
    api::{Reason, TaskGroupStatus},
    broker::{self, Pause},
};
use jiff::Timestamp;
use kube::runtime::controller::Action;
use std::sync::Arc;

/// Brings one TaskGroup in step with its spec.
pub async fn reconcile(group: Arc<Group>, ctx: Arc<Context>) -> Result<Action, ApplyError> {
    let requeue = run(&ctx, &group).await?;
    Ok(ctx
        .memory
        .action(&GroupKey::of(group.as_ref()), requeue, ctx.settings.resync_interval))
}

async fn run(ctx: &Context, watched: &Group) -> Result<Requeue, ApplyError> {
    let Some(subject) = observe::subject(ctx, watched).await? else {
        return Ok(Requeue::Rest);
    };
    if subject.is_deleted() && !subject.has_finalizer() {
        ctx.memory.forget(&subject.key);
        return Ok(Requeue::Rest);
    }
    let instance = &ctx.settings.instance;

    let observed = observe::observe(ctx, &subject).await;
    let checked = validate::check(&subject, observed.handler.as_deref());
    let lifecycle = lifecycle::lifecycle(&subject, &checked, &observed, instance);
    let desired = desired::desired(&lifecycle, &checked, &ctx.settings);
    let plan = plan::plan(&subject, checked.group.as_ref(), desired, &observed, instance);
    let planned = plan.requeue;
    let outcome = match apply::apply(ctx, &subject, checked.group.as_ref(), plan).await {
        // The status names what our role lacks, as long as the role allows that.
        Err(error) if error.reason() == Reason::Forbidden => return forbidden(ctx, &subject, error).await,
        outcome => outcome?,
    };
    if outcome.let_go {
        ctx.memory.forget(&subject.key);
        return Ok(Requeue::Rest);
    }
    let (pipeline, requeue) = remember(ctx, &subject, &checked, &lifecycle, &observed, &outcome, planned);
    let status = status_of(&subject, pipeline, &outcome);
    report(ctx, &subject, &status, &outcome).await?;
    Ok(outcome.requeue(requeue))
}

/// Keeps what this reconcile found out for the next one. Returns what the status is to say of the pipeline, if it is kept as
/// desired, and when the group is reconciled again.
fn remember<'a>(
    ctx: &Context,
    subject: &Subject,
    checked: &'a Checked,
    lifecycle: &Lifecycle,
    observed: &Observed,
    outcome: &Outcome,
    planned: Requeue,
) -> (Option<Pipeline<'a>>, Requeue) {
    let key = &subject.key;
    let (Lifecycle::Active | Lifecycle::Waiting { .. }, Some(group), None) =
        (lifecycle, &checked.group, &checked.problem)
    else {
        return (None, planned);
    };
    // A suspension overrides a pause.
    let throttled_until = (!group.suspend).then(|| throttled_until(ctx, key, observed)).flatten();
    if outcome.stream.is_done() && outcome.consumer.is_done() {
        let unchanged = match &observed.broker {
            BrokerView::Seen {
                stream: Some(stream), ..
            } => Some(broker::fingerprint(&stream.config)),
            _ => None,
        };
        if let Some(stream) = outcome.stream_fingerprint.or(unchanged) {
            let spec = subject.spec_version();
            ctx.memory
                .saw_in_step(key, observed.asked, spec, stream, throttled_until);
        }
        if outcome.created {
            ctx.memory.say_numbers(key, Numbers::default());
        }
    }
    let throttled = ctx.memory.throttled(key, throttled_until, Timestamp::now());
    let pipeline = Pipeline {
        group,
        handler: &checked.handler,
        deployment: ctx.caches.deployment(key),
        numbers: ctx.memory.numbers(key),
        throttled_until: throttled.until,
    };
    let requeue = match (planned, throttled.look_again) {
        (Requeue::Resync, Some(time)) => Requeue::At(time),
        _ => planned,
    };
    (Some(pipeline), requeue)
}

/// The end of the pause that a worker asked for, as seen now or as known.
fn throttled_until(ctx: &Context, key: &GroupKey, observed: &Observed) -> Option<Timestamp> {
    match &observed.broker {
        BrokerView::InStep { throttled_until } => *throttled_until,
        BrokerView::Failed(_) | BrokerView::NotAsked => ctx.memory.said_throttled(key),
        BrokerView::Seen { consumer, .. } => match consumer.as_ref()?.pause() {
            Pause::Until(until) => Some(until),
            Pause::No | Pause::ForEver => None,
        },
    }
}

fn status_of(subject: &Subject, pipeline: Option<Pipeline>, outcome: &Outcome) -> TaskGroupStatus {
    let before = subject.group.status.clone().unwrap_or_default();
    status::status(
        &Findings {
            generation: subject.group.metadata.generation,
            before: &before,
            outcome,
            pipeline,
        },
        Timestamp::now(),
    )
}

/// Logs what was done, writes the status if it changed, and tells the user what is worth an Event.
async fn report(
    ctx: &Context,
    subject: &Subject,
    after: &TaskGroupStatus,
    outcome: &Outcome,
) -> Result<(), ApplyError> {
    for (part, came) in outcome.parts() {
        match came {
            PartOutcome::Changed(what) => {
                ctx.metrics.changes.get_or_create(&PartLabel::of(part)).inc();
                tracing::info!(group = %subject.key, "{what}");
            }
            PartOutcome::Failed(error) => tracing::warn!(group = %subject.key, reason = %error.reason(), "{error}"),
            _ => {}
        }
    }
    if let Some(problem) = &subject.unreadable {
        tracing::warn!(group = %subject.key, "the TaskGroup can't be read: {problem}");
    }
    if let Some(written) = ctx.kubernetes.write_status(&subject.group, after).await? {
        ctx.caches.group_written(written);
    }
    let before = subject.group.status.clone().unwrap_or_default();
    ctx.kubernetes
        .publish(&subject.group, notices::notices(&before, after, outcome))
        .await;
    Ok(())
}

/// Says in the status what our role lacks.
async fn forbidden(ctx: &Context, subject: &Subject, error: ApplyError) -> Result<Requeue, ApplyError> {
    let outcome = Outcome::nothing(Some(Refusal::waits(error.reason(), error.advice())));
    let status = status_of(subject, None, &outcome);
    if report(ctx, subject, &status, &outcome).await.is_err() {
        return Err(error);
    }
    tracing::warn!(group = %subject.key, reason = %error.reason(), "{}", error.advice());
    Ok(Requeue::BackOff)
}

impl PartLabel {
    fn of(part: Part) -> Self {
        Self {
            object: match part {
                Part::Stream => "stream",
                Part::Consumer => "consumer",
                Part::Deployment => "deployment",
            },
        }
    }
}
