//! What only a current server does with the CRDs: it evaluates their CEL rules, refuses unknown fields, and merges what
//! several managers apply. Each test is skipped, with a notice, where no such server could be built.

use super::{
    cel,
    server::object,
    servers::{self, Server, current},
};
use http::Method;
use kube::ResourceExt;
use serde::Deserialize;
use serde_json::{Value, json};
use std::{collections::BTreeSet, fs, path::Path};

/// One of `tests/bad_manifests`, as far as an API server is concerned.
#[derive(Deserialize)]
struct BadManifest {
    #[serde(rename = "case")]
    wrong: String,
    #[serde(default = "acme")]
    named: String,
    group: Option<Value>,
    handler: Option<Value>,
    was: Option<Value>,
    #[serde(default)]
    schema: Texts,
    #[serde(default)]
    rule: Texts,
    #[serde(default)]
    kubectl: Texts,
}

/// Parts of a message, all of which it contains.
#[derive(Default, Deserialize)]
#[serde(untagged)]
enum Texts {
    #[default]
    None,
    One(String),
    Many(Vec<String>),
}

impl Texts {
    fn parts(&self) -> Vec<&str> {
        match self {
            Self::None => Vec::new(),
            Self::One(part) => vec![part],
            Self::Many(parts) => parts.iter().map(String::as_str).collect(),
        }
    }
}

fn acme() -> String {
    "acme".into()
}

impl BadManifest {
    /// Every one of them.
    fn all() -> Vec<Self> {
        let files = [
            include_str!("../bad_manifests/task_groups.yaml"),
            include_str!("../bad_manifests/task_handlers.yaml"),
        ];
        let mut all: Vec<Self> = files
            .iter()
            .flat_map(|file| serde_yaml::from_str::<Vec<Self>>(file).unwrap())
            .collect();
        // The operator sees this in the stream, not in the manifest, so that it is no case of those files.
        let storage = json!({
            "case": "another storage",
            "was": {"concurrency": 1, "storage": {"type": "Memory"}},
            "group": {"concurrency": 1},
            "rule": "storage.type can't be changed, JetStream keeps a stream where it is",
        });
        all.push(serde_json::from_value(storage).unwrap());
        all
    }

    fn manifest(&self, spec: Option<&Value>) -> Value {
        let kind = if self.handler.is_some() {
            "TaskHandler"
        } else {
            "TaskGroup"
        };
        let mut manifest = object(kind, &self.named, spec.unwrap_or(&Value::Null));
        if spec.is_none() {
            manifest.as_object_mut().unwrap().remove("spec");
        }
        manifest
    }

    /// Writes it as a current kubectl does, and returns the message that refuses it, if one does.
    async fn write(&self, server: &Server) -> Option<String> {
        let namespace = server.namespace().await;
        let manifest = self.manifest(self.group.as_ref().or(self.handler.as_ref()));
        let written = if let Some(was) = &self.was {
            server
                .create(&namespace, &self.manifest(Some(was)))
                .await
                .expect("the object as it was is good");
            server.replace(&namespace, &manifest).await
        } else {
            server.create(&namespace, &manifest).await
        };
        written.err()
    }

    /// Says how the answer is not what was expected.
    fn judge(&self, refusal: Option<&str>) -> Option<String> {
        let (schema, rule, kubectl) = (self.schema.parts(), self.rule.parts(), self.kubectl.parts());
        // Rules are evaluated where the schema has nothing against it.
        let expected = if !schema.is_empty() {
            schema
        } else if !rule.is_empty() {
            rule
        } else {
            kubectl
        };
        match refusal {
            None if expected.is_empty() => None,
            None => Some("is accepted".into()),
            Some(said) if expected.is_empty() => Some(format!("should be accepted, but: {said}")),
            Some(said) => {
                let missing = expected.iter().find(|part| !says(said, part))?;
                let said: String = said.chars().take(600).collect();
                Some(format!(
                    "should be refused with: {missing}\n      but the server says: {said}"
                ))
            }
        }
    }
}

