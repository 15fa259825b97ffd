//! One attempt of one task, as a process. The program reads the task from standard input and writes its result to
//! standard output.
//!
//! Between the worker and the program stands `taskgroup keep`. It ends the program with all that it started when this
//! process closes its end of standard error: at the time limit, when the attempt is aborted, and when the worker ends,
//! however that happens.

use super::{Attempt, AttemptResult, Output, lines::Lines, trace};
use crate::{keep, processes, protocol::headers, worker::CommandLine};
use bytes::{Bytes, BytesMut};
use jiff::Timestamp;
use rustix::fs::{Access, MemfdFlags, access, memfd_create};
use std::{
    collections::BTreeMap,
    env,
    fs::File,
    io::{self, Seek, Write},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::{Child, ChildStderr, ChildStdout, Command},
    time,
};

/// How long the worker waits for the end of a program that it killed. The kernel takes a few milliseconds. It can't end
/// a program that hangs in a broken file system.
const PATIENCE: Duration = Duration::from_secs(2);

/// How much of an output is read at once.
const PIECE: usize = 16 * 1024;

/// A program that is started for each task.
pub struct ExecHandler {
    command: Vec<String>,
}

impl ExecHandler {
    /// A handler that starts this program.
    pub fn new(command: CommandLine) -> Self {
        Self { command: command.0 }
    }

    /// The file of the program.
    pub fn program(&self) -> &str {
        self.command.first().map_or("", String::as_str)
    }

    /// Makes one attempt, which takes at most `timeouts.task`. Dropping this future kills all that the program started.
    pub async fn call(&self, attempt: &Attempt<'_>) -> AttemptResult {
        let mut process = match self.start(attempt) {
            Ok(process) => process,
            Err(error) => return AttemptResult::NoConnection(format!("{}: {error}", self.program())),
        };
        let (Some(stdout), Some(stderr)) = (process.stdout.take(), process.stderr.take()) else {
            return AttemptResult::NoConnection("its output can't be read".to_owned());
        };
        let ended = ended(&mut process, stdout, stderr, attempt);
        match time::timeout(attempt.settings.timeouts.task.checked(), ended).await {
            Ok(Ok((status, output, errors))) => judge(status, output, errors),
            Ok(Err(error)) => AttemptResult::Broken(error.to_string()),
            Err(_) => {
                // The readers of its output are dropped, so the program ends now. Its slot is free when nothing of
                // it runs.
                let _ = time::timeout(PATIENCE, process.wait()).await;
                AttemptResult::TimedOut
            }
        }
    }

    fn start(&self, attempt: &Attempt<'_>) -> io::Result<Child> {
        let ms = |duration: Duration| duration.as_millis().to_string();
        Command::new("/proc/self/exe")
            .arg0("taskgroup")
            .args(["keep", "--limit-ms", &ms(attempt.settings.timeouts.task.checked())])
            // The lease was renewed at most half of ackWait before the worker stopped, and must not have run out when
            // the program is ended.
            .args(["--frozen-ms", &ms(attempt.ack_wait / 5), "--"])
            .args(&self.command)
            .envs(environment(attempt, Timestamp::now()))
            .stdin(payload(&attempt.payload)?)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
    }
}

/// The payload as a file in memory. The program reads it as fast or as little as it likes.
fn payload(payload: &Bytes) -> io::Result<Stdio> {
    let mut file = File::from(memfd_create("task", MemfdFlags::CLOEXEC)?);
    file.write_all(payload)?;
    file.rewind()?;
    Ok(file.into())
}

/// The variables that tell the program about its task, beside the container's environment. The publisher's headers
/// begin with `HEADER_`, so that no publisher sets `PATH` or `LD_PRELOAD`.
fn environment(attempt: &Attempt<'_>, now: Timestamp) -> BTreeMap<String, String> {
    let settings = attempt.settings;
    let deadline = now
        .checked_add(settings.timeouts.task.checked())
        .unwrap_or(Timestamp::MAX);
    let mut variables = BTreeMap::new();
    let mut set = |name: &str, value: &str| {
        // A variable can't hold a NUL; and a header that comes twice is one, as in HTTP.
        let value = value.replace('\0', "");
        variables
            .entry(name.to_owned())
            .and_modify(|all: &mut String| {
                all.push_str(", ");
                all.push_str(&value);
            })
            .or_insert(value);
    };
    set(&headers::variable(headers::CALL_ID), attempt.id);
    set(&headers::variable(headers::TASK_GROUP), &settings.group);
    set(&headers::variable(headers::ATTEMPT), &attempt.number.to_string());
    set(
        &headers::variable(headers::MAX_ATTEMPTS),
        &settings.retry.max_attempts.to_string(),
    );
    set(&headers::variable(headers::DEADLINE), &deadline.to_string());
    set(&headers::variable(headers::TRACEPARENT), &attempt.trace.parent());
    // Also when it is empty, as the container's own would be of another trace.
    set(
        &headers::variable(headers::TRACESTATE),
        attempt.trace.state().unwrap_or_default(),
    );
    for (name, value) in attempt.headers.iter().filter(|(name, _)| !trace::Trace::has(name)) {
        set(
            &format!("{}{}", headers::PUBLISHERS_VARIABLE, headers::variable(name)),
            value,
        );
    }
    variables
}

