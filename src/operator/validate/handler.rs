//! A TaskHandler, checked by itself.

use super::{Invalid, Problems};
use crate::api::{
    ExecHandler, HANDLER_CONTAINER, HttpHandler, KeyRef, NativeHandler, PodTemplate, TaskHandler, UpstreamHandler,
    WORKER_ADMIN_PORT, WORKER_CONTAINER,
};
use kube::ResourceExt;
use serde_json::Value;

/// A TaskHandler that can be built.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidHandler {
    /// `metadata.name`.
    pub name: String,
    /// How a task is run.
    pub run: Run,
    /// The pods; empty where none was given.
    pub template: PodTemplate,
}

/// How a task is run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Run {
    /// By the container `handler` of the pod, which listens for HTTP.
    Http {
        /// Where it listens.
        port: u16,
        /// What it wants the tasks at.
        path: String,
        /// Whether it speaks HTTP/2.
        http2: bool,
    },
    /// By a process of its own in the container `handler` of the pod.
    Exec {
        /// The program and its arguments.
        command: Vec<String>,
    },
    /// By a service that runs already.
    Upstream {
        /// Where.
        url: String,
        /// Whether it speaks nothing but HTTP/2.
        http2: bool,
        /// What it is certified by, where it is not a public CA.
        ca: Option<Ca>,
    },
    /// By the container `handler` of the pod, which takes its tasks from JetStream.
    Native,
}

/// Where CA certificates are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ca {
    /// In a key of a Secret.
    Secret(KeyRef),
    /// In a key of a ConfigMap.
    ConfigMap(KeyRef),
}

