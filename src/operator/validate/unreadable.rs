//! Pure: what can be told of a TaskGroup that does not parse. Such an object gets into the cluster while its
//! CustomResourceDefinition is looser than ours, for example an older one.

use super::{Invalid, Problem};
use crate::{
    api::{DeletionPolicy, TaskGroup, TaskGroupSpec, TaskGroupStatus},
    operator::{index::GroupKey, subject::Subject},
};
use kube::core::DynamicObject;
use serde_json::{Value, json};
use std::sync::Arc;

/// The TaskGroup as far as it can be read, and what is wrong with the rest. `error` is what the parser said.
pub fn subject(object: DynamicObject, error: &str) -> Subject {
    let DynamicObject { metadata, data, .. } = object;
    if let Ok(spec) = serde_json::from_value(data["spec"].clone())
        && let Ok(status) = serde_json::from_value(data["status"].clone())
    {
        // Somebody corrected it meanwhile.
        let mut group = TaskGroup::new("", spec);
        (group.metadata, group.status) = (metadata, status);
        return Subject::new(Arc::new(group));
    }
    let problem = Invalid(problems(&data, error));
    let mut group = TaskGroup::new("", remains_of_spec(&data["spec"]));
    (group.metadata, group.status) = (metadata, Some(remains_of_status(&data["status"])));
    Subject {
        key: GroupKey::of(&group),
        group: Arc::new(group),
        unreadable: Some(problem),
    }
}

/// The queue and the deletion policy. The tasks of a group whose policy can't be read are kept.
fn remains_of_spec(spec: &Value) -> TaskGroupSpec {
    let policy = spec.get("deletionPolicy").filter(|policy| !policy.is_null());
    TaskGroupSpec {
        // No stream can have an empty name, so the operator looks for none if the queue can't be read.
        queue: spec
            .get("queue")
            .filter(|queue| !queue.is_null())
            .map(|queue| queue.as_str().unwrap_or_default().to_owned()),
        deletion_policy: policy.map_or(DeletionPolicy::Delete, |policy| {
            serde_json::from_value(policy.clone()).unwrap_or(DeletionPolicy::Retain)
        }),
        ..TaskGroupSpec::new(1)
    }
}

fn remains_of_status(status: &Value) -> TaskGroupStatus {
    let text = |field: &str| status.get(field).and_then(Value::as_str).map(ToOwned::to_owned);
    serde_json::from_value(status.clone()).unwrap_or_else(|_| TaskGroupStatus {
        stream: text("stream"),
        queue: text("queue"),
        ..TaskGroupStatus::default()
    })
}

/// Finds the fields that do not parse, by parsing each by itself: the parser names none.
fn problems(object: &Value, error: &str) -> Vec<Problem> {
    let fields = object["spec"].as_object().into_iter().flatten();
    let mut found: Vec<Problem> = fields
        .filter_map(|(field, value)| {
            let mut spec = json!({"concurrency": 1});
            spec[field] = value.clone();
            let error = serde_json::from_value::<TaskGroupSpec>(spec).err()?;
            Some(Problem {
                field: format!("spec.{field}"),
                message: format!("can't be read: {error}"),
            })
        })
        .collect();
    if found.is_empty() {
        found.push(Problem {
            field: String::new(),
            message: format!("the TaskGroup can't be read: {error}"),
        });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(spec: &Value, status: &Value) -> Subject {
        let object = json!({
            "apiVersion": "taskgroup.io/v1alpha1", "kind": "TaskGroup",
            "metadata": {"namespace": "crawl", "name": "acme", "uid": "1"},
            "spec": spec, "status": status,
        });
        subject(serde_json::from_value(object).unwrap(), "the parser's words")
    }

    #[test]
    fn the_fields_that_can_not_be_read_are_named() {
        for (spec, expected) in [
            (
                json!({"concurrency": "four"}),
                vec!["spec.concurrency: can't be read: invalid type: string \"four\", expected i64"],
            ),
            (
                json!({"concurrency": 4, "suspend": "yes", "deletionPolicy": "Burn"}),
                vec![
                    "spec.deletionPolicy: can't be read: unknown variant `Burn`",
                    "spec.suspend: can't be read: invalid type: string \"yes\"",
                ],
            ),
            (json!({}), vec!["the TaskGroup can't be read: the parser's words"]),
        ] {
            let problem = read(&spec, &Value::Null).unreadable.unwrap().to_string();
            for part in expected {
                assert!(problem.contains(part), "{problem}");
            }
        }
    }

    #[test]
    fn queue_and_policy_are_read_where_they_can_be() {
        use DeletionPolicy::{Delete, Drain, Retain};
        for (spec, status, queue, policy) in [
            (json!({}), json!(null), "acme", Delete),
            (
                json!({"queue": "q", "deletionPolicy": "Drain"}),
                json!(null),
                "q",
                Drain,
            ),
            (
                json!({"deletionPolicy": "Burn"}),
                json!({"stream": "tg_crawl_old", "pending": "many"}),
                "old",
                Retain,
            ),
            (json!({"queue": 7}), json!(null), "", Delete),
        ] {
            let mut spec = spec;
            spec["concurrency"] = json!("four");
            let subject = read(&spec, &status);
            assert_eq!(
                (subject.queue().name.as_str(), subject.group.spec.deletion_policy),
                (queue, policy),
                "{spec}"
            );
        }
    }

    #[test]
    fn a_group_that_was_corrected_meanwhile_is_readable() {
        assert!(read(&json!({"concurrency": 4}), &Value::Null).unreadable.is_none());
    }
}
