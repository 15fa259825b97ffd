//! The API `taskgroup.io/v1alpha1`: the two kinds and what they are made of, and nothing else.

mod condition;
mod duration;
mod env;
mod size;
mod task_group;
mod task_handler;

pub use condition::{Condition, ConditionStatus, ConditionType, Reason};
pub use duration::{Duration, DurationError};
pub use env::{EnvVar, EnvVarSource, FieldSelector, KeySelector};
pub use size::{Size, SizeError};
pub use task_group::{
    DeadLetter, DeletionPolicy, HandlerRef, RateLimit, Retry, Storage, StorageType, TaskGroup, TaskGroupSpec,
    TaskGroupStatus, Timeouts, Workers, limits,
};
pub use task_handler::{
    CaSource, ExecHandler, HANDLER_CONTAINER, HttpHandler, KeyRef, NativeHandler, PodTemplate, TaskHandler,
    TaskHandlerSpec, UpstreamHandler, WORKER_ADMIN_PORT, WORKER_CONTAINER,
};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray,
};
use kube::CustomResourceExt;

/// Both CustomResourceDefinitions with their file names in `crds/`.
pub fn crds() -> Vec<(&'static str, CustomResourceDefinition)> {
    let mut crds = vec![
        ("taskgroups.taskgroup.io.yaml", TaskGroup::crd()),
        ("taskhandlers.taskgroup.io.yaml", TaskHandler::crd()),
    ];
    let versions = crds.iter_mut().flat_map(|(_, crd)| &mut crd.spec.versions);
    let schemas = versions.filter_map(|version| version.schema.as_mut()?.open_api_v3_schema.as_mut());
    schemas.for_each(null_is_absent);
    crds
}

/// Makes no field nullable, where the derive macro makes every `Option` so. The API server then drops
/// a null, as an empty value in a Helm template gives, and fills in the default; a nullable field
/// keeps its null, which `has()` in a rule takes for a value.
fn null_is_absent(schema: &mut JSONSchemaProps) {
    schema.nullable = None;
    schema
        .properties
        .iter_mut()
        .flatten()
        .for_each(|(_, field)| null_is_absent(field));
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
        null_is_absent(items);
    }
}
