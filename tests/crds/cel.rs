//! The CEL rules: what each lets pass, and what it refuses with which message. Evaluated on the schema
//! that the CRD has, after its defaults, as an API server does.

use super::{schema::roots, server::object};
use kube::core::cel::Validator;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// The messages of the rules that refuse `new`, an update of `old` if there is one.
fn refused(new: &Value, old: Option<&Value>) -> Vec<String> {
    let kind = new["kind"].as_str().unwrap();
    let (_, schema) = roots().into_iter().find(|(name, _)| name == kind).unwrap();
    match Validator::new().validate_with_defaults(&schema, new, old) {
        Ok(()) => Vec::new(),
        Err(errors) => errors.as_slice().iter().map(|error| error.message.clone()).collect(),
    }
}

fn group(spec: Value) -> Value {
    group_named("acme", spec)
}

fn group_named(name: &str, mut spec: Value) -> Value {
    spec.as_object_mut().unwrap().entry("concurrency").or_insert(json!(1));
    object("TaskGroup", name, &spec)
}

/// A rule by the start of its message, with objects that it lets pass and some that it refuses.
/// Pairs are updates: the old object and the new one.
pub struct Case {
    pub message: &'static str,
    pub good: Vec<(Option<Value>, Value)>,
    pub bad: Vec<(Option<Value>, Value)>,
}

fn creates(objects: impl IntoIterator<Item = Value>) -> Vec<(Option<Value>, Value)> {
    objects.into_iter().map(|object| (None, object)).collect()
}

fn updates(pairs: impl IntoIterator<Item = (Value, Value)>) -> Vec<(Option<Value>, Value)> {
    pairs.into_iter().map(|(old, new)| (Some(old), new)).collect()
}

