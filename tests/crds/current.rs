//! What only a current server does with the CRDs: it evaluates their CEL rules, refuses unknown fields, and merges what
//! several managers apply. Each test is skipped, with a notice, where no such server could be built.

use super::{
    cel,
    server::object,
    servers::{self, Server, UnknownFields, current},
    support::refusal::without_values,
};
use http::Method;
use kube::ResourceExt;
use serde::Deserialize;
use serde_json::{Value, json};
use std::{collections::BTreeSet, fs, path::Path};
use tokio::sync::OnceCell;

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
            "rule": "spec.storage.type: can't be changed, because JetStream keeps a stream where it is",
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

    /// Writes it, and returns the message that refuses it, if one does.
    async fn write(&self, server: &Server, check: UnknownFields) -> Option<String> {
        let namespace = server.namespace().await;
        let manifest = self.manifest(self.group.as_ref().or(self.handler.as_ref()));
        let written = if let Some(was) = &self.was {
            let before = server.create(&namespace, &self.manifest(Some(was)), check).await;
            before.expect("the object as it was is good");
            server.replace(&namespace, &manifest, check).await
        } else {
            server.create(&namespace, &manifest, check).await
        };
        written.err()
    }
}

/// A bad manifest and the messages that refuse it.
struct Tried {
    bad: BadManifest,
    /// From a server that drops unknown fields, so that the schema and the rules judge the rest.
    refusal: Option<String>,
    /// From a server that was asked to check for unknown fields first, as kubectl asks.
    strict_refusal: Option<String>,
}

impl Tried {
    /// Every bad manifest, tried once for all tests.
    async fn all() -> Option<&'static [Self]> {
        static ALL: OnceCell<Option<Vec<Tried>>> = OnceCell::const_new();
        let try_all = async || {
            let server = current().await?;
            let mut all = Vec::new();
            for bad in BadManifest::all() {
                all.push(Tried {
                    refusal: bad.write(&server, UnknownFields::Dropped).await,
                    strict_refusal: bad.write(&server, UnknownFields::Refused).await,
                    bad,
                });
            }
            Some(all)
        };
        ALL.get_or_init(try_all).await.as_deref()
    }

    /// Says how the answers are not what was expected.
    fn problem(&self) -> Option<String> {
        // The rules are evaluated on what the schema lets pass.
        let by_schema = self.bad.schema.parts();
        let expected = if by_schema.is_empty() {
            self.bad.rule.parts()
        } else {
            by_schema
        };
        let by_check = self.bad.kubectl.parts();
        let strictly_expected = if by_check.is_empty() {
            // A check for unknown fields may find another fault first, such as the keys of a map in the place of a list.
            vec![""; usize::from(!expected.is_empty())]
        } else {
            by_check
        };
        differs(self.refusal.as_deref(), &expected)
            .or_else(|| differs(self.strict_refusal.as_deref(), &strictly_expected))
            .map(|problem| format!("{}\n    {problem}", self.bad.wrong))
    }
}

