//! Pure: what is to be done about a group's worker Deployment.

use super::Step;
use crate::{
    api::Reason,
    operator::{deployments::ObservedDeployment, desired::Goal, refusal::Refusal},
    protocol::keys,
};
use serde_json::Value;
use std::sync::Arc;

/// Plans what is to be done about the worker Deployment of the group with this uid.
pub fn plan<S, U>(
    desired: Goal<Value>,
    observed: Option<&Arc<ObservedDeployment>>,
    uid: &str,
    stream: &Step<S, U>,
) -> Step<Value, Value, Arc<ObservedDeployment>> {
    let is_ours = |observed: &ObservedDeployment| observed.owner.as_deref() == Some(uid);
    match (desired, observed) {
        (Goal::Absent, Some(observed)) if is_ours(observed) => Step::Delete(observed.clone()),
        (Goal::Absent | Goal::AsIs, _) => Step::Leave,
        (Goal::Undecided | Goal::Present(_), Some(observed)) if !is_ours(observed) => {
            Step::Refuse(foreign_deployment(&observed.name))
        }
        (Goal::Undecided, _) => Step::Wait,
        // No worker may run on a stream that is not ours. Workers of ours follow their handler without the broker.
        (Goal::Present(_), _) if matches!(stream, Step::Refuse(_)) => Step::Wait,
        (Goal::Present(_), None) if matches!(stream, Step::Unknown(_)) => Step::Wait,
        (Goal::Present(desired), None) => Step::Create(desired),
        (Goal::Present(desired), Some(observed)) if is_in_step(observed, &desired) => Step::Keep,
        (Goal::Present(desired), Some(_)) => Step::Update(desired),
    }
}

/// Somebody else's Deployment has the name of ours.
pub fn foreign_deployment(name: &str) -> Refusal {
    Refusal::stalled(
        Reason::NotOwned,
        format!(
            "Deployment {name} exists and is not this TaskGroup's: delete it or give it another name, or give the \
             TaskGroup another name"
        ),
    )
}

/// Whether a Deployment is as desired. A spec that was found to be so once is not compared again: the API server writes some
/// values in another way than we do (`1000m` for `1`).
fn is_in_step(observed: &ObservedDeployment, desired: &Value) -> bool {
    let hash = desired
        .pointer("/metadata/annotations")
        .and_then(|all| all.get(keys::APPLIED))
        .and_then(Value::as_str);
    if observed.applied.as_deref() != hash {
        return false;
    }
    let Some(observed) = observed.content() else {
        return true;
    };
    ["/metadata/labels", "/spec"]
        .into_iter()
        .all(|part| match (desired.pointer(part), observed.pointer(part)) {
            (Some(desired), Some(observed)) => contains(observed, desired),
            (desired, _) => desired.is_none(),
        })
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
