//! The pods of a group: the handler's template, with the additions of each way to run a task.

use super::{
    PodSettings,
    json::{extend, merge, named, take_list, variable, without_names_of},
};
use crate::{
    api::{HANDLER_CONTAINER, KeyRef, WORKER_ADMIN_PORT, WORKER_CONTAINER},
    operator::validate::{Ca, Run, ValidGroup, ValidHandler},
};
use serde_json::{Map, Value, json};
use std::time::Duration;

/// Name of the init container that brings the worker into the user's image, for `exec`.
const INSTALL_CONTAINER: &str = "taskgroup-install";

/// Path of the worker in our image (see the Dockerfile).
const IMAGE_PROGRAM: &str = "/worker";

/// Path of the worker in the user's container, for `exec`.
const PROGRAM_DIR: &str = "/taskgroup";

/// Volume with the worker, and the volumes with the NATS credentials and the handler's CA.
const PROGRAM_VOLUME: &str = "taskgroup-program";
const CREDENTIALS_VOLUME: &str = "taskgroup-nats";
const CA_VOLUME: &str = "taskgroup-handler-ca";

/// Mount paths of the NATS credentials and the handler's CA.
const CREDENTIALS_DIR: &str = "/etc/taskgroup/nats";
const CREDENTIALS_FILE: &str = "/etc/taskgroup/nats/nats.creds";
const CA_DIR: &str = "/etc/taskgroup/handler-ca";
const CA_FILE: &str = "/etc/taskgroup/handler-ca/ca.pem";

/// The pod template of a group's Deployment.
pub fn template(group: &ValidGroup, handler: &ValidHandler, pods: &PodSettings, labels: &Value) -> Value {
    let mut metadata = Value::Object(handler.template.metadata.clone().unwrap_or_default());
    merge(&mut metadata, &json!({"labels": labels}));

    let mut spec = handler.template.spec.clone();
    spec.entry("enableServiceLinks").or_insert(json!(false));
    if !spec.contains_key("serviceAccountName") {
        spec.entry("automountServiceAccountToken").or_insert(json!(false));
    }
    let wanted = spec
        .get("terminationGracePeriodSeconds")
        .and_then(Value::as_u64)
        .unwrap_or(0);
    spec.insert(
        "terminationGracePeriodSeconds".into(),
        json!(grace_period(group.task_timeout).max(wanted)),
    );
    extend(&mut spec, "volumes", volumes(&handler.run, pods));

    let mut containers = take_list(&mut spec, "containers");
    if let Some(code) = named(&mut containers, HANDLER_CONTAINER) {
        add_env(code, group);
        match &handler.run {
            Run::Exec { command } => become_worker(code, command, group, pods),
            Run::Native => tell_where(code, group, pods),
            Run::Http { .. } | Run::Upstream { .. } => wait_for_worker(code),
        }
    }
    match &handler.run {
        Run::Http { port, path, http2 } => {
            let url = format!("http://127.0.0.1:{port}{path}");
            add_worker(&mut containers, worker(group, pods, &url, *http2, None));
        }
        Run::Upstream { url, http2, ca } => {
            add_worker(&mut containers, worker(group, pods, url, *http2, ca.as_ref()));
        }
        Run::Exec { .. } => {
            let mut first = vec![install(pods)];
            first.extend(take_list(&mut spec, "initContainers"));
            spec.insert("initContainers".into(), Value::Array(first));
        }
        Run::Native => {}
    }
    spec.insert("containers".into(), Value::Array(containers));
    json!({"metadata": metadata, "spec": spec})
}

fn volumes(run: &Run, pods: &PodSettings) -> Vec<Value> {
    let mut volumes = Vec::new();
    if let Some(secret) = &pods.nats_creds_secret {
        volumes.push(json!({"name": CREDENTIALS_VOLUME, "secret": {"secretName": secret}}));
    }
    let file = |key: &KeyRef| json!([{"key": key.key, "path": "ca.pem"}]);
    match run {
        Run::Exec { .. } => volumes.push(json!({"name": PROGRAM_VOLUME, "emptyDir": {}})),
        Run::Upstream { ca: Some(ca), .. } => volumes.push(match ca {
            Ca::Secret(key) => {
                json!({"name": CA_VOLUME, "secret": {"secretName": key.name, "items": file(key)}})
            }
            Ca::ConfigMap(key) => json!({"name": CA_VOLUME, "configMap": {"name": key.name, "items": file(key)}}),
        }),
        _ => {}
    }
    volumes
}

