//! I/O: makes the changes of a plan, in order, and says what came of each.

use super::{
    Context,
    error::ApplyError,
    observe,
    plan::{self, ConsumerStep, Edit, Plan, Refusal, Step},
    validate::ValidGroup,
};
use crate::{
    broker::{BrokerError, ConsumerConfig, StreamConfig, StreamInfo},
    protocol::{
        StreamName,
        keys::{self, FIELD_MANAGER, FINALIZER},
    },
};
use k8s_openapi::api::apps::v1::Deployment;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, Preconditions, PropagationPolicy},
};
use serde_json::{Value, json};
use std::sync::Arc;

use crate::api::{TaskGroup, TaskGroupStatus};

/// What came of one step.
#[derive(Debug)]
pub enum Applied {
    /// There was nothing to do.
    Unchanged,
    /// It was changed; in words, for an event.
    Changed(String),
    /// It waits for what it builds on.
    Waits,
    /// It can't be as desired.
    Refused(Refusal),
    /// The broker did not answer, so nothing was done.
    Unknown(BrokerError),
    /// It was tried in vain.
    Failed(ApplyError),
}

impl Applied {
    /// Whether it is as desired now.
    pub fn is_done(&self) -> bool {
        matches!(self, Self::Unchanged | Self::Changed(_))
    }
}

/// What came of a plan.
#[derive(Debug)]
pub struct Outcome {
    /// The stream.
    pub stream: Applied,
    /// The consumer.
    pub consumer: Applied,
    /// The Deployment.
    pub deployment: Applied,
    /// The stream as the broker returned it, where it was changed.
    pub stream_info: Option<StreamInfo>,
}

impl Outcome {
    /// The stream, the consumer and the Deployment.
    pub fn parts(&self) -> [&Applied; 3] {
        [&self.stream, &self.consumer, &self.deployment]
    }
}

/// Makes the changes: the stream, then what reads from it, then who does.
pub async fn apply(ctx: &Context, group: &ValidGroup, plan: Plan) -> Outcome {
    let name = group.queue.stream();
    let (stream, stream_info) = apply_stream(ctx, &name, plan.stream).await;
    let consumer = if stream.is_done() {
        apply_consumer(ctx, group, &name, plan.consumer).await
    } else {
        match plan.consumer.config {
            Step::Unknown(error) => Applied::Unknown(error),
            _ => Applied::Waits,
        }
    };
    let deployment = match plan.deployment {
        Step::Create(_) if !stream.is_done() => Applied::Waits,
        Step::Create(desired) => create_deployment(ctx, group, desired).await,
        Step::Update(desired) => apply_deployment(ctx, group, desired, "changed", true).await,
        Step::Keep => Applied::Unchanged,
        Step::Wait => Applied::Waits,
        Step::Refuse(refusal) => Applied::Refused(refusal),
        Step::Unknown(error) => Applied::Unknown(error),
    };
    Outcome {
        stream,
        consumer,
        deployment,
        stream_info,
    }
}

async fn apply_stream(
    ctx: &Context,
    name: &StreamName,
    step: Step<StreamConfig, Edit>,
) -> (Applied, Option<StreamInfo>) {
    let (result, what) = match step {
        Step::Create(config) => (ctx.broker.create_stream(&config).await, format!("stream {name} made")),
        Step::Update(edit) => (
            ctx.broker.update_stream(name, &edit.config).await,
            format!("stream {name} changed ({})", list(&edit)),
        ),
        Step::Keep => return (Applied::Unchanged, None),
        Step::Wait => return (Applied::Waits, None),
        Step::Refuse(refusal) => return (Applied::Refused(refusal), None),
        Step::Unknown(error) => return (Applied::Unknown(error), None),
    };
    match result {
        Ok(info) => (Applied::Changed(what), Some(info)),
        Err(error) => (Applied::Failed(error.into()), None),
    }
}

async fn apply_consumer(ctx: &Context, group: &ValidGroup, stream: &StreamName, step: ConsumerStep) -> Applied {
    match try_consumer(ctx, group, stream, step).await {
        Ok(applied) => applied,
        Err(error) => Applied::Failed(error.into()),
    }
}

async fn try_consumer(
    ctx: &Context,
    group: &ValidGroup,
    stream: &StreamName,
    step: ConsumerStep,
) -> Result<Applied, BrokerError> {
    let mut done = Vec::new();
    match step.config {
        Step::Create(config) => {
            create_consumer(ctx, stream, &config).await?;
            done.push("consumer made".to_owned());
        }
        Step::Update(edit) => {
            ctx.broker.update_consumer(stream, &edit.config).await?;
            done.push(format!("consumer changed ({})", list(&edit)));
        }
        Step::Keep => {}
        Step::Wait => return Ok(Applied::Waits),
        Step::Refuse(refusal) => return Ok(Applied::Refused(refusal)),
        Step::Unknown(error) => return Ok(Applied::Unknown(error)),
    }
    if let Some(pause) = step.pause {
        ctx.broker.pause_consumer(stream, pause).await?;
        done.push(
            if pause {
                "deliveries held back"
            } else {
                "deliveries go on"
            }
            .into(),
        );
    }
    if done.is_empty() {
        return Ok(Applied::Unchanged);
    }
    ctx.broker.notify_settings(&group.queue).await?;
    Ok(Applied::Changed(done.join(", ")))
}

async fn create_consumer(ctx: &Context, stream: &StreamName, config: &ConsumerConfig) -> Result<(), BrokerError> {
    ctx.broker.create_consumer(stream, config).await.map(|_| ())
}

fn list(edit: &Edit) -> String {
    edit.differences
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}

