//! The pages of the documentation and the parts of Markdown that the checks need.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// One Markdown file.
pub struct Page {
    /// The path from the root of the repository.
    pub path: PathBuf,
    pub text: String,
}

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Markdown file that users and contributors read.
pub fn pages() -> Vec<Page> {
    let mut paths: Vec<PathBuf> = ["README.md", "CHANGELOG.md", "SECURITY.md"].map(PathBuf::from).to_vec();
    for folder in ["docs", "tests", "crds", "deploy", "examples"] {
        markdown_below(&root().join(folder), &mut paths);
    }
    paths
        .into_iter()
        .map(|path| {
            let text =
                fs::read_to_string(root().join(&path)).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            Page { path, text }
        })
        .collect()
}

/// The pages that describe the present. The changelog also names what is gone.
pub fn current_pages() -> Vec<Page> {
    pages()
        .into_iter()
        .filter(|page| page.path != Path::new("CHANGELOG.md"))
        .collect()
}

fn markdown_below(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            markdown_below(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path.strip_prefix(root()).unwrap().to_owned());
        }
    }
}

impl Page {
    /// Lines outside of code blocks.
    fn prose(&self) -> Vec<&str> {
        let mut inside = false;
        let lines = self.text.lines().filter(|line| {
            let fence = line.trim_start().starts_with("```");
            inside ^= fence;
            !inside && !fence
        });
        lines.collect()
    }

    /// Contents of all code blocks of a language.
    pub fn blocks(&self, language: &str) -> Vec<String> {
        let mut blocks = Vec::new();
        let mut block: Option<String> = None;
        for line in self.text.lines() {
            match (&mut block, line.strip_prefix("```")) {
                (None, Some(name)) if name == language => block = Some(String::new()),
                (None, _) => {}
                (Some(_), Some(_)) => blocks.extend(block.take()),
                (Some(text), None) => {
                    text.push_str(line);
                    text.push('\n');
                }
            }
        }
        blocks
    }

    /// Inline code of the prose.
    pub fn inline_code(&self) -> Vec<&str> {
        let lines = self.prose();
        lines
            .iter()
            .flat_map(|line| line.split('`').skip(1).step_by(2))
            .collect()
    }

    /// Targets of all links.
    pub fn links(&self) -> Vec<String> {
        let mut links = Vec::new();
        for line in self.prose() {
            // Inline code may look like a link. It becomes a blank, because it may also be the text of one.
            let text: Vec<_> = line.split('`').step_by(2).collect();
            let text = text.join(" ");
            let targets = text.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
            links.extend(targets.map(|(target, _)| target.to_owned()));
        }
        links
    }

    /// Anchors of all headings, as GitHub makes them.
    pub fn anchors(&self) -> Vec<String> {
        let headings = self.prose().into_iter().filter(|line| line.starts_with('#'));
        headings
            .map(|heading| anchor(heading.trim_start_matches('#')))
            .collect()
    }
}

fn anchor(heading: &str) -> String {
    heading
        .trim()
        .to_lowercase()
        .chars()
        .filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}
