//! The modules of the library, found as the compiler finds them: from `src/lib.rs` along its `mod` items. Test modules are
//! left out.

use crate::tokens::{self, Imports};
use std::{
    collections::{BTreeMap, HashSet},
    fs,
    path::{Path, PathBuf},
};
use syn::{Attribute, Item, UseTree};

/// The path of a module below the root, for example `["operator", "plan"]`.
pub type Name = Vec<String>;

/// One module.
#[derive(Default)]
pub struct Module {
    /// Its file, from the root of the repository.
    pub file: PathBuf,
    /// Whether it is a folder: its file is a `mod.rs`, or it has a folder beside it with more modules.
    pub is_folder: bool,
    /// Its items, without tests. Those of modules in braces belong to these.
    pub items: Vec<Item>,
    imports: Imports,
    globs: Vec<Vec<String>>,
    defined: HashSet<String>,
}

/// A path in one module that leads to another.
#[derive(Clone, Debug)]
pub struct Reference {
    pub from: Name,
    pub to: Name,
    pub file: PathBuf,
    pub line: usize,
    pub text: String,
}

/// A file without its tests.
pub struct File {
    pub path: PathBuf,
    pub tokens: proc_macro2::TokenStream,
    /// Lines that do not belong to tests.
    pub lines: usize,
}

/// All that is known of the source.
#[derive(Default)]
pub struct Source {
    pub modules: BTreeMap<Name, Module>,
    pub files: Vec<File>,
    pub references: Vec<Reference>,
}

impl Source {
    /// The library of this repository. Each test reads it anew, as syntax trees are bound to their thread.
    pub fn of_this_crate() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        Self::read(&|file| fs::read_to_string(root.join(file)).ok())
    }

    /// Follows `src/lib.rs`; `text_of` reads a file where there is one.
    pub fn read(text_of: &dyn Fn(&Path) -> Option<String>) -> Self {
        let mut source = Self::default();
        source.add_file(Name::new(), Path::new("src/lib.rs"), Path::new("src"), text_of);
        for program in ["src/main.rs", "src/worker_main.rs"] {
            if let Some(text) = text_of(Path::new(program)) {
                source.files.push(file(Path::new(program), &text));
            }
        }
        source.find_references();
        source
    }

    fn add_file(&mut self, name: Name, path: &Path, folder: &Path, text_of: &dyn Fn(&Path) -> Option<String>) {
        let text = text_of(path).unwrap_or_else(|| panic!("{} is missing", path.display()));
        let parsed = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        self.files.push(file(path, &text));
        self.add_module(name, path, folder, parsed.items, text_of);
    }

    fn add_module(
        &mut self,
        name: Name,
        path: &Path,
        folder: &Path,
        items: Vec<Item>,
        text_of: &dyn Fn(&Path) -> Option<String>,
    ) {
        let mut module = Module {
            file: path.to_owned(),
            is_folder: path.ends_with("mod.rs"),
            ..Module::default()
        };
        for item in items {
            if is_test(attributes(&item)) {
                continue;
            }
            match item {
                Item::Mod(inner) => {
                    assert!(
                        !inner.attrs.iter().any(|attribute| attribute.path().is_ident("path")),
                        "{}: a module in an unusual place",
                        path.display()
                    );
                    let inner_name = inner.ident.to_string();
                    let mut full = name.clone();
                    full.push(inner_name.clone());
                    let inside = folder.join(&inner_name);
                    if let Some((_, items)) = inner.content {
                        self.add_module(full, path, &inside, items, text_of);
                        continue;
                    }
                    module.is_folder = true;
                    let flat = folder.join(format!("{inner_name}.rs"));
                    let nested = inside.join("mod.rs");
                    let file = if text_of(&flat).is_some() { flat } else { nested };
                    self.add_file(full, &file, &inside, text_of);
                }
                Item::Use(import) => {
                    read_use(&import.tree, &mut Vec::new(), &mut module);
                    module.items.push(Item::Use(import));
                }
                item => {
                    module.defined.extend(defined(&item));
                    module.items.push(item);
                }
            }
        }
        self.modules.insert(name, module);
    }

    fn find_references(&mut self) {
        let mut found = Vec::new();
        for file in &self.files {
            let Some((name, _)) = self.modules.iter().find(|(_, module)| module.file == file.path) else {
                continue;
            };
            tokens::paths(file.tokens.clone(), &mut Vec::new(), &mut |inner, path| {
                let from: Name = name.iter().chain(inner).cloned().collect();
                if let Some(to) = self.resolve(&from, &path.segments)
                    && to != from
                {
                    found.push(Reference {
                        from,
                        to,
                        file: file.path.clone(),
                        line: path.line,
                        text: path.segments.join("::"),
                    });
                }
            });
        }
        self.references = found;
    }

    /// The module that a path leads to from `from`: where its last segment is defined, however it is re-exported. `None`
    /// for paths into other crates.
    pub fn resolve(&self, from: &[String], path: &[String]) -> Option<Name> {
        self.resolve_within(from, path, 0)
    }

    fn resolve_within(&self, from: &[String], path: &[String], depth: usize) -> Option<Name> {
        // Imports may refer to each other in a circle.
        if depth > 16 {
            return None;
        }
        let (first, rest) = path.split_first()?;
        let mut at = from.to_vec();
        match first.as_str() {
            "crate" => at.clear(),
            "self" => {}
            "super" => {
                at.pop();
            }
            _ => return self.find(from, path, depth).filter(|to| to != from),
        }
        self.find(&at, rest, depth).or(Some(at))
    }

    /// Where `path` leads from inside the module `at`.
    fn find(&self, at: &[String], path: &[String], depth: usize) -> Option<Name> {
        let Some((first, rest)) = path.split_first() else {
            return Some(at.to_vec());
        };
        if first == "super" {
            let above = at.split_last().map(|(_, above)| above.to_vec()).unwrap_or_default();
            return self.find(&above, rest, depth);
        }
        let mut child = at.to_vec();
        child.push(first.clone());
        if self.modules.contains_key(&child) {
            return self.find(&child, rest, depth).or(Some(child));
        }
        let module = self.modules.get(at)?;
        if module.defined.contains(first) {
            return Some(at.to_vec());
        }
        if let Some(import) = module.imports.get(first) {
            // An import of the same name leads elsewhere, not to itself.
            if import.first() == Some(first) && !self.is_child(at, first) {
                return None;
            }
            let full: Vec<String> = import.iter().chain(rest).cloned().collect();
            return self.resolve_within(at, &full, depth + 1);
        }
        module.globs.iter().find_map(|glob| {
            let to = self.resolve_within(at, glob, depth + 1)?;
            let target = self.modules.get(&to)?;
            (target.defined.contains(first) || target.imports.contains_key(first))
                .then(|| self.find(&to, path, depth + 1))?
        })
    }

    fn is_child(&self, at: &[String], name: &str) -> bool {
        let mut child = at.to_vec();
        child.push(name.to_owned());
        self.modules.contains_key(&child)
    }
}

