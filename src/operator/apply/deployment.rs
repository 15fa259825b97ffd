//! I/O: changes of a group's worker Deployment.

use super::PartOutcome;
use crate::{
    api::Reason,
    operator::{
        Context,
        deployments::ObservedDeployment,
        error::ApplyError,
        plan::{Step, foreign_deployment},
        validate::ValidGroup,
    },
    protocol::keys::{self, FIELD_MANAGER},
};
use k8s_openapi::api::apps::v1::Deployment;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, Preconditions, PropagationPolicy},
};
use serde_json::{Value, json};
use std::sync::Arc;

/// Changes the Deployment. A new one waits for its stream.
pub async fn apply(
    ctx: &Context,
    group: &ValidGroup,
    step: Step<Value, Value, Arc<ObservedDeployment>>,
    stream_is_done: bool,
) -> PartOutcome {
    match step {
        Step::Create(_) if !stream_is_done => PartOutcome::Waits,
        Step::Create(desired) => create(ctx, group, desired).await,
        Step::Update(desired) => patch(ctx, group, desired, "changed", true).await,
        Step::Keep => {
            let namespace = &group.queue.namespace;
            let name = keys::deployment(&group.name);
            if let Some(compared) = ctx.caches.deployments().get(namespace, &name) {
                ctx.caches.deployments().in_step(namespace, &compared);
            }
            PartOutcome::Unchanged
        }
        Step::Wait => PartOutcome::Waits,
        Step::Refuse(refusal) => PartOutcome::Refused(refusal),
        Step::Unknown(error) => PartOutcome::Unknown(error),
        Step::Leave | Step::Delete(_) => PartOutcome::Left,
    }
}

/// Deletes a Deployment that is ours, and lets its pods finish their tasks.
pub async fn delete(ctx: &Context, namespace: &str, deployment: &ObservedDeployment) -> Result<(), ApplyError> {
    let name = &deployment.name;
    let params = DeleteParams {
        propagation_policy: Some(PropagationPolicy::Background),
        preconditions: Some(Preconditions {
            uid: Some(deployment.uid.clone()),
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    match ctx.kubernetes.api::<Deployment>(namespace).delete(name, &params).await {
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        Err(error) => return Err(ApplyError::kube(format!("delete Deployment {namespace}/{name}"))(error)),
        Ok(_) => {}
    }
    ctx.caches.deployments().deleted(namespace, deployment);
    Ok(())
}

/// Makes a Deployment where the watch, which shows only those with our label, shows none. One of that name may be there all
/// the same: somebody else's, or ours without its label.
async fn create(ctx: &Context, group: &ValidGroup, desired: Value) -> PartOutcome {
    let created = patch(ctx, group, desired.clone(), "made", false).await;
    if !matches!(&created, PartOutcome::Failed(error) if error.reason() == Reason::Conflict) {
        return created;
    }
    let name = keys::deployment(&group.name);
    let api: Api<Deployment> = ctx.kubernetes.api(&group.queue.namespace);
    match api.get_metadata_opt(&name).await {
        Ok(Some(found)) if is_owned_by(&found, &group.uid) => patch(ctx, group, desired, "changed", true).await,
        Ok(Some(_theirs)) => PartOutcome::Refused(foreign_deployment(&name)),
        // Gone again, or unknown: the next attempt shows.
        Ok(None) | Err(_) => created,
    }
}

fn is_owned_by(deployment: &impl ResourceExt, group_uid: &str) -> bool {
    let owners = deployment.owner_references();
    owners
        .iter()
        .any(|owner| owner.uid == group_uid && owner.controller == Some(true))
}

/// Applies the Deployment. With `force`, what we say wins over what was edited by hand.
async fn patch(ctx: &Context, group: &ValidGroup, desired: Value, what: &str, force: bool) -> PartOutcome {
    let name = keys::deployment(&group.name);
    let api: Api<Deployment> = ctx.kubernetes.api(&group.queue.namespace);
    let params = PatchParams {
        force,
        ..PatchParams::apply(FIELD_MANAGER)
    };
    let mut answer = api.patch(&name, &params, &Patch::Apply(&desired)).await;
    if force && matches!(&answer, Err(kube::Error::Api(status)) if status.code == 422) {
        // What an apply takes away leaves what the API server defaulted beside it (a hook with nothing in it). So the
        // template is replaced as a whole, and then applied.
        let mut template = desired["spec"]["template"].clone();
        template["$patch"] = "replace".into();
        let replace = json!({"spec": {"template": template}});
        let by_us = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        if api.patch(&name, &by_us, &Patch::Strategic(&replace)).await.is_ok() {
            answer = api.patch(&name, &params, &Patch::Apply(&desired)).await;
        }
    }
    match answer {
        Ok(applied) => {
            ctx.caches.deployments().applied(&applied);
            PartOutcome::Changed(format!("Deployment {name} {what}"))
        }
        Err(error) => {
            let doing = format!("apply Deployment {}/{name}", group.queue.namespace);
            PartOutcome::Failed(ApplyError::template(doing)(error))
        }
    }
}
