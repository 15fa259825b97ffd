//! What may be known in one place only.

use crate::source::Source;
use proc_macro2::{TokenStream, TokenTree};

/// The lines in which a word occurs in code.
fn lines_with(tokens: TokenStream, word: &str) -> Vec<usize> {
    let mut lines = Vec::new();
    for token in tokens {
        match token {
            TokenTree::Ident(ident) if ident == word => lines.push(ident.span().start().line),
            TokenTree::Group(group) => lines.extend(lines_with(group.stream(), word)),
            _ => {}
        }
    }
    lines
}

#[test]
fn only_the_broker_knows_a_nats_client() {
    let mut found = Vec::new();
    for file in &Source::of_this_crate().files {
        if !file.path.starts_with("src/broker") {
            let lines = lines_with(file.tokens.clone(), "async_nats");
            found.extend(lines.iter().map(|line| format!("{}:{line}", file.path.display())));
        }
    }
    assert!(found.is_empty(), "async_nats outside src/broker:\n{}", found.join("\n"));
}

#[test]
fn no_module_imports_the_command_line() {
    let found: Vec<_> = Source::of_this_crate()
        .references
        .iter()
        .filter(|reference| reference.to.first().is_some_and(|to| to == "cli"))
        .filter(|reference| reference.from.first().is_none_or(|from| from != "cli"))
        .map(|reference| format!("{}:{}  {}", reference.file.display(), reference.line, reference.text))
        .collect();
    assert!(found.is_empty(), "only the programs import cli:\n{}", found.join("\n"));
}
