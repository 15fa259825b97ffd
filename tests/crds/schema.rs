//! What current API servers refuse and the one of our tests may not know yet: a schema that is not
//! structural, and CEL rules without a bound on their cost. And what we ask of our schemas beyond that.

use kube::core::cel::{ScopeContext, analyze_rule, compile_schema};
use serde_json::Value;

/// A node of a schema, with the path that `kubectl explain` would take.
struct Node<'a> {
    path: String,
    schema: &'a Value,
    /// Whether a list on the way here has no bound, so that rules could run any number of times.
    unbounded: bool,
}

impl Node<'_> {
    fn is(&self, type_: &str) -> bool {
        self.schema["type"] == type_
    }

    fn int_or_string(&self) -> bool {
        self.schema["x-kubernetes-int-or-string"] == true
    }

    fn has(&self, key: &str) -> bool {
        !self.schema[key].is_null()
    }

    fn rules(&self) -> impl Iterator<Item = &Value> {
        self.schema["x-kubernetes-validations"].as_array().into_iter().flatten()
    }
}

/// The root schema of each kind.
pub fn roots() -> Vec<(String, Value)> {
    let crds = taskgroup::api::crds().into_iter();
    crds.map(|(_, crd)| {
        let schema = crd.spec.versions[0].schema.as_ref().unwrap();
        let root = serde_json::to_value(schema.open_api_v3_schema.as_ref().unwrap()).unwrap();
        (crd.spec.names.kind.clone(), root)
    })
    .collect()
}

fn walk<'a>(path: &str, schema: &'a Value, unbounded: bool, visit: &mut impl FnMut(&Node<'a>)) {
    visit(&Node {
        path: path.to_owned(),
        schema,
        unbounded,
    });
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        walk(&format!("{path}.{name}"), field, unbounded, visit);
    }
    if schema["items"].is_object() {
        let unbounded = unbounded || schema["maxItems"].is_null();
        walk(&format!("{path}[]"), &schema["items"], unbounded, visit);
    }
}

