//! The bounds as a CustomResourceDefinition states them.

use super::{Bounds, Limit};
use crate::api::Size;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSON, JSONSchemaProps, JSONSchemaPropsOrArray, ValidationRule,
};
use serde_json::Value;

impl Bounds {
    /// Writes the bounds into the schema of the kind, and into the description of each bounded field.
    ///
    /// Returns the paths that the schema does not have. A test sees to it that there are none.
    pub fn write(&self, root: &mut JSONSchemaProps) -> Vec<&'static str> {
        let mut unknown = Vec::new();
        for field in self.fields {
            match node(root, field.path) {
                Some(node) => write_limit(&field.limit, node),
                None => unknown.push(field.path),
            }
        }
        for rule in self.rules {
            match node(root, rule.scope) {
                Some(node) => add_rule(node, rule.cel.to_owned(), rule.message.to_owned()),
                None => unknown.push(rule.scope),
            }
        }
        unknown
    }
}

/// The schema at a path.
fn node<'a>(root: &'a mut JSONSchemaProps, path: &str) -> Option<&'a mut JSONSchemaProps> {
    path.split('.')
        .filter(|segment| !segment.is_empty())
        .try_fold(root, |node, segment| {
            let name = segment.strip_suffix("[]");
            let child = node.properties.as_mut()?.get_mut(name.unwrap_or(segment))?;
            if name.is_none() {
                return Some(child);
            }
            match &mut child.items {
                Some(JSONSchemaPropsOrArray::Schema(items)) => Some(&mut **items),
                _ => None,
            }
        })
}

fn write_limit(limit: &Limit, node: &mut JSONSchemaProps) {
    match *limit {
        Limit::Integer { min, max } => {
            node.minimum = Some(min.into());
            node.maximum = max.map(f64::from);
        }
        Limit::Number { min, max } => {
            node.minimum = Some(min);
            node.maximum = Some(max);
        }
        Limit::Duration { min, max, zero } => {
            let zero = if zero.is_some() {
                "duration(self) == duration('0s') || "
            } else {
                ""
            };
            let rule = format!("{zero}duration(self) >= duration('{min}') && duration(self) <= duration('{max}')");
            add_rule(node, rule, limit.to_string());
        }
        Limit::Size { max: Some(max), .. } => {
            if let Ok(max) = Size(max.into()).parse() {
                add_rule(node, size_rule(max), limit.to_string());
            }
        }
        Limit::Size { max: None, .. } => {}
        Limit::Text { min, max } => write_length(node, min, max),
        Limit::Pattern { min, max, pattern, .. } => {
            write_length(node, min, max);
            node.pattern = Some(pattern.to_owned());
        }
        Limit::List { min, max, key } => {
            node.min_items = (min > 0).then_some(min.into());
            node.max_items = Some(max.into());
            node.x_kubernetes_list_type = Some(if key.is_some() { "map" } else { "atomic" }.to_owned());
            node.x_kubernetes_list_map_keys = key.map(|key| vec![key.to_owned()]);
        }
    }
    if let Some(description) = &mut node.description {
        add_sentence(description, &limit.to_string());
    }
}

fn write_length(node: &mut JSONSchemaProps, min: u32, max: u32) {
    node.min_length = (min > 0).then_some(min.into());
    node.max_length = Some(max.into());
}

fn add_rule(node: &mut JSONSchemaProps, rule: String, message: String) {
    node.x_kubernetes_validations
        .get_or_insert_default()
        .push(ValidationRule {
            rule,
            message: Some(message),
            ..ValidationRule::default()
        });
}

/// A CEL rule that bounds a size in bytes. `quantity()` would be shorter, but API servers before 1.29 don't know
/// it. `type()` would tell numbers from texts, but not every evaluator of CEL has it.
fn size_rule(max: i64) -> String {
    let units = Size::UNITS.iter().rev().filter(|(unit, _)| !unit.is_empty());
    let by_unit = units.fold(String::new(), |rule, (unit, factor)| {
        let most = max / factor;
        rule + &format!("string(self).endsWith('{unit}') ? int(self.replace('{unit}', '')) <= {most} : ")
    });
    // int() fails on more digits, and its error would hide the message.
    format!("size(string(self)) <= 18 && ({by_unit}int(string(self)) <= {max})")
}

/// Rewrites the descriptions of a schema: line breaks of the source code become spaces, and fields with a plain
/// default state it.
pub fn describe(schema: &mut JSONSchemaProps) {
    if let Some(description) = &mut schema.description {
        *description = description.replace('\n', " ");
        match &schema.default {
            Some(JSON(Value::String(text))) => add_sentence(description, &format!("defaults to `{text}`")),
            Some(JSON(Value::Number(number))) => {
                // Whole numbers print without `.0`.
                let number = number.as_f64().unwrap_or_default();
                add_sentence(description, &format!("defaults to {number}"));
            }
            Some(JSON(Value::Bool(value))) => add_sentence(description, &format!("defaults to {value}")),
            _ => {}
        }
    }
    schema
        .properties
        .iter_mut()
        .flatten()
        .for_each(|(_, field)| describe(field));
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
        describe(items);
    }
}

/// Appends a clause as a sentence.
fn add_sentence(text: &mut String, clause: &str) {
    let mut chars = clause.chars();
    if let Some(first) = chars.next() {
        text.push(' ');
        text.extend(first.to_uppercase());
        text.push_str(chars.as_str());
        text.push('.');
    }
}
