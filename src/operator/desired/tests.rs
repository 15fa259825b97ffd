//! What a worker Deployment is made of.

use super::{PodSettings, deployment, max_inflight, pod::grace_period, replicas};
use crate::{
    api::{EnvVar, TaskGroup, TaskGroupSpec, TaskHandler},
    operator::validate::{self, ValidGroup, ValidHandler},
    worker,
};
use clap::{Args, Command, FromArgMatches};
use serde_json::{Value, json};
use std::time::Duration;

fn env(name: &str, value: &str) -> EnvVar {
    EnvVar {
        name: name.into(),
        value: Some(value.into()),
        value_from: None,
    }
}

fn group(concurrency: i64) -> ValidGroup {
    let mut group = TaskGroup::new("acme", TaskGroupSpec::new(concurrency));
    group.metadata.namespace = Some("crawl".into());
    validate::group(&group).unwrap()
}

fn handler(spec: &Value) -> ValidHandler {
    let handler = json!({"metadata": {"name": "default"}, "spec": spec});
    let mut handler: TaskHandler = {
        let mut object = handler;
        object["apiVersion"] = json!("taskgroup.io/v1alpha1");
        object["kind"] = json!("TaskHandler");
        serde_json::from_value(object).unwrap()
    };
    handler.metadata.namespace = Some("crawl".into());
    validate::handler(&handler).unwrap()
}

fn pods() -> PodSettings {
    PodSettings {
        image: "taskgroup:1".into(),
        nats_url: "nats://nats:4222".into(),
        nats_creds_secret: None,
        log_format: "json",
    }
}

fn value<'a>(container: &'a Value, variable: &str) -> Option<&'a str> {
    let env = container["env"].as_array()?.iter();
    let mut found = env.filter(|entry| entry["name"] == variable);
    found.next()?["value"].as_str()
}

fn pod(deployment: &Value) -> Value {
    deployment["spec"]["template"]["spec"].clone()
}

#[test]
fn there_are_as_many_pods_as_the_limit_needs() {
    for (concurrency, per_pod, pods, each) in [(1, 100, 1, 1), (100, 100, 1, 100), (101, 100, 2, 100), (7, 2, 4, 2)] {
        let mut group = group(concurrency);
        group.max_inflight_per_pod = per_pod;
        assert_eq!(
            (replicas(&group), max_inflight(&group)),
            (pods, each),
            "{concurrency} at {per_pod} per pod"
        );
    }
}

#[test]
fn the_template_is_kept_and_the_group_s_variables_win() {
    let handler = handler(&json!({
        "http": {"port": 3000, "path": "/run"},
        "template": {
            "metadata": {"labels": {"team": "crawl"}, "annotations": {"note": "kept"}},
            "spec": {
                "nodeSelector": {"disk": "fast"},
                "containers": [
                    {"name": "log", "image": "log:1"},
                    {"name": "handler", "image": "app:1", "env": [
                        {"name": "KEEP", "value": "theirs"}, {"name": "KEY", "value": "theirs"},
                    ]},
                    {"name": "taskgroup-worker", "image": "evil", "resources": {"limits": {"memory": "64Mi"}}},
                ],
            },
        },
    }));
    let mut group = group(4);
    group.env = vec![env("KEY", "ours")];
    let deployment = deployment(&group, &handler, &pods());
    let metadata = &deployment["spec"]["template"]["metadata"];
    assert_eq!(metadata["annotations"], json!({"note": "kept"}));
    assert_eq!(metadata["labels"]["team"], "crawl");
    assert_eq!(metadata["labels"]["taskgroup.io/group"], "acme");
    let pod = pod(&deployment);
    assert_eq!(pod["nodeSelector"], json!({"disk": "fast"}));
    let [log, handler, worker] = pod["containers"].as_array().unwrap().as_slice() else {
        panic!("{pod}")
    };
    assert_eq!(log, &json!({"name": "log", "image": "log:1"}));
    assert_eq!(
        handler["env"],
        json!([{"name": "KEEP", "value": "theirs"}, {"name": "KEY", "value": "ours"}])
    );
    assert_eq!(
        handler["lifecycle"]["preStop"]["httpGet"],
        json!({"path": "/drained", "port": 9797})
    );
    assert_eq!(worker["image"], "taskgroup:1", "the worker's image is ours to choose");
    assert_eq!(worker["resources"]["limits"], json!({"memory": "64Mi"}));
    assert!(
        worker["env"]
            .as_array()
            .unwrap()
            .contains(&json!({"name": "HANDLER_URL", "value": "http://127.0.0.1:3000/run"}))
    );
}

