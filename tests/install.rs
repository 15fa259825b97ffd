//! `taskgroup install`: how the worker comes into an image that lacks it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test panics where it can't go on"
)]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output},
};

fn install(to: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_taskgroup-worker"));
    command.args(["install", "--to"]).arg(to).output().unwrap()
}

#[test]
fn the_program_is_copied_whole_and_can_be_run_by_anybody() {
    let dir = tempfile::tempdir().unwrap();
    // Twice: the container that installs may start again.
    for _ in 0..2 {
        assert!(install(dir.path()).status.success());
    }
    let files: Vec<_> = fs::read_dir(dir.path())
        .unwrap()
        .map(|file| file.unwrap().file_name())
        .collect();
    assert_eq!(files, ["taskgroup"], "nothing else is left");
    let copy = dir.path().join("taskgroup");
    assert_eq!(fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o755);
    let version = |program: &Path| Command::new(program).arg("--version").output().unwrap().stdout;
    assert_eq!(
        version(&copy),
        version(Path::new(env!("CARGO_BIN_EXE_taskgroup-worker")))
    );
}

#[test]
fn a_directory_that_can_not_be_used_is_named() {
    let error = |to: &Path| String::from_utf8(install(to).stderr).unwrap();
    let missing = error(Path::new("/no/such/directory"));
    assert!(
        missing.contains("--to: /no/such/directory is no directory: make it first, or mount a volume there"),
        "{missing}"
    );
    let read_only = error(Path::new("/proc/self"));
    assert!(
        read_only.contains("--to: /proc/self takes no file: it must be writable and have room"),
        "{read_only}"
    );
}

#[test]
fn the_keeper_is_not_for_people() {
    let help = Command::new(env!("CARGO_BIN_EXE_taskgroup-worker"))
        .arg("--help")
        .output()
        .unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    assert!(help.contains("install") && !help.contains("keep "), "{help}");
}
