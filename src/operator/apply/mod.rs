//! I/O: makes the changes of a plan, in order, and says what came of each part.

mod deployment;
mod pipeline;

use super::{
    Context,
    error::ApplyError,
    lifecycle::waits_for_nats,
    notices,
    plan::{ConsumerStep, FinalizerStep, Plan, Step},
    refusal::Refusal,
    requeue::Requeue,
    subject::Subject,
    validate::ValidGroup,
};
use crate::broker::BrokerError;

/// What came of one part of a plan.
#[derive(Debug)]
pub enum PartOutcome {
    /// The part was left as it is, and nothing is known of it.
    Left,
    /// The part was as desired already.
    Unchanged,
    /// The part was changed; in words, for an Event.
    Changed(String),
    /// The part waits for those that it builds on.
    Waits,
    /// The part can't be as desired.
    Refused(Refusal),
    /// The broker did not answer, so nothing was done.
    Unknown(BrokerError),
    /// The change failed.
    Failed(ApplyError),
}

impl PartOutcome {
    /// Whether the part is as desired now.
    pub fn is_done(&self) -> bool {
        matches!(self, Self::Unchanged | Self::Changed(_))
    }
}

/// A part of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Its stream.
    Stream,
    /// Its consumer.
    Consumer,
    /// Its worker Deployment.
    Deployment,
}

/// What came of a plan.
#[derive(Debug)]
pub struct Outcome {
    /// Of the stream.
    pub stream: PartOutcome,
    /// Of the consumer.
    pub consumer: PartOutcome,
    /// Of the Deployment.
    pub deployment: PartOutcome,
    /// Fingerprint of the stream as the broker returned it, where it was changed.
    pub stream_fingerprint: Option<u64>,
    /// Whether the stream was created, and is empty.
    pub created: bool,
    /// Why the group as a whole is not ready, whatever its parts are.
    pub refusal: Option<Refusal>,
    /// Whether our finalizer was removed: the TaskGroup is gone, or its namespace or another controller holds it.
    pub let_go: bool,
}

impl Outcome {
    /// Nothing was done, for example because of `refusal`.
    pub fn nothing(refusal: Option<Refusal>) -> Self {
        Self {
            stream: PartOutcome::Left,
            consumer: PartOutcome::Left,
            deployment: PartOutcome::Left,
            stream_fingerprint: None,
            created: false,
            refusal,
            let_go: false,
        }
    }

    /// What came of each part.
    pub fn parts(&self) -> impl Iterator<Item = (Part, &PartOutcome)> {
        [
            (Part::Stream, &self.stream),
            (Part::Consumer, &self.consumer),
            (Part::Deployment, &self.deployment),
        ]
        .into_iter()
    }

    /// When the group is reconciled again, where the plan says `planned`.
    pub fn requeue(&self, planned: Requeue) -> Requeue {
        let not_done =
            |(_, outcome): (Part, &PartOutcome)| matches!(outcome, PartOutcome::Failed(_) | PartOutcome::Unknown(_));
        // No watch shows us somebody else's Deployment, nor its end.
        let in_the_way = matches!(self.deployment, PartOutcome::Refused(_));
        if in_the_way || self.parts().any(not_done) {
            Requeue::BackOff
        } else {
            planned
        }
    }
}

/// Makes the changes. What is made is made before those that build on it: finalizer, stream, consumer, Deployment. What goes
/// goes in the other direction: the workers first, so that nothing new starts on what is about to vanish.
///
/// # Errors
/// A refused or failed change of the finalizer, or a failed deletion of the Deployment.
pub async fn apply(
    ctx: &Context,
    subject: &Subject,
    group: Option<&ValidGroup>,
    plan: Plan,
) -> Result<Outcome, ApplyError> {
    if plan.finalizer == FinalizerStep::Add
        && let Some(written) = ctx.kubernetes.add_finalizer(&subject.group).await?
    {
        ctx.caches.group_written(written);
    }
    if let Step::Delete(deployment) = &plan.deployment {
        deployment::delete(ctx, &subject.key.namespace, deployment).await?;
    }
    let mut outcome = match group {
        Some(group) => {
            let created = matches!(plan.stream, Step::Create(_));
            let (stream, stream_fingerprint) = pipeline::stream(ctx, group, plan.stream, plan.purge).await;
            let consumer = consumer(ctx, group, plan.consumer, &stream).await;
            let deployment = deployment::apply(ctx, group, plan.deployment, stream.is_done()).await;
            Outcome {
                created: created && stream.is_done(),
                stream,
                consumer,
                deployment,
                stream_fingerprint,
                refusal: plan.refusal,
                let_go: false,
            }
        }
        None => Outcome::nothing(plan.refusal),
    };
    if plan.finalizer == FinalizerStep::Remove {
        let_go(ctx, subject, group, plan.abandon, &mut outcome).await?;
    }
    Ok(outcome)
}

async fn consumer(ctx: &Context, group: &ValidGroup, step: ConsumerStep, stream: &PartOutcome) -> PartOutcome {
    match (&step.config, stream) {
        (Step::Leave, _) => PartOutcome::Left,
        (_, stream) if stream.is_done() => pipeline::consumer(ctx, group, step).await,
        (Step::Unknown(error), _) => PartOutcome::Unknown(error.clone()),
        _ => PartOutcome::Waits,
    }
}

/// Removes our finalizer, unless the broker still holds something that must not stay behind.
async fn let_go(
    ctx: &Context,
    subject: &Subject,
    group: Option<&ValidGroup>,
    abandon: bool,
    outcome: &mut Outcome,
) -> Result<(), ApplyError> {
    if let (PartOutcome::Failed(error), Some(group), false) = (&outcome.stream, group, abandon) {
        outcome.refusal = Some(waits_for_nats(group, &error.to_string()));
        return Ok(());
    }
    let stream = subject.queue().stream();
    let deleted = matches!(outcome.stream, PartOutcome::Changed(_));
    if deleted {
        ctx.kubernetes
            .publish(&subject.group, vec![notices::deleted(&stream)])
            .await;
    }
    if let Some(problem) = &subject.unreadable
        && !deleted
    {
        tracing::warn!(group = %subject.key, %stream, "the stream stays, if there is one: {problem}");
    }
    tracing::info!(group = %subject.key, %stream, deleted, "TaskGroup deleted");
    ctx.kubernetes.remove_finalizer(&subject.group).await?;
    ctx.caches.group_let_go(&subject.key);
    outcome.let_go = true;
    Ok(())
}
