//! The API `taskgroup.io/v1alpha1`: the two kinds and what they are made of, and nothing else.

mod condition;
mod duration;
mod env;
mod size;
mod task_group;
mod task_handler;

pub use condition::{Condition, ConditionStatus, ConditionType};
pub use duration::{Duration, DurationError};
pub use env::{EnvVar, EnvVarSource, FieldSelector, KeySelector};
pub use size::{Size, SizeError};
pub use task_group::{
    DeadLetter, DeletionPolicy, HandlerRef, Retry, Storage, StorageType, TaskGroup, TaskGroupSpec, TaskGroupStatus,
    Timeouts, Workers, limits,
};
pub use task_handler::{
    HANDLER_CONTAINER, HttpHandler, PodTemplate, TaskHandler, TaskHandlerSpec, UpstreamHandler, WORKER_ADMIN_PORT,
    WORKER_CONTAINER,
};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

/// Both CustomResourceDefinitions with their file names in `crds/`.
pub fn crds() -> Vec<(&'static str, CustomResourceDefinition)> {
    vec![
        ("taskgroups.taskgroup.io.yaml", TaskGroup::crd()),
        ("taskhandlers.taskgroup.io.yaml", TaskHandler::crd()),
    ]
}