/// The worker's own container, with `http` and `upstream`.
fn worker(group: &ValidGroup, pods: &PodSettings, url: &str, http2: bool, ca: Option<&Ca>) -> Value {
    let mut env = vec![
        variable("TASKGROUP_NAMESPACE", &group.queue.namespace),
        variable("TASKGROUP_QUEUE", &group.queue.name),
        variable("HANDLER_URL", url),
        variable("NATS_URL", &pods.nats_url),
        variable("LOG_FORMAT", pods.log_format),
    ];
    let mut mounts = Vec::new();
    if http2 {
        env.push(variable("HANDLER_HTTP2", "true"));
    }
    if ca.is_some() {
        env.push(variable("HANDLER_CA", CA_FILE));
        mounts.push(json!({"name": CA_VOLUME, "mountPath": CA_DIR, "readOnly": true}));
    }
    if pods.nats_creds_secret.is_some() {
        env.push(variable("NATS_CREDS", CREDENTIALS_FILE));
        mounts.push(credentials_mount());
    }
    let mut container = json!({
        "name": WORKER_CONTAINER,
        "image": pods.image,
        "command": [IMAGE_PROGRAM],
        "args": ["worker"],
        "env": env,
        "volumeMounts": mounts,
        "ports": [admin_port()],
        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}},
        "securityContext": restricted(),
    });
    merge(&mut container, &probes());
    container
}

/// Adds the worker's container, or makes the template's of that name it. What the user says of it stays,
/// but for what makes it the worker.
fn add_worker(containers: &mut Vec<Value>, ours: Value) {
    let Some(theirs) = named(containers, WORKER_CONTAINER) else {
        containers.push(ours);
        return;
    };
    let mut worker = ours.clone();
    merge(&mut worker, &Value::Object(std::mem::take(theirs)));
    for field in ["name", "image", "command", "args", "env", "ports"] {
        worker[field] = ours[field].clone();
    }
    if let Value::Object(worker) = worker {
        *theirs = worker;
    }
}

/// Brings the worker into the volume that the user's container has, too.
fn install(pods: &PodSettings) -> Value {
    json!({
        "name": INSTALL_CONTAINER,
        "image": pods.image,
        "command": [IMAGE_PROGRAM],
        "args": ["install", "--to", PROGRAM_DIR],
        "volumeMounts": [{"name": PROGRAM_VOLUME, "mountPath": PROGRAM_DIR}],
        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}},
        "securityContext": restricted(),
    })
}

/// Makes the user's container the worker, which starts the user's program for each task: with `exec`.
///
/// The worker gets all settings as arguments, and with `--no-env` takes none from the environment. The environment is the
/// user's alone and reaches the program as it is.
fn become_worker(code: &mut Map<String, Value>, command: &[String], group: &ValidGroup, pods: &PodSettings) {
    let command = json!(command).to_string();
    let mut args = vec![
        "worker",
        "--no-env",
        "--namespace",
        &group.queue.namespace,
        "--queue",
        &group.queue.name,
        "--nats-url",
        &pods.nats_url,
        "--log-format",
        pods.log_format,
        "--handler-exec",
        &command,
    ];
    let mut mounts = vec![json!({"name": PROGRAM_VOLUME, "mountPath": PROGRAM_DIR, "readOnly": true})];
    if pods.nats_creds_secret.is_some() {
        args.extend(["--nats-creds", CREDENTIALS_FILE]);
        mounts.push(credentials_mount());
    }
    // Kubernetes fills in `$(NAME)`, unless the dollar is doubled.
    let args: Vec<String> = args.into_iter().map(|arg| arg.replace('$', "$$")).collect();
    code.insert("command".into(), json!([format!("{PROGRAM_DIR}/taskgroup")]));
    code.insert("args".into(), json!(args));
    extend(code, "volumeMounts", mounts);
    extend(code, "ports", [admin_port()]);
    // Probes of theirs were for the program that the container ran by itself.
    code.remove("startupProbe");
    if let Value::Object(probes) = probes() {
        code.extend(probes);
    }
}

