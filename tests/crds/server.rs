//! What real servers make of the CRDs: an old kube-apiserver, and a current CRD server.

use super::servers::{Server, UnknownFields, servers};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use std::{fs, path::Path};

/// A TaskGroup or TaskHandler with exactly this spec, so that nothing of ours fills in what is missing.
pub fn object(kind: &str, name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "taskgroup.io/v1alpha1",
        "kind": kind,
        "metadata": {"name": name},
        "spec": spec,
    })
}

/// Creates an object on every server and returns its spec as all of them keep it.
async fn create(object: Value) -> Result<Value, String> {
    let mut kept: Option<(&str, Value)> = None;
    for server in servers().await {
        let spec = create_on(&server, &object).await?;
        if let Some((other, kept)) = &kept {
            assert_eq!(spec, *kept, "{} and {other} differ", server.name);
        }
        kept = Some((server.name, spec));
    }
    Ok(kept.unwrap().1)
}

async fn create_on(server: &Server, object: &Value) -> Result<Value, String> {
    let namespace = server.namespace().await;
    let created = server.create(&namespace, object, UnknownFields::Refused).await;
    let mut created = created.map_err(|error| format!("{}: {error}", server.name))?;
    Ok(created["spec"].take())
}

/// Compares with a file in `tests/golden/`.
fn assert_golden(file: &str, actual: &Value) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(file);
    let expected: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap_or_default()).unwrap_or_default();
    let actual_text = serde_json::to_string_pretty(actual).unwrap();
    assert!(
        *actual == expected,
        "tests/golden/{file} is not what the server says, which is\n{actual_text}"
    );
}

#[tokio::test]
async fn both_definitions_are_established_and_structural() {
    for server in servers().await {
        both_definitions_are_established_on(&server).await;
    }
}

async fn both_definitions_are_established_on(server: &Server) {
    let api: Api<CustomResourceDefinition> = Api::all(server.client.clone());
    for (_, crd) in taskgroup::api::crds() {
        let name = format!("{} on {}", crd.name_any(), server.name);
        let installed = api.get(&crd.name_any()).await.unwrap();
        let conditions = installed.status.unwrap().conditions.unwrap();
        let status = |type_: &str| {
            let condition = conditions.iter().find(|condition| condition.type_ == type_);
            condition.map(|condition| condition.status.as_str())
        };
        assert_eq!(status("Established"), Some("True"), "{name}: {conditions:?}");
        assert_eq!(status("NamesAccepted"), Some("True"), "{name}: {conditions:?}");
        assert_eq!(status("NonStructuralSchema"), None, "{name}: {conditions:?}");
    }
}

#[tokio::test]
async fn a_task_group_with_only_a_concurrency_is_complete() {
    let spec = create(object("TaskGroup", "acme", &json!({"concurrency": 2}))).await;
    assert_golden("minimal-task-group.json", &spec.unwrap());
}

#[tokio::test]
async fn a_task_handler_listens_on_8080_unless_it_says_otherwise() {
    let template = json!({"spec": {"containers": [{"name": "handler", "image": "example"}]}});
    let spec = json!({"http": {}, "template": template});
    let spec = create(object("TaskHandler", "default", &spec)).await.unwrap();
    assert_eq!(spec["http"], json!({"port": 8080, "path": "/"}));
    assert_eq!(spec["template"], template, "the pod template is kept as it was written");
}

#[tokio::test]
async fn every_way_to_run_a_task_is_kept_as_it_was_written() {
    let template = json!({"spec": {"containers": [{"name": "handler", "image": "example"}]}});
    let key = json!({"name": "ca", "key": "ca.pem"});
    for spec in [
        json!({"http": {"port": 1, "path": "/", "http2": true}, "template": template}),
        json!({"exec": {"command": ["/app/run", "$HOME", "$(KEY)", "a b"]}, "template": template}),
        json!({"exec": {"command": vec!["x".repeat(4096); 100]}, "template": template}),
        json!({"upstream": {"url": "http://a/", "http2": true}}),
        json!({"upstream": {"url": "https://a/", "caFrom": {"secretKeyRef": key}}}),
        json!({"upstream": {"url": "https://a/", "caFrom": {"configMapKeyRef": key}}}),
        json!({"native": {}, "template": template}),
    ] {
        let kept = create(object("TaskHandler", "default", &spec)).await;
        assert_eq!(kept.unwrap(), spec);
    }
}

#[tokio::test]
async fn a_null_is_the_same_as_nothing() {
    let spec = json!({
        "concurrency": 2,
        "queue": null,
        "env": null,
        "retry": null,
        "suspend": null,
        "storage": {"type": null, "maxBytes": null, "duplicateWindow": null},
    });
    let spec = create(object("TaskGroup", "acme", &spec)).await;
    assert_golden("minimal-task-group.json", &spec.unwrap());
}

#[tokio::test]
async fn sizes_are_numbers_or_quantities() {
    for size in [json!(0), json!(1_048_576), json!("1048576"), json!("1Mi"), json!("3G")] {
        let spec = json!({"concurrency": 1, "storage": {"maxBytes": size}});
        let spec = create(object("TaskGroup", "acme", &spec)).await.unwrap();
        assert_eq!(spec["storage"]["maxBytes"], size);
    }
}

#[tokio::test]
async fn every_field_at_its_bounds_is_accepted() {
    let label = "a".repeat(63);
    let env: Vec<Value> = (0..256)
        .map(|n| json!({"name": format!("V{n}"), "value": "x"}))
        .collect();
    for spec in [
        json!({
            "concurrency": 1, "queue": "a", "timeouts": {"task": "1ms", "ackWait": "2s", "expire": "1s"},
            "retry": {
                "maxAttempts": 1, "initialDelay": "10ms", "maxDelay": "10ms", "multiplier": 1, "maxRetryAfter": "1s",
            },
            "rateLimit": {"tasks": 1, "per": "1s", "burst": 1},
            "workers": {"maxInflightPerPod": 1}, "env": [], "deletionPolicy": "DeleteIfEmpty",
            "storage": {"type": "Memory", "replicas": 1, "duplicateWindow": "100ms"},
        }),
        json!({
            "concurrency": 100_000, "queue": label, "timeouts": {"task": "24h", "ackWait": "59m59s999ms", "expire": "720h"},
            "retry": {
                "maxAttempts": 1000, "initialDelay": "24h", "maxDelay": "24h", "multiplier": 100,
                "maxRetryAfter": "24h",
            },
            "rateLimit": {"tasks": 10_000_000, "per": "24h", "burst": 100_000},
            "workers": {"maxInflightPerPod": 1000}, "env": env,
            "storage": {"replicas": 5, "maxTasks": i64::MAX, "maxTaskSize": "64Mi", "duplicateWindow": "24h"},
        }),
    ] {
        if let Err(error) = create(object("TaskGroup", "acme", &spec)).await {
            panic!("{spec}: {error}");
        }
    }
}