/// Checks every node of both kinds and reports everything that `check` finds, at once.
fn every_node(check: impl Fn(&Node) -> Option<String>) {
    let roots = roots();
    let mut problems = Vec::new();
    let mut nodes = 0;
    for (kind, root) in &roots {
        walk(kind, root, false, &mut |node| {
            nodes += 1;
            problems.extend(check(node).map(|problem| format!("{}: {problem}", node.path)));
        });
    }
    assert!(nodes > 60, "only {nodes} nodes were found");
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn every_field_is_explained() {
    every_node(|node| {
        let description = node.schema["description"].as_str().unwrap_or_default();
        // Lists explain themselves, their items need not.
        (description.len() < 10 && !node.path.ends_with(']')).then(|| "has no description".into())
    });
}

#[test]
fn every_node_has_one_type_and_no_alternatives() {
    every_node(|node| {
        let typed = node.schema["type"].is_string();
        if typed == node.int_or_string() {
            return Some("has either a type or x-kubernetes-int-or-string".into());
        }
        let juncts = [
            "anyOf",
            "allOf",
            "oneOf",
            "not",
            "additionalProperties",
            "x-kubernetes-embedded-resource",
        ];
        juncts.iter().find(|key| node.has(key)).map(|key| format!("uses {key}"))
    });
}

#[test]
fn no_field_is_nullable() {
    every_node(|node| {
        let null = node.schema["enum"]
            .as_array()
            .is_some_and(|values| values.contains(&Value::Null));
        (node.has("nullable") || null).then(|| "is nullable: a null is to be dropped by the server".into())
    });
}

#[test]
fn what_a_default_sets_is_typed() {
    every_node(|node| {
        let default = &node.schema["default"];
        let fits = match node.schema["type"].as_str() {
            _ if default.is_null() => true,
            Some("string") => default.is_string(),
            Some("boolean") => default.is_boolean(),
            Some("integer") => default.is_i64(),
            Some("number") => default.is_number(),
            Some("object") => default.is_object(),
            Some("array") => default.is_array(),
            _ => node.int_or_string(),
        };
        (!fits).then(|| format!("its default {default} is of another type"))
    });
}

#[test]
fn a_list_says_how_it_is_merged_and_how_long_it_may_be() {
    every_node(|node| {
        if !node.is("array") {
            return None;
        }
        if !node.has("maxItems") {
            return Some("has no maxItems".into());
        }
        // A list of plain values is one value: nobody adds an argument to another's command.
        let merged = if node.schema["items"]["type"] == "object" {
            "map"
        } else {
            "atomic"
        };
        if node.schema["x-kubernetes-list-type"] != merged {
            return Some(format!("its x-kubernetes-list-type is not {merged}"));
        }
        if merged == "atomic" {
            return None;
        }
        let items = &node.schema["items"];
        let keys = node.schema["x-kubernetes-list-map-keys"].as_array().unwrap();
        let required = items["required"].as_array().unwrap();
        let optional = keys.iter().find(|key| {
            let field = &items["properties"][key.as_str().unwrap()];
            !required.contains(key) && field["default"].is_null()
        });
        optional.map(|key| format!("its key {key} is neither required nor has a default"))
    });
}

#[test]
fn a_pattern_is_about_the_whole_text() {
    every_node(|node| {
        let pattern = node.schema["pattern"].as_str()?;
        (!(pattern.starts_with('^') && pattern.ends_with('$'))).then(|| format!("{pattern} has no ends"))
    });
}

#[test]
fn what_users_write_is_bounded() {
    every_node(|node| {
        let spec = node.path.split('.').nth(1) == Some("spec");
        let text = node.is("string") || node.int_or_string();
        let bounded = node.has("maxLength") || node.has("enum");
        (spec && text && !bounded).then(|| "has no maxLength".into())
    });
}

#[test]
fn every_rule_has_a_message_and_the_right_variables() {
    every_node(|node| {
        let compiled = compile_schema(node.schema);
        node.rules().find_map(|rule| {
            let text = rule["rule"].as_str().unwrap();
            let message = rule["message"].as_str().unwrap_or_default();
            if message.is_empty() || message.len() > 2048 || message.contains('\n') {
                return Some(format!("{text} has no message of one line"));
            }
            let mut warnings = analyze_rule(text, &compiled, ScopeContext::CrdValidation);
            // The analysis does not know the variable that a macro binds.
            let is_bound = |message: &str| message.starts_with("variable 'c' ") && text.contains("exists(c, ");
            warnings.retain(|warning| !is_bound(&warning.message));
            (!warnings.is_empty()).then(|| format!("{text}: {warnings:?}"))
        })
    });
}

/// The server estimates the cost of a rule from the bounds of what it reads, times how often it runs.
#[test]
fn the_cost_of_every_rule_is_bounded() {
    every_node(|node| {
        node.rules().find_map(|rule| {
            let rule = rule["rule"].as_str().unwrap();
            if node.unbounded {
                return Some(format!("{rule} runs once per item of a list without maxItems"));
            }
            let unbounded = operands(rule).into_iter().find(|path| !is_bounded(node.schema, path));
            unbounded.map(|path| format!("{rule} reads {path}, which has no bound"))
        })
    });
}

#[test]
fn the_operands_of_a_rule_are_found() {
    let rule = "has(self.a.b) ? self.a.b.size() > 1 : !oldSelf.list.all(x, x.y != self.c)";
    assert_eq!(operands(rule), ["a.b", "a.b", "list", "c"]);
}

/// The paths below `self` and `oldSelf` that a rule reads.
fn operands(rule: &str) -> Vec<String> {
    let is_path = |c: char| c.is_alphanumeric() || matches!(c, '.' | '_');
    let mut paths = Vec::new();
    let mut rest = rule;
    while let Some(start) = rest.find(is_path) {
        rest = &rest[start..];
        let end = rest.find(|c| !is_path(c)).unwrap_or(rest.len());
        let (token, after) = rest.split_at(end);
        rest = after;
        let Some(path) = token.strip_prefix("self").or_else(|| token.strip_prefix("oldSelf")) else {
            continue;
        };
        let path = path.trim_start_matches('.');
        // What is called is a method of the operand.
        let path = match path.rsplit_once('.') {
            Some((operand, _method)) if after.starts_with('(') => operand,
            None if after.starts_with('(') => "",
            _ => path,
        };
        paths.push(path.to_owned());
    }
    paths
}

/// Whether what lies at `path` below `schema`, with all that is in it, has a greatest size.
fn is_bounded(schema: &Value, path: &str) -> bool {
    // The server knows how long a name can be.
    if path == "metadata.name" {
        return true;
    }
    let target = path
        .split('.')
        .filter(|name| !name.is_empty())
        .try_fold(schema, |schema, name| schema["properties"].get(name));
    let Some(target) = target else { return false };
    let mut bounded = true;
    walk("", target, false, &mut |node| {
        let text = node.is("string") && !node.has("maxLength") && !node.has("enum");
        let list = node.is("array") && !node.has("maxItems");
        // The open objects themselves are only asked for by has(), which is free.
        bounded &= !(text || list);
    });
    bounded
}
