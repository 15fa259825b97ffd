//! Checks and types a TaskHandler by itself.

use super::{Invalid, Problems};
use crate::api::{CaSource, KeyRef, PodTemplate, TaskHandler, TaskHandlerSpec, bounds};
use kube::ResourceExt;
use serde_json::{Value, json};

/// A TaskHandler that the operator can build.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidHandler {
    /// `metadata.name`.
    pub name: String,
    /// Way to run a task.
    pub run: Run,
    /// Pod template. Empty where the TaskHandler has none.
    pub template: PodTemplate,
}

/// Way to run a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Run {
    /// The container `handler` of the pod listens for HTTP.
    Http {
        /// Port that the container listens on.
        port: u16,
        /// Path that the worker POSTs tasks to.
        path: String,
        /// Whether the container speaks HTTP/2.
        http2: bool,
    },
    /// Each task is a process in the container `handler` of the pod.
    Exec {
        /// Program and arguments.
        command: Vec<String>,
    },
    /// A service runs already.
    Upstream {
        /// URL that the worker POSTs tasks to.
        url: String,
        /// Whether the service speaks nothing but HTTP/2.
        http2: bool,
        /// CA of the service, where it is not a public one.
        ca: Option<Ca>,
    },
    /// The container `handler` of the pod pulls its tasks from JetStream.
    Native,
}

/// Source of CA certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ca {
    /// A key of a Secret.
    Secret(KeyRef),
    /// A key of a ConfigMap.
    ConfigMap(KeyRef),
}

impl Run {
    /// Field of the TaskHandler that selects this way.
    pub fn field(&self) -> &'static str {
        match self {
            Self::Http { .. } => "http",
            Self::Exec { .. } => "exec",
            Self::Upstream { .. } => "upstream",
            Self::Native => "native",
        }
    }
}

/// Checks a TaskHandler by itself.
///
/// # Errors
/// Everything that is wrong with the handler, not only the first problem.
pub fn handler(handler: &TaskHandler) -> Result<ValidHandler, Invalid> {
    let spec = &handler.spec;
    let mut problems = Problems(bounds::TASK_HANDLER.check(&json!({"spec": spec})));
    check_beyond_bounds(spec, &mut problems);
    problems.done()?;
    Ok(ValidHandler {
        name: handler.name_any(),
        run: run(spec),
        template: spec.template.clone().unwrap_or_default(),
    })
}

/// Checks what neither a schema nor a CEL rule can express.
fn check_beyond_bounds(spec: &TaskHandlerSpec, problems: &mut Problems) {
    for (index, argument) in spec.exec.iter().flat_map(|exec| &exec.command).enumerate() {
        if argument.contains('\0') {
            problems.add(
                &format!("spec.exec.command[{index}]"),
                format!("Invalid value: {argument:?}: no argument can contain a NUL: remove it"),
            );
        }
    }
    if let Some(upstream) = &spec.upstream
        && upstream.url.parse::<http::Uri>().is_err()
    {
        problems.add(
            "spec.upstream.url",
            format!(
                "Invalid value: {:?}: must be a URL such as http://service/tasks",
                upstream.url
            ),
        );
    }
    // A server whose CRD is older than this program keeps whatever the template says.
    let containers = spec
        .template
        .as_ref()
        .and_then(|template| template.spec.get("containers"));
    let named = |containers: &Vec<Value>| containers.iter().all(|container| container["name"].is_string());
    if containers.is_some_and(|containers| !containers.as_array().is_some_and(named)) {
        problems.add(
            "spec.template.spec.containers",
            "must be a list of containers that each have a name",
        );
    }
}

/// Way to run a task, of a handler that has exactly one.
fn run(spec: &TaskHandlerSpec) -> Run {
    if let Some(http) = &spec.http {
        Run::Http {
            port: u16::try_from(http.port).unwrap_or_default(),
            path: http.path.clone(),
            http2: http.http2,
        }
    } else if let Some(exec) = &spec.exec {
        Run::Exec {
            command: exec.command.clone(),
        }
    } else if let Some(upstream) = &spec.upstream {
        Run::Upstream {
            url: upstream.url.clone(),
            http2: upstream.http2,
            ca: upstream.ca_from.as_ref().and_then(ca),
        }
    } else {
        Run::Native
    }
}

fn ca(source: &CaSource) -> Option<Ca> {
    let secret = source.secret_key_ref.clone().map(Ca::Secret);
    secret.or_else(|| source.config_map_key_ref.clone().map(Ca::ConfigMap))
}
