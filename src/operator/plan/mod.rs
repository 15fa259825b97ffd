//! Pure: desired × observed → the changes to make. Where something can't or must not be changed, the plan holds a refusal
//! that says what to do, and never a change that loses a task to get there.

mod deployment;
#[cfg(test)]
mod tests;

use super::{
    deployments::ObservedDeployment,
    desired::{Desired, DesiredConsumer, DesiredStream, Goal},
    observe::{BrokerView, Observed},
    refusal::Refusal,
    requeue::Requeue,
    subject::Subject,
    validate::ValidGroup,
};
use crate::{
    api::Reason,
    broker::{
        BrokerError, ConsumerConfig, ConsumerInfo, Difference, Pause, StreamConfig, StreamInfo, differences, overlay,
    },
    protocol::keys,
};
pub use deployment::foreign_deployment;
use serde_json::Value;
use std::sync::Arc;

/// What is to be done about one part of a group.
#[derive(Clone, Debug, PartialEq)]
pub enum Step<Create, Update = Create, Delete = ()> {
    /// The part is as it should be.
    Keep,
    /// Create it.
    Create(Create),
    /// Change it.
    Update(Update),
    /// Delete it.
    Delete(Delete),
    /// Leave it as it is, and say nothing about it.
    Leave,
    /// It waits for the parts that it builds on.
    Wait,
    /// It can't be as it should be until somebody changes something.
    Refuse(Refusal),
    /// Nobody knows, because the broker does not answer.
    Unknown(BrokerError),
}

/// A change of a stream or consumer.
#[derive(Clone, Debug, PartialEq)]
pub struct Edit {
    /// All its fields, as they should be.
    pub config: Value,
    /// What differs.
    pub differences: Vec<Difference>,
}

/// What is to be done about a group's consumer.
#[derive(Clone, Debug, PartialEq)]
pub struct ConsumerStep {
    /// About its configuration.
    pub config: Step<ConsumerConfig, Edit>,
    /// `Some(true)`: hold back its deliveries; `Some(false)`: let them go on.
    pub pause: Option<bool>,
}

/// What is to be done about our finalizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinalizerStep {
    /// Leave it as it is.
    Keep,
    /// Add it, before anything else.
    Add,
    /// Remove it, after everything else.
    Remove,
}

/// All that is to be done for a group.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// About our finalizer.
    pub finalizer: FinalizerStep,
    /// About the stream.
    pub stream: Step<StreamConfig, Edit>,
    /// About the consumer.
    pub consumer: ConsumerStep,
    /// About the worker Deployment.
    pub deployment: Step<Value, Value, Arc<ObservedDeployment>>,
    /// Whether to purge what the shared streams keep of the queue.
    pub purge: bool,
    /// Whether the finalizer goes although NATS can't be cleaned up.
    pub abandon: bool,
    /// Why the group as a whole is not ready, whatever its parts are.
    pub refusal: Option<Refusal>,
    /// When the group is reconciled again, if all goes well.
    pub requeue: Requeue,
}

/// Whose a stream is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// This TaskGroup's, or that of an earlier TaskGroup of its name.
    Ours,
    /// Nobody's that we know.
    Unmarked,
    /// Another TaskGroup's, or another installation's.
    Foreign(String),
}

/// Whose `stream` is, seen from `group` of the installation `instance`.
pub fn ownership(stream: &StreamInfo, group: &ValidGroup, instance: &str) -> Ownership {
    let (theirs, namespace, name) = (
        stream.metadata(keys::INSTANCE),
        stream.metadata(keys::NAMESPACE),
        stream.metadata(keys::NAME),
    );
    match (theirs, namespace, name) {
        (None, None, None) => Ownership::Unmarked,
        (Some(theirs), Some(namespace), Some(name))
            if theirs == instance && namespace == group.queue.namespace && name == group.name =>
        {
            Ownership::Ours
        }
        (theirs, namespace, name) => Ownership::Foreign(format!(
            "TaskGroup {}/{} of installation {}",
            namespace.unwrap_or("?"),
            name.unwrap_or("?"),
            theirs.unwrap_or("?")
        )),
    }
}

