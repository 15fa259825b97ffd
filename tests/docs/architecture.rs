//! The paths through the code are straight lines.

use super::page::{Page, pages};
use std::{collections::BTreeMap, path::Path};

fn page(path: &str) -> Page {
    pages().into_iter().find(|page| page.path == Path::new(path)).unwrap()
}

#[test]
fn no_file_is_more_than_twice_on_the_path_of_a_task_group_or_a_task() {
    let page = page("docs/architecture.md");
    let mut paths = 0;
    for section in page
        .text
        .split("\n## ")
        .filter(|section| section.contains("\n1. `src/"))
    {
        paths += 1;
        let mut visits: BTreeMap<&str, usize> = BTreeMap::new();
        for file in section
            .split('`')
            .skip(1)
            .step_by(2)
            .filter(|code| code.starts_with("src/"))
        {
            *visits.entry(file).or_default() += 1;
        }
        let title = section.lines().next().unwrap();
        let often: Vec<_> = visits.iter().filter(|(_, visits)| **visits > 2).collect();
        assert!(often.is_empty(), "{title}: {often:?}");
    }
    assert_eq!(paths, 2, "a TaskGroup and a task each have a path");
}

#[test]
fn there_is_a_walkthrough_for_each_common_change() {
    let page = page("docs/contributing.md");
    let (_, walkthroughs) = page.text.split_once("## Walkthroughs").unwrap();
    for walkthrough in walkthroughs.split("\n### ").skip(1) {
        let (title, steps) = walkthrough.split_once('\n').unwrap();
        assert!(
            steps.contains("\n1. ") && steps.contains("`src/"),
            "{title} names no files to touch"
        );
    }
    assert_eq!(walkthroughs.matches("\n### ").count(), 10);
}
