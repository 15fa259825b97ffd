//! Small changes to manifests as JSON. Pure.

use serde_json::{Map, Value, json};

/// `with` over `base`, objects field by field.
pub fn merge(base: &mut Value, with: &Value) {
    match (base, with) {
        (Value::Object(base), Value::Object(with)) => {
            for (field, value) in with {
                merge(base.entry(field).or_insert(Value::Null), value);
            }
        }
        (base, with) => *base = with.clone(),
    }
}

/// The list in a field, taken out; empty where there is none.
pub fn take_list(object: &mut Map<String, Value>, field: &str) -> Vec<Value> {
    match object.remove(field) {
        Some(Value::Array(items)) => items,
        _ => Vec::new(),
    }
}

/// Puts items behind those of a list, and makes the list where there is none.
pub fn extend(object: &mut Map<String, Value>, field: &str, items: impl IntoIterator<Item = Value>) {
    let mut list = take_list(object, field);
    list.extend(items);
    if !list.is_empty() {
        object.insert(field.into(), Value::Array(list));
    }
}

/// The item of a list with this name.
pub fn named<'a>(items: &'a mut [Value], name: &str) -> Option<&'a mut Map<String, Value>> {
    let found = items.iter_mut().find(|item| item["name"] == name)?;
    found.as_object_mut()
}

/// `items` without those that one of `others` has the name of.
pub fn without_names_of(mut items: Vec<Value>, others: &[Value]) -> Vec<Value> {
    items.retain(|item| others.iter().all(|other| other["name"] != item["name"]));
    items
}

/// An environment variable.
pub fn variable(name: &str, value: &str) -> Value {
    json!({"name": name, "value": value})
}
