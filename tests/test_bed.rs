//! What all other tests rely on: the servers they start are gone when they are.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::doc_markdown,
    reason = "a test that can't go on panics"
)]

mod support;

use std::{
    env,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};
use support::{process::Process, scratch::Scratch};

/// Stands in for a server: says its process id, and goes on for ever.
const SERVER: &str = "echo $$ > \"$0\"; exec sleep 1000000";

/// Not a test: what the test below runs in a process of its own, and kills.
#[test]
#[ignore = "it never ends"]
fn holds_a_server_for_ever() {
    let dir = Scratch::new();
    let pid = dir.path().join("pid");
    let args = ["-c", SERVER, pid.to_str().unwrap()].map(str::to_owned);
    let _server = Process::start(Path::new("/bin/sh"), &args, &dir.path().join("log"));
    println!("\ndirectory {}", dir.path().display());
    loop {
        thread::park();
    }
}

#[test]
fn no_server_and_no_file_outlives_a_test_that_is_killed() {
    let mut test = Command::new(env::current_exe().unwrap())
        .args(["--ignored", "--exact", "holds_a_server_for_ever", "--nocapture"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(test.stdout.take().unwrap()).lines().map(Result::unwrap);
    let directory = output
        .find_map(|line| line.strip_prefix("directory ").map(str::to_owned))
        .unwrap();
    let directory = Path::new(&directory);
    let server = until(|| {
        let pid = std::fs::read_to_string(directory.join("pid")).ok()?;
        pid.trim().parse::<u32>().ok()
    });
    let server = format!("/proc/{server}");
    assert!(Path::new(&server).exists(), "the server does not run");

    test.kill().unwrap();
    test.wait().unwrap();
    until(|| (!Path::new(&server).exists()).then_some(()));
    until(|| (!directory.exists()).then_some(()));
}

/// Waits for a condition.
fn until<T>(mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited in vain");
        thread::sleep(Duration::from_millis(10));
    }
}