#[test]
fn an_upstream_has_the_worker_alone_in_its_pod() {
    let handler = handler(&json!({"upstream": {"url": "https://svc.crawl/tasks"}}));
    let mut pods = pods();
    pods.nats_creds_secret = Some("nats".into());
    let pod = pod(&deployment(&group(4), &handler, &pods));
    let containers = pod["containers"].as_array().unwrap();
    assert_eq!(containers.len(), 1);
    let env = containers[0]["env"].as_array().unwrap();
    assert!(env.contains(&json!({"name": "HANDLER_URL", "value": "https://svc.crawl/tasks"})));
    assert!(env.contains(&json!({"name": "NATS_CREDS", "value": "/etc/taskgroup/nats/nats.creds"})));
    assert_eq!(
        pod["volumes"],
        json!([{"name": "taskgroup-nats", "secret": {"secretName": "nats"}}])
    );
}

#[test]
fn an_upstream_with_a_ca_of_its_own_gives_the_worker_the_file() {
    let key = json!({"name": "internal", "key": "root.crt"});
    for (source, volume) in [
        (
            "secretKeyRef",
            json!({"secret": {"secretName": "internal", "items": [{"key": "root.crt", "path": "ca.pem"}]}}),
        ),
        (
            "configMapKeyRef",
            json!({"configMap": {"name": "internal", "items": [{"key": "root.crt", "path": "ca.pem"}]}}),
        ),
    ] {
        let handler = handler(&json!({"upstream": {"url": "https://svc/", "http2": true, "caFrom": {source: key}}}));
        let pod = pod(&deployment(&group(4), &handler, &pods()));
        let mut expected = volume;
        expected["name"] = json!("taskgroup-handler-ca");
        assert_eq!(pod["volumes"], json!([expected]));
        let worker = &pod["containers"][0];
        assert_eq!(
            worker["volumeMounts"],
            json!([{"name": "taskgroup-handler-ca", "mountPath": "/etc/taskgroup/handler-ca", "readOnly": true}])
        );
        assert_eq!(value(worker, "HANDLER_CA"), Some("/etc/taskgroup/handler-ca/ca.pem"));
        assert_eq!(value(worker, "HANDLER_HTTP2"), Some("true"));
    }
}

