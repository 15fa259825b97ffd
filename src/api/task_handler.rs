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

/// How tasks are run: by a container of yours next to the worker (`http`), by a process of your image for
/// each (`exec`), by a service that runs already (`upstream`), or by a container that takes them from
/// JetStream itself (`native`). Every TaskGroup of the namespace that names it uses it.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[allow(clippy::duplicated_attributes, reason = "columns have types, also the same")]
#[kube(
    group = "taskgroup.io",
    version = "v1alpha1",
    kind = "TaskHandler",
    namespaced,
    derive = "PartialEq",
    doc = "The code that runs the tasks of every TaskGroup that refers to it.",
    shortname = "th",
    printcolumn(name = "HTTP", type_ = "integer", json_path = ".spec.http.port"),
    printcolumn(name = "EXEC", type_ = "string", json_path = ".spec.exec.command[0]"),
    printcolumn(name = "UPSTREAM", type_ = "string", json_path = ".spec.upstream.url"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(
    validation = Rule::new("(has(self.http) ? 1 : 0) + (has(self.exec) ? 1 : 0) + (has(self.upstream) ? 1 : 0) + (has(self.native) ? 1 : 0) == 1")
        .message("exactly one of http, exec, upstream and native says how to run a task: set one and remove the others"),
    validation = Rule::new("!(has(self.http) || has(self.exec) || has(self.native)) || has(self.template)")
        .message("http, exec and native need template, the pod template with your container named handler: add it, or use upstream")
)]
#[serde(rename_all = "camelCase")]
pub struct TaskHandlerSpec {
    /// Run tasks in the container `handler` of `template`: the worker, a sidecar, POSTs each task to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpHandler>,
    /// Run each task as a process of its own in the container `handler` of `template`: the task on standard
    /// input, its result on standard output. The worker takes the place of the container's own command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exec: Option<ExecHandler>,
    /// Run tasks in a service that runs already: the worker, alone in its pod, POSTs each task to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<UpstreamHandler>,
    /// Leave all of it to the container `handler` of `template`: it speaks JetStream itself, and is told by
    /// environment variables where and what. There is no worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub native: Option<NativeHandler>,
    /// The worker pods: a Kubernetes pod template. Its container named `handler` is your code (with
    /// `http`, `exec` and `native`); everything else of it (other containers, volumes, node selectors, …) is
    /// kept as it is. With `http` and `upstream`, a container named `taskgroup-worker` in it sets, for
    /// example, the resources of the worker.
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
    /// `true`: by HTTP/2 without TLS (h2c), from the first byte on. By default HTTP/1.1.
    #[serde(default, skip_serializing_if = "is_false")]
    pub http2: bool,
}

/// A handler that is a program, started for each task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExecHandler {
    /// The program, by its path or by a name that is found in `PATH`, and its arguments, 1 to 100 texts.
    /// Exactly as written: no shell reads it and no variable is filled in.
    #[schemars(length(min = 1, max = 100), inner(length(min = 1, max = 4096)))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub command: Vec<String>,
}

/// A handler that takes its tasks from JetStream by itself. Nothing is to be set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct NativeHandler {}

/// A handler that runs already, somewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.caFrom) || self.url.startsWith('https://')")
        .message("upstream.caFrom is for a URL that begins with https://: change upstream.url, or remove caFrom")
)]
pub struct UpstreamHandler {
    /// URL that tasks are POSTed to, `http://` or `https://`.
    #[schemars(length(min = 8, max = 2048), regex(pattern = r"^https?://[!-~]+$"))]
    pub url: String,
    /// `true`: by HTTP/2 from the first byte on (h2c with `http://`). By default HTTP/1.1 with `http://`;
    /// with `https://`, the service chooses.
    #[serde(default, skip_serializing_if = "is_false")]
    pub http2: bool,
    /// The CA certificates, as PEM, that an `https://` service must be certified by. Read when a worker
    /// starts. Without it, those in `/etc/ssl` of the worker's container, of which our image has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_from: Option<CaSource>,
}

/// Where CA certificates come from: exactly one of the two.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.secretKeyRef) != has(self.configMapKeyRef)")
        .message("caFrom names exactly one source: secretKeyRef or configMapKeyRef")
)]
pub struct CaSource {
    /// A key of a Secret in the namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_key_ref: Option<KeyRef>,
    /// A key of a ConfigMap in the namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map_key_ref: Option<KeyRef>,
}

/// A key of a Secret or ConfigMap that pods wait for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeyRef {
    /// Name of the Secret or ConfigMap.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The key in it.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
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

/// For what is left out when it is as it is by default.
#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it by reference")]
fn is_false(value: &bool) -> bool {
    !value
}

fn default_port() -> i32 {
    8080
}

fn default_path() -> String {
    "/".into()
}
