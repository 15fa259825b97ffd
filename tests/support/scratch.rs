//! A directory that is gone when the test process is.

use std::{
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// Removes `$1` when standard input closes, which the kernel sees to however the test process ends.
/// Once more where a server that is being killed wrote a last file meanwhile.
const REMOVE: &str = r#"read -r _; until rm -rf -- "$1"; do sleep 0.1; done 2>/dev/null"#;

/// A fresh directory for the data of a server. Unlike a `TempDir` it does not outlive a process that
/// keeps it in a static or is killed.
pub struct Scratch {
    path: PathBuf,
    remover: Child,
}

impl Scratch {
    /// Makes a directory.
    pub fn new() -> Self {
        let path = tempfile::Builder::new()
            .prefix("taskgroup-test-")
            .tempdir()
            .unwrap()
            .keep();
        let remover = Command::new("sh")
            .args(["-c", REMOVE, "sh"])
            .arg(&path)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("sh starts");
        Self { path, remover }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(self.remover.stdin.take());
        let _ = self.remover.wait();
    }
}
