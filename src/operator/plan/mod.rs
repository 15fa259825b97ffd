//! Pure: desired × observed → the changes to make. Where something can't or must not be changed,
//! a refusal that says what to do, and never a change that loses a task to get there.

mod ending;
#[cfg(test)]
mod tests;

pub use ending::{Delayed, Ending, ending, waits_for_nats};

use super::{
    observe::{BrokerView, DeploymentView},
    validate::ValidGroup,
};
use crate::{
    broker::{
        BrokerError, ConsumerConfig, ConsumerInfo, Difference, Pause, StreamConfig, StreamInfo, differences, overlay,
    },
    protocol::keys,
};
use serde_json::Value;

/// What is to be done about one object.
#[derive(Clone, Debug, PartialEq)]
pub enum Step<Create, Update = Create> {
    /// It is as it should be.
    Keep,
    /// Make it.
    Create(Create),
    /// Change it.
    Update(Update),
    /// It has to wait for what it builds on.
    Wait,
    /// It can't be made as it should be, until somebody changes something.
    Refuse(Refusal),
    /// Not known, as the broker does not answer.
    Unknown(BrokerError),
}

/// Why something is left as it is: a reason for machines, and a message that says what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// One word in CamelCase.
    pub reason: &'static str,
    /// What is in the way, and the fix.
    pub message: String,
}

/// A change of a stream or consumer.
#[derive(Clone, Debug, PartialEq)]
pub struct Edit {
    /// All its fields, as they should be.
    pub config: Value,
    /// What differs.
    pub differences: Vec<Difference>,
}

/// What is to be done about a group's consumer: its configuration, and whether it is paused.
#[derive(Clone, Debug, PartialEq)]
pub struct ConsumerStep {
    /// Its configuration.
    pub config: Step<ConsumerConfig, Edit>,
    /// `Some(true)`: pause it; `Some(false)`: let it go on.
    pub pause: Option<bool>,
}

/// All that is to be done for a group.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// About its stream.
    pub stream: Step<StreamConfig, Edit>,
    /// About its consumer.
    pub consumer: ConsumerStep,
    /// About its worker Deployment.
    pub deployment: Step<Value>,
}

/// What a group's objects should be.
#[derive(Clone, Debug, PartialEq)]
pub struct Desired {
    /// Its stream.
    pub stream: StreamConfig,
    /// Its consumer.
    pub consumer: ConsumerConfig,
    /// Whether the consumer is paused.
    pub paused: bool,
    /// Its worker Deployment; `None` where no usable handler says what runs in it.
    pub deployment: Option<Value>,
}

/// Whose a stream is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// This TaskGroup's, or that of one with its name made earlier.
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

/// Plans all that is to be done for a group that stays.
pub fn plan(
    group: &ValidGroup,
    desired: &Desired,
    view: &BrokerView,
    deployment: &DeploymentView,
    instance: &str,
    adopt: bool,
) -> Plan {
    let (stream, consumer) = match view {
        BrokerView::InStep => (
            Step::Keep,
            ConsumerStep {
                config: Step::Keep,
                pause: None,
            },
        ),
        BrokerView::Failed(error) => (
            Step::Unknown(error.clone()),
            ConsumerStep {
                config: Step::Unknown(error.clone()),
                pause: None,
            },
        ),
        BrokerView::Seen { stream, consumer } => {
            let stream = plan_stream(group, &desired.stream, stream.as_ref(), instance, adopt);
            let consumer = if matches!(stream, Step::Refuse(_)) {
                ConsumerStep {
                    config: Step::Wait,
                    pause: None,
                }
            } else {
                plan_consumer(desired, consumer.as_ref())
            };
            (stream, consumer)
        }
    };
    let deployment = plan_deployment(desired.deployment.as_ref(), deployment, &stream);
    Plan {
        stream,
        consumer,
        deployment,
    }
}

fn plan_stream(
    group: &ValidGroup,
    desired: &StreamConfig,
    observed: Option<&StreamInfo>,
    instance: &str,
    adopt: bool,
) -> Step<StreamConfig, Edit> {
    let Some(observed) = observed else {
        return Step::Create(desired.clone());
    };
    match ownership(observed, group, instance) {
        Ownership::Ours => {}
        _ if adopt => {}
        Ownership::Unmarked => return not_owned(&desired.name, "is not marked as a TaskGroup's", desired),
        Ownership::Foreign(owner) => return not_owned(&desired.name, &format!("belongs to {owner}"), desired),
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
        return Step::Refuse(Refusal {
            reason: "Immutable",
            message: format!(
                "stream {} has {difference}, which JetStream can't change, and TaskGroup deletes no stream to get \
                 there: {fix}",
                desired.name
            ),
        });
    }
    Step::Update(Edit {
        config: overlay(desired, &observed.config),
        differences,
    })
}

fn not_owned(stream: &str, whose: &str, desired: &StreamConfig) -> Step<StreamConfig, Edit> {
    Step::Refuse(Refusal {
        reason: "NotOwned",
        message: format!(
            "stream {stream} exists and {whose}: use another spec.queue, delete the stream, or take it over with the \
             annotation {}: \"true\" (it then listens to {})",
            keys::ADOPT,
            desired.subjects.join(", ")
        ),
    })
}

fn plan_consumer(desired: &Desired, observed: Option<&ConsumerInfo>) -> ConsumerStep {
    let Some(observed) = observed else {
        let consumer = desired.consumer.clone();
        return ConsumerStep {
            config: Step::Create(if desired.paused { consumer.paused() } else { consumer }),
            pause: None,
        };
    };
    // A closing is the workers' and ends by itself; a suspension overrides it, and its end lifts both.
    let pause = match (desired.paused, observed.pause()) {
        (true, Pause::No | Pause::Until(_)) => Some(true),
        (false, Pause::ForEver) => Some(false),
        (true, Pause::ForEver) | (false, Pause::No | Pause::Until(_)) => None,
    };
    let differences = differences(&desired.consumer, &observed.config);
    let config = if differences.is_empty() {
        Step::Keep
    } else {
        Step::Update(Edit {
            config: overlay(&desired.consumer, &observed.config),
            differences,
        })
    };
    ConsumerStep { config, pause }
}

fn plan_deployment<S, U>(desired: Option<&Value>, observed: &DeploymentView, stream: &Step<S, U>) -> Step<Value> {
    // No worker may run on a stream that is not ours; what runs on ours goes on without the broker.
    let blocked = match stream {
        Step::Refuse(_) => true,
        Step::Unknown(_) => *observed == DeploymentView::Absent,
        _ => false,
    };
    match (desired, observed) {
        (_, DeploymentView::Foreign(name)) => Step::Refuse(foreign_deployment(name)),
        (None, _) => Step::Wait,
        _ if blocked => Step::Wait,
        (Some(_), DeploymentView::InStep) => Step::Keep,
        (Some(desired), DeploymentView::Absent) => Step::Create(desired.clone()),
        (Some(desired), DeploymentView::Differs) => Step::Update(desired.clone()),
    }
}

/// That somebody else's Deployment has the name of ours.
pub fn foreign_deployment(name: &str) -> Refusal {
    Refusal {
        reason: "NotOwned",
        message: format!(
            "Deployment {name} exists and is not this TaskGroup's: delete it or give it another name, or give the \
             TaskGroup another name"
        ),
    }
}
