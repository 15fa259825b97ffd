//! The CEL rules: what each lets pass, and what it refuses with which message. The tests evaluate the rules of the
//! generated CRDs on objects with the defaults of the schema, as an API server does.

use super::{schema::roots, server::object};
use kube::core::cel::Validator;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use taskgroup::{
    api::{TaskGroup, TaskHandler},
    operator::validate,
};

/// The rules that refuse `new`, an update of `old` if there is one, as `path: message`. List indices are left out.
fn refused(new: &Value, old: Option<&Value>) -> Vec<String> {
    let kind = new["kind"].as_str().unwrap();
    let (_, schema) = roots().into_iter().find(|(name, _)| name == kind).unwrap();
    let Err(errors) = Validator::new().validate_with_defaults(&schema, new, old) else {
        return Vec::new();
    };
    let errors = errors.as_slice().iter();
    errors.map(|error| without_indices(&error.to_string())).collect()
}

/// What the operator says about an object that is not an update.
fn operator(object: &Value) -> Result<(), String> {
    let said = if object["kind"] == "TaskGroup" {
        let group: TaskGroup = serde_json::from_value(object.clone()).unwrap();
        validate::group(&group).map(drop)
    } else {
        let handler: TaskHandler = serde_json::from_value(object.clone()).unwrap();
        validate::handler(&handler).map(drop)
    };
    said.map_err(|invalid| without_indices(&invalid.to_string()))
}

/// `spec.env[1]` as `spec.env[]`.
pub fn without_indices(text: &str) -> String {
    let mut inside = false;
    let keep = |c: &char| {
        inside = *c == '[' || inside && c.is_ascii_digit();
        !inside || *c == '['
    };
    text.chars().filter(keep).collect()
}

fn group(spec: Value) -> Value {
    group_named("acme", spec)
}

fn group_named(name: &str, mut spec: Value) -> Value {
    spec.as_object_mut().unwrap().entry("concurrency").or_insert(json!(1));
    object("TaskGroup", name, &spec)
}

