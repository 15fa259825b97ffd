//! The manifests in the pages are ones that the API accepts.

use super::page::current_pages;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use taskgroup::api::{TaskGroup, TaskHandler};

#[test]
fn every_complete_manifest_in_a_page_has_only_fields_that_exist() {
    let mut checked = 0;
    for page in current_pages() {
        for block in page.blocks("yaml") {
            for document in serde_yaml::Deserializer::from_str(&block) {
                let manifest = Value::deserialize(document)
                    .unwrap_or_else(|error| panic!("{}: {error} in\n{block}", page.path.display()));
                let problem = match manifest["kind"].as_str() {
                    Some("TaskGroup") => lost::<TaskGroup>(&manifest),
                    Some("TaskHandler") => lost::<TaskHandler>(&manifest),
                    _ => continue,
                };
                assert_eq!(problem, None, "{}:\n{block}", page.path.display());
                checked += 1;
            }
        }
    }
    assert!(checked >= 10, "only {checked} manifests were found");
}

/// Why the API would refuse the manifest, or the first field that it would drop.
fn lost<K: DeserializeOwned + Serialize>(manifest: &Value) -> Option<String> {
    match serde_json::from_value::<K>(manifest.clone()) {
        Ok(object) => missing("", manifest, &serde_json::to_value(object).unwrap()),
        Err(error) => Some(error.to_string()),
    }
}

fn missing(path: &str, wanted: &Value, found: &Value) -> Option<String> {
    match (wanted, found) {
        (Value::Object(wanted), Value::Object(found)) => wanted.iter().find_map(|(key, wanted)| {
            let path = format!("{path}.{key}");
            // What is left out when it is empty is no loss.
            let empty = wanted == &Value::Bool(false);
            match found.get(key) {
                Some(found) => missing(&path, wanted, found),
                None => (!empty).then_some(path),
            }
        }),
        (Value::Array(wanted), Value::Array(found)) if wanted.len() == found.len() => {
            let mut pairs = wanted.iter().zip(found).enumerate();
            pairs.find_map(|(index, (wanted, found))| missing(&format!("{path}[{index}]"), wanted, found))
        }
        (Value::Array(_) | Value::Object(_), _) => Some(path.to_owned()),
        _ => None,
    }
}
