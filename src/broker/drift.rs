//! Differences between the desired and the observed configuration. Fields that the server filled in are not a
//! difference. (nats-io/nack has the idea: compare the fields that are ours, and leave the rest.)

use serde::Serialize;
use serde_json::{Map, Value};
use std::{
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
};

/// A field with another value than desired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Name of the field in JetStream's API.
    pub field: String,
    /// Desired value.
    pub desired: Value,
    /// Observed value; null where the field is not set.
    pub observed: Value,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} instead of {}", self.field, self.observed, self.desired)
    }
}

/// The fields of `desired` that have another value in `observed`. In metadata, only our keys count.
pub fn differences<T: Serialize>(desired: &T, observed: &Map<String, Value>) -> Vec<Difference> {
    let Ok(Value::Object(desired)) = serde_json::to_value(desired) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for (field, wanted) in desired {
        let actual = observed.get(&field).unwrap_or(&Value::Null);
        let same = match &wanted {
            Value::Object(entries) => entries.iter().all(|(key, value)| actual.get(key) == Some(value)),
            other => other == actual || (is_zero(other) && is_zero(actual)),
        };
        if !same {
            found.push(Difference {
                field,
                desired: wanted,
                observed: actual.clone(),
            });
        }
    }
    found
}

/// `observed`, with the fields of `desired` replaced: the body of an update. Fields that are not ours stay as they are.
pub fn overlay<T: Serialize>(desired: &T, observed: &Map<String, Value>) -> Value {
    let mut config = observed.clone();
    if let Ok(Value::Object(desired)) = serde_json::to_value(desired) {
        for (field, wanted) in desired {
            match (config.get_mut(&field), wanted) {
                (Some(Value::Object(entries)), Value::Object(ours)) => entries.extend(ours),
                (_, wanted) => {
                    config.insert(field, wanted);
                }
            }
        }
    }
    Value::Object(config)
}

/// A hash that tells two configurations apart within this process. The server's own notes in the metadata do not count,
/// because a list of streams lacks some of them.
pub fn fingerprint(config: &Map<String, Value>) -> u64 {
    let mut hasher = DefaultHasher::new();
    for (field, value) in config {
        field.hash(&mut hasher);
        match value {
            Value::Object(metadata) if field == "metadata" => {
                let noted = metadata.iter().filter(|(key, _)| !key.starts_with("_nats."));
                noted.for_each(|entry| entry.hash(&mut hasher));
            }
            value => value.hash(&mut hasher),
        }
    }
    hasher.finish()
}

/// JetStream leaves out fields that are not set.
fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(entries) => entries.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn map(value: Value) -> Map<String, Value> {
        serde_json::from_value(value).expect("an object")
    }

    #[test]
    fn what_the_server_filled_in_is_no_difference() {
        let desired = json!({"name": "a", "max_msgs": -1, "filter": "", "metadata": {"ours": "1"}});
        let observed =
            json!({"name": "a", "max_msgs": -1, "max_waiting": 512, "metadata": {"ours": "1", "_nats.ver": "2.15.1"}});
        assert_eq!(differences(&desired, &map(observed)), []);
    }

    #[test]
    fn a_field_that_was_edited_is_named_with_both_values() {
        let observed = map(json!({"max_ack_pending": 7, "metadata": {"ours": "2"}}));
        let found = differences(&json!({"max_ack_pending": 4, "metadata": {"ours": "1"}}), &observed);
        let fields: Vec<_> = found.iter().map(ToString::to_string).collect();
        assert_eq!(
            fields,
            [
                "max_ack_pending: 7 instead of 4",
                r#"metadata: {"ours":"2"} instead of {"ours":"1"}"#
            ]
        );
    }

    #[test]
    fn an_update_keeps_what_is_not_ours() {
        let observed =
            map(json!({"name": "a", "placement": {"cluster": "c"}, "metadata": {"theirs": "x", "ours": "2"}}));
        let update = overlay(
            &json!({"name": "a", "max_msgs": 5, "metadata": {"ours": "1"}}),
            &observed,
        );
        assert_eq!(
            update,
            json!({"name": "a", "max_msgs": 5, "placement": {"cluster": "c"}, "metadata": {"theirs": "x", "ours": "1"}})
        );
    }
}
