//! A server that never outlives the test process, however that ends.

use std::{
    fs,
    io::Write,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
};

/// Runs `$@` until it ends or until standard input closes. The kernel closes the pipe even when the
/// test process is killed with -9 or leaves its statics undropped, which no destructor survives.
/// A line on standard input is the name of a signal for it.
const GUARD: &str = r#"
exec 3<&0
"$@" 3<&- &
server=$!
(while read -r signal; do kill -s "$signal" $server; done <&3; kill -9 $server) 2>/dev/null &
guard=$!
wait $server
status=$?
kill $guard 2>/dev/null
exit $status
"#;

/// A server under guard: killed on drop and whenever the test process ends.
pub struct Process {
    guard: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `program`, with its output appended to the file `log`.
    pub fn start(program: &Path, args: &[String], log: &Path) -> Self {
        let output = fs::File::options().create(true).append(true).open(log).unwrap();
        let guard = Command::new("sh")
            .args(["-c", GUARD, "sh"])
            .arg(program)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            // Ctrl-C goes to the test process alone; the servers follow when it is gone.
            .process_group(0)
            .spawn()
            .expect("sh starts");
        Self {
            guard,
            log: log.to_owned(),
        }
    }

    /// Asks the server to stop, with SIGTERM.
    pub fn terminate(&mut self) {
        self.signal("TERM");
    }

    /// Sends the server a signal, by its name without `SIG`.
    pub fn signal(&mut self, name: &str) {
        let stdin = self.guard.stdin.as_mut().unwrap();
        stdin.write_all(format!("{name}\n").as_bytes()).unwrap();
    }

    /// How the server ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.guard.try_wait().unwrap()
    }

    /// Kills the server with SIGKILL and returns when it is gone, and its ports are free.
    pub fn kill(&mut self) {
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
    }

    /// The last lines that the server wrote.
    pub fn last_words(&self) -> String {
        let text = String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