/// Plans all that is to be done for a group.
pub fn plan(
    subject: &Subject,
    group: Option<&ValidGroup>,
    desired: Desired,
    observed: &Observed,
    instance: &str,
) -> Plan {
    let stream = match (desired.stream, group) {
        (Goal::Present(desired), Some(group)) => {
            plan_stream(&desired, &observed.broker, group, instance, subject.adopts())
        }
        (Goal::Absent, _) => Step::Delete(()),
        (Goal::AsIs | Goal::Undecided | Goal::Present(_), _) => Step::Leave,
    };
    Plan {
        finalizer: match (desired.finalizer, subject.has_finalizer()) {
            (Goal::Present(()), false) => FinalizerStep::Add,
            (Goal::Absent, true) => FinalizerStep::Remove,
            _ => FinalizerStep::Keep,
        },
        consumer: plan_consumer(desired.consumer, &observed.broker, &stream),
        deployment: deployment::plan(desired.deployment, observed.deployment.as_ref(), subject.uid(), &stream),
        purge: stream == Step::Delete(()),
        stream,
        abandon: subject.is_abandoned(),
        refusal: desired.refusal,
        requeue: desired.requeue,
    }
}

fn plan_stream(
    desired: &DesiredStream,
    broker: &BrokerView,
    group: &ValidGroup,
    instance: &str,
    adopt: bool,
) -> Step<StreamConfig, Edit> {
    let observed = match broker {
        BrokerView::InStep { .. } => return Step::Keep,
        BrokerView::NotAsked => return Step::Leave,
        BrokerView::Failed(error) => return Step::Unknown(error.clone()),
        BrokerView::Seen { stream, .. } => stream.as_ref(),
    };
    let name = group.queue.stream();
    let Some(observed) = observed else {
        return match desired {
            DesiredStream::Whole(config) => Step::Create(config.clone()),
            DesiredStream::Intake { .. } => Step::Leave,
        };
    };
    match ownership(observed, group, instance) {
        Ownership::Ours => {}
        _ if adopt => {}
        Ownership::Unmarked => return not_owned(group, "is not marked as a TaskGroup's"),
        Ownership::Foreign(owner) => return not_owned(group, &format!("belongs to {owner}")),
    }
    let differences = differences(desired, &observed.config);
    if differences.is_empty() {
        return Step::Keep;
    }
    for difference in &differences {
        let fix = match difference.field.as_str() {
            "storage" => "set spec.storage.type back, or make another TaskGroup",
            "retention" => "move its messages to another stream and delete it, or use another queue",
            _ => continue,
        };
        return Step::Refuse(Refusal::stalled(
            Reason::Immutable,
            format!(
                "stream {name} has {difference}, which JetStream can't change, and TaskGroup deletes no stream to get \
                 there: {fix}"
            ),
        ));
    }
    Step::Update(Edit {
        config: overlay(desired, &observed.config),
        differences,
    })
}

fn not_owned(group: &ValidGroup, whose: &str) -> Step<StreamConfig, Edit> {
    Step::Refuse(Refusal::stalled(
        Reason::NotOwned,
        format!(
            "stream {} exists and {whose}: use another spec.queue, delete the stream, or take it over with the \
             annotation {}: \"true\" (it then listens to {})",
            group.queue.stream(),
            keys::ADOPT,
            group.queue.subjects().join(", ")
        ),
    ))
}

fn plan_consumer(
    desired: Goal<DesiredConsumer>,
    broker: &BrokerView,
    stream: &Step<StreamConfig, Edit>,
) -> ConsumerStep {
    let step = |config| ConsumerStep { config, pause: None };
    let Goal::Present(desired) = desired else {
        return step(Step::Leave);
    };
    match broker {
        BrokerView::InStep { .. } => step(Step::Keep),
        BrokerView::NotAsked => step(Step::Leave),
        BrokerView::Failed(error) => step(Step::Unknown(error.clone())),
        BrokerView::Seen { .. } if matches!(stream, Step::Refuse(_)) => step(Step::Wait),
        BrokerView::Seen { consumer, .. } => compare_consumer(desired, consumer.as_ref()),
    }
}

fn compare_consumer(desired: DesiredConsumer, observed: Option<&ConsumerInfo>) -> ConsumerStep {
    let DesiredConsumer { config, paused } = desired;
    let Some(observed) = observed else {
        return ConsumerStep {
            config: Step::Create(if paused { config.paused() } else { config }),
            pause: None,
        };
    };
    // A pause with an end is the workers', and ends by itself. A suspension overrides it, and its end lifts both.
    let pause = match (paused, observed.pause()) {
        (true, Pause::No | Pause::Until(_)) => Some(true),
        (false, Pause::ForEver) => Some(false),
        (true, Pause::ForEver) | (false, Pause::No | Pause::Until(_)) => None,
    };
    let differences = differences(&config, &observed.config);
    let config = if differences.is_empty() {
        Step::Keep
    } else {
        Step::Update(Edit {
            config: overlay(&config, &observed.config),
            differences,
        })
    };
    ConsumerStep { config, pause }
}
