use super::{Bounds, Limit, TASK_GROUP, TASK_HANDLER};
use crate::api::{Duration, Size, TaskGroup, TaskHandler, WORKER_ADMIN_PORT};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{CustomResourceDefinition, JSONSchemaProps};
use kube::CustomResourceExt;
use serde_json::{Value, json};

fn schema(mut crd: CustomResourceDefinition) -> JSONSchemaProps {
    crd.spec.versions.remove(0).schema.unwrap().open_api_v3_schema.unwrap()
}

fn kinds() -> [(Bounds, JSONSchemaProps); 2] {
    [
        (TASK_GROUP, schema(TaskGroup::crd())),
        (TASK_HANDLER, schema(TaskHandler::crd())),
    ]
}

#[test]
fn every_bound_is_about_a_field_that_exists() {
    for (bounds, mut schema) in kinds() {
        assert_eq!(bounds.write(&mut schema), Vec::<&str>::new());
    }
}

#[test]
fn every_text_of_the_tables_can_be_read() {
    let duration = |text: &str| Duration::from(text).parsed().is_ok();
    for field in [TASK_GROUP, TASK_HANDLER].iter().flat_map(|bounds| bounds.fields) {
        let reads = match field.limit {
            Limit::Duration { min, max, .. } => duration(min) && duration(max),
            Limit::Size { max, .. } => max.is_none_or(|max| Size(max.into()).parse().is_ok()),
            Limit::Pattern { pattern, .. } => {
                pattern.starts_with('^') && pattern.ends_with('$') && regex::Regex::new(pattern).is_ok()
            }
            _ => true,
        };
        assert!(reads, "{}", field.path);
    }
}

#[test]
fn the_port_in_the_rule_is_the_port_of_the_worker() {
    let rule = TASK_HANDLER
        .rules
        .iter()
        .find(|rule| rule.scope == "spec.http.port")
        .unwrap();
    assert_eq!(rule.cel, format!("self != {WORKER_ADMIN_PORT}"));
    assert!(
        rule.message.contains(&WORKER_ADMIN_PORT.to_string()),
        "{}",
        rule.message
    );
}

#[test]
fn a_limit_lets_its_ends_pass_and_nothing_beyond_them() {
    let integer = Limit::Integer { min: 1, max: Some(5) };
    let open = Limit::Integer { min: 0, max: None };
    let number = Limit::Number { min: 1.0, max: 100.0 };
    let duration = |zero| Limit::Duration {
        min: "1s",
        max: "24h",
        zero,
    };
    let size = Limit::Size {
        max: Some("64Mi"),
        zero: "no limit",
    };
    let text = Limit::Text { min: 1, max: 3 };
    let list = Limit::List {
        min: 1,
        max: 2,
        key: None,
    };
    let cases: [(Limit, Vec<Value>, Vec<Value>); 9] = [
        (integer, vec![json!(1), json!(5)], vec![json!(0), json!(6)]),
        (open, vec![json!(0), json!(i64::MAX)], vec![json!(-1)]),
        (number, vec![json!(1), json!(100.0)], vec![json!(0.9), json!(100.1)]),
        (
            duration(None),
            vec![json!("1s"), json!("1440m")],
            vec![json!("0s"), json!("24h1ms"), json!("1d")],
        ),
        (
            duration(Some("never")),
            vec![json!("0s"), json!("1s")],
            vec![json!("999ms")],
        ),
        (
            size,
            vec![json!("0"), json!("64Mi"), json!("67108864")],
            vec![json!("65Mi"), json!("67108865"), json!("x")],
        ),
        (text, vec![json!("a"), json!("äöü")], vec![json!(""), json!("abcd")]),
        (list, vec![json!([1]), json!([1, 2])], vec![json!([]), json!([1, 2, 3])]),
        // The schema judges types.
        (integer, vec![json!("6"), json!(null), json!({})], vec![]),
    ];
    for (limit, good, bad) in cases {
        for value in good {
            assert_eq!(limit.refuse(&value), None, "{limit:?} {value}");
        }
        for value in bad {
            assert!(limit.refuse(&value).is_some(), "{limit:?} {value}");
        }
    }
}

#[test]
fn a_problem_names_the_field_the_value_and_the_fix() {
    let object = json!({
        "metadata": {"name": "acme"},
        "spec": {
            "concurrency": 0,
            "timeouts": {"task": "25h", "expire": "1d"},
            "workers": {"maxInflightPerPod": 1},
            "env": [{"name": "A", "value": ""}, {"name": "A"}, {"name": "B", "valueFrom": {}}],
        },
    });
    let problems = TASK_GROUP.check(&object).into_iter();
    let problems: Vec<_> = problems
        .map(|problem| format!("{}: {}", problem.field, problem.message))
        .collect();
    assert_eq!(
        problems,
        [
            "spec.concurrency: Invalid value: 0: must be 1 to 100000",
            r#"spec.timeouts.task: Invalid value: "25h": must be 1ms to 24h"#,
            r#"spec.timeouts.expire: Invalid value: "1d": must be a duration such as 500ms, 90s or 1h30m"#,
            r#"spec.env[1]: Duplicate value: {"name":"A"}: remove one of them"#,
            "spec.env[2].valueFrom: must name exactly one source: secretKeyRef, configMapKeyRef or fieldRef",
        ]
    );
}
