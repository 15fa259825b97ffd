//! No context has more than 8 fields.
//!
//! A context is a struct of the operator, the worker or the relay that its functions pass on as a whole. That is a struct
//! which more than [`OFTEN`] functions take by reference or in an `Arc`, as a parameter or, outside of the file that defines
//! it, as `self`. Structs whose names say it are contexts however few functions take them: see [`NAMES`].
//!
//! Values are no contexts, however often they are passed: what a struct describes does not grow with what its users need.
//! Whether a struct is a value shows in its definition. It derives `PartialEq`, or a trait of serde, schemars or clap
//! (settings, messages, API types, arguments); nothing that holds a connection, a lock or a channel can. Metrics are
//! values, too: structs of nothing but counters, gauges and histograms.

use crate::source::{Name, Source, is_test};
use std::collections::BTreeMap;
use syn::{
    Attribute, Field, FnArg, GenericArgument, ImplItem, Item, PathArguments, Signature, TraitItem, Type, TypePath,
};

/// Most fields of a context.
const FIELDS: usize = 8;

/// A struct that more functions take than this is passed on as a whole.
const OFTEN: usize = 5;

/// Components whose structs are checked.
const COMPONENTS: [&str; 3] = ["operator", "relay", "worker"];

/// These, and whatever ends in `Context`, are always contexts.
const NAMES: [&str; 7] = ["Group", "GroupMemory", "Operator", "Relay", "Run", "Runtime", "Worker"];

/// Traits that only values derive.
const OF_VALUES: [&str; 6] = ["Args", "Deserialize", "JsonSchema", "Parser", "PartialEq", "Serialize"];

/// Types of metrics.
const METRICS: [&str; 4] = ["Counter", "Family", "Gauge", "Histogram"];

struct Struct {
    file: String,
    line: usize,
    fields: Vec<String>,
    is_value: bool,
    /// Functions that take it by reference.
    taken: usize,
}

/// Contexts with too many fields.
fn too_large(source: &Source) -> Vec<String> {
    let mut structs = BTreeMap::new();
    for (name, module) in &source.modules {
        if name.first().is_none_or(|first| !COMPONENTS.contains(&first.as_str())) {
            continue;
        }
        for item in &module.items {
            if let Item::Struct(item) = item {
                let fields: Vec<&Field> = item.fields.iter().filter(|field| !is_test(&field.attrs)).collect();
                let found = Struct {
                    file: module.file.display().to_string(),
                    line: item.ident.span().start().line,
                    is_value: derives(&item.attrs, &OF_VALUES) || fields.iter().all(|field| is_metric(&field.ty)),
                    fields: fields
                        .iter()
                        .map(|field| field.ident.as_ref().map_or_else(|| "_".into(), ToString::to_string))
                        .collect(),
                    taken: 0,
                };
                structs.insert((name.clone(), item.ident.to_string()), found);
            }
        }
    }
    for (name, module) in &source.modules {
        for signature in signatures(&module.items) {
            for taken in signature.taken {
                let Some(key) = defined_in(source, name, &taken) else {
                    continue;
                };
                if let Some(found) = structs.get_mut(&key) {
                    found.taken += usize::from(!taken.is_self || found.file != module.file.display().to_string());
                }
            }
        }
    }
    let is_context = |name: &str, found: &Struct| {
        !found.is_value && (found.taken > OFTEN || NAMES.contains(&name) || name.ends_with("Context"))
    };
    structs
        .iter()
        .filter(|((_, name), found)| found.fields.len() > FIELDS && is_context(name, found))
        .map(|((_, name), found)| {
            format!(
                "{}:{}  {name}, taken by {} functions, has {} fields: {}",
                found.file,
                found.line,
                found.taken,
                found.fields.len(),
                found.fields.join(", ")
            )
        })
        .collect()
}

fn derives(attributes: &[Attribute], any_of: &[&str]) -> bool {
    attributes
        .iter()
        .filter(|attribute| attribute.path().is_ident("derive"))
        .any(|attribute| {
            let list = attribute.meta.require_list().map(|list| list.tokens.to_string());
            list.is_ok_and(|list| {
                list.split(|c: char| !c.is_alphanumeric())
                    .any(|word| any_of.contains(&word))
            })
        })
}

fn is_metric(field: &Type) -> bool {
    last_segment(field).is_some_and(|segment| METRICS.contains(&segment.ident.to_string().as_str()))
}

/// A type that a function takes by reference.
struct Taken {
    path: Vec<String>,
    is_self: bool,
}

struct Function {
    taken: Vec<Taken>,
}

fn signatures(items: &[Item]) -> Vec<Function> {
    let mut found = Vec::new();
    for item in items {
        match item {
            Item::Fn(item) => found.push(function(&item.sig, None)),
            Item::Impl(item) => {
                for inner in &item.items {
                    if let ImplItem::Fn(method) = inner
                        && !is_test(&method.attrs)
                    {
                        found.push(function(&method.sig, Some(&item.self_ty)));
                    }
                }
            }
            Item::Trait(item) => {
                for inner in &item.items {
                    if let TraitItem::Fn(method) = inner {
                        found.push(function(&method.sig, None));
                    }
                }
            }
            _ => {}
        }
    }
    found
}

