//! One page per CustomResourceDefinition: columns, fields with their bounds and defaults, and CEL rules.

use super::markdown::{code, page as markdown_page, paragraph, table};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::Value;
use std::fmt::Write;

/// Describes the newest version of a definition.
pub fn page(definition: &CustomResourceDefinition) -> anyhow::Result<String> {
    let names = &definition.spec.names;
    let version = definition
        .spec
        .versions
        .last()
        .ok_or_else(|| anyhow::anyhow!("{} has no version", names.kind))?;
    let version = serde_json::to_value(version)?;
    let root = &version["schema"]["openAPIV3Schema"];

    let mut body = format!("{}\n\n", paragraph(text(root, "description")));
    writeln!(
        body,
        "`apiVersion: {}/{}`, `kind: {}`, {}. `kubectl` also accepts {}.\n",
        definition.spec.group,
        text(&version, "name"),
        names.kind,
        definition.spec.scope.to_lowercase(),
        [
            vec![names.plural.clone()],
            names.short_names.clone().unwrap_or_default()
        ]
        .concat()
        .iter()
        .map(|name| code(name))
        .collect::<Vec<_>>()
        .join(" and "),
    )?;
    if let Some(path) = version["subresources"]["scale"]["specReplicasPath"].as_str() {
        writeln!(
            body,
            "`kubectl scale --replicas` sets {}.\n",
            code(path.trim_start_matches('.'))
        )?;
    }
    let mut rules = Rules::default();
    rules.collect("", root);
    for (part, title) in [("spec", "Spec"), ("status", "Status")] {
        let schema = &root["properties"][part];
        if schema.is_null() {
            continue;
        }
        let mut fields = Vec::new();
        walk("", schema, &mut fields);
        rules.collect(part, schema);
        write!(
            body,
            "## {title}\n\n{}\n\n{}",
            paragraph(text(schema, "description")),
            table(&["field", "type", "default", "bounds", "description"], &fields)
        )?;
        if part == "spec" && !rules.0.is_empty() {
            write!(
                body,
                "## Rules\n\nThe API server refuses an object that breaks one of these rules, and prints the message. \
                 API servers before Kubernetes 1.25 drop the rules; the operator then reports the same in a condition.\n\n{}",
                table(&["object", "message", "rule"], &rules.0)
            )?;
        }
    }
    body.push_str(&columns(&version["additionalPrinterColumns"]));
    Ok(markdown_page(&names.kind, &body))
}

/// CEL rules with the object that each is checked on.
#[derive(Default)]
struct Rules(Vec<Vec<String>>);

impl Rules {
    /// Collects the rules of the root itself, or of a part with everything in it.
    fn collect(&mut self, path: &str, schema: &Value) {
        for rule in array(&schema["x-kubernetes-validations"]) {
            let on = if path.is_empty() { "the object" } else { path };
            self.0.push(vec![
                if path.is_empty() { on.to_owned() } else { code(on) },
                text(rule, "message").to_owned(),
                code(text(rule, "rule")),
            ]);
        }
        if path.is_empty() {
            return;
        }
        each_child(path, schema, &mut |path, child| self.collect(path, child));
    }
}

/// Adds a row for each field below `schema`, a parent before its children.
fn walk(path: &str, schema: &Value, rows: &mut Vec<Vec<String>>) {
    each_child(path, schema, &mut |path, child| {
        let required = required(schema, path);
        // The items of an array are described by the array's own row.
        if !path.ends_with("[]") && !path.ends_with("{}") {
            rows.push(row(path, child, required));
        }
        walk(path, child, rows);
    });
}

fn each_child(path: &str, schema: &Value, visit: &mut dyn FnMut(&str, &Value)) {
    for (name, child) in schema["properties"].as_object().into_iter().flatten() {
        let path = if path.is_empty() {
            name.clone()
        } else {
            format!("{path}.{name}")
        };
        visit(&path, child);
    }
    if schema["items"].is_object() {
        visit(&format!("{path}[]"), &schema["items"]);
    }
    if schema["additionalProperties"].is_object() {
        visit(&format!("{path}{{}}"), &schema["additionalProperties"]);
    }
}

fn required(parent: &Value, path: &str) -> bool {
    let name = path.rsplit('.').next().unwrap_or(path);
    array(&parent["required"]).any(|required| required == name)
}

fn row(path: &str, schema: &Value, required: bool) -> Vec<String> {
    let default = match &schema["default"] {
        _ if required => "required".to_owned(),
        // The defaults of an object's fields are in the rows below.
        Value::Null | Value::Object(_) => String::new(),
        Value::String(text) if text.is_empty() => "`\"\"`".to_owned(),
        Value::String(text) => code(text),
        value => code(&number(value)),
    };
    let (description, stated) = split(text(schema, "description"));
    vec![
        code(path),
        type_of(schema),
        default,
        stated.unwrap_or_else(|| bounds(schema).join(", ")),
        description,
    ]
}

