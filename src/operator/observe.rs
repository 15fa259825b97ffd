//! I/O: what there is, from the watch caches, and from the broker where it is not known already.

use super::{
    Context, Group, Handler,
    deployments::ObservedDeployment,
    error::ApplyError,
    memory::Moment,
    subject::Subject,
    validate::{self, unreadable},
};
use crate::{
    api::{DeletionPolicy, TaskGroup},
    broker::{BrokerError, ConsumerInfo, StreamInfo},
    protocol::Queue,
};
use jiff::Timestamp;
use kube::ResourceExt;
use std::sync::Arc;

/// What there is of a group.
pub struct Observed {
    /// Its stream and consumer.
    pub broker: BrokerView,
    /// The moment before the broker was asked.
    pub asked: Moment,
    /// Its TaskHandler.
    pub handler: Option<Arc<Handler>>,
    /// Its worker Deployment.
    pub deployment: Option<Arc<ObservedDeployment>>,
    /// The TaskGroup that has the queue which this one wants.
    pub rival: Option<String>,
}

/// What the broker has of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BrokerView {
    /// Nothing of the broker matters now.
    NotAsked,
    /// The stream and the consumer are as desired: they were seen so, and nobody changed them since.
    InStep {
        /// The end of the pause that a worker asked for, if it did.
        throttled_until: Option<Timestamp>,
    },
    /// The broker was asked just now.
    Seen {
        /// Its stream, if any.
        stream: Option<StreamInfo>,
        /// Its consumer, if any.
        consumer: Option<ConsumerInfo>,
        /// Its tasks outside the queue, if the deletion must know of them.
        delayed: Delayed,
    },
    /// The broker did not answer.
    Failed(BrokerError),
}

/// The tasks of a group that are not in its queue, but will return to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delayed {
    /// How many are in back-off, counted after the look at the stream.
    pub tasks: u64,
    /// Whether something came into the stream between that look and another after the count: then a task may have gone
    /// from the one to the other unseen.
    pub moved: bool,
}

/// The TaskGroup to reconcile: what we wrote, if the watch has not shown it yet. `None` for one that is gone.
pub async fn subject(ctx: &Context, watched: &Group) -> Result<Option<Subject>, ApplyError> {
    if let Some(newer) = ctx.caches.newer_than(watched) {
        return Ok(Some(Subject::new(newer)));
    }
    match &watched.0 {
        Ok(group) => Ok(Some(Subject::new(Arc::new(group.clone())))),
        // The watch keeps only the metadata of an object that it can't read.
        Err(invalid) => {
            let raw = ctx.kubernetes.get_raw(watched).await?;
            Ok(raw.map(|raw| unreadable::subject(raw, &invalid.error)))
        }
    }
}

/// Looks at everything that the group consists of.
pub async fn observe(ctx: &Context, subject: &Subject) -> Observed {
    let asked = ctx.memory.now(&subject.key);
    let rival = rival(ctx, subject);
    // The stream is the rival's. (A deletion may still be about the stream of a queue that the spec named before.)
    let broker = if rival.is_some() && !subject.is_deleted() {
        BrokerView::NotAsked
    } else {
        view(ctx, subject).await
    };
    Observed {
        broker,
        asked,
        handler: ctx
            .caches
            .handler(&subject.key.namespace, &subject.group.spec.handler_ref.name),
        deployment: ctx.caches.deployment(&subject.key),
        rival,
    }
}

async fn view(ctx: &Context, subject: &Subject) -> BrokerView {
    let queue = subject.queue();
    // No subject of NATS could be made of another name.
    if !queue.is_valid() {
        return BrokerView::NotAsked;
    }
    if let Err(error) = ctx.broker.check() {
        return BrokerView::Failed(error);
    }
    // A deletion always looks afresh.
    if !subject.is_deleted()
        && let Some(seen) = ctx
            .memory
            .in_step(&subject.key, subject.spec_version(), ctx.settings.resync_interval)
    {
        return BrokerView::InStep {
            throttled_until: seen.throttled_until,
        };
    }
    ask_broker(ctx, subject, &queue)
        .await
        .unwrap_or_else(BrokerView::Failed)
}

async fn ask_broker(ctx: &Context, subject: &Subject, queue: &Queue) -> Result<BrokerView, BrokerError> {
    let name = queue.stream();
    let has_stream = subject
        .group
        .status
        .as_ref()
        .is_some_and(|status| status.stream.is_some());
    let (stream, consumer) = if has_stream {
        // A changed limit is in force sooner by a round trip.
        tokio::try_join!(ctx.broker.stream(&name), ctx.broker.consumer(&name))?
    } else {
        match ctx.broker.stream(&name).await? {
            None => (None, None),
            stream => (stream, ctx.broker.consumer(&name).await?),
        }
    };
    let Some(stream) = stream else {
        return Ok(BrokerView::Seen {
            stream: None,
            consumer: None,
            delayed: Delayed::default(),
        });
    };
    let policy = subject.group.spec.deletion_policy;
    let mut delayed = Delayed::default();
    if subject.is_deleted() && matches!(policy, DeletionPolicy::Drain | DeletionPolicy::DeleteIfEmpty) {
        delayed.tasks = ctx.broker.delayed(queue).await?;
        let after = ctx.broker.stream(&name).await?;
        delayed.moved = after.is_none_or(|after| after.state.last_seq != stream.state.last_seq);
    }
    Ok(BrokerView::Seen {
        stream: Some(stream),
        consumer,
        delayed,
    })
}

/// The TaskGroup of the namespace that has the queue which this one wants, too, if there is one.
fn rival(ctx: &Context, subject: &Subject) -> Option<String> {
    let mut others = ctx.caches.groups_of_queue(&validate::queue(&subject.group));
    others.find_map(|other| {
        let other = other.0.as_ref().ok()?;
        let is_another = other.metadata.uid != subject.group.metadata.uid;
        (is_another && comes_before(other, &subject.group)).then(|| other.name_any())
    })
}

/// The group that has made the queue's stream keeps it. Until then, the older group comes first. Age alone would not do: of
/// two groups made in the same second, either may have been first at the broker.
fn comes_before(one: &TaskGroup, other: &TaskGroup) -> bool {
    let rank = |group: &TaskGroup| {
        let made = group.status.as_ref().and_then(|status| status.stream.clone());
        (
            made.as_deref() != Some(validate::queue(group).stream().as_str()),
            group.creation_timestamp().map(|time| time.0),
            group.uid(),
        )
    };
    rank(one) < rank(other)
}