/// Says how a refusal is not the expected one. Nothing expected: the manifest is accepted.
fn differs(refusal: Option<&str>, expected: &[&str]) -> Option<String> {
    match refusal {
        None if expected.is_empty() => None,
        None => Some(format!("is accepted, and not refused with: {expected:?}")),
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

/// Whether a message contains a text of an old server or of kubectl, in the words of a current server.
fn says(said: &str, text: &str) -> bool {
    if let Some(field) = text
        .strip_prefix("unknown field \"")
        .and_then(|rest| rest.strip_suffix('"'))
    {
        return names_unknown(said, field);
    }
    let text = text
        .replace("type integer: \"number\"", "type int64: \"float64\"")
        .replace("map[string]interface {}", "");
    let said = without_indices(said);
    let text = without_indices(&text);
    said.contains(&text) || without_values(&said).contains(&text)
}

/// Whether a server's message contains the `path: message` of a rule.
fn refused_by(said: &str, rule: &str) -> bool {
    without_values(&cel::without_indices(said)).contains(rule)
}

/// A message without the positions in lists, which old servers leave out of some.
fn without_indices(message: &str) -> String {
    let mut parts = message.split('[');
    let mut left = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.split_once(']') {
            Some((index, rest)) if index.parse::<u32>().is_ok() => left.push_str(rest),
            _ => {
                left.push('[');
                left.push_str(part);
            }
        }
    }
    left
}

#[test]
fn what_an_old_server_says_is_found_in_the_words_of_a_current_one() {
    for (said, text) in [
        ("[spec.env[0].name: Required value, …]", "spec.env.name: Required value"),
        (
            "spec.env[1]: Duplicate value: {\"name\":\"A\"}",
            "spec.env[1]: Duplicate value: map[string]interface {}{\"name\":\"A\"}",
        ),
        (
            "spec.a in body must be of type int64: \"float64\"",
            "spec.a in body must be of type integer: \"number\"",
        ),
        (
            "strict decoding error: unknown field \"spec.a.b\"",
            "unknown field \"b\"",
        ),
        ("should match '^[a-z0-9]$'", "should match '^[a-z0-9]$'"),
    ] {
        assert!(says(said, text), "{said} and {text}");
    }
    assert!(!says("unknown field \"spec.a.b\"", "unknown field \"a\""));
    assert!(!says("spec.env[0].name", "spec.name"));
}

#[tokio::test]
async fn a_bad_manifest_is_refused_with_the_message_of_the_schema_or_of_the_rule() {
    let Some(all) = Tried::all().await else { return };
    let by_rule = |tried: &&Tried| tried.refusal.is_some() && !tried.bad.rule.parts().is_empty();
    let refused_by_rules = all.iter().filter(by_rule).count();
    assert!(refused_by_rules >= 30, "only {refused_by_rules} by rules");
    let problems: Vec<String> = all.iter().filter_map(Tried::problem).collect();
    assert!(
        problems.is_empty(),
        "{} problems\n{}",
        problems.len(),
        problems.join("\n")
    );
}

#[tokio::test]
async fn every_rule_refuses_one_of_the_bad_manifests_with_its_whole_message() {
    let Some(all) = Tried::all().await else { return };
    let mut rules = cel::messages();
    rules.retain(|rule| {
        let refusals = all.iter().filter_map(|tried| tried.refusal.as_ref());
        !refusals.into_iter().any(|refusal| refused_by(refusal, rule))
    });
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
                server
                    .create(&namespace, old, UnknownFields::Refused)
                    .await
                    .expect("the old object is good");
                server.replace(&namespace, new, UnknownFields::Refused).await
            } else {
                server.create(&namespace, new, UnknownFields::Refused).await
            };
            match written {
                Err(message) if good => problems.push(format!("refused: {old:?} → {new}: {message}")),
                Err(message) if !refused_by(&message, case.message) => {
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
        let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        cel::collect_messages("", schema, &mut kept);
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
        let created = server
            .create(&namespace, manifest, UnknownFields::Refused)
            .await
            .unwrap();
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
        let message = server
            .create(&namespace, &bad, UnknownFields::Refused)
            .await
            .unwrap_err();
        assert!(names_unknown(&message, field), "{parent}/{field}: {message}");
        // Who asks for no check gets the object without the field.
        bad["metadata"]["name"] = format!("bad-{}", rand::random::<u64>()).into();
        let kept = server.create(&namespace, &bad, UnknownFields::Dropped).await.unwrap();
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
            "spec.queue: can't be changed, because the tasks of the old queue would be left behind",
        ),
        (
            json!({"concurrency": 1, "storage": {"type": "Memory"}}),
            "spec.storage.type: can't be changed, because JetStream keeps a stream where it is",
        ),
    ] {
        let said = apply(spec).await.unwrap_err();
        assert!(refused_by(&said, message), "{said}");
    }
    // To write down what holds by default is no change.
    let same = json!({"concurrency": 3, "queue": "acme", "storage": {"type": "File"}});
    let applied = apply(same).await.unwrap();
    assert_eq!(applied["spec"]["concurrency"], 3);
    let applied = apply(json!({"concurrency": 4})).await.unwrap();
    assert_eq!(applied["spec"]["queue"], Value::Null);
}

#[tokio::test]
async fn a_new_scale_is_judged_by_the_rules_too() {
    let Some(server) = current().await else { return };
    let namespace = server.namespace().await;
    let group = object(
        "TaskGroup",
        "acme",
        &json!({"concurrency": 1, "workers": {"maxInflightPerPod": 1}}),
    );
    server.create(&namespace, &group, UnknownFields::Refused).await.unwrap();
    let path = servers::object(&namespace, &group) + "/scale";
    let scale_to = async |replicas: u32| {
        let mut scale = server.send(Method::GET, &path, String::new()).await.unwrap();
        scale["spec"]["replicas"] = replicas.into();
        server.send(Method::PUT, &path, scale.to_string()).await
    };
    assert_eq!(scale_to(500).await.unwrap()["spec"]["replicas"], 500);
    let message = scale_to(501).await.unwrap_err();
    assert!(
        refused_by(&message, "spec: concurrency needs more than 500 pods"),
        "{message}"
    );
    let message = scale_to(0).await.unwrap_err();
    assert!(message.contains("greater than or equal to 1"), "{message}");
}
