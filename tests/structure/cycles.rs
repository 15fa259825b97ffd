//! No import cycles between folders.
//!
//! The modules at the top of `src/` import each other in one direction only, be they folders or single files. So do the
//! folders inside each folder. A folder may know its own parts and they may know it: imports between a module and the
//! modules inside it do not count, nor do those between the files of one folder. An import counts towards the module that
//! defines the item, however it is re-exported. Tests may import anything.

use crate::source::{Name, Reference, Source};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt::Write,
};

/// Lines shown for one import of a cycle.
const SHOWN: usize = 12;

/// Imports among the modules in one folder: by importing and imported module.
type Graph<'a> = BTreeMap<(String, String), Vec<&'a Reference>>;

/// What is wrong in each folder with a cycle.
fn cycles(source: &Source) -> Vec<String> {
    let mut graphs: BTreeMap<Name, Graph<'_>> = BTreeMap::new();
    for reference in &source.references {
        let (from, to) = (&reference.from, &reference.to);
        let shared = from.iter().zip(to).take_while(|(from, to)| from == to).count();
        let (Some(a), Some(b)) = (from.get(shared), to.get(shared)) else {
            continue;
        };
        let is_folder = |name: &[String]| source.modules.get(name).is_some_and(|module| module.is_folder);
        if shared == 0 || is_folder(&from[..=shared]) && is_folder(&to[..=shared]) {
            let graph = graphs.entry(from[..shared].to_vec()).or_default();
            graph.entry((a.clone(), b.clone())).or_default().push(reference);
        }
    }
    graphs
        .iter()
        .filter_map(|(folder, graph)| describe(folder, graph))
        .collect()
}

/// Every import that is part of a cycle, with the shortest cycle for each.
fn describe(folder: &Name, graph: &Graph<'_>) -> Option<String> {
    let nodes: BTreeSet<&String> = graph.keys().flat_map(|(from, to)| [from, to]).collect();
    let mut tangled = BTreeSet::new();
    let mut shortest: BTreeSet<Vec<&String>> = BTreeSet::new();
    for node in nodes {
        if let Some(cycle) = shortest_cycle(graph, node) {
            tangled.insert(node);
            // Each cycle once, from its first module on.
            let first = (0..cycle.len()).min_by_key(|at| cycle[*at])?;
            shortest.insert(cycle[first..].iter().chain(&cycle[..first]).copied().collect());
        }
    }
    if tangled.is_empty() {
        return None;
    }
    let place = if folder.is_empty() {
        "src".into()
    } else {
        format!("src/{}", folder.join("/"))
    };
    let names = |modules: &mut dyn Iterator<Item = &String>| modules.cloned().collect::<Vec<_>>();
    let mut text = format!(
        "{place}: {} modules import each other in circles: {}\n",
        tangled.len(),
        names(&mut tangled.iter().copied()).join(", ")
    );
    for cycle in shortest {
        let _ = writeln!(
            text,
            "  {} -> {}",
            names(&mut cycle.iter().copied()).join(" -> "),
            cycle[0]
        );
        for (at, from) in cycle.iter().enumerate() {
            let to = cycle[(at + 1) % cycle.len()];
            let all = &graph[&((*from).clone(), to.clone())];
            let lines: BTreeSet<String> = all
                .iter()
                .map(|found| format!("{}:{}  {}", found.file.display(), found.line, found.text))
                .collect();
            let _ = writeln!(text, "    {from} -> {to}, {} times:", lines.len());
            for line in lines.iter().take(SHOWN) {
                let _ = writeln!(text, "      {line}");
            }
            if lines.len() > SHOWN {
                let _ = writeln!(text, "      and {} more", lines.len() - SHOWN);
            }
        }
    }
    Some(text)
}

/// The shortest way from `start` back to it, without the last step.
fn shortest_cycle<'a>(graph: &'a Graph<'_>, start: &'a String) -> Option<Vec<&'a String>> {
    let mut ways = VecDeque::from([vec![start]]);
    let mut seen = BTreeSet::new();
    while let Some(way) = ways.pop_front() {
        let last = *way.last()?;
        for (from, to) in graph.keys() {
            if from != last {
                continue;
            }
            if to == start {
                return Some(way);
            }
            if seen.insert(to) {
                ways.push_back(way.iter().copied().chain([to]).collect());
            }
        }
    }
    None
}

#[test]
fn folders_import_each_other_in_one_direction_only() {
    let found = cycles(&Source::of_this_crate());
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::tests::source;

    #[test]
    fn a_cycle_is_found_at_every_level_with_the_lines_that_cause_it() {
        let source = source(&[
            ("src/lib.rs", "mod a; mod b; mod c;"),
            ("src/a/mod.rs", "mod x; mod y;\nuse crate::b::B;"),
            ("src/a/x/mod.rs", "mod deep; use super::y::deep::Y;"),
            ("src/a/x/deep.rs", "pub struct X;"),
            ("src/a/y/mod.rs", "mod deep;"),
            ("src/a/y/deep.rs", "pub struct Y; fn f() { crate::a::x::deep::X; }"),
            ("src/b.rs", "use crate::c::C; pub struct B;"),
            ("src/c.rs", "pub struct C;\nfn f(_: crate::a::Missing) {}"),
        ]);
        let found = cycles(&source);
        assert_eq!(found.len(), 2, "{found:#?}");
        assert!(found[0].contains("a -> b -> c -> a"), "{}", found[0]);
        assert!(found[0].contains("src/a/mod.rs:2  crate::b::B"), "{}", found[0]);
        assert!(found[0].contains("src/c.rs:2  crate::a::Missing"), "{}", found[0]);
        assert!(found[1].starts_with("src/a: 2 modules"), "{}", found[1]);
        assert!(found[1].contains("x -> y -> x"), "{}", found[1]);
    }

    #[test]
    fn parents_and_children_files_of_one_folder_and_tests_are_no_cycle() {
        let source = source(&[
            ("src/lib.rs", "mod a; mod b;"),
            (
                "src/a/mod.rs",
                "mod x; mod y; mod z; pub use x::X; use z::Z; pub struct A;",
            ),
            ("src/a/x.rs", "use super::{A, y::Y}; pub struct X;"),
            ("src/a/y.rs", "use super::X; pub struct Y;"),
            ("src/a/z/mod.rs", "use super::A; pub struct Z;"),
            ("src/b.rs", "use crate::a::A;"),
            ("src/a/z/tests.rs", "use crate::b::B;"),
        ]);
        assert_eq!(cycles(&source), Vec::<String>::new());
        let tested = [
            ("src/lib.rs", "mod a; mod b;"),
            ("src/a.rs", "#[cfg(test)] mod tests { use crate::b::B; }"),
            ("src/b.rs", "use crate::a;"),
        ];
        assert_eq!(
            cycles(&super::super::source::tests::source(&tested)),
            Vec::<String>::new()
        );
    }
}
