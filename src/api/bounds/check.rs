//! The bounds as the operator checks them.

use super::{Bounds, Limit};
use crate::api::Duration;
use regex::Regex;
use serde_json::Value;
use std::{
    collections::{HashMap, HashSet},
    sync::LazyLock,
};

/// One thing that is wrong with an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Path of the field, for example `spec.timeouts.task`. Empty where the message names the field.
    pub field: String,
    /// The value, if it is a plain one, and how to fix it.
    pub message: String,
}

impl Bounds {
    /// The durations of an object that can't be read. A worker refuses no more than that, because the bounds of a newer
    /// operator may be wider than its own.
    pub fn unreadable_durations(&self, object: &Value) -> Vec<Problem> {
        let durations = self
            .fields
            .iter()
            .filter(|field| matches!(field.limit, Limit::Duration { .. }));
        durations
            .flat_map(|field| nodes(object, field.path).into_iter().map(move |node| (field, node)))
            .filter(|(_, (_, value))| {
                let text = value.as_str().unwrap_or_default();
                Duration::from(text).parsed().is_err()
            })
            .filter_map(|(field, (path, value))| {
                let message = field.limit.refuse(value)?;
                Some(Problem { field: path, message })
            })
            .collect()
    }

    /// Everything that is wrong with an object, in the words of an API server.
    pub fn check(&self, object: &Value) -> Vec<Problem> {
        let mut problems = Vec::new();
        for field in self.fields {
            for (path, value) in nodes(object, field.path) {
                if let Some(message) = field.limit.refuse(value) {
                    problems.push(Problem {
                        field: path.clone(),
                        message,
                    });
                }
                if let Limit::List { key: Some(key), .. } = field.limit {
                    problems.extend(duplicates(&path, value, key));
                }
            }
        }
        for rule in self.rules {
            let Some(holds) = rule.holds else { continue };
            let broken = nodes(object, rule.scope).into_iter().filter(|(_, node)| !holds(node));
            problems.extend(broken.map(|(field, node)| Problem {
                field,
                message: if node.is_object() {
                    rule.message.to_owned()
                } else {
                    super::limit::invalid(node, &rule.message)
                },
            }));
        }
        problems
    }
}

/// The nodes at a path with the paths that they have in this object: `spec.env[]` is `spec.env[0]`, `spec.env[1]`, …
fn nodes<'a>(object: &'a Value, path: &str) -> Vec<(String, &'a Value)> {
    let mut nodes = vec![(String::new(), object)];
    for segment in path.split('.').filter(|segment| !segment.is_empty()) {
        let name = segment.strip_suffix("[]");
        let below = |(path, node): (String, &'a Value)| {
            let dot = if path.is_empty() { "" } else { "." };
            let path = format!("{path}{dot}{}", name.unwrap_or(segment));
            let child = &node[name.unwrap_or(segment)];
            match child.as_array() {
                Some(items) if name.is_some() => {
                    let items = items.iter().enumerate();
                    items.map(|(index, item)| (format!("{path}[{index}]"), item)).collect()
                }
                _ if child.is_null() || name.is_some() => Vec::new(),
                _ => vec![(path, child)],
            }
        };
        nodes = nodes.into_iter().flat_map(below).collect();
    }
    nodes
}

/// Items of a list whose key another item already has.
fn duplicates(path: &str, list: &Value, key: &str) -> Vec<Problem> {
    let mut keys = HashSet::new();
    let items = list.as_array().into_iter().flatten().enumerate();
    items
        .filter(|(_, item)| !item[key].is_null() && !keys.insert(&item[key]))
        .map(|(index, item)| Problem {
            field: format!("{path}[{index}]"),
            message: format!("Duplicate value: {{\"{key}\":{}}}: remove one of them", item[key]),
        })
        .collect()
}

/// Whether a text matches a pattern of the tables.
pub(super) fn matches(pattern: &str, text: &str) -> bool {
    static COMPILED: LazyLock<HashMap<&'static str, Regex>> = LazyLock::new(|| {
        let fields = [super::TASK_GROUP, super::TASK_HANDLER]
            .into_iter()
            .flat_map(|bounds| bounds.fields);
        let patterns = fields.filter_map(|field| match field.limit {
            Limit::Pattern { pattern, .. } => Some((pattern, Regex::new(pattern).ok()?)),
            _ => None,
        });
        patterns.collect()
    });
    // A test compiles every pattern, so none is missing.
    COMPILED.get(pattern).is_some_and(|compiled| compiled.is_match(text))
}