/// Waits for the end of all that the program started, and for its output.
async fn ended(
    process: &mut Child,
    stdout: ChildStdout,
    stderr: ChildStderr,
    attempt: &Attempt<'_>,
) -> io::Result<(ExitStatus, Output, String)> {
    let session = process.id();
    let wait = async {
        let status = process.wait().await?;
        if status.signal().is_some() {
            // Somebody killed the keeper, so its work is ours now.
            kill_session(session);
        }
        Ok(status)
    };
    let (status, output, errors) = tokio::try_join!(wait, beginning(stdout, attempt.keep), log(stderr, attempt))?;
    Ok((status, output, errors))
}

/// Keeps the first `keep` bytes. The rest is read and thrown away, so that the program never waits for us.
async fn beginning(mut stdout: impl AsyncRead + Unpin, keep: usize) -> io::Result<Output> {
    let mut kept = BytesMut::new();
    let mut read = 0;
    let mut piece = vec![0; PIECE];
    loop {
        let length = stdout.read(&mut piece).await?;
        if length == 0 {
            break;
        }
        read += length;
        let room = keep.saturating_sub(kept.len());
        kept.extend_from_slice(&piece[..length.min(room)]);
    }
    Ok(Output {
        truncated: read > kept.len(),
        bytes: kept.freeze(),
    })
}

/// Writes standard error to our log, a line each, and returns the end of it.
async fn log(mut stderr: impl AsyncRead + Unpin, attempt: &Attempt<'_>) -> io::Result<String> {
    let group = attempt.settings.group.as_str();
    let mut lines = Lines::default();
    let mut piece = vec![0; PIECE];
    loop {
        let length = stderr.read(&mut piece).await?;
        lines.push(&piece[..length], |line| {
            tracing::info!(call_id = attempt.id, group, attempt = attempt.number, "handler: {line}");
        });
        if length == 0 {
            return Ok(lines.last());
        }
    }
}

fn kill_session(session: Option<u32>) {
    let session = session.and_then(|session| i32::try_from(session).ok());
    processes::all()
        .filter(|process| Some(process.session) == session)
        .for_each(|process| process.kill());
}

fn judge(status: ExitStatus, output: Output, errors: String) -> AttemptResult {
    if status.signal() == Some(keep::NOT_STARTED.as_raw()) {
        return AttemptResult::NoConnection(errors);
    }
    AttemptResult::Exited {
        code: status
            .code()
            .or(status.signal().map(|signal| 128 + signal))
            .unwrap_or(1),
        output,
        errors,
    }
}

/// Finds the program's file as execvp(3) does, or says what to do.
pub fn find(program: &str) -> Result<PathBuf, String> {
    let runs = |path: &Path| path.is_file() && access(path, Access::EXEC_OK).is_ok();
    if program.contains('/') {
        let path = PathBuf::from(program);
        return match access(&path, Access::EXISTS) {
            Ok(()) if runs(&path) => Ok(path),
            Ok(()) => Err(format!("{program} is no executable file: set its executable bit")),
            Err(error) => Err(format!("{program}: {error}")),
        };
    }
    let directories = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&directories)
        .map(|directory| directory.join(program))
        .find(|path| runs(path))
        .ok_or_else(|| format!("{program} is in no directory of PATH ({})", directories.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::handler::tests;

    #[test]
    fn the_environment_tells_about_the_task_and_the_publisher_sets_nothing_else() {
        let settings = tests::acme();
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let headers = [
            ("PATH", "/evil"),
            ("X-Call-Id", "forged"),
            ("Content-Type", "application/json"),
            ("X-Mine", "1"),
            ("x-mine", "2\0"),
            ("traceparent", parent),
        ];
        let attempt = tests::attempt(&settings, &headers);
        let variables = environment(&attempt, "2026-11-21T10:00:00Z".parse().unwrap());
        let found: Vec<_> = variables
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let parent = attempt.trace.parent();
        assert_eq!(
            found,
            [
                "HEADER_CONTENT_TYPE=application/json",
                "HEADER_PATH=/evil",
                "HEADER_X_CALL_ID=forged",
                "HEADER_X_MINE=1, 2",
                &format!("TRACEPARENT={parent}"),
                "TRACESTATE=",
                "X_ATTEMPT=2",
                "X_CALL_ID=a.b",
                "X_DEADLINE=2026-11-21T10:00:30Z",
                "X_MAX_ATTEMPTS=5",
                "X_TASK_GROUP=acme",
            ]
        );
    }

    #[test]
    fn a_program_is_found_or_the_reason_is_told() {
        assert!(find("sh").unwrap().ends_with("sh"));
        assert!(find("/bin/sh").is_ok());
        for (program, says) in [
            ("/no/such", "/no/such: No such file or directory"),
            ("/etc/passwd", "/etc/passwd is no executable file"),
            ("/etc/", "/etc/ is no executable file"),
            ("no-such-program", "no-such-program is in no directory of PATH ("),
        ] {
            let error = find(program).unwrap_err();
            assert!(error.starts_with(says), "{error}");
        }
    }
}
