//! The bounds of a TaskHandler.

use super::{Bounds, Field, Limit, Rule, count, field, has};
use crate::api::{HANDLER_CONTAINER, WORKER_ADMIN_PORT, WORKER_CONTAINER};
use serde_json::Value;

/// The bounds of a TaskHandler.
pub const TASK_HANDLER: Bounds = Bounds {
    fields: FIELDS,
    rules: RULES,
};

/// Names of Kubernetes objects and of keys in a Secret or ConfigMap.
const NAME: Limit = Limit::Text { min: 1, max: 253 };

const FIELDS: &[Field] = &[
    field(
        "spec.http.port",
        Limit::Integer {
            min: 1,
            max: Some(65_535),
        },
    ),
    field(
        "spec.http.path",
        Limit::Pattern {
            min: 1,
            max: 1024,
            pattern: "^/[!-~]*$",
            form: "a path that begins with / and has no spaces",
        },
    ),
    field(
        "spec.exec.command",
        Limit::List {
            min: 1,
            max: 100,
            key: None,
        },
    ),
    field("spec.exec.command[]", Limit::Text { min: 1, max: 4096 }),
    field(
        "spec.upstream.url",
        Limit::Pattern {
            min: 8,
            max: 2048,
            pattern: "^https?://[!-~]+$",
            form: "a URL that begins with http:// or https:// and has no spaces",
        },
    ),
    field("spec.upstream.caFrom.secretKeyRef.name", NAME),
    field("spec.upstream.caFrom.secretKeyRef.key", NAME),
    field("spec.upstream.caFrom.configMapKeyRef.name", NAME),
    field("spec.upstream.caFrom.configMapKeyRef.key", NAME),
    // Kubernetes judges the pod template when the Deployment is applied. These bounds keep the rules below cheap.
    field(
        "spec.template.spec.containers",
        Limit::List {
            min: 0,
            max: 100,
            key: Some("name"),
        },
    ),
    field("spec.template.spec.containers[].name", Limit::Text { min: 1, max: 63 }),
    field(
        "spec.template.spec.containers[].image",
        Limit::Text { min: 0, max: 1024 },
    ),
];

/// Ways to run a task in the container `handler`.
const IN_CONTAINER: [&str; 3] = ["http", "exec", "native"];

const RULES: &[Rule] = &[
    Rule {
        scope: "spec",
        cel: "(has(self.http) ? 1 : 0) + (has(self.exec) ? 1 : 0) + (has(self.upstream) ? 1 : 0) + (has(self.native) ? 1 : 0) == 1",
        message: "exactly one of http, exec, upstream and native says how to run a task: set one and remove the others",
        holds: Some(one_way),
    },
    Rule {
        scope: "spec",
        cel: "!(has(self.http) || has(self.exec) || has(self.native)) || has(self.template)",
        message: "http, exec and native need template, the pod template with your container named `handler`: add it, or use \
                  upstream",
        holds: Some(|spec| count(spec, &IN_CONTAINER) == 0 || has(spec, "template")),
    },
    Rule {
        scope: "spec",
        cel: "!(has(self.http) || has(self.exec) || has(self.native)) || !has(self.template) || \
              has(self.template.spec) && has(self.template.spec.containers) && \
              self.template.spec.containers.exists(c, c.name == 'handler')",
        message: "template has no container named `handler`: give the container of your code that name",
        holds: Some(|spec| {
            count(spec, &IN_CONTAINER) == 0 || !has(spec, "template") || has_container(spec, HANDLER_CONTAINER)
        }),
    },
    Rule {
        scope: "spec",
        cel: "!has(self.upstream) || has(self.http) || has(self.exec) || has(self.native) || \
              !has(self.template) || !has(self.template.spec) || !has(self.template.spec.containers) || \
              !self.template.spec.containers.exists(c, c.name == 'handler')",
        message: "template has a container named `handler`, which nothing calls with upstream: remove it, or use http",
        holds: Some(|spec| !(one_way(spec) && has(spec, "upstream") && has_container(spec, HANDLER_CONTAINER))),
    },
    Rule {
        scope: "spec",
        cel: "!(has(self.exec) || has(self.native)) || has(self.http) || has(self.upstream) || \
              !has(self.template) || !has(self.template.spec) || !has(self.template.spec.containers) || \
              !self.template.spec.containers.exists(c, c.name == 'taskgroup-worker')",
        message: "template has a container named `taskgroup-worker`, but with exec and native there is no such container: \
                  move its settings to the container named `handler`",
        holds: Some(|spec| {
            let no_worker = count(spec, &["exec", "native"]) > 0 && count(spec, &["http", "upstream"]) == 0;
            !(no_worker && has_container(spec, WORKER_CONTAINER))
        }),
    },
    Rule {
        scope: "spec.http.port",
        cel: "self != 9797",
        message: "must not be 9797, the port of the worker in the same pod: let the handler listen on another, such as 8080",
        holds: Some(|port| *port != WORKER_ADMIN_PORT),
    },
    Rule {
        scope: "spec.upstream",
        cel: "!has(self.caFrom) || self.url.startsWith('https://')",
        message: "caFrom is for a URL that begins with https://: change url, or remove caFrom",
        holds: Some(|upstream| {
            let url = upstream["url"].as_str().unwrap_or_default();
            !has(upstream, "caFrom") || url.starts_with("https://")
        }),
    },
    Rule {
        scope: "spec.upstream.caFrom",
        cel: "has(self.secretKeyRef) != has(self.configMapKeyRef)",
        message: "must name exactly one source: secretKeyRef or configMapKeyRef",
        holds: Some(|source| count(source, &["secretKeyRef", "configMapKeyRef"]) == 1),
    },
    Rule {
        scope: "spec.template.spec",
        cel: "!has(self.restartPolicy) || self.restartPolicy == 'Always'",
        message: "restartPolicy must be Always, the only policy that a Deployment has: remove it",
        holds: Some(|pod| !has(pod, "restartPolicy") || pod["restartPolicy"] == "Always"),
    },
    Rule {
        scope: "spec.template.spec.containers[]",
        // The operator sets the image of the worker.
        cel: "self.name == 'taskgroup-worker' || has(self.image) && self.image != ''",
        message: "the container has no image: name the image that it runs",
        holds: Some(|container| {
            let image = container["image"].as_str().unwrap_or_default();
            container["name"] == WORKER_CONTAINER || !image.is_empty()
        }),
    },
];

/// Whether a handler says exactly one way to run a task.
fn one_way(spec: &Value) -> bool {
    count(spec, &["http", "exec", "upstream", "native"]) == 1
}

/// Whether the pod template of a handler has a container of this name.
fn has_container(spec: &Value, name: &str) -> bool {
    let containers = spec["template"]["spec"]["containers"].as_array();
    containers
        .into_iter()
        .flatten()
        .any(|container| container["name"] == name)
}