/// Tells the user's container where its tasks are: with `native`.
///
/// Nothing here may follow `spec.concurrency`, a change of which would roll the pods: the broker holds
/// the group's limit, and `MAX_INFLIGHT` is what one pod may take at most.
fn tell_where(code: &mut Map<String, Value>, group: &ValidGroup, pods: &PodSettings) {
    let mut ours = vec![
        variable("TASKGROUP_NAMESPACE", &group.queue.namespace),
        variable("TASKGROUP_QUEUE", &group.queue.name),
        variable("NATS_URL", &pods.nats_url),
        variable("STREAM", group.queue.stream().as_str()),
        variable("CONSUMER", &group.queue.consumer()),
        variable("MAX_INFLIGHT", &group.max_inflight_per_pod.to_string()),
        // Whole seconds, rounded down: every language reads them, and a little early does no harm.
        variable("ACK_WAIT", &group.ack_wait.as_secs().to_string()),
    ];
    if pods.nats_creds_secret.is_some() {
        ours.push(variable("NATS_CREDS", CREDENTIALS_FILE));
        extend(code, "volumeMounts", [credentials_mount()]);
    }
    // First, as a variable of theirs may be made of one of ours.
    let theirs = without_names_of(take_list(code, "env"), &ours);
    ours.extend(theirs);
    code.insert("env".into(), Value::Array(ours));
}

/// The group's variables come after the template's, and win over one of the same name.
fn add_env(code: &mut Map<String, Value>, group: &ValidGroup) {
    let ours: Vec<Value> = group.env.iter().map(|variable| json!(variable)).collect();
    let mut env = without_names_of(take_list(code, "env"), &ours);
    env.extend(ours);
    extend(code, "env", env);
}

/// Kubernetes stops all containers of a pod at once; the handler has to outlive the tasks that the
/// worker still finishes. The worker answers `/drained` when it is done, and the kubelet waits for
/// that before it stops the handler.
fn wait_for_worker(code: &mut Map<String, Value>) {
    let hook = json!({"httpGet": {"path": "/drained", "port": WORKER_ADMIN_PORT}});
    let lifecycle = code.entry("lifecycle").or_insert_with(|| json!({}));
    if lifecycle.get("preStop").is_none() {
        merge(lifecycle, &json!({"preStop": hook}));
    }
}

fn probes() -> Value {
    let probe = |path: &str, period: u32| {
        json!({
            "httpGet": {"path": path, "port": WORKER_ADMIN_PORT},
            "periodSeconds": period,
            "timeoutSeconds": 5,
        })
    };
    json!({"readinessProbe": probe("/readyz", 2), "livenessProbe": probe("/livez", 20)})
}

fn admin_port() -> Value {
    json!({"name": "tg-admin", "containerPort": WORKER_ADMIN_PORT, "protocol": "TCP"})
}

fn credentials_mount() -> Value {
    json!({"name": CREDENTIALS_VOLUME, "mountPath": CREDENTIALS_DIR, "readOnly": true})
}

/// Containers of our own image may do nothing but run.
fn restricted() -> Value {
    json!({
        "allowPrivilegeEscalation": false,
        "readOnlyRootFilesystem": true,
        "runAsNonRoot": true,
        "runAsUser": 65532,
        "capabilities": {"drop": ["ALL"]},
    })
}

/// How long a pod may take to finish its tasks. In three steps, not exactly `timeouts.task` plus
/// slack, as a change of this field rolls the pods and a change of `timeouts.task` must not.
pub fn grace_period(task_timeout: Duration) -> u64 {
    const SLACK: u64 = 30;
    const STEPS: [u64; 2] = [5 * 60, 3600];
    let needed = task_timeout.as_secs() + SLACK;
    STEPS.into_iter().find(|step| *step >= needed).unwrap_or(24 * 3600 + 60)
}