/// A rule by its path and the start of its message, with objects that it lets pass and some that it refuses.
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
    let pods = |concurrency: i64, per_pod: i64| {
        group(json!({"concurrency": concurrency, "workers": {"maxInflightPerPod": per_pod}}))
    };
    let task = |task: &str| group(json!({"timeouts": {"task": task}}));
    let ack_wait = |ack_wait: &str| group(json!({"timeouts": {"ackWait": ack_wait}}));
    let env = |variable: Value| group(json!({"env": [{"name": "FINE", "value": ""}, variable]}));
    let secret = json!({"name": "acme", "key": "token"});
    vec![
        Case {
            message: "metadata.name: must have at most 55 characters and no dots",
            good: creates([group_named(&"a".repeat(55), json!({}))]),
            bad: creates([
                group_named(&"a".repeat(56), json!({})),
                group_named("acme.com", json!({})),
            ]),
        },
        Case {
            message: "spec.queue: can't be changed",
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
            message: "spec: concurrency needs more than 500 pods",
            good: creates([pods(500, 1), pods(100_000, 200), group(json!({"concurrency": 50_000}))]),
            bad: creates([pods(501, 1), group(json!({"concurrency": 50_001}))]),
        },
        Case {
            message: "spec.timeouts.task: must be 1ms to 24h",
            good: creates([task("1ms"), task("24h"), task("1h30m"), task("23h59m59s999ms")]),
            bad: creates([task("0s"), task("24h1ms"), task("9999h")]),
        },
        Case {
            message: "spec.timeouts.ackWait: must be 2s to 1h",
            good: creates([ack_wait("2s"), ack_wait("1h"), ack_wait("60m")]),
            bad: creates([ack_wait("1s999ms"), ack_wait("61m")]),
        },
        Case {
            message: "spec.env[]: a variable can't have both value and valueFrom",
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
            message: "spec.env[].valueFrom: must name exactly one source",
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

/// Storage of a queue.
fn storage_cases() -> Vec<Case> {
    let storage = |type_: &str| group(json!({"storage": {"type": type_}}));
    let window = |window: &str| group(json!({"storage": {"duplicateWindow": window}}));
    let size = |size: Value| group(json!({"storage": {"maxTaskSize": size}}));
    vec![
        Case {
            message: "spec.storage.type: can't be changed",
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
            message: "spec.storage.duplicateWindow: must be 100ms to 24h",
            good: creates([window("100ms"), window("24h")]),
            bad: creates([window("99ms"), window("24h1s")]),
        },
        Case {
            message: "spec.storage.maxTaskSize: must be at most 64Mi, or 0 for the limit of the NATS server",
            good: creates([
                size(json!(0)),
                size(json!(67_108_864)),
                size(json!("67108864")),
                size(json!("0")),
                size(json!("0Pi")),
                size(json!("67108k")),
                size(json!("67M")),
                size(json!("65536Ki")),
                size(json!("64Mi")),
                size(json!("064Mi")),
            ]),
            bad: creates([
                size(json!(67_108_865)),
                size(json!("67108865")),
                size(json!("67109k")),
                size(json!("68M")),
                size(json!("1G")),
                size(json!("65537Ki")),
                size(json!("65Mi")),
                size(json!("1Gi")),
                size(json!("1T")),
                size(json!("1Ti")),
                size(json!("1P")),
                size(json!("1Pi")),
                size(json!("9223372036854775807")),
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
            message: "spec.timeouts.expire: must be 1s to 720h, or 0s for never",
            good: creates([expire("0s"), expire("0h"), expire("1s"), expire("720h")]),
            bad: creates([expire("1ms"), expire("999ms"), expire("720h1ms")]),
        },
        Case {
            message: "spec.retry.initialDelay: must be 10ms to 24h",
            good: creates([
                retry(json!({"initialDelay": "10ms"})),
                retry(json!({"initialDelay": "24h", "maxDelay": "24h"})),
            ]),
            bad: creates([retry(json!({"initialDelay": "9ms"}))]),
        },
        Case {
            message: "spec.retry: maxDelay is less than initialDelay",
            good: creates([retry(json!({"maxDelay": "1s"})), retry(json!({"maxDelay": "24h"}))]),
            bad: creates([
                retry(json!({"maxDelay": "999ms"})),
                retry(json!({"initialDelay": "6m"})),
            ]),
        },
        Case {
            message: "spec.retry.maxDelay: must be 10ms to 24h",
            good: creates([retry(json!({"initialDelay": "10ms", "maxDelay": "10ms"}))]),
            bad: creates([retry(json!({"maxDelay": "25h"})), retry(json!({"maxDelay": "24h1ms"}))]),
        },
        Case {
            message: "spec.retry.maxRetryAfter: must be 1s to 24h",
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
            message: "spec.rateLimit.per: must be 1s to 24h",
            good: creates([rate(json!({"tasks": 1})), rate(json!({"tasks": 1, "per": "24h"}))]),
            bad: creates([
                rate(json!({"tasks": 1, "per": "25h"})),
                rate(json!({"tasks": 1, "per": "999ms"})),
            ]),
        },
        Case {
            message: "spec.rateLimit: tasks and per allow more than 10000 tasks per second",
            good: creates([
                rate(json!({"tasks": 10_000})),
                rate(json!({"tasks": 600_000, "per": "1m"})),
            ]),
            bad: creates([
                rate(json!({"tasks": 10_001})),
                rate(json!({"tasks": 600_001, "per": "1m"})),
                rate(json!({"tasks": 10_001, "per": "1s999ms"})),
            ]),
        },
    ]
}

/// The cases of all rules.
pub fn cases() -> Vec<Case> {
    let cases = [
        task_group_cases(),
        storage_cases(),
        pace_cases(),
        task_handler_cases(),
        template_cases(),
    ];
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
            message: "spec: exactly one of http, exec, upstream and native says how to run a task",
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
            message: "spec: http, exec and native need template",
            good: creates([handler(&json!({"http": {}, "template": template}))]),
            bad: creates([
                handler(&json!({"http": {}})),
                handler(&json!({"exec": exec})),
                handler(&json!({"native": {}})),
            ]),
        },
        Case {
            message: "spec.upstream: caFrom is for a URL that begins with https://",
            good: creates([upstream_with("https://a/", json!({"secretKeyRef": key}))]),
            bad: creates([upstream_with("http://a/", json!({"secretKeyRef": key}))]),
        },
        Case {
            message: "spec.upstream.caFrom: must name exactly one source",
            good: creates([upstream_with("https://a/", json!({"configMapKeyRef": key}))]),
            bad: creates([
                upstream_with("https://a/", json!({})),
                upstream_with("https://a/", json!({"configMapKeyRef": key, "secretKeyRef": key})),
            ]),
        },
        Case {
            message: "spec.http.port: must not be 9797, the port of the worker",
            good: creates([handler(&json!({"http": {"port": 9796}, "template": template}))]),
            bad: creates([handler(&json!({"http": {"port": 9797}, "template": template}))]),
        },
    ]
}

/// Pod templates.
fn template_cases() -> Vec<Case> {
    let handler = |way: &str, containers: Value| {
        let way_spec = match way {
            "exec" => json!({"command": ["/app/run"]}),
            "upstream" => json!({"url": "http://example.com/"}),
            _ => json!({}),
        };
        let template = json!({"spec": {"containers": containers, "nodeSelector": {"disk": "ssd"}}});
        object("TaskHandler", "default", &json!({way: way_spec, "template": template}))
    };
    let with_template = |template: Value| object("TaskHandler", "default", &json!({"http": {}, "template": template}));
    let code = json!({"name": "handler", "image": "example", "env": [{"name": "A", "value": "b"}]});
    let worker = json!({"name": "taskgroup-worker", "resources": {"limits": {"cpu": "1"}}});
    let proxy = json!({"name": "proxy", "image": "example"});
    vec![
        Case {
            message: "spec: template has no container named `handler`",
            good: creates(["http", "exec", "native"].map(|way| handler(way, json!([proxy, code])))),
            bad: creates(
                ["http", "exec", "native"]
                    .map(|way| handler(way, json!([proxy])))
                    .into_iter()
                    .chain([json!([])].map(|none| handler("http", none)))
                    .chain([json!({}), json!({"spec": {}}), json!({"metadata": {}})].map(with_template)),
            ),
        },
        Case {
            message: "spec: template has a container named `handler`, which nothing calls",
            good: creates([
                handler("upstream", json!([proxy, worker])),
                handler("upstream", json!([])),
            ]),
            bad: creates([handler("upstream", json!([code]))]),
        },
        Case {
            message: "spec: template has a container named `taskgroup-worker`",
            good: creates([handler("http", json!([code, worker]))]),
            bad: creates(["exec", "native"].map(|way| handler(way, json!([code, worker])))),
        },
        Case {
            message: "spec.template.spec: restartPolicy must be Always",
            good: creates([with_template(
                json!({"spec": {"restartPolicy": "Always", "containers": [code]}}),
            )]),
            bad: creates([with_template(
                json!({"spec": {"restartPolicy": "Never", "containers": [code]}}),
            )]),
        },
        Case {
            message: "spec.template.spec.containers[]: the container has no image",
            good: creates([handler("http", json!([code, worker, proxy]))]),
            bad: creates([
                handler("http", json!([{"name": "handler"}])),
                handler("http", json!([{"name": "handler", "image": ""}])),
                handler("http", json!([code, {"name": "proxy"}])),
                handler("upstream", json!([{"name": "proxy"}])),
            ]),
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

/// An old API server drops the rules. The operator then refuses the same objects in the same words, and says the
/// value, too.
#[test]
fn the_operator_says_what_the_rule_says() {
    let mut problems = Vec::new();
    for case in cases() {
        for (_, good) in case.good.iter().filter(|(old, _)| old.is_none()) {
            if let Err(said) = operator(good) {
                problems.push(format!("refused: {good}: {said}"));
            }
        }
        for (_, bad) in case.bad.iter().filter(|(old, _)| old.is_none()) {
            let rules = refused(bad, None);
            let said = operator(bad).err().unwrap_or_default();
            for rule in rules {
                let (path, message) = rule.split_once(": ").unwrap();
                if !(said.starts_with(path) && said.ends_with(message)) {
                    problems.push(format!("{bad}:\n  the rule says {rule}\n  and the operator {said}"));
                }
            }
        }
    }
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn no_rule_is_without_a_case() {
    let cases = cases();
    let mut rules = messages();
    assert!(rules.len() > 20, "only {} rules were found", rules.len());
    rules.retain(|rule| !cases.iter().any(|case| rule.starts_with(case.message)));
    assert!(rules.is_empty(), "without a case here: {rules:#?}");
}

/// The rules of both kinds, as `path: message`.
pub fn messages() -> BTreeSet<String> {
    let mut rules = BTreeSet::new();
    for (_, root) in roots() {
        collect_messages("", &root, &mut rules);
    }
    rules
}

/// Adds the rules in a schema, as `path: message`.
pub fn collect_messages(path: &str, schema: &Value, messages: &mut BTreeSet<String>) {
    let colon = if path.is_empty() { "" } else { ": " };
    for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
        let message = rule["message"].as_str().unwrap_or_default();
        messages.insert(format!("{path}{colon}{message}"));
    }
    let dot = if path.is_empty() { "" } else { "." };
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        collect_messages(&format!("{path}{dot}{name}"), field, messages);
    }
    if schema["items"].is_object() {
        collect_messages(&format!("{path}[]"), &schema["items"], messages);
    }
}

/// Picks values that are near a bound, or no good at all, in all combinations that a simple generator comes upon.
#[test]
fn the_operator_accepts_exactly_what_the_rules_accept() {
    let durations = [
        "1ms",
        "10ms",
        "99ms",
        "100ms",
        "999ms",
        "1s",
        "1s999ms",
        "2s",
        "1m",
        "60m",
        "61m",
        "1h",
        "24h",
        "24h1ms",
        "720h",
        "720h1s",
        "0s",
        "0ms",
        "0h0m",
        "00001s",
        "1h1ms",
        "9999999h",
        "99999999999999999h",
        "1440m",
        "86400000ms",
    ];
    let sizes = [
        json!("0"),
        json!("1"),
        json!("64Mi"),
        json!("65Mi"),
        json!("67108864"),
        json!("67108865"),
        json!("9223372036854775807"),
        json!("00064Mi"),
        json!(0),
        json!(7),
    ];
    let mut state = 42_u64;
    let mut pick = |count: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % count
    };
    let mut problems = BTreeSet::new();
    for _ in 0..600 {
        let mut spec = json!({"concurrency": ([1, 500, 501, 50_000, 50_001, 100_000][pick(6)])});
        for (path, kind) in [
            ("/timeouts/task", 0),
            ("/timeouts/ackWait", 0),
            ("/timeouts/expire", 0),
            ("/rateLimit/per", 0),
            ("/retry/initialDelay", 0),
            ("/retry/maxDelay", 0),
            ("/retry/maxRetryAfter", 0),
            ("/storage/duplicateWindow", 0),
            ("/storage/maxBytes", 1),
            ("/storage/maxTaskSize", 1),
            ("/rateLimit/tasks", 2),
            ("/workers/maxInflightPerPod", 3),
        ] {
            if pick(3) > 0 {
                continue;
            }
            let value = match kind {
                0 => json!(durations[pick(durations.len())]),
                1 => sizes[pick(sizes.len())].clone(),
                2 => json!(([1, 10_000, 10_001, 600_000, 10_000_000][pick(5)])),
                _ => json!(([1, 2, 100, 101, 1000][pick(5)])),
            };
            let (_, section, field) = {
                let mut parts = path.split('/');
                (parts.next(), parts.next().unwrap(), parts.next().unwrap())
            };
            spec[section][field] = value;
        }
        if spec.get("rateLimit").is_some() && spec["rateLimit"].get("tasks").is_none() {
            spec["rateLimit"]["tasks"] = json!(1);
        }
        let object = group(spec);
        let (rules, said) = (refused(&object, None), operator(&object));
        if rules.is_empty() != said.is_ok() {
            problems.insert(format!("{}:\n  rules: {rules:?}\n  operator: {said:?}", object["spec"]));
        }
    }
    assert!(
        problems.is_empty(),
        "{} differ\n{}",
        problems.len(),
        problems.into_iter().take(8).collect::<Vec<_>>().join("\n")
    );
}
