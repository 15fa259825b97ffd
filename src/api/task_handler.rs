//! The kind `TaskHandler`: the consumer code, in one place, for every group that references it.

use kube::CustomResource;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Name of the container of a pod template that runs the user's code.
pub const HANDLER_CONTAINER: &str = "handler";

/// Name of the container that the operator adds: the worker.
pub const WORKER_CONTAINER: &str = "taskgroup-worker";

/// Port of the worker's probes and metrics. The containers of a pod share their ports, so a handler can't listen on
/// it. The rule of `http.port` repeats it.
pub const WORKER_ADMIN_PORT: u16 = 9797;

/// A TaskHandler states one way to run tasks: set exactly one of `http`, `exec`, `upstream` and `native`. Every
/// TaskGroup of the namespace that references the TaskHandler uses it. A change rolls the worker pods of all these
/// groups.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[allow(clippy::duplicated_attributes, reason = "columns have types, also the same")]
#[kube(
    group = "taskgroup.io",
    version = "v1alpha1",
    kind = "TaskHandler",
    namespaced,
    derive = "PartialEq",
    doc = "A TaskHandler holds the code that runs the tasks of every TaskGroup that references it.",
    shortname = "th",
    printcolumn(name = "HTTP", type_ = "integer", json_path = ".spec.http.port"),
    printcolumn(name = "EXEC", type_ = "string", json_path = ".spec.exec.command[0]"),
    printcolumn(name = "UPSTREAM", type_ = "string", json_path = ".spec.upstream.url"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct TaskHandlerSpec {
    /// Runs tasks in the container `handler` of `template`. The worker is a sidecar and POSTs each task to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpHandler>,
    /// Runs each task as a process in the container `handler` of `template`. The process reads the task from
    /// standard input and writes the result to standard output. The worker replaces the container's own command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exec: Option<ExecHandler>,
    /// Runs tasks in a service that already runs. The worker is alone in its pod and POSTs each task to the service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<UpstreamHandler>,
    /// Leaves everything to the container `handler` of `template`, which speaks JetStream itself. There is no
    /// worker. Environment variables tell the container which stream and consumer to use, and its limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub native: Option<NativeHandler>,
    /// Pod template of the workers. With `http`, `exec` and `native`, its container named `handler` runs your code.
    /// The operator keeps everything else in the template: other containers, volumes, node selectors and so on. With
    /// `http` and `upstream`, a container named `taskgroup-worker` adjusts the worker, for example its resources.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<PodTemplate>,
}

/// A handler that listens for HTTP in the worker's pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpHandler {
    /// Port that the container `handler` listens on. Port 9797 belongs to the worker.
    #[serde(default = "default_port")]
    pub port: i32,
    /// Path that the worker POSTs tasks to.
    #[serde(default = "default_path")]
    pub path: String,
    /// `true` makes the worker speak HTTP/2 without TLS (h2c) from the first byte on. Otherwise the worker speaks
    /// HTTP/1.1.
    #[serde(default, skip_serializing_if = "is_false")]
    pub http2: bool,
}

/// A handler that is a program. The worker starts it once per task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExecHandler {
    /// Program and arguments, used exactly as written. No shell reads them and no variable is expanded. The program
    /// is a path, or a name that is looked up in `PATH`.
    pub command: Vec<String>,
}

/// A handler that pulls its tasks from JetStream itself. It has no settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NativeHandler {}

/// A handler that is a running service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UpstreamHandler {
    /// URL that the worker POSTs tasks to.
    pub url: String,
    /// `true` makes the worker speak HTTP/2 from the first byte on (h2c with `http://`). Otherwise the worker speaks
    /// HTTP/1.1 with `http://`, and with `https://` the service chooses.
    #[serde(default, skip_serializing_if = "is_false")]
    pub http2: bool,
    /// CA certificates, as PEM, that must have signed the certificate of an `https://` service. A worker reads them
    /// when it starts. Without this field, the worker trusts the certificates in `/etc/ssl` of its container, and the
    /// TaskGroup image has none. Set exactly one of its fields.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_from: Option<CaSource>,
}

/// Source of CA certificates.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CaSource {
    /// A key of a Secret in the namespace of the TaskHandler.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_key_ref: Option<KeyRef>,
    /// A key of a ConfigMap in the namespace of the TaskHandler.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map_key_ref: Option<KeyRef>,
}

/// A key of a Secret or ConfigMap. Pods wait until it exists.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeyRef {
    /// Name of the Secret or ConfigMap.
    pub name: String,
    /// Key in the Secret or ConfigMap.
    pub key: String,
}

/// A Kubernetes pod template, kept as it was written. The schema knows only the fields that our rules read. The API
/// server judges the rest when the operator applies the worker Deployment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodTemplate {
    /// Labels and annotations of the worker pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub metadata: Option<Map<String, Value>>,
    /// A Kubernetes PodSpec.
    #[serde(default)]
    #[schemars(schema_with = "pod_spec")]
    pub spec: Map<String, Value>,
}

fn any_object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

fn pod_spec(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "x-kubernetes-preserve-unknown-fields": true,
        "properties": {
            "containers": {
                "type": "array",
                "description": "Containers of the worker pods, as in a Kubernetes PodSpec.",
                "items": {
                    "type": "object",
                    "x-kubernetes-preserve-unknown-fields": true,
                    "required": ["name"],
                    "properties": {
                        "name": {
                            "type": "string",
                            "description": "Name of the container. `handler` runs your code, and `taskgroup-worker` is \
                                            the worker.",
                        },
                        "image": {
                            "type": "string",
                            "description": "Image of the container. Only the container `taskgroup-worker` needs none, \
                                            because the operator sets its image.",
                        },
                    },
                },
            },
            "restartPolicy": {
                "type": "string",
                "maxLength": 63,
                "description": "Restart policy of the worker pods. A Deployment allows only `Always`, its default.",
            },
        },
    })
}

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