/// Splits the bounds and the default from a description, whose last sentences state them for `kubectl explain`. The stated
/// bounds are easier to read than those of the schema, where for example a duration is a pattern.
fn split(description: &str) -> (String, Option<String>) {
    let text = paragraph(description);
    let text = match text.rsplit_once(" Defaults to ") {
        Some((text, default)) if !default.contains(". ") => text,
        _ => &text,
    };
    for must in [" Must be ", " Must have "] {
        if let Some((text, bounds)) = text.rsplit_once(must) {
            return (text.to_owned(), Some(bounds.trim_end_matches('.').to_owned()));
        }
    }
    (text.to_owned(), None)
}

fn type_of(schema: &Value) -> String {
    if schema["x-kubernetes-int-or-string"] == true {
        return "integer or string".to_owned();
    }
    match text(schema, "type") {
        "array" => {
            let item = type_of(&schema["items"]);
            format!("array of {}s", item.split(',').next().unwrap_or_default())
        }
        "object" if schema["x-kubernetes-preserve-unknown-fields"] == true => "object, free-form".to_owned(),
        "" => "any".to_owned(),
        name => name.to_owned(),
    }
}

fn bounds(schema: &Value) -> Vec<String> {
    let mut bounds = Vec::new();
    let values: Vec<_> = array(&schema["enum"])
        .filter(|value| !value.is_null())
        .map(|value| code(value.as_str().unwrap_or_default()))
        .collect();
    if !values.is_empty() {
        bounds.push(values.join(", "));
    }
    for (least, most, unit) in [
        ("minimum", "maximum", ""),
        ("minLength", "maxLength", " characters"),
        ("minItems", "maxItems", " items"),
    ] {
        match (&schema[least], &schema[most]) {
            (Value::Null, Value::Null) => {}
            (least, Value::Null) => bounds.push(format!("at least {}{unit}", number(least))),
            (Value::Null, most) => bounds.push(format!("at most {}{unit}", number(most))),
            (least, most) => bounds.push(format!("{} to {}{unit}", number(least), number(most))),
        }
    }
    if let Some(pattern) = schema["pattern"].as_str() {
        bounds.push(code(pattern));
    }
    bounds
}

/// A CRD holds all bounds as floating point numbers; most of them are whole.
fn number(value: &Value) -> String {
    match value.as_f64() {
        Some(number) if number.fract() == 0.0 => format!("{number:.0}"),
        _ => value.to_string(),
    }
}

fn columns(columns: &Value) -> String {
    let rows: Vec<_> = array(columns)
        .map(|column| {
            let wide = column["priority"].as_i64().unwrap_or(0) > 0;
            vec![
                code(text(column, "name")),
                code(text(column, "jsonPath").trim_start_matches('.')),
                if wide { "`-o wide`" } else { "" }.to_owned(),
            ]
        })
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    format!(
        "## Columns of `kubectl get`\n\n{}",
        table(&["column", "value", "shown by"], &rows)
    )
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn array(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_come_with_type_default_and_bounds_parents_first() {
        let schema = json!({
            "type": "object",
            "required": ["size"],
            "properties": {
                "env": {"type": "array", "maxItems": 2, "items": {
                    "type": "object", "properties": {"name": {"type": "string", "minLength": 1, "maxLength": 9}},
                }},
                "mode": {"type": "string", "enum": ["A", "B"], "default": "A", "description": "How."},
                "size": {"type": "integer", "minimum": 1.0, "maximum": 100_000.0},
                "text": {"type": "string", "default": ""},
            },
        });
        let mut rows = Vec::new();
        walk("", &schema, &mut rows);
        let rows: Vec<_> = rows.iter().map(|row| row.join(" / ")).collect();
        assert_eq!(
            rows,
            [
                "`env` / array of objects /  / at most 2 items / ",
                "`env[].name` / string /  / 1 to 9 characters / ",
                "`mode` / string / `A` / `A`, `B` / How.",
                "`size` / integer / required / 1 to 100000 / ",
                "`text` / string / `\"\"` /  / ",
            ]
        );
    }

    #[test]
    fn bounds_and_default_that_the_description_states_move_to_their_columns() {
        let text = "Period of the rate. Must be 1s to 24h. Defaults to `1s`.";
        assert_eq!(split(text), ("Period of the rate.".into(), Some("1s to 24h".into())));
        assert_eq!(
            split("Items. Must have 1 to 9 items."),
            ("Items.".into(), Some("1 to 9 items".into()))
        );
        assert_eq!(split("Plain."), ("Plain.".into(), None));
        let early = "Name. Defaults to another name. Can't be changed.";
        assert_eq!(split(early), (early.into(), None));
    }

    #[test]
    fn rules_are_found_at_every_depth() {
        let rule = |rule: &str| json!([{"rule": rule, "message": "no"}]);
        let schema = json!({
            "x-kubernetes-validations": rule("a"),
            "properties": {"env": {"items": {"x-kubernetes-validations": rule("b")}}},
        });
        let mut rules = Rules::default();
        rules.collect("spec", &schema);
        let on: Vec<_> = rules
            .0
            .iter()
            .map(|rule| (rule[0].as_str(), rule[2].as_str()))
            .collect();
        assert_eq!(on, [("`spec`", "`a`"), ("`spec.env[]`", "`b`")]);
    }
}