fn function(signature: &Signature, of: Option<&Type>) -> Function {
    let taken = signature.inputs.iter().filter_map(|input| match input {
        FnArg::Receiver(receiver) if receiver.reference.is_some() || is_shared(&receiver.ty) => Some(Taken {
            path: path(of?)?,
            is_self: true,
        }),
        FnArg::Receiver(_) => None,
        FnArg::Typed(argument) => Some(Taken {
            path: by_reference(&argument.ty)?,
            is_self: false,
        }),
    });
    Function { taken: taken.collect() }
}

fn is_shared(receiver: &Type) -> bool {
    last_segment(receiver).is_some_and(|segment| segment.ident == "Arc")
}

/// The path of `T` in `&T`, `&mut T`, `Arc<T>` and `&Arc<T>`.
fn by_reference(argument: &Type) -> Option<Vec<String>> {
    match argument {
        Type::Reference(reference) => by_reference(&reference.elem).or_else(|| path(&reference.elem)),
        other => {
            let segment = last_segment(other).filter(|segment| segment.ident == "Arc")?;
            let PathArguments::AngleBracketed(arguments) = &segment.arguments else {
                return None;
            };
            match arguments.args.first()? {
                GenericArgument::Type(inner) => path(inner),
                _ => None,
            }
        }
    }
}

fn last_segment(type_: &Type) -> Option<&syn::PathSegment> {
    match type_ {
        Type::Path(TypePath { path, .. }) => path.segments.last(),
        _ => None,
    }
}

fn path(type_: &Type) -> Option<Vec<String>> {
    match type_ {
        Type::Path(TypePath { path, .. }) => {
            Some(path.segments.iter().map(|segment| segment.ident.to_string()).collect())
        }
        _ => None,
    }
}

/// The module and the name of the struct that a function of the module `name` takes.
fn defined_in(source: &Source, name: &Name, taken: &Taken) -> Option<(Name, String)> {
    let last = taken.path.last()?.clone();
    let here = source.modules.get(name)?;
    let is_here = taken.path.len() == 1
        && here
            .items
            .iter()
            .any(|item| matches!(item, Item::Struct(found) if found.ident == last));
    let module = if is_here {
        name.clone()
    } else {
        source.resolve(name, &taken.path)?
    };
    Some((module, last))
}

#[test]
fn no_context_has_more_than_8_fields() {
    let found = too_large(&Source::of_this_crate());
    assert!(
        found.is_empty(),
        "split them by what their users need:\n{}",
        found.join("\n")
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::tests::source;

    const NINE: &str = "{ a: A, b: A, c: A, d: A, e: A, f: A, g: A, h: A, i: A }";

    fn found(before: &str, name: &str, users: &str) -> usize {
        let worker = format!("{before} pub struct {name} {NINE} mod user;");
        let files = [
            ("src/lib.rs", "mod worker;"),
            ("src/worker/mod.rs", worker.as_str()),
            ("src/worker/user.rs", users),
        ];
        too_large(&source(&files)).len()
    }

    #[test]
    fn a_struct_is_a_context_by_its_name_or_by_those_who_take_it() {
        let take = |argument: &str| {
            let functions = ["a", "b", "c", "d", "e", "f"].map(|name| format!("fn {name}(x: {argument}) {{}}"));
            format!("use super::Thing; use std::sync::Arc; {}", functions.join(" "))
        };
        for (name, users, count) in [
            ("Worker", String::new(), 1),
            ("TestContext", String::new(), 1),
            ("Thing", String::new(), 0),
            ("Thing", take("&Thing"), 1),
            ("Thing", take("&mut super::Thing"), 1),
            ("Thing", take("&Arc<Thing>"), 1),
            ("Thing", take("Arc<Thing>"), 1),
            ("Thing", take("Thing"), 0),
            ("Thing", take("&Other"), 0),
            ("Thing", take("&Thing").replace("fn f", "#[cfg(test)] fn f"), 0),
            (
                "Thing",
                "use super::Thing; impl Thing { fn a(&self) {} fn b(&self) {} fn c(&self) {} fn d(&self) {} fn e(&self) {} fn f(&self) {} }".into(),
                1,
            ),
        ] {
            assert_eq!(found("", name, &users), count, "{name} {users}");
        }
    }

    #[test]
    fn values_are_no_contexts() {
        assert_eq!(found("#[derive(Clone, Debug)]", "Worker", ""), 1);
        assert_eq!(found("#[derive(Clone, PartialEq)]", "Worker", ""), 0);
        assert_eq!(found("#[derive(serde::Deserialize)]", "Worker", ""), 0);
    }
}
