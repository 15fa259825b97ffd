//! The wire contract: what publishers, users and programs of other versions rely on.
//!
//! `wire.txt` lists every name of it, and a test compares the list with the code. `examples/<version>/` holds what that
//! version wrote, and tests read it with the code of today. A name or an example of a released version never changes: a new
//! one is added beside it.
//!
//! After an intended change, write both anew and look at the difference:
//!
//! ```sh
//! BLESS=1 cargo test --test contract
//! ```
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod definitions;
mod examples;
mod wire;

use std::{
    env, fs,
    path::{Path, PathBuf},
};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/contract")
}

/// Compares a file with what it should be; writes it where that is asked for.
fn compare(file: &Path, expected: &str) -> Result<(), String> {
    let current = fs::read_to_string(file).unwrap_or_default();
    if current == expected {
        return Ok(());
    }
    if env::var_os("BLESS").is_some() {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, expected).unwrap();
        return Ok(());
    }
    let (old, new): (Vec<_>, Vec<_>) = (current.lines().collect(), expected.lines().collect());
    let only = |these: &[&str], those: &[&str], sign: &str| -> String {
        let these = these.iter().filter(|line| !those.contains(line));
        these
            .map(|line| format!("{sign} {line}\n"))
            .collect::<Vec<_>>()
            .concat()
    };
    Err(format!(
        "{} is not what the code says:\n{}{}What is removed breaks users and other versions. If the change is intended: \
         BLESS=1 cargo test --test contract",
        file.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap_or(file).display(),
        only(&old, &new, "-"),
        only(&new, &old, "+"),
    ))
}
