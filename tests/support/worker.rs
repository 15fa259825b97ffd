//! How tests start a worker.

use std::process::{Command, Stdio};

/// What to say where it can't be started.
pub const NEEDS: &str = "the worker can be run (setpriv is in Debian's util-linux)";

/// A group's worker, with these arguments first. The kernel kills it when the thread that starts it is gone, however
/// that ended.
pub fn command(args: &[&str], nats_url: &str, namespace: &str, queue: &str) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "--"])
        .args([env!("CARGO_BIN_EXE_taskgroup-worker"), "worker"])
        .args(args)
        .args(["--nats-url", nats_url, "--namespace", namespace, "--queue", queue])
        .args(["--admin-addr", "127.0.0.1:0", "--log", "taskgroup=debug"])
        .stdin(Stdio::null());
    command
}
