//! `taskgroup keep`: runs one program for a worker, and sees to it that nothing of it outlives its time.
//!
//! A worker can kill what it started only while it lives, and only what stays in the process group.
//! This process stands between the two: it hears of the worker's end (or of its wish) by the pipe of
//! standard error, whose other end is then closed, and as a subreaper (prctl(2)) it becomes the parent of
//! whatever the program leaves behind, in whatever group. When the program ends or has to end, all of that
//! is killed, and only then this process ends: with the program's exit code, or 128 and the number of the
//! signal that ended it.

use crate::processes::{self, Process};
use anyhow::Context;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{
        Pid, Signal, WaitId, WaitIdOptions, WaitOptions, getpid, getppid, kill_process, set_child_subreaper, setsid,
        wait, waitid,
    },
};
use std::{
    ffi::OsString,
    io,
    os::unix::process::CommandExt,
    process::{Command, ExitCode},
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

/// The signal that this process ends by when the program can't be started. No exit code would do: each
/// may be the program's own.
pub const NOT_STARTED: Signal = Signal::USR1;

/// How much later than the worker this process ends a program at its time limit.
const LATER: Duration = Duration::from_secs(1);

/// Arguments of `taskgroup keep`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Milliseconds until the program is killed, in case the worker does not do so.
    #[arg(long)]
    pub limit_ms: u64,
    /// Milliseconds until the program is killed while the worker is stopped (SIGSTOP).
    #[arg(long)]
    pub frozen_ms: u64,
    /// The program and its arguments.
    #[arg(last = true, required = true)]
    pub command: Vec<OsString>,
}

/// Runs the program until it ends, its time is over, or the worker is gone.
///
/// # Errors
/// A system that can't do what this needs.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let begun = Instant::now();
    let worker = getppid();
    // A session of its own: what a signal to the worker's group or a terminal says is not for the task.
    // It is also how the worker finds what is left should this process be killed.
    setsid().context("keep: a new session is refused")?;
    set_child_subreaper(Some(getpid())).context("keep: this system has no PR_SET_CHILD_SUBREAPER (Linux 3.4)")?;
    if worker_is_gone(Duration::ZERO) {
        return Ok(ExitCode::FAILURE);
    }
    let (program, rest) = args.command.split_first().context("keep: names no program")?;
    let program = match Command::new(program).args(rest).process_group(0).spawn() {
        Ok(child) => child,
        Err(error) => {
            eprintln!("{}: {error}", program.display());
            kill_process(getpid(), NOT_STARTED)?;
            anyhow::bail!("keep: the signal {NOT_STARTED:?} is blocked");
        }
    };
    let pid = i32::try_from(program.id()).ok().and_then(Pid::from_raw);
    let pid = pid.context("keep: the program has no number")?;

    // Whether it still has its number: after that, nobody may be killed by it.
    let alive = Mutex::new(true);
    let end_it = || {
        let alive = alive.lock().unwrap_or_else(PoisonError::into_inner);
        if *alive {
            // An error is that it is dead already, and only waits to be asked how.
            let _ = kill_process(pid, Signal::KILL);
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            watch(args, worker, begun);
            end_it();
        });
        // Still a zombie after this, so that its number can't be another's.
        while let Err(Errno::INTR) = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {}
        *alive.lock().unwrap_or_else(PoisonError::into_inner) = false;
        let code = end_all(pid);
        // Not by returning: the watching thread goes on until the process ends.
        std::process::exit(code)
    })
}

/// Returns when the program has to end.
fn watch(args: &Args, worker: Option<Pid>, begun: Instant) {
    let limit = Duration::from_millis(args.limit_ms) + LATER;
    let frozen = Duration::from_millis(args.frozen_ms);
    let look_every = (frozen / 4).max(Duration::from_millis(50));
    let mut stopped_since = None;
    loop {
        let left = limit.saturating_sub(begun.elapsed());
        if worker_is_gone(left.min(look_every)) || begun.elapsed() >= limit {
            return;
        }
        // A worker that is stopped can't renew the lease: the task goes to another one.
        let stopped = worker
            .and_then(|worker| Process::of(worker.as_raw_nonzero().get()))
            .is_some_and(|worker| worker.is_stopped());
        stopped_since = stopped.then(|| stopped_since.unwrap_or_else(Instant::now));
        if stopped_since.is_some_and(|since| since.elapsed() >= frozen) {
            return;
        }
    }
}

/// Whether nobody reads our standard error any more; waits for that at most so long.
fn worker_is_gone(patience: Duration) -> bool {
    let stderr = io::stderr();
    // Nothing is asked for: that the reader is gone is always told.
    let mut pipe = [PollFd::new(&stderr, PollFlags::empty())];
    let timeout = Timespec::try_from(patience).ok();
    match poll(&mut pipe, timeout.as_ref()) {
        Ok(_) => pipe[0].revents().intersects(PollFlags::ERR | PollFlags::NVAL),
        Err(_) => false,
    }
}

/// Kills what is left of the program, and returns its exit code once nothing is.
fn end_all(program: Pid) -> i32 {
    let own = getpid().as_raw_nonzero().get();
    let mut code = 1;
    loop {
        let ended = match wait(WaitOptions::NOHANG) {
            Ok(None) => {
                // Those whose parent is killed become our children, and are the next.
                processes::all()
                    .filter(|process| process.parent == own)
                    .for_each(|process| process.kill());
                wait(WaitOptions::empty())
            }
            ended => ended,
        };
        match ended {
            Ok(Some((pid, status))) if pid == program => {
                code = status
                    .exit_status()
                    .or_else(|| status.terminating_signal().map(|signal| 128 + signal))
                    .unwrap_or(code);
            }
            Ok(_) | Err(Errno::INTR) => {}
            // ECHILD: nobody is left.
            Err(_) => return code,
        }
    }
}
