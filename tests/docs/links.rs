//! Every relative link leads to a file, and its anchor to a heading.

use super::page::{Page, pages, root};
use std::path::{Component, Path, PathBuf};

#[test]
fn every_relative_link_leads_to_a_file_and_a_heading() {
    let pages = pages();
    let broken: Vec<_> = pages
        .iter()
        .flat_map(|page| page.links().into_iter().map(move |link| (page, link)))
        .filter(|(_, link)| !link.contains("://") && !link.starts_with("mailto:"))
        .filter(|(page, link)| !leads_somewhere(&pages, page, link))
        .map(|(page, link)| format!("{}: {link}", page.path.display()))
        .collect();
    assert!(broken.is_empty(), "links that lead nowhere:\n{}", broken.join("\n"));
}

fn leads_somewhere(pages: &[Page], page: &Page, link: &str) -> bool {
    let (file, anchor) = link
        .split_once('#')
        .map_or((link, None), |(file, anchor)| (file, Some(anchor)));
    let target = if file.is_empty() {
        page.path.clone()
    } else {
        resolve(&page.path, file)
    };
    let has_anchor = |anchor: &str| {
        let found = pages.iter().find(|page| page.path == target);
        found.is_some_and(|page| page.anchors().iter().any(|known| known == anchor))
    };
    root().join(&target).exists() && anchor.is_none_or(has_anchor)
}

/// `link` as seen from the root of the repository.
fn resolve(page: &Path, link: &str) -> PathBuf {
    let mut path = page.parent().unwrap_or(Path::new("")).to_owned();
    for part in Path::new(link).components() {
        match part {
            Component::ParentDir => {
                path.pop();
            }
            Component::CurDir => {}
            part => path.push(part),
        }
    }
    path
}

#[test]
fn every_page_below_docs_is_linked_from_another_page() {
    let pages = pages();
    let linked: Vec<_> = pages
        .iter()
        .flat_map(|page| {
            page.links()
                .into_iter()
                .map(|link| resolve(&page.path, link.split('#').next().unwrap()))
        })
        .collect();
    for page in pages.iter().filter(|page| page.path.starts_with("docs")) {
        assert!(linked.contains(&page.path), "no page links to {}", page.path.display());
    }
}

#[test]
fn the_readme_fits_on_a_few_screens() {
    let readme = pages()
        .into_iter()
        .find(|page| page.path == Path::new("README.md"))
        .unwrap();
    let lines = readme.text.lines().count();
    assert!(lines < 200, "README.md has {lines} lines: move details to docs/");
}
