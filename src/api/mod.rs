//! The API `taskgroup.io/v1alpha1`: both kinds, their parts and their bounds, and nothing else.

pub mod bounds;
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
    TaskGroupStatus, Timeouts, Workers,
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
    for ((_, crd), bounds) in crds.iter_mut().zip([bounds::TASK_GROUP, bounds::TASK_HANDLER]) {
        let versions = crd.spec.versions.iter_mut();
        for schema in versions.filter_map(|version| version.schema.as_mut()?.open_api_v3_schema.as_mut()) {
            null_is_absent(schema);
            bounds.write(schema);
            bounds::describe(schema);
        }
    }
    crds
}

/// Makes no field nullable. The derive macro makes every `Option` nullable, and such a field keeps an explicit
/// null, which `has()` in a rule takes for a value. From a field that is not nullable, the API server drops the
/// null, as an empty value in a Helm template yields, and fills in the default.
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
