//! What a file says, by its tokens: code without tests, and the paths that occur in it. Tokens also show the paths inside
//! macro calls, which a syntax tree does not.

use proc_macro2::{Delimiter, Group, Span, TokenStream, TokenTree};
use std::{collections::HashMap, ops::RangeInclusive};

/// A path with two segments or more, such as `crate::api::TaskGroup`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    /// The segments; the last one is `*` for a glob.
    pub segments: Vec<String>,
    pub line: usize,
}

/// Names that `use` declares, each with its path.
pub type Imports = HashMap<String, Vec<String>>;

/// The tokens without everything under `#[cfg(test)]`, and the lines that this leaves out.
pub fn without_tests(tokens: TokenStream) -> (TokenStream, Vec<RangeInclusive<usize>>) {
    let mut left_out = Vec::new();
    let kept = strip(tokens, &mut left_out);
    (kept, left_out)
}

fn strip(tokens: TokenStream, left_out: &mut Vec<RangeInclusive<usize>>) -> TokenStream {
    let tokens: Vec<_> = tokens.into_iter().collect();
    let (mut kept, mut at) = (Vec::new(), 0);
    while at < tokens.len() {
        if is_test_attribute(&tokens[at..]) {
            let end = end_of_item(&tokens, at);
            left_out.push(line(tokens[at].span())..=tokens[end - 1].span().end().line);
            at = end;
            continue;
        }
        kept.push(match &tokens[at] {
            TokenTree::Group(group) => {
                let mut inner = Group::new(group.delimiter(), strip(group.stream(), left_out));
                inner.set_span(group.span());
                inner.into()
            }
            other => other.clone(),
        });
        at += 1;
    }
    kept.into_iter().collect()
}

/// Whether the tokens begin with `#[cfg(test)]` or `#[cfg(all(test, …))]`.
fn is_test_attribute(tokens: &[TokenTree]) -> bool {
    let Some((TokenTree::Punct(hash), TokenTree::Group(attribute))) = tokens.first().zip(tokens.get(1)) else {
        return false;
    };
    let words = words(attribute.stream());
    hash.as_char() == '#'
        && words.first().is_some_and(|word| word == "cfg")
        && words.iter().any(|word| word == "test")
        && !words.iter().any(|word| word == "not")
}

fn words(tokens: TokenStream) -> Vec<String> {
    let mut all = Vec::new();
    for token in tokens {
        match token {
            TokenTree::Ident(ident) => all.push(ident.to_string()),
            TokenTree::Group(group) => all.extend(words(group.stream())),
            _ => {}
        }
    }
    all
}

/// The index after what the attribute at `at` belongs to: an item, a field, a variant or a statement.
fn end_of_item(tokens: &[TokenTree], mut at: usize) -> usize {
    while matches!(&tokens[at], TokenTree::Punct(hash) if hash.as_char() == '#') {
        at += 2;
    }
    let begin = at;
    // `pub` and `pub(…)`, `async`, `unsafe` and such come before the word that says what it is.
    let kinds = [
        "use",
        "const",
        "static",
        "type",
        "let",
        "mod",
        "fn",
        "struct",
        "enum",
        "impl",
        "trait",
        "macro_rules",
    ];
    let kind = tokens[at..].iter().take(6).find_map(|token| match token {
        TokenTree::Ident(ident) => kinds.into_iter().find(|kind| ident == kind),
        _ => None,
    });
    let kind = kind.unwrap_or_default();
    let to_semicolon = ["use", "const", "static", "type", "let"].contains(&kind) && !is_const_fn(&tokens[begin..]);
    while let Some(token) = tokens.get(at) {
        at += 1;
        match token {
            TokenTree::Punct(punct) if punct.as_char() == ';' => break,
            TokenTree::Punct(punct) if punct.as_char() == ',' && kind.is_empty() => break,
            TokenTree::Group(group) if group.delimiter() == Delimiter::Brace && !to_semicolon => break,
            _ => {}
        }
    }
    at
}

fn is_const_fn(tokens: &[TokenTree]) -> bool {
    let ahead = tokens.iter().take(6);
    ahead
        .into_iter()
        .any(|token| matches!(token, TokenTree::Ident(ident) if ident == "fn"))
}

