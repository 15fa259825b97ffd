//! Definitions that are read from the source: enums without a list of their values, and metrics with their labels, which a
//! registry does not show before they are counted.

use proc_macro2::TokenTree;
use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};
use syn::{
    Expr, ExprMethodCall, Fields, GenericArgument, Item, ItemEnum, ItemStruct, Lit, PathArguments, Type, visit::Visit,
};

/// All files of `src/`.
fn files() -> Vec<(PathBuf, syn::File)> {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path, syn::parse_file(&text).unwrap()));
            }
        }
    }
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    found
}

/// The variants of an enum, found by its name. There must be one such enum in a folder of `src/`.
pub fn variants(folder: &str, name: &str) -> Vec<String> {
    let inside = |path: &Path| path.components().any(|part| part.as_os_str() == folder);
    let items = files()
        .into_iter()
        .filter(|(path, _)| inside(path))
        .flat_map(|(_, file)| file.items);
    let found: Vec<_> = items
        .filter_map(|item| match item {
            Item::Enum(ItemEnum { ident, variants, .. }) if ident == name => Some(variants),
            _ => None,
        })
        .collect();
    assert_eq!(found.len(), 1, "enums {name} in src/{folder}");
    found[0].iter().map(|variant| variant.ident.to_string()).collect()
}

/// The reasons of conditions: the variants of the enum that `reasons!` in `src/api` makes.
pub fn reasons() -> Vec<String> {
    let mut macros = Vec::new();
    for (path, file) in files() {
        if !path.components().any(|part| part.as_os_str() == "api") {
            continue;
        }
        macros.extend(file.items.into_iter().filter_map(|item| match item {
            Item::Macro(item) if item.mac.path.is_ident("reasons") => Some(item.mac.tokens),
            _ => None,
        }));
    }
    // Doc comments are groups after a `#`.
    let names = macros.into_iter().flatten().filter_map(|token| match token {
        TokenTree::Ident(name) => Some(name.to_string()),
        _ => None,
    });
    names.collect()
}

/// Every metric as `name type{labels}`, with the name that `/metrics` shows.
pub fn metrics() -> Vec<String> {
    let mut all = Vec::new();
    let files = files();
    for (path, file) in &files {
        let mut registered = Registered::default();
        registered.visit_file(file);
        let (fields, labels) = (fields(file), labels(file));
        for (name, unit, field) in registered.metrics {
            let type_ = fields
                .get(&field)
                .unwrap_or_else(|| panic!("{}: no field {field} for the metric {name}", path.display()));
            let prefix = registered
                .prefix
                .as_ref()
                .map(|prefix| format!("{prefix}_"))
                .unwrap_or_default();
            all.push(line(&format!("{prefix}{name}{unit}"), type_, &labels));
        }
    }
    all.sort();
    all
}

fn line(name: &str, type_: &Type, labels: &HashMap<String, Vec<String>>) -> String {
    let (outer, arguments) = name_and_arguments(type_);
    let (kind, labels) = if outer == "Family" {
        let of = name_and_arguments(&arguments[0]).0;
        let labels = labels
            .get(&of)
            .unwrap_or_else(|| panic!("{name}: define {of} in the file that registers the metric"));
        (name_and_arguments(&arguments[1]).0, labels.join(","))
    } else {
        (outer, String::new())
    };
    let total = if kind == "Counter" { "_total" } else { "" };
    format!("{name}{total}{{{labels}}} {}", kind.to_lowercase())
}

fn name_and_arguments(type_: &Type) -> (String, Vec<Type>) {
    let Type::Path(path) = type_ else {
        panic!("a metric of an unusual type")
    };
    let last = path.path.segments.last().unwrap();
    let arguments = match &last.arguments {
        PathArguments::AngleBracketed(arguments) => arguments
            .args
            .iter()
            .filter_map(|argument| match argument {
                GenericArgument::Type(type_) => Some(type_.clone()),
                _ => None,
            })
            .collect(),
        _ => Vec::new(),
    };
    (last.ident.to_string(), arguments)
}

/// The label sets of a file: their names with their labels.
fn labels(file: &syn::File) -> HashMap<String, Vec<String>> {
    let structs = file.items.iter().filter_map(|item| match item {
        Item::Struct(item) if derives_labels(item) => Some(item),
        _ => None,
    });
    structs
        .map(|item| (item.ident.to_string(), field_names(item)))
        .collect()
}

fn derives_labels(item: &ItemStruct) -> bool {
    item.attrs.iter().any(|attribute| {
        attribute.path().is_ident("derive")
            && attribute
                .meta
                .require_list()
                .is_ok_and(|list| list.tokens.to_string().contains("EncodeLabelSet"))
    })
}

fn field_names(item: &ItemStruct) -> Vec<String> {
    let names = item.fields.iter().filter_map(|field| field.ident.as_ref());
    names
        .map(|name| name.to_string().trim_start_matches("r#").to_owned())
        .collect()
}

/// The fields of all structs of a file by their names.
fn fields(file: &syn::File) -> HashMap<String, Type> {
    let mut all = HashMap::new();
    for item in &file.items {
        if let Item::Struct(ItemStruct {
            fields: Fields::Named(fields),
            ..
        }) = item
        {
            for field in &fields.named {
                all.insert(field.ident.as_ref().unwrap().to_string(), field.ty.clone());
            }
        }
    }
    all
}

/// The calls by which a file registers metrics: name, unit and field of each.
#[derive(Default)]
struct Registered {
    prefix: Option<String>,
    metrics: Vec<(String, &'static str, String)>,
}

impl Visit<'_> for Registered {
    fn visit_item_mod(&mut self, module: &syn::ItemMod) {
        // Tests register metrics of their own.
        if module.ident != "tests" {
            syn::visit::visit_item_mod(self, module);
        }
    }

    fn visit_expr_method_call(&mut self, call: &ExprMethodCall) {
        let arguments: Vec<_> = call.args.iter().collect();
        match (call.method.to_string().as_str(), arguments.as_slice()) {
            ("sub_registry_with_prefix", [prefix]) => self.prefix = text(prefix),
            ("register", [name, _, metric]) => {
                if let (Some(name), Some(field)) = (text(name), field(metric)) {
                    self.metrics.push((name, "", field));
                }
            }
            ("register_with_unit", [name, _, unit, metric]) => {
                let unit = match unit {
                    Expr::Path(path) if path.path.segments.last().unwrap().ident == "Seconds" => "_seconds",
                    Expr::Path(path) if path.path.segments.last().unwrap().ident == "Bytes" => "_bytes",
                    _ => panic!("a unit that this test does not know"),
                };
                self.metrics.push((text(name).unwrap(), unit, field(metric).unwrap()));
            }
            _ => {}
        }
        syn::visit::visit_expr_method_call(self, call);
    }
}

fn text(expression: &Expr) -> Option<String> {
    match expression {
        Expr::Lit(literal) => match &literal.lit {
            Lit::Str(text) => Some(text.value()),
            _ => None,
        },
        _ => None,
    }
}

/// `tasks` in `metrics.tasks.clone()`.
fn field(expression: &Expr) -> Option<String> {
    match expression {
        Expr::MethodCall(call) if call.method == "clone" => field(&call.receiver),
        Expr::Reference(reference) => field(&reference.expr),
        Expr::Field(field) => match &field.member {
            syn::Member::Named(name) => Some(name.to_string()),
            syn::Member::Unnamed(_) => None,
        },
        Expr::Path(path) => path.path.get_ident().map(ToString::to_string),
        _ => None,
    }
}