#[test]
fn exec_puts_the_worker_into_the_users_container_and_leaves_its_environment_alone() {
    let handler = handler(&json!({
        "exec": {"command": ["/app/run", "--price=$5", "$(KEY)", "a \"b\""]},
        "template": {"spec": {
            "volumes": [{"name": "data", "emptyDir": {}}],
            "initContainers": [{"name": "theirs", "image": "app:1"}],
            "containers": [
                {
                    "name": "handler", "image": "app:1", "command": ["/app/serve"], "args": ["--all"],
                    "env": [{"name": "NATS_URL", "value": "theirs"}, {"name": "KEY", "value": "theirs"}],
                    "resources": {"limits": {"memory": "1Gi"}},
                    "volumeMounts": [{"name": "data", "mountPath": "/data"}],
                    "ports": [{"containerPort": 9000}],
                    "startupProbe": {"httpGet": {"port": 9000}},
                    "livenessProbe": {"httpGet": {"port": 9000}},
                    "lifecycle": {"postStart": {"exec": {"command": ["/app/warm"]}}},
                },
                {"name": "proxy", "image": "proxy:1"},
            ],
        }},
    }));
    let mut group = group(4);
    group.env = vec![env("KEY", "ours")];
    let mut pods = pods();
    pods.nats_creds_secret = Some("nats".into());
    let pod = pod(&deployment(&group, &handler, &pods));

    let [install, theirs] = pod["initContainers"].as_array().unwrap().as_slice() else {
        panic!("{pod}")
    };
    assert_eq!(theirs["name"], "theirs");
    assert_eq!(install["image"], "taskgroup:1");
    assert_eq!(install["command"], json!(["/worker"]));
    assert_eq!(install["args"], json!(["install", "--to", "/taskgroup"]));
    assert_eq!(
        install["volumeMounts"],
        json!([{"name": "taskgroup-program", "mountPath": "/taskgroup"}])
    );
    assert_eq!(
        pod["volumes"],
        json!([
            {"name": "data", "emptyDir": {}},
            {"name": "taskgroup-nats", "secret": {"secretName": "nats"}},
            {"name": "taskgroup-program", "emptyDir": {}},
        ])
    );

    let [code, proxy] = pod["containers"].as_array().unwrap().as_slice() else {
        panic!("no second container: {pod}")
    };
    assert_eq!(proxy, &json!({"name": "proxy", "image": "proxy:1"}));
    assert_eq!(code["image"], "app:1");
    assert_eq!(code["command"], json!(["/taskgroup/taskgroup"]));
    assert_eq!(
        code["args"],
        json!([
            "worker",
            "--no-env",
            "--namespace",
            "crawl",
            "--queue",
            "acme",
            "--nats-url",
            "nats://nats:4222",
            "--log-format",
            "json",
            "--handler-exec",
            // Kubernetes makes one dollar of two, and fills nothing in.
            r#"["/app/run","--price=$$5","$$(KEY)","a \"b\""]"#,
            "--nats-creds",
            "/etc/taskgroup/nats/nats.creds",
        ])
    );
    assert_eq!(
        code["env"],
        json!([{"name": "NATS_URL", "value": "theirs"}, {"name": "KEY", "value": "ours"}])
    );
    assert_eq!(code["resources"], json!({"limits": {"memory": "1Gi"}}));
    assert_eq!(
        code["volumeMounts"],
        json!([
            {"name": "data", "mountPath": "/data"},
            {"name": "taskgroup-program", "mountPath": "/taskgroup", "readOnly": true},
            {"name": "taskgroup-nats", "mountPath": "/etc/taskgroup/nats", "readOnly": true},
        ])
    );
    assert_eq!(code["ports"][1]["containerPort"], 9797);
    assert_eq!(
        code["readinessProbe"]["httpGet"],
        json!({"path": "/readyz", "port": 9797})
    );
    assert_eq!(
        code["livenessProbe"]["httpGet"],
        json!({"path": "/livez", "port": 9797})
    );
    assert_eq!(code.get("startupProbe"), None);
    // The worker is what SIGTERM reaches: nothing has to wait for it.
    assert_eq!(
        code["lifecycle"],
        json!({"postStart": {"exec": {"command": ["/app/warm"]}}})
    );
    assert_eq!(pod["terminationGracePeriodSeconds"], 300);
}

#[test]
fn the_worker_reads_the_arguments_that_exec_gives_it() {
    let handler = handler(&json!({
        "exec": {"command": ["/app/run", "--price=$5", "$(KEY)"]},
        "template": {"spec": {"containers": [{"name": "handler", "image": "app:1"}]}},
    }));
    let pod = pod(&deployment(&group(4), &handler, &pods()));
    // What Kubernetes does with doubled dollars.
    let args = pod["containers"][0]["args"].as_array().unwrap().iter();
    let args = args.map(|arg| arg.as_str().unwrap().replace("$$", "$"));
    let args = worker::Args::from_arg_matches(
        &worker::Args::augment_args(Command::new("worker"))
            .try_get_matches_from(args)
            .unwrap(),
    )
    .unwrap();
    assert!(args.no_env);
    let command = args.handler.handler_exec.unwrap().0;
    assert_eq!(command, ["/app/run", "--price=$5", "$(KEY)"]);
}