/// Whether a message of a current server contains a part of the message that an old one or kubectl has.
fn says(said: &str, part: &str) -> bool {
    said.contains(part)
}

#[tokio::test]
async fn a_bad_manifest_is_refused_with_the_message_of_the_schema_or_of_the_rule() {
    let Some(server) = current().await else { return };
    let mut problems = Vec::new();
    let mut refused_by_rules = 0;
    for bad in BadManifest::all() {
        let refusal = bad.write(&server).await;
        refused_by_rules += usize::from(refusal.is_some() && !bad.rule.parts().is_empty());
        problems.extend(
            bad.judge(refusal.as_deref())
                .map(|problem| format!("{}\n    {problem}", bad.wrong)),
        );
    }
    assert!(refused_by_rules >= 30, "only {refused_by_rules} by rules");
    assert!(
        problems.is_empty(),
        "{} problems\n{}",
        problems.len(),
        problems.join("\n")
    );
}

#[tokio::test]
async fn every_rule_refuses_one_of_the_bad_manifests_with_its_whole_message() {
    let Some(server) = current().await else { return };
    let mut rules = cel::messages();
    for bad in BadManifest::all() {
        if let Some(refusal) = bad.write(&server).await {
            rules.retain(|rule| !refusal.contains(rule));
        }
    }
    assert!(rules.is_empty(), "no manifest in tests/bad_manifests for {rules:#?}");
}

