//! A TaskHandler, checked by itself.

use super::{Invalid, Problems};
use crate::api::{HANDLER_CONTAINER, PodTemplate, TaskHandler, WORKER_ADMIN_PORT};
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
    /// By the container `handler` of the pod.
    Http {
        /// Where it listens.
        port: u16,
        /// What it wants the tasks at.
        path: String,
    },
    /// By a service that runs already.
    Upstream {
        /// Where.
        url: String,
    },
}

/// Checks a TaskHandler by itself.
///
/// # Errors
/// All that is wrong with it, not only the first.
pub fn handler(handler: &TaskHandler) -> Result<ValidHandler, Invalid> {
    let mut problems = Problems::default();
    let spec = &handler.spec;
    let template = spec.template.clone().unwrap_or_default();
    let run = match (&spec.http, &spec.upstream) {
        (Some(http), None) => {
            if http.port == i32::from(WORKER_ADMIN_PORT) {
                problems.add(
                    "spec.http.port",
                    format!(
                        "{WORKER_ADMIN_PORT} is the worker's own port in the pod: let the handler listen on another"
                    ),
                );
            }
            if spec.template.is_none() {
                problems.add(
                    "spec.template",
                    "is missing: http needs a pod template with your container named `handler`",
                );
            } else if container(&template, HANDLER_CONTAINER).is_none() {
                problems.add(
                    "spec.template.spec.containers",
                    "has no container named `handler`: give your code's container that name",
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
            }
        }
        (None, Some(upstream)) => {
            let scheme = upstream
                .url
                .parse()
                .ok()
                .and_then(|url: http::Uri| url.scheme_str().map(str::to_owned));
            if !matches!(scheme.as_deref(), Some("http" | "https")) {
                problems.add(
                    "spec.upstream.url",
                    format!(
                        "{:?} is not an http:// or https:// URL: write for example http://service/tasks",
                        upstream.url
                    ),
                );
            }
            if container(&template, HANDLER_CONTAINER).is_some() {
                problems.add(
                    "spec.template.spec.containers",
                    "has a container named `handler`, which nothing would call with upstream: remove it, or use http",
                );
            }
            Run::Upstream {
                url: upstream.url.clone(),
            }
        }
        _ => {
            problems.add(
                "spec",
                "exactly one of http and upstream says how to run a task: set one, remove the other",
            );
            Run::Upstream { url: String::new() }
        }
    };
    check_template(&template, &mut problems);
    problems.done(ValidHandler {
        name: handler.name_any(),
        run,
        template,
    })
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