#[test]
fn native_tells_the_users_container_where_its_tasks_are() {
    let handler = handler(&json!({
        "native": {},
        "template": {"spec": {"containers": [{
            "name": "handler", "image": "app:1", "command": ["/app/serve"],
            "env": [{"name": "STREAM", "value": "theirs"}, {"name": "SERVER", "value": "$(NATS_URL)/x"}],
            "readinessProbe": {"httpGet": {"port": 9000}},
        }]}},
    }));
    let mut group = group(4);
    group.ack_wait = Duration::from_millis(2999);
    group.env = vec![env("KEY", "ours")];
    let mut pods = pods();
    pods.nats_creds_secret = Some("nats".into());
    let pod = pod(&deployment(&group, &handler, &pods));
    let [code] = pod["containers"].as_array().unwrap().as_slice() else {
        panic!("there is no worker: {pod}")
    };
    let variable = |name: &str, value: &str| json!({"name": name, "value": value});
    assert_eq!(
        code["env"],
        json!([
            variable("TASKGROUP_NAMESPACE", "crawl"),
            variable("TASKGROUP_QUEUE", "acme"),
            variable("NATS_URL", "nats://nats:4222"),
            variable("STREAM", "tg_crawl_acme"),
            variable("CONSUMER", "workers-crawl"),
            variable("MAX_INFLIGHT", "100"),
            variable("ACK_WAIT", "2"),
            variable("NATS_CREDS", "/etc/taskgroup/nats/nats.creds"),
            variable("SERVER", "$(NATS_URL)/x"),
            variable("KEY", "ours"),
        ])
    );
    assert_eq!(code["command"], json!(["/app/serve"]));
    assert_eq!(code["readinessProbe"], json!({"httpGet": {"port": 9000}}));
    assert_eq!(code.get("lifecycle"), None, "nobody would answer a hook");
    assert_eq!(code["volumeMounts"][0]["mountPath"], "/etc/taskgroup/nats");
    assert_eq!(pod.get("initContainers"), None);
}

#[test]
fn what_is_live_does_not_touch_the_deployment() {
    let template = json!({"spec": {"containers": [{"name": "handler", "image": "app:1"}]}});
    for (spec, ack_wait_is_live) in [
        (json!({"upstream": {"url": "http://svc/"}}), true),
        (json!({"http": {}, "template": template}), true),
        (json!({"exec": {"command": ["/app/run"]}, "template": template}), true),
        // It is in an environment variable.
        (json!({"native": {}, "template": template}), false),
    ] {
        let handler = handler(&spec);
        let before = deployment(&group(4), &handler, &pods());
        let mut changed = group(8);
        changed.task_timeout = Duration::from_secs(200);
        changed.settings.retry.max_attempts = 1;
        changed.settings.dead_letter.enabled = false;
        changed.suspend = true;
        assert_eq!(deployment(&changed, &handler, &pods()), before, "{spec}");
        changed.ack_wait = Duration::from_secs(3);
        assert_eq!(
            deployment(&changed, &handler, &pods()) == before,
            ack_wait_is_live,
            "{spec}"
        );
    }
}

#[test]
fn pods_may_take_their_tasks_time_to_end() {
    for (task, grace) in [
        (0, 300),
        (270, 300),
        (271, 3600),
        (3570, 3600),
        (3571, 86_460),
        (86_400, 86_460),
    ] {
        let period = grace_period(Duration::from_secs(task));
        assert_eq!(period, grace, "{task} s");
        assert!(period >= task + 30, "{task} s");
    }
}