#[tokio::test]
async fn each_rule_lets_the_good_pass_and_refuses_the_bad() {
    let Some(server) = current().await else { return };
    let mut problems = Vec::new();
    for case in cel::cases() {
        let good = case.good.iter().map(|update| (update, true));
        for ((old, new), good) in good.chain(case.bad.iter().map(|update| (update, false))) {
            let namespace = server.namespace().await;
            let written = if let Some(old) = old {
                server.create(&namespace, old).await.expect("the old object is good");
                server.replace(&namespace, new).await
            } else {
                server.create(&namespace, new).await
            };
            match written {
                Err(message) if good => problems.push(format!("refused: {old:?} → {new}: {message}")),
                Err(message) if !message.contains(case.message) => {
                    problems.push(format!("not refused by {:?}: {old:?} → {new}: {message}", case.message));
                }
                Ok(_) if !good => problems.push(format!("accepted: {old:?} → {new}")),
                _ => {}
            }
        }
    }
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[tokio::test]
async fn every_rule_is_kept() {
    let Some(server) = current().await else { return };
    let mut kept = BTreeSet::new();
    for (_, crd) in taskgroup::api::crds() {
        let path = format!(
            "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{}",
            crd.name_any()
        );
        let crd = server.send(Method::GET, &path, String::new()).await.unwrap();
        cel::collect_messages(&crd, &mut kept);
    }
    assert_eq!(kept, cel::messages());
}

/// Objects that use most of the fields, of both kinds.
fn examples() -> [Value; 2] {
    let secret = json!({"name": "acme", "key": "token"});
    let group = json!({
        "concurrency": 2, "queue": "acme-tasks", "rateLimit": {"tasks": 10, "per": "1m"},
        "timeouts": {"task": "10s"}, "retry": {"maxAttempts": 3}, "deadLetter": {"enabled": false},
        "workers": {"maxInflightPerPod": 10}, "storage": {"type": "Memory", "maxBytes": "1Gi"},
        "env": [{"name": "A", "value": "b"}, {"name": "C", "valueFrom": {"secretKeyRef": secret}}],
    });
    let container = json!({
        "name": "handler", "image": "example", "ports": [{"containerPort": 8080}],
        "env": [{"name": "A", "value": "b"}], "resources": {"limits": {"memory": "64Mi"}},
    });
    let template = json!({
        "metadata": {"labels": {"team": "a"}},
        "spec": {"containers": [container], "volumes": [{"name": "tmp", "emptyDir": {}}], "nodeSelector": {"a": "b"}},
    });
    let handler = json!({"http": {"port": 8080, "path": "/", "http2": true}, "template": template});
    [
        object("TaskGroup", "acme", &group),
        object("TaskHandler", "default", &handler),
    ]
}

#[tokio::test]
async fn an_unknown_field_is_refused_by_its_path_and_a_pod_template_is_kept_as_it_was_written() {
    let Some(server) = current().await else { return };
    let namespace = server.namespace().await;
    let [group, handler] = examples();
    for manifest in [&group, &handler] {
        let created = server.create(&namespace, manifest).await.unwrap();
        assert_eq!(created["spec"]["template"], manifest["spec"]["template"]);
    }
    for (manifest, parent, field) in [
        (&group, "", "spce"),
        (&group, "/spec", "concurency"),
        (&group, "/spec/rateLimit", "second"),
        (&group, "/spec/timeouts", "tasks"),
        (&group, "/spec/env/0", "vlaue"),
        (&group, "/spec/env/1/valueFrom/secretKeyRef", "kye"),
        (&handler, "/spec", "concurrency"),
        (&handler, "/spec/http", "https"),
        (&handler, "/spec/template", "containers"),
    ] {
        let mut bad = manifest.clone();
        bad["metadata"]["name"] = "bad".into();
        bad.pointer_mut(parent).unwrap()[field] = "x".into();
        let message = server.create(&namespace, &bad).await.unwrap_err();
        assert!(names_unknown(&message, field), "{parent}/{field}: {message}");
        // Who asks for no check gets the object without the field.
        let path = format!("{}?fieldValidation=Ignore", servers::collection(&namespace, &bad));
        bad["metadata"]["name"] = format!("bad-{}", rand::random::<u64>()).into();
        let kept = server.send(Method::POST, &path, bad.to_string()).await.unwrap();
        assert!(
            kept.pointer(&format!("{parent}/{field}")).is_none(),
            "{parent}/{field}: {kept}"
        );
    }
}

/// Whether a message is about an unknown field of this name, at whatever path.
fn names_unknown(message: &str, field: &str) -> bool {
    let mut fields = message
        .split("unknown field \"")
        .skip(1)
        .filter_map(|rest| rest.split('"').next());
    fields.any(|path| path.rsplit('.').next() == Some(field))
}

#[tokio::test]
async fn a_field_that_is_there_twice_is_refused() {
    let Some(server) = current().await else { return };
    let manifest = object("TaskGroup", "acme", &json!({"concurrency": 1}));
    let twice = manifest
        .to_string()
        .replace("\"concurrency\":1", "\"concurrency\":1,\"concurrency\":2");
    let path = servers::collection(&server.namespace().await, &manifest) + "?fieldValidation=Strict";
    let message = server.send(Method::POST, &path, twice).await.unwrap_err();
    assert!(message.contains("duplicate field \"spec.concurrency\""), "{message}");
}

#[tokio::test]
async fn what_was_applied_before_changes_nothing_and_shows_no_difference() {
    let Some(server) = current().await else { return };
    let namespace = server.namespace().await;
    for manifest in examples().into_iter().chain(samples()) {
        let mut applied = server.apply(&namespace, &manifest, "kubectl", "").await.unwrap();
        let again = server.apply(&namespace, &manifest, "kubectl", "").await.unwrap();
        assert_eq!(
            applied["metadata"]["resourceVersion"], again["metadata"]["resourceVersion"],
            "applied again: {again}"
        );
        // As `kubectl diff --server-side` does.
        let mut preview = server
            .apply(&namespace, &manifest, "kubectl", "&dryRun=All")
            .await
            .unwrap();
        for object in [&mut applied, &mut preview] {
            object["metadata"]["managedFields"].take();
        }
        assert_eq!(applied, preview);
        // What the server filled in belongs to nobody, so that a manifest may set it later.
        let owned = again["metadata"]["managedFields"][0]["fieldsV1"]["f:spec"].clone();
        let written: BTreeSet<String> = manifest["spec"].as_object().unwrap().keys().cloned().collect();
        let owned: BTreeSet<String> = owned
            .as_object()
            .unwrap()
            .keys()
            .map(|field| field.trim_start_matches("f:").to_owned())
            .collect();
        assert_eq!(owned, written);
    }
}

/// The objects of our kinds in `deploy/samples`.
fn samples() -> Vec<Value> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/samples");
    let mut samples = Vec::new();
    for file in fs::read_dir(dir).unwrap() {
        let text = fs::read_to_string(file.unwrap().path()).unwrap();
        for document in serde_yaml::Deserializer::from_str(&text) {
            let sample = Value::deserialize(document).unwrap();
            if sample["apiVersion"] == "taskgroup.io/v1alpha1" {
                samples.push(sample);
            }
        }
    }
    assert!(samples.len() >= 6, "{} samples", samples.len());
    samples
}

