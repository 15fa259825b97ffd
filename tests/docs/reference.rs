//! The pages in `docs/reference/` are what the code says.

use super::page::root;
use std::{collections::BTreeMap, fs, path::Path, process::Command};

#[test]
fn the_reference_is_what_the_code_says() {
    let fresh = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_taskgroup"));
    let status = command.args(["reference", "--dir"]).arg(fresh.path()).status().unwrap();
    assert!(status.success());
    let (fresh, current) = (files(fresh.path()), files(&root().join("docs/reference")));
    assert_eq!(
        fresh.keys().collect::<Vec<_>>(),
        current.keys().collect::<Vec<_>>(),
        "files in docs/reference/: run `make docs`"
    );
    for (name, text) in &fresh {
        assert!(
            current[name] == *text,
            "docs/reference/{name} is not what the code says: run `make docs`"
        );
    }
}

fn files(folder: &Path) -> BTreeMap<String, String> {
    let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
    entries
        .map(|entry| {
            let name = entry.file_name().into_string().unwrap();
            (name, fs::read_to_string(entry.path()).unwrap())
        })
        .collect()
}