/// Makes a Deployment where the watch, which shows only those with our label, shows none. One of that
/// name may be there all the same: somebody else's, or ours without its label.
async fn create_deployment(ctx: &Context, group: &ValidGroup, desired: Value) -> Applied {
    let applied = apply_deployment(ctx, group, desired.clone(), "made", false).await;
    if !matches!(&applied, Applied::Failed(error) if error.reason() == "Conflict") {
        return applied;
    }
    let name = keys::deployment(&group.name);
    let api: Api<Deployment> = Api::namespaced(ctx.client.clone(), &group.queue.namespace);
    match api.get_metadata_opt(&name).await {
        Ok(Some(found)) if observe::is_owned_by(&found, &group.uid) => {
            apply_deployment(ctx, group, desired, "changed", true).await
        }
        Ok(Some(_theirs)) => Applied::Refused(plan::foreign_deployment(&name)),
        // Gone again, or not to be told: the next attempt shows.
        Ok(None) | Err(_) => applied,
    }
}

/// Applies the Deployment. With `force`, what we say wins over what was edited by hand.
async fn apply_deployment(ctx: &Context, group: &ValidGroup, desired: Value, what: &str, force: bool) -> Applied {
    let name = keys::deployment(&group.name);
    let api: Api<Deployment> = Api::namespaced(ctx.client.clone(), &group.queue.namespace);
    let params = PatchParams {
        force,
        ..PatchParams::apply(FIELD_MANAGER)
    };
    let mut answer = api.patch(&name, &params, &Patch::Apply(&desired)).await;
    if force && matches!(&answer, Err(kube::Error::Api(status)) if status.code == 422) {
        // What an apply takes away leaves what the API server defaulted beside it (a hook with nothing in
        // it): the template is replaced as a whole, and then applied.
        let mut template = desired["spec"]["template"].clone();
        template["$patch"] = "replace".into();
        let replace = serde_json::json!({"spec": {"template": template}});
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
            if let Some(generation) = applied.metadata.generation {
                ctx.remember_generation(&group.uid, generation);
            }
            ctx.written_deployments.remember(applied);
            Applied::Changed(format!("Deployment {name} {what}"))
        }
        Err(error) => {
            let doing = format!("apply Deployment {}/{name}", group.queue.namespace);
            Applied::Failed(ApplyError::template(doing)(error))
        }
    }
}

/// Deletes a Deployment that is ours, and lets its pods finish their tasks.
pub async fn delete_deployment(ctx: &Context, deployment: &Deployment) -> Result<(), ApplyError> {
    let (namespace, name) = (deployment.namespace().unwrap_or_default(), deployment.name_any());
    let params = DeleteParams {
        propagation_policy: Some(PropagationPolicy::Background),
        preconditions: Some(Preconditions {
            uid: deployment.uid(),
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    let api: Api<Deployment> = Api::namespaced(ctx.client.clone(), &namespace);
    match api.delete(&name, &params).await {
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        Err(error) => return Err(ApplyError::kube(format!("delete Deployment {namespace}/{name}"))(error)),
        Ok(_) => {}
    }
    ctx.written_deployments.forget(deployment);
    Ok(())
}

/// Makes sure that the group does not vanish before its stream is cleaned up.
pub async fn add_finalizer(ctx: &Context, group: &TaskGroup) -> Result<Arc<TaskGroup>, ApplyError> {
    let mut finalizers = group.finalizers().to_vec();
    finalizers.push(FINALIZER.into());
    set_finalizers(ctx, group, finalizers).await
}

/// Lets the group go.
pub async fn remove_finalizer(ctx: &Context, group: &TaskGroup) -> Result<(), ApplyError> {
    let others = group
        .finalizers()
        .iter()
        .filter(|name| *name != FINALIZER)
        .cloned()
        .collect();
    match set_finalizers(ctx, group, others).await {
        Ok(_) => {
            ctx.written_groups.forget(group);
            Ok(())
        }
        Err(ApplyError::Kube { source, .. }) if is_not_found(&source) => Ok(()),
        Err(error) => Err(error),
    }
}

async fn set_finalizers(
    ctx: &Context,
    group: &TaskGroup,
    finalizers: Vec<String>,
) -> Result<Arc<TaskGroup>, ApplyError> {
    let (namespace, name) = (group.namespace().unwrap_or_default(), group.name_any());
    let api: Api<TaskGroup> = Api::namespaced(ctx.client.clone(), &namespace);
    // The resource version makes it fail, to be tried again, where others changed the list meanwhile.
    let patch = json!({"metadata": {"finalizers": finalizers, "resourceVersion": group.resource_version()}});
    api.patch(&name, &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .map(|patched| ctx.written_groups.remember(patched))
        .map_err(ApplyError::kube(format!(
            "set the finalizer of TaskGroup {namespace}/{name}"
        )))
}

fn is_not_found(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

/// Writes a status, unless it is what is there already.
pub async fn write_status(ctx: &Context, group: &TaskGroup, status: &TaskGroupStatus) -> Result<(), ApplyError> {
    if group.status.as_ref() == Some(status) {
        return Ok(());
    }
    let (namespace, name) = (group.namespace().unwrap_or_default(), group.name_any());
    let api: Api<TaskGroup> = Api::namespaced(ctx.client.clone(), &namespace);
    // Fields that are not set are written as null, which removes them.
    let patched = api
        .patch_status(
            &name,
            &PatchParams::default(),
            &Patch::Merge(&json!({"status": status})),
        )
        .await
        .map_err(ApplyError::kube(format!(
            "write the status of TaskGroup {namespace}/{name}"
        )))?;
    ctx.written_groups.remember(patched);
    Ok(())
}
