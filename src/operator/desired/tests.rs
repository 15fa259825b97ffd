//! What a worker Deployment is made of.

use super::{PodSettings, deployment, max_inflight, pod::grace_period, replicas};
use crate::{
    api::{EnvVar, TaskGroup, TaskGroupSpec, TaskHandler},
    operator::validate::{self, ValidGroup, ValidHandler},
};
use serde_json::{Value, json};
use std::time::Duration;

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
    group.env = vec![EnvVar {
        name: "KEY".into(),
        value: Some("ours".into()),
        value_from: None,
    }];
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
fn what_is_live_does_not_touch_the_deployment() {
    let handler = handler(&json!({"upstream": {"url": "http://svc/"}}));
    let before = deployment(&group(4), &handler, &pods());
    let mut changed = group(8);
    changed.task_timeout = Duration::from_secs(200);
    changed.ack_wait = Duration::from_secs(3);
    changed.retry.max_attempts = 1;
    changed.dead_letter = false;
    changed.suspend = true;
    assert_eq!(deployment(&changed, &handler, &pods()), before);
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
