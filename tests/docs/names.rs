//! What the pages name exists: files, make targets, arguments, metrics, tests, and condition reasons.

use super::page::{Page, current_pages, root};
use std::{collections::BTreeSet, fs, path::Path};
use taskgroup::{
    api::{ConditionType, Reason},
    protocol::{Kind, callback, cancel, dead_letter, headers},
};

/// Names by page that are not in `known`.
fn unknown(names: impl Fn(&Page) -> Vec<String>, known: impl Fn(&str) -> bool) -> Vec<String> {
    let mut unknown = Vec::new();
    for page in current_pages() {
        for name in names(&page).into_iter().filter(|name| !known(name)) {
            unknown.push(format!("{}: {name}", page.path.display()));
        }
    }
    unknown
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// Inline code and shell blocks.
fn code(page: &Page) -> Vec<String> {
    let mut code: Vec<_> = page.inline_code().into_iter().map(str::to_owned).collect();
    for block in page.blocks("sh") {
        code.extend(block.lines().map(str::to_owned));
    }
    code
}

#[test]
fn every_file_that_a_page_names_exists() {
    const FOLDERS: [&str; 8] = [
        "src/",
        "tests/",
        "docs/",
        "deploy/",
        "examples/",
        "benches/",
        "crds/",
        ".ci/",
    ];
    let names = |page: &Page| {
        let code = page.inline_code().into_iter();
        code.filter(|name| FOLDERS.iter().any(|folder| name.starts_with(folder)))
            .filter(|name| !name.contains([' ', '<', '*', '{', '$']))
            .map(str::to_owned)
            .collect()
    };
    let missing = unknown(names, |name| root().join(name.trim_end_matches('/')).exists());
    assert!(missing.is_empty(), "files that don't exist:\n{}", missing.join("\n"));
}

#[test]
fn every_make_target_that_a_page_names_exists() {
    let makefile = read("Makefile");
    let targets: BTreeSet<_> = makefile
        .lines()
        .filter(|line| line.starts_with(|c: char| c.is_ascii_lowercase()))
        .filter_map(|line| line.split_once(':'))
        .map(|(target, _)| target)
        .collect();
    let names = |page: &Page| {
        let code = code(page);
        let calls = code
            .iter()
            .flat_map(|text| text.match_indices("make ").map(move |(at, _)| (text, at)));
        calls
            .filter(|(text, at)| *at == 0 || text[..*at].ends_with([' ', '(']))
            .filter_map(|(text, at)| {
                let words = text[at..].split_whitespace().skip(1);
                // Variables may come before the target.
                words.map(str::to_owned).find(|word| !word.contains('='))
            })
            .collect()
    };
    let missing = unknown(names, |name| targets.contains(name));
    assert!(
        missing.is_empty(),
        "make targets that don't exist:\n{}",
        missing.join("\n")
    );
}

#[test]
fn every_argument_that_a_page_names_alone_exists() {
    let reference = read("docs/reference/arguments.md");
    let names = |page: &Page| {
        let code = page.inline_code().into_iter();
        code.filter(|code| code.starts_with("--"))
            .map(|code| code.split([' ', '=']).next().unwrap().to_owned())
            .collect()
    };
    // `--help` belongs to every program.
    let known = |name: &str| {
        name == "--help" || reference.contains(&format!("`{name}")) || reference.contains(&format!(" {name}`"))
    };
    let missing = unknown(names, known);
    assert!(
        missing.is_empty(),
        "arguments that don't exist:\n{}",
        missing.join("\n")
    );
}

#[test]
fn every_metric_that_a_page_names_exists() {
    let reference = read("docs/reference/metrics.md");
    let names = |page: &Page| {
        let code = page.inline_code().into_iter();
        code.filter(|code| {
            code.starts_with("taskgroup_operator_")
                || code.starts_with("taskgroup_worker_")
                || code.starts_with("taskgroup_relay_")
        })
        .map(|code| code.split('{').next().unwrap().to_owned())
        .collect()
    };
    let missing = unknown(names, |name| reference.contains(&format!("`{name}`")));
    assert!(missing.is_empty(), "metrics that don't exist:\n{}", missing.join("\n"));
}

#[test]
fn every_test_that_the_tests_readme_names_exists() {
    let tests = functions_below(&root().join("tests"));
    let page = read("tests/README.md");
    let page = Page {
        path: "tests/README.md".into(),
        text: page,
    };
    let names: Vec<_> = page
        .inline_code()
        .into_iter()
        .filter_map(|code| {
            let name = code.rsplit("::").next()?;
            let is_sentence = name.matches('_').count() >= 3
                && name
                    .chars()
                    .all(|c| c == '_' || c.is_ascii_lowercase() || c.is_ascii_digit());
            is_sentence.then_some((code, name))
        })
        .collect();
    assert!(names.len() > 30, "the table of tests has only {} names", names.len());
    let missing: Vec<_> = names
        .into_iter()
        .filter(|(code, name)| {
            let module = code.rsplit("::").nth(1);
            !tests
                .iter()
                .any(|(file, test)| test == name && module.is_none_or(|module| file == module))
        })
        .map(|(code, _)| code)
        .collect();
    assert!(missing.is_empty(), "tests that don't exist:\n{}", missing.join("\n"));
}

#[test]
fn every_subject_of_our_own_is_one_that_operators_are_told_to_restrict() {
    let page = read("docs/operations.md");
    for kind in Kind::ALL {
        assert!(
            page.contains(&format!("`{}`", kind.all())),
            "docs/operations.md does not mention {}",
            kind.all()
        );
    }
}

#[test]
fn every_header_and_every_word_that_users_read_is_explained() {
    let page = read("docs/concepts.md");
    let words = [
        headers::ALL.to_vec(),
        callback::ALL.to_vec(),
        dead_letter::ALL.to_vec(),
        dead_letter::Reason::ALL.map(dead_letter::Reason::as_str).to_vec(),
        cancel::Cancelled::ALL.map(cancel::Cancelled::as_str).to_vec(),
    ];
    for word in words.concat() {
        assert!(
            page.contains(&format!("`{word}")),
            "docs/concepts.md does not explain {word}"
        );
    }
}

#[test]
fn every_condition_and_every_reason_is_explained() {
    let page = read("docs/operations.md");
    let conditions = ConditionType::ALL.map(|condition| condition.to_string());
    let reasons = Reason::ALL.iter().map(|reason| reason.as_str());
    for word in reasons.chain(conditions.iter().map(String::as_str)) {
        assert!(
            page.contains(&format!("`{word}`")),
            "docs/operations.md does not explain {word}"
        );
    }
}

/// Name of the file without `.rs` (of its folder for `main.rs`), and of the function, for every function in the tests.
fn functions_below(folder: &Path) -> Vec<(String, String)> {
    let mut functions = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            functions.extend(functions_below(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = |path: &Path| path.file_stem().unwrap().to_str().unwrap().to_owned();
            let file = if path.ends_with("main.rs") {
                name(folder)
            } else {
                name(&path)
            };
            let text = fs::read_to_string(&path).unwrap();
            let names = text.lines().filter_map(|line| {
                let (_, rest) = line.split_once("fn ")?;
                rest.split(['(', '<']).next()
            });
            functions.extend(names.map(|name| (file.clone(), name.to_owned())));
        }
    }
    functions
}