fn task_group_cases() -> Vec<Case> {
    let queue = |queue: &str| group(json!({"queue": queue}));
    let storage = |type_: &str| group(json!({"storage": {"type": type_}}));
    let pods = |concurrency: i64, per_pod: i64| {
        group(json!({"concurrency": concurrency, "workers": {"maxInflightPerPod": per_pod}}))
    };
    let task = |task: &str| group(json!({"timeouts": {"task": task}}));
    let ack_wait = |ack_wait: &str| group(json!({"timeouts": {"ackWait": ack_wait}}));
    let window = |window: &str| group(json!({"storage": {"duplicateWindow": window}}));
    let env = |variable: Value| group(json!({"env": [{"name": "FINE", "value": ""}, variable]}));
    let secret = json!({"name": "acme", "key": "token"});
    vec![
        Case {
            message: "metadata.name is at most 55 characters without dots",
            good: creates([group_named(&"a".repeat(55), json!({}))]),
            bad: creates([
                group_named(&"a".repeat(56), json!({})),
                group_named("acme.com", json!({})),
            ]),
        },
        Case {
            message: "spec.queue can't be changed",
            good: updates([
                (queue("a"), queue("a")),
                (group(json!({})), queue("acme")),
                (queue("acme"), group(json!({}))),
                (group(json!({})), group(json!({"concurrency": 2}))),
            ]),
            bad: updates([
                (queue("a"), queue("b")),
                (queue("a"), group(json!({}))),
                (group(json!({})), queue("a")),
            ]),
        },
        Case {
            message: "spec.concurrency needs more than 500 pods",
            good: creates([pods(500, 1), pods(100_000, 200), group(json!({"concurrency": 50_000}))]),
            bad: creates([pods(501, 1), group(json!({"concurrency": 50_001}))]),
        },
        Case {
            message: "timeouts.task is 1ms to 24h",
            good: creates([task("1ms"), task("24h"), task("1h30m"), task("23h59m59s999ms")]),
            bad: creates([task("0s"), task("24h1ms"), task("9999h")]),
        },
        Case {
            message: "timeouts.ackWait is 2s to 1h",
            good: creates([ack_wait("2s"), ack_wait("1h"), ack_wait("60m")]),
            bad: creates([ack_wait("1s999ms"), ack_wait("61m")]),
        },
        Case {
            message: "storage.type can't be changed",
            good: updates([
                (storage("Memory"), storage("Memory")),
                (group(json!({})), storage("File")),
            ]),
            bad: updates([
                (storage("Memory"), storage("File")),
                (group(json!({})), storage("Memory")),
                (storage("Memory"), group(json!({}))),
            ]),
        },
        Case {
            message: "storage.duplicateWindow is 100ms to 24h",
            good: creates([window("100ms"), window("24h")]),
            bad: creates([window("99ms"), window("24h1s")]),
        },
        Case {
            message: "an environment variable has either value or valueFrom",
            good: creates([
                env(json!({"name": "A"})),
                env(json!({"name": "A", "value": "x"})),
                env(json!({"name": "A", "valueFrom": {"secretKeyRef": secret}})),
            ]),
            bad: creates([env(
                json!({"name": "A", "value": "", "valueFrom": {"secretKeyRef": secret}}),
            )]),
        },
        Case {
            message: "valueFrom names exactly one source",
            good: creates([
                env(json!({"name": "A", "valueFrom": {"configMapKeyRef": secret}})),
                env(json!({"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}})),
            ]),
            bad: creates([
                env(json!({"name": "A", "valueFrom": {}})),
                env(json!({"name": "A", "valueFrom": {"secretKeyRef": secret, "configMapKeyRef": secret}})),
            ]),
        },
    ]
}

/// What the workers of a group keep to.
fn pace_cases() -> Vec<Case> {
    let expire = |expire: &str| group(json!({"timeouts": {"expire": expire}}));
    let retry = |retry: Value| group(json!({"retry": retry}));
    let rate = |rate: Value| group(json!({"rateLimit": rate}));
    vec![
        Case {
            message: "timeouts.expire is 1s to 720h, or 0s",
            good: creates([expire("0s"), expire("0h"), expire("1s"), expire("720h")]),
            bad: creates([expire("1ms"), expire("999ms"), expire("720h1ms")]),
        },
        Case {
            message: "retry.initialDelay is 10ms to 24h",
            good: creates([
                retry(json!({"initialDelay": "10ms"})),
                retry(json!({"initialDelay": "24h", "maxDelay": "24h"})),
            ]),
            bad: creates([retry(json!({"initialDelay": "9ms"}))]),
        },
        Case {
            message: "retry.maxDelay is at least retry.initialDelay",
            good: creates([retry(json!({"maxDelay": "1s"})), retry(json!({"maxDelay": "24h"}))]),
            bad: creates([
                retry(json!({"maxDelay": "999ms"})),
                retry(json!({"initialDelay": "6m"})),
                retry(json!({"maxDelay": "25h"})),
            ]),
        },
        Case {
            message: "retry.maxRetryAfter is 1s to 24h",
            good: creates([
                retry(json!({"maxRetryAfter": "1s"})),
                retry(json!({"maxRetryAfter": "24h"})),
            ]),
            bad: creates([
                retry(json!({"maxRetryAfter": "999ms"})),
                retry(json!({"maxRetryAfter": "25h"})),
            ]),
        },
        Case {
            message: "rateLimit.per is 1s to 24h",
            good: creates([rate(json!({"tasks": 1})), rate(json!({"tasks": 1, "per": "24h"}))]),
            bad: creates([rate(json!({"tasks": 1, "per": "25h"}))]),
        },
        Case {
            message: "rateLimit allows more than 10000 tasks per second",
            good: creates([
                rate(json!({"tasks": 10_000})),
                rate(json!({"tasks": 600_000, "per": "1m"})),
            ]),
            bad: creates([
                rate(json!({"tasks": 10_001})),
                rate(json!({"tasks": 600_001, "per": "1m"})),
            ]),
        },
    ]
}

/// All of them.
pub fn cases() -> Vec<Case> {
    let cases = [task_group_cases(), pace_cases(), task_handler_cases()];
    cases.into_iter().flatten().collect()
}

fn task_handler_cases() -> Vec<Case> {
    let handler = |spec: &Value| object("TaskHandler", "default", spec);
    let template = json!({"spec": {"containers": [{"name": "handler", "image": "example"}]}});
    let upstream = json!({"url": "http://example.com/"});
    let exec = json!({"command": ["/app/run"]});
    let key = json!({"name": "ca", "key": "ca.pem"});
    let upstream_with = |url: &str, ca: Value| handler(&json!({"upstream": {"url": url, "caFrom": ca}}));
    vec![
        Case {
            message: "exactly one of http, exec, upstream and native says how to run a task",
            good: creates([
                handler(&json!({"http": {}, "template": template})),
                handler(&json!({"exec": exec, "template": template})),
                handler(&json!({"upstream": upstream})),
                handler(&json!({"native": {}, "template": template})),
            ]),
            bad: creates([
                handler(&json!({})),
                handler(&json!({"template": template})),
                handler(&json!({"http": {}, "upstream": upstream, "template": template})),
                handler(&json!({"exec": exec, "native": {}, "template": template})),
                handler(&json!({"http": {}, "exec": exec, "upstream": upstream, "template": template})),
            ]),
        },
        Case {
            message: "http, exec and native need template",
            good: creates([handler(&json!({"http": {}, "template": template}))]),
            bad: creates([
                handler(&json!({"http": {}})),
                handler(&json!({"exec": exec})),
                handler(&json!({"native": {}})),
            ]),
        },
        Case {
            message: "upstream.caFrom is for a URL that begins with https://",
            good: creates([upstream_with("https://a/", json!({"secretKeyRef": key}))]),
            bad: creates([upstream_with("http://a/", json!({"secretKeyRef": key}))]),
        },
        Case {
            message: "caFrom names exactly one source",
            good: creates([upstream_with("https://a/", json!({"configMapKeyRef": key}))]),
            bad: creates([
                upstream_with("https://a/", json!({})),
                upstream_with("https://a/", json!({"configMapKeyRef": key, "secretKeyRef": key})),
            ]),
        },
        Case {
            message: "http.port 9797 is the worker's own port",
            good: creates([handler(&json!({"http": {"port": 9796}, "template": template}))]),
            bad: creates([handler(&json!({"http": {"port": 9797}, "template": template}))]),
        },
    ]
}

#[test]
fn each_rule_lets_the_good_pass_and_refuses_the_bad_with_its_message() {
    let mut problems = Vec::new();
    for case in cases() {
        for (old, new) in &case.good {
            let messages = refused(new, old.as_ref());
            if !messages.is_empty() {
                problems.push(format!("refused: {old:?} → {new}: {messages:?}"));
            }
        }
        for (old, new) in &case.bad {
            let messages = refused(new, old.as_ref());
            if !(messages.len() == 1 && messages[0].starts_with(case.message)) {
                problems.push(format!(
                    "not refused by {:?}: {old:?} → {new}: {messages:?}",
                    case.message
                ));
            }
        }
    }
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn no_rule_is_without_a_case() {
    let cases = cases();
    let mut rules = messages();
    rules.retain(|rule| !cases.iter().any(|case| rule.starts_with(case.message)));
    assert!(rules.is_empty(), "without a case here: {rules:#?}");
}

/// The messages of all rules of both kinds.
pub fn messages() -> BTreeSet<String> {
    let mut rules = BTreeSet::new();
    for (_, root) in roots() {
        collect_messages(&root, &mut rules);
    }
    rules
}

/// Adds the messages of all rules in a schema.
pub fn collect_messages(schema: &Value, messages: &mut BTreeSet<String>) {
    match schema {
        Value::Array(items) => items.iter().for_each(|item| collect_messages(item, messages)),
        Value::Object(fields) => {
            let rules = fields.get("x-kubernetes-validations").and_then(Value::as_array);
            messages.extend(
                rules
                    .into_iter()
                    .flatten()
                    .map(|rule| rule["message"].as_str().unwrap_or("").to_owned()),
            );
            fields.values().for_each(|field| collect_messages(field, messages));
        }
        _ => {}
    }
}
