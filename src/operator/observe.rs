//! What is there: from the watch caches, and from the broker where we don't know it already.

use super::{Context, validate};
use crate::{
    api::{TaskGroup, TaskHandler},
    broker::{Broker, BrokerError, ConsumerInfo, StreamInfo},
    protocol::{StreamName, keys},
};
use k8s_openapi::api::apps::v1::Deployment;
use kube::{ResourceExt, runtime::reflector::ObjectRef};
use serde_json::Value;
use std::sync::Arc;

/// What the broker has of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BrokerView {
    /// What is desired: we saw it so, and heard of no change since.
    InStep,
    /// Asked just now.
    Seen {
        /// Its stream, if any.
        stream: Option<StreamInfo>,
        /// Its consumer, if any.
        consumer: Option<ConsumerInfo>,
    },
    /// It did not answer.
    Failed(BrokerError),
}

/// What there is of a group's Deployment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeploymentView {
    /// Nothing.
    Absent,
    /// What is desired.
    InStep,
    /// Something else than desired.
    Differs,
    /// One of this name that is not this TaskGroup's.
    Foreign(String),
}

/// Asks the broker for a group's stream and consumer.
pub async fn ask_broker(broker: &Broker, stream: &StreamName) -> BrokerView {
    let seen = async {
        let found = broker.stream(stream).await?;
        let consumer = match found {
            Some(_) => broker.consumer(stream).await?,
            None => None,
        };
        Ok(BrokerView::Seen {
            stream: found,
            consumer,
        })
    };
    seen.await.unwrap_or_else(BrokerView::Failed)
}

/// The handler of a group, if it exists.
pub fn handler(ctx: &Context, group: &TaskGroup) -> Option<Arc<TaskHandler>> {
    let namespace = group.namespace().unwrap_or_default();
    ctx.handlers
        .get(&ObjectRef::new(&group.spec.handler_ref.name).within(&namespace))
}

/// The Deployment of a group's workers, if it exists.
pub fn deployment(ctx: &Context, group: &TaskGroup) -> Option<Arc<Deployment>> {
    let namespace = group.namespace().unwrap_or_default();
    let stored = ctx
        .deployments
        .get(&ObjectRef::new(&keys::deployment(&group.name_any())).within(&namespace));
    ctx.written_deployments
        .newer(stored, &namespace, &keys::deployment(&group.name_any()))
}

/// The TaskGroup of the namespace that keeps the queue which this one wants, too, if there is one.
pub fn rival(ctx: &Context, group: &TaskGroup) -> Option<String> {
    ctx.groups
        .find(|other| are_rivals(other, group) && comes_before(other, group))
        .map(|other| other.name_any())
}

/// The other TaskGroups with the same queue: they wait for it, or it waits for them.
pub fn rivals(ctx: &Context, group: &TaskGroup) -> Vec<ObjectRef<TaskGroup>> {
    let rivals = ctx.groups.state_filter(|other| are_rivals(other, group));
    rivals.iter().map(|rival| ObjectRef::from_obj(rival.as_ref())).collect()
}

fn are_rivals(one: &TaskGroup, other: &TaskGroup) -> bool {
    one.metadata.uid != other.metadata.uid && validate::share_a_queue(one, other)
}

/// Who has made the queue's stream keeps it; until then the older comes first. Age alone would not
/// do: of two made in the same second, either may have been first at the broker.
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

/// How a Deployment stands to what is desired. `known` is the generation that we saw in step with
/// the hash `desired` carries, if any; it saves the comparison, and ends it where the API server
/// writes a value in another way than we do (`1000m` for `1`).
pub fn view_deployment(
    observed: Option<&Deployment>,
    desired: Option<&Value>,
    group_uid: &str,
    known: Option<i64>,
) -> DeploymentView {
    let Some(observed) = observed else {
        return DeploymentView::Absent;
    };
    if !is_owned_by(observed, group_uid) {
        return DeploymentView::Foreign(observed.name_any());
    }
    let Some(desired) = desired else {
        return DeploymentView::InStep;
    };
    let hash = desired
        .pointer("/metadata/annotations")
        .and_then(|all| all.get(keys::APPLIED))
        .and_then(Value::as_str);
    if observed.annotations().get(keys::APPLIED).map(String::as_str) != hash {
        return DeploymentView::Differs;
    }
    if known.is_some() && known == observed.metadata.generation {
        return DeploymentView::InStep;
    }
    let observed = serde_json::to_value(observed).unwrap_or_default();
    let same =
        ["/metadata/labels", "/spec"]
            .into_iter()
            .all(|part| match (desired.pointer(part), observed.pointer(part)) {
                (Some(desired), Some(observed)) => contains(observed, desired),
                (desired, _) => desired.is_none(),
            });
    if same {
        DeploymentView::InStep
    } else {
        DeploymentView::Differs
    }
}

/// Whether an annotation of the group asks for something: it is `"true"`.
pub fn is_asked(group: &TaskGroup, annotation: &str) -> bool {
    group.annotations().get(annotation).is_some_and(|value| value == "true")
}

/// Whether a Deployment is that of the TaskGroup with this uid.
pub fn is_owned_by(deployment: &impl ResourceExt, group_uid: &str) -> bool {
    deployment
        .owner_references()
        .iter()
        .any(|owner| owner.uid == group_uid && owner.controller == Some(true))
}

/// Whether `observed` has all that `desired` says; what the server filled in does not matter.
fn contains(observed: &Value, desired: &Value) -> bool {
    match (observed, desired) {
        (Value::Object(observed), Value::Object(desired)) => desired.iter().all(|(field, desired)| {
            observed
                .get(field)
                .map_or_else(|| is_empty(desired), |observed| contains(observed, desired))
        }),
        (Value::Array(observed), Value::Array(desired)) => {
            // Others may have added list items (a sidecar, a volume): named items are found by name.
            desired.iter().enumerate().all(|(index, desired)| {
                let found = match desired.get("name") {
                    Some(name) => observed.iter().find(|item| item.get("name") == Some(name)),
                    None => observed.get(index),
                };
                found.is_some_and(|found| contains(found, desired))
            })
        }
        (observed, desired) => observed == desired,
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}