impl Run {
    /// What it is called in a TaskHandler.
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
/// All that is wrong with it, not only the first.
pub fn handler(handler: &TaskHandler) -> Result<ValidHandler, Invalid> {
    let mut problems = Problems::default();
    let spec = &handler.spec;
    let template = spec.template.clone().unwrap_or_default();
    let run = match (&spec.http, &spec.exec, &spec.upstream, &spec.native) {
        (Some(http), None, None, None) => check_http(http, &mut problems),
        (None, Some(exec), None, None) => check_exec(exec, &mut problems),
        (None, None, Some(upstream), None) => check_upstream(upstream, &mut problems),
        (None, None, None, Some(NativeHandler {})) => Run::Native,
        _ => {
            problems.add(
                "spec",
                "exactly one of http, exec, upstream and native says how to run a task: set one, remove the others",
            );
            return problems.done(ValidHandler {
                name: handler.name_any(),
                run: Run::Native,
                template,
            });
        }
    };
    check_containers(&run, spec.template.as_ref(), &mut problems);
    check_template(&template, &mut problems);
    problems.done(ValidHandler {
        name: handler.name_any(),
        run,
        template,
    })
}

fn check_http(http: &HttpHandler, problems: &mut Problems) -> Run {
    if http.port == i32::from(WORKER_ADMIN_PORT) {
        problems.add(
            "spec.http.port",
            format!("{WORKER_ADMIN_PORT} is the worker's own port in the pod: let the handler listen on another"),
        );
    }
    if !http.path.starts_with('/') || !http.path.chars().all(|c| c.is_ascii_graphic()) {
        problems.add(
            "spec.http.path",
            format!("{:?} is not a path: begin with / and use no spaces", http.path),
        );
    }
    Run::Http {
        port: u16::try_from(http.port).unwrap_or_else(|_| {
            problems.add(
                "spec.http.port",
                format!("{} is out of range: write 1 to 65535", http.port),
            );
            0
        }),
        path: http.path.clone(),
        http2: http.http2,
    }
}

fn check_exec(exec: &ExecHandler, problems: &mut Problems) -> Run {
    if exec.command.is_empty() {
        problems.add(
            "spec.exec.command",
            "is empty: write the program and its arguments, for example [\"/app/run\"]",
        );
    }
    for (index, item) in exec.command.iter().enumerate() {
        let field = format!("spec.exec.command[{index}]");
        if item.is_empty() {
            problems.add(&field, "is empty: remove it, or write the argument");
        }
        if item.contains('\0') {
            problems.add(
                &field,
                format!("{item:?} has a NUL in it, which no argument can have: remove it"),
            );
        }
    }
    Run::Exec {
        command: exec.command.clone(),
    }
}

fn check_upstream(upstream: &UpstreamHandler, problems: &mut Problems) -> Run {
    let url: Option<http::Uri> = upstream.url.parse().ok();
    let scheme = url.as_ref().and_then(http::Uri::scheme_str);
    if !matches!(scheme, Some("http" | "https")) {
        problems.add(
            "spec.upstream.url",
            format!(
                "{:?} is not an http:// or https:// URL: write for example http://service/tasks",
                upstream.url
            ),
        );
    }
    let mut ca = None;
    if let Some(source) = &upstream.ca_from {
        if scheme == Some("http") {
            problems.add(
                "spec.upstream.caFrom",
                format!(
                    "is for a URL that begins with https://, and spec.upstream.url is {:?}: change that, or remove caFrom",
                    upstream.url
                ),
            );
        }
        ca = match (&source.secret_key_ref, &source.config_map_key_ref) {
            (Some(key), None) => Some(Ca::Secret(key.clone())),
            (None, Some(key)) => Some(Ca::ConfigMap(key.clone())),
            _ => {
                problems.add(
                    "spec.upstream.caFrom",
                    "names exactly one source: secretKeyRef or configMapKeyRef",
                );
                None
            }
        };
    }
    Run::Upstream {
        url: upstream.url.clone(),
        http2: upstream.http2,
        ca,
    }
}

/// Whether the template has the containers that this way to run a task needs, and none that it has no
/// use for.
fn check_containers(run: &Run, template: Option<&PodTemplate>, problems: &mut Problems) {
    let way = run.field();
    let has = |name: &str| template.is_some_and(|template| container(template, name).is_some());
    let has_code = !matches!(run, Run::Upstream { .. });
    if has_code && template.is_none() {
        problems.add(
            "spec.template",
            format!("is missing: {way} needs a pod template with your container named `handler`"),
        );
    } else if has_code && !has(HANDLER_CONTAINER) {
        problems.add(
            "spec.template.spec.containers",
            "has no container named `handler`: give your code's container that name",
        );
    } else if !has_code && has(HANDLER_CONTAINER) {
        problems.add(
            "spec.template.spec.containers",
            "has a container named `handler`, which nothing would call with upstream: remove it, or use http",
        );
    }
    if matches!(run, Run::Exec { .. } | Run::Native) && has(WORKER_CONTAINER) {
        problems.add(
            "spec.template.spec.containers",
            format!(
                "has a container named `{WORKER_CONTAINER}`, and with {way} there is no such container: move what it \
                 says to `{HANDLER_CONTAINER}`"
            ),
        );
    }
}

/// What would make the merge of the template with our own parts meaningless. All else the API
/// server judges.
fn check_template(template: &PodTemplate, problems: &mut Problems) {
    let containers = template.spec.get("containers");
    if let Some(containers) = containers {
        let named = containers.as_array().is_some_and(|all| {
            all.iter()
                .all(|container| container.get("name").is_some_and(Value::is_string))
        });
        if !named {
            problems.add(
                "spec.template.spec.containers",
                "is not a list of containers that each have a name",
            );
        }
    }
    if template
        .spec
        .get("restartPolicy")
        .is_some_and(|policy| policy != "Always")
    {
        problems.add(
            "spec.template.spec.restartPolicy",
            "is not `Always`, the only one of a Deployment: remove it",
        );
    }
}

/// A container of a template by its name.
fn container<'a>(template: &'a PodTemplate, name: &str) -> Option<&'a Value> {
    let containers = template.spec.get("containers")?.as_array()?;
    containers
        .iter()
        .find(|container| container.get("name").is_some_and(|found| found == name))
}