fn file(path: &Path, text: &str) -> File {
    let tokens = text
        .parse()
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let (tokens, tests) = tokens::without_tests(tokens);
    let of_tests: usize = tests.into_iter().map(Iterator::count).sum();
    File {
        path: path.to_owned(),
        tokens,
        lines: text.lines().count() - of_tests,
    }
}

fn read_use(tree: &UseTree, before: &mut Vec<String>, module: &mut Module) {
    match tree {
        UseTree::Path(path) => {
            before.push(path.ident.to_string());
            read_use(&path.tree, before, module);
            before.pop();
        }
        UseTree::Group(group) => group.items.iter().for_each(|tree| read_use(tree, before, module)),
        UseTree::Glob(_) => module.globs.push(before.clone()),
        UseTree::Name(name) => import(&name.ident.to_string(), &name.ident.to_string(), before, module),
        UseTree::Rename(rename) => import(&rename.ident.to_string(), &rename.rename.to_string(), before, module),
    }
}

fn import(name: &str, alias: &str, before: &[String], module: &mut Module) {
    let mut path = before.to_vec();
    let alias = if name == "self" {
        if alias == "self" {
            path.last().cloned()
        } else {
            Some(alias.to_owned())
        }
    } else {
        path.push(name.to_owned());
        Some(alias.to_owned())
    };
    if let Some(alias) = alias {
        module.imports.insert(alias, path);
    }
}

fn defined(item: &Item) -> Option<String> {
    Some(match item {
        Item::Const(item) => item.ident.to_string(),
        Item::Enum(item) => item.ident.to_string(),
        Item::Fn(item) => item.sig.ident.to_string(),
        Item::Macro(item) => item.ident.as_ref()?.to_string(),
        Item::Static(item) => item.ident.to_string(),
        Item::Struct(item) => item.ident.to_string(),
        Item::Trait(item) => item.ident.to_string(),
        Item::Type(item) => item.ident.to_string(),
        _ => return None,
    })
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

/// Whether an item is there in tests only.
pub fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg") && {
            let text = attribute.meta.require_list().map(|list| list.tokens.to_string());
            text.is_ok_and(|text| {
                text.split(|c: char| !c.is_alphanumeric()).any(|word| word == "test") && !text.contains("not")
            })
        }
    })
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// The source of a crate with these files.
    pub fn source(files: &[(&str, &str)]) -> Source {
        Source::read(&|path| {
            let (_, text) = files.iter().find(|(name, _)| Path::new(name) == path)?;
            Some((*text).to_owned())
        })
    }

    #[test]
    fn a_path_leads_to_where_its_item_is_defined_however_it_is_re_exported() {
        let source = source(&[
            ("src/lib.rs", "pub mod a; mod b;"),
            (
                "src/a/mod.rs",
                "mod c; mod d; pub use c::{C, inner::Deep as Shallow}; pub use d::*; use crate::b;",
            ),
            ("src/a/c.rs", "pub struct C; pub mod inner { pub struct Deep; }"),
            ("src/a/d.rs", "pub struct D; use super::C;"),
            ("src/b.rs", "use crate::a; use std::fmt;"),
        ]);
        let name = |text: &str| -> Name {
            text.split("::")
                .filter(|part| !part.is_empty())
                .map(Into::into)
                .collect()
        };
        for (from, path, to) in [
            ("b", "crate::a::C", Some("a::c")),
            ("b", "crate::a::Shallow", Some("a::c::inner")),
            ("b", "crate::a::D", Some("a::d")),
            ("b", "crate::a::unknown", Some("a")),
            ("b", "a::C", Some("a::c")),
            ("b", "fmt::Display", None),
            ("b", "std::fmt", None),
            ("a::d", "super::C", Some("a::c")),
            ("a::d", "super::b::X", Some("b")),
            ("a::c::inner", "super::super::d", Some("a::d")),
            ("a", "c::C", Some("a::c")),
        ] {
            let to = to.map(name);
            assert_eq!(source.resolve(&name(from), &name(path)), to, "{path} in {from}");
        }
    }
}
