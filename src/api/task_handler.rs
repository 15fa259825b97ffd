//! The kind `TaskHandler`: the consumer code, in one place, for every group that refers to it.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Name of the container of a handler's pod template that is the user's code.
pub const HANDLER_CONTAINER: &str = "handler";

/// Name of the container that the operator adds: the worker.
pub const WORKER_CONTAINER: &str = "taskgroup-worker";

/// Port of the worker's probes and metrics. The containers of a pod share their ports, so a
/// handler can't listen on it.
pub const WORKER_ADMIN_PORT: u16 = 9797;

/// How tasks are run: by a container of yours next to the worker (`http`), or by a service that
/// runs already (`upstream`). Every TaskGroup of the namespace that names it uses it.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "taskgroup.io",
    version = "v1alpha1",
    kind = "TaskHandler",
    namespaced,
    derive = "PartialEq",
    doc = "The code that runs the tasks of every TaskGroup that refers to it.",
    shortname = "th",
    printcolumn(name = "HTTP", type_ = "integer", json_path = ".spec.http.port"),
    printcolumn(name = "UPSTREAM", type_ = "string", json_path = ".spec.upstream.url"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(
    validation = Rule::new("has(self.http) != has(self.upstream)")
        .message("exactly one of http and upstream says how to run a task: set one and remove the other"),
    validation = Rule::new("!has(self.http) || has(self.template)")
        .message("http needs template, the pod template with your container named handler: add it, or use upstream")
)]
#[serde(rename_all = "camelCase")]
pub struct TaskHandlerSpec {
    /// Run tasks in the container `handler` of `template`: the worker, a sidecar, POSTs each task to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpHandler>,
    /// Run tasks in a service that runs already: the worker, alone in its pod, POSTs each task to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<UpstreamHandler>,
    /// The worker pods: a Kubernetes pod template. Its container named `handler` is your code (with
    /// `http`); everything else of it (other containers, volumes, node selectors, …) is kept as it is.
    /// A container named `taskgroup-worker` in it sets, for example, the resources of the worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<PodTemplate>,
}

/// A handler that listens for HTTP in the worker's pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.port != 9797")
        .message("http.port 9797 is the worker's own port in the pod: let the handler listen on another, for example 8080")
)]
pub struct HttpHandler {
    /// Port that the container `handler` listens on, 1 to 65535.
    #[serde(default = "default_port")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,
    /// Path that tasks are POSTed to.
    #[serde(default = "default_path")]
    #[schemars(length(min = 1, max = 1024), regex(pattern = r"^/[!-~]*$"))]
    pub path: String,
}

/// A handler that runs already, somewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct UpstreamHandler {
    /// URL that tasks are POSTed to, `http://` or `https://`.
    #[schemars(length(min = 8, max = 2048), regex(pattern = r"^https?://[!-~]+$"))]
    pub url: String,
}

/// A Kubernetes pod template. Kept as it was written: the API server judges its `spec` when the
/// worker Deployment is applied.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodTemplate {
    /// Labels and annotations of the worker pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "free_form")]
    pub metadata: Option<Map<String, Value>>,
    /// A Kubernetes PodSpec.
    #[serde(default)]
    #[schemars(schema_with = "free_form")]
    pub spec: Map<String, Value>,
}

fn free_form(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

fn default_port() -> i32 {
    8080
}

fn default_path() -> String {
    "/".into()
}