/// All paths, those of modules inside braces under their own names: `each(names of the inner modules, path)`.
pub fn paths(tokens: TokenStream, inner: &mut Vec<String>, each: &mut impl FnMut(&[String], Path)) {
    let tokens: Vec<_> = tokens.into_iter().collect();
    let mut at = 0;
    while at < tokens.len() {
        match &tokens[at] {
            TokenTree::Ident(ident) if ident == "mod" => {
                if let Some((TokenTree::Ident(name), TokenTree::Group(body))) =
                    tokens.get(at + 1).zip(tokens.get(at + 2))
                {
                    inner.push(name.to_string());
                    paths(body.stream(), inner, each);
                    inner.pop();
                    at += 3;
                    continue;
                }
                at += 1;
            }
            TokenTree::Ident(ident) if is_path(&tokens[at + 1..]) => {
                let begin = vec![ident.to_string()];
                at = path(&tokens, at + 1, begin, line(ident.span()), &mut |path| {
                    each(inner, path);
                });
            }
            TokenTree::Group(group) => {
                paths(group.stream(), inner, each);
                at += 1;
            }
            _ => at += 1,
        }
    }
}

fn is_path(tokens: &[TokenTree]) -> bool {
    let is_colon = |token: Option<&TokenTree>| matches!(token, Some(TokenTree::Punct(colon)) if colon.as_char() == ':');
    is_colon(tokens.first()) && is_colon(tokens.get(1))
}

/// Follows a path from the `::` at `at`, into the braces of a `use`, and returns the index after it.
fn path(
    tokens: &[TokenTree],
    mut at: usize,
    mut so_far: Vec<String>,
    line_: usize,
    each: &mut impl FnMut(Path),
) -> usize {
    while is_path(tokens.get(at..).unwrap_or_default()) {
        match tokens.get(at + 2) {
            Some(TokenTree::Ident(ident)) => so_far.push(ident.to_string()),
            Some(TokenTree::Punct(star)) if star.as_char() == '*' => so_far.push("*".into()),
            Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
                use_group(group.stream(), &so_far, each);
                return at + 3;
            }
            // Generic arguments: they are looked at as whatever follows.
            _ => {
                at += 2;
                break;
            }
        }
        at += 3;
    }
    each(Path {
        segments: so_far,
        line: line_,
    });
    at
}

/// The paths in the braces of a `use`, each with the segments before the braces.
fn use_group(tokens: TokenStream, before: &[String], each: &mut impl FnMut(Path)) {
    let tokens: Vec<_> = tokens.into_iter().collect();
    let mut at = 0;
    while at < tokens.len() {
        let name = match &tokens[at] {
            TokenTree::Ident(ident) if ident == "as" => {
                at += 2;
                continue;
            }
            TokenTree::Ident(ident) => ident.to_string(),
            TokenTree::Punct(star) if star.as_char() == '*' => "*".into(),
            _ => {
                at += 1;
                continue;
            }
        };
        let line = line(tokens[at].span());
        let mut segments = before.to_vec();
        if name != "self" {
            segments.push(name);
        }
        at = path(&tokens, at + 1, segments, line, each);
    }
}

pub fn line(span: Span) -> usize {
    span.start().line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(source: &str) -> Vec<String> {
        let (tokens, _) = without_tests(source.parse().unwrap());
        let mut all = Vec::new();
        paths(tokens, &mut Vec::new(), &mut |inner, path| {
            let inner = inner
                .iter()
                .map(|name| format!("{name}: "))
                .collect::<Vec<_>>()
                .concat();
            all.push(format!("{inner}{} {}", path.line, path.segments.join("::")));
        });
        all
    }

    #[test]
    fn every_path_is_found_wherever_it_occurs() {
        let source = r#"
use crate::{a::{self, B as C}, d::*};
fn f(x: &crate::e::F<super::G>) { println!("{}", crate::h::I); j::<crate::k::L>(); }
mod m { use super::super::n; }
// crate::comment::x
const TEXT: &str = "crate::text::x";
"#;
        assert_eq!(
            found(source),
            [
                "2 crate::a",
                "2 crate::a::B",
                "2 crate::d::*",
                "3 crate::e::F",
                "3 super::G",
                "3 crate::h::I",
                "3 j",
                "3 crate::k::L",
                "m: 4 super::super::n"
            ]
        );
    }

    #[test]
    fn tests_are_left_out_and_what_follows_them_is_not() {
        let source = "
#[cfg(test)] use crate::a::{b, c};
#[cfg(test)] #[allow(x)] pub fn f(x: X<Y, Z>) -> X { crate::d::e() }
struct S { #[cfg(test)] x: crate::f::g, y: crate::h::i }
#[cfg(test)] const X: Y = Y { z: crate::j::k }; fn l() { crate::m::n() }
#[cfg(not(test))] use crate::o::p;
#[cfg(test)]
mod tests {
    use crate::q::r;
}
";
        assert_eq!(found(source), ["4 crate::h::i", "5 crate::m::n", "6 crate::o::p"]);
        let (_, lines) = without_tests(source.parse().unwrap());
        assert_eq!(lines, [2..=2, 3..=3, 4..=4, 5..=5, 7..=10]);
    }
}