#[tokio::test]
async fn both_definitions_are_applied_again_without_a_change() {
    let Some(server) = current().await else { return };
    for (_, crd) in taskgroup::api::crds() {
        let path = format!(
            "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{}?fieldManager=tests&fieldValidation=Strict",
            crd.name_any()
        );
        let body = serde_json::to_string(&crd).unwrap();
        let before = server.send(Method::GET, &path, String::new()).await.unwrap();
        let after = server.send(Method::PATCH, &path, body).await.unwrap();
        assert_eq!(
            before["metadata"]["resourceVersion"],
            after["metadata"]["resourceVersion"],
            "{}",
            crd.name_any()
        );
    }
}

#[tokio::test]
async fn variables_of_several_managers_are_merged_by_their_names() {
    let Some(server) = current().await else { return };
    let namespace = server.namespace().await;
    let group = |env: Value| object("TaskGroup", "acme", &json!({"concurrency": 1, "env": env}));
    let variable = |name: &str, value: &str| json!({"name": name, "value": value});
    let apply = async |manager: &str, env: Value| server.apply(&namespace, &group(env), manager, "").await;

    apply("a", json!([variable("A", "1")])).await.unwrap();
    let both = apply("b", json!([variable("B", "1"), variable("C", "1")]))
        .await
        .unwrap();
    assert_eq!(
        both["spec"]["env"],
        json!([variable("A", "1"), variable("B", "1"), variable("C", "1")])
    );

    let conflict = apply("b", json!([variable("A", "2")])).await.unwrap_err();
    assert!(conflict.contains("conflict with \"a\""), "{conflict}");
    assert!(conflict.contains(".spec.env[name=\"A\"].value"), "{conflict}");

    // What a manager no longer applies goes; what others apply stays.
    let fewer = apply("b", json!([variable("C", "2")])).await.unwrap();
    assert_eq!(fewer["spec"]["env"], json!([variable("A", "1"), variable("C", "2")]));
}

#[tokio::test]
async fn an_applied_change_of_what_can_not_be_changed_is_refused() {
    let Some(server) = current().await else { return };
    let namespace = server.namespace().await;
    let group = |spec: Value| object("TaskGroup", "acme", &spec);
    let apply = async |spec: Value| server.apply(&namespace, &group(spec), "kubectl", "").await;
    apply(json!({"concurrency": 1})).await.unwrap();
    for (spec, message) in [
        (
            json!({"concurrency": 1, "queue": "b"}),
            "spec.queue can't be changed, its tasks would be left behind",
        ),
        (
            json!({"concurrency": 1, "storage": {"type": "Memory"}}),
            "storage.type can't be changed, JetStream keeps a stream where it is",
        ),
    ] {
        let said = apply(spec).await.unwrap_err();
        assert!(said.contains(message), "{said}");
    }
    // To write down what holds by default is no change.
    let same = json!({"concurrency": 3, "queue": "acme", "storage": {"type": "File"}});
    let applied = apply(same).await.unwrap();
    assert_eq!(applied["spec"]["concurrency"], 3);
    let applied = apply(json!({"concurrency": 4})).await.unwrap();
    assert_eq!(applied["spec"]["queue"], Value::Null);
}
