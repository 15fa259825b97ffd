//! The processes of this system, as `/proc` shows them.

use rustix::process::{Pid, Signal, kill_process};
use std::fs;

/// One process, from the beginning of its `/proc/<pid>/stat` (proc(5)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// Number of the process.
    pub pid: i32,
    /// State of the process in a letter. `T` is stopped; `Z` is a zombie.
    pub state: char,
    /// Number of the parent.
    pub parent: i32,
    /// Number of the session.
    pub session: i32,
}

impl Process {
    /// The process of this number, if there is one.
    pub fn of(pid: i32) -> Option<Self> {
        read(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// Whether the process is stopped, by a signal or a debugger.
    pub fn is_stopped(&self) -> bool {
        matches!(self.state, 'T' | 't')
    }

    /// Kills the process.
    pub fn kill(&self) {
        if let Some(pid) = Pid::from_raw(self.pid) {
            // A process that ended meanwhile is what is wanted.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// All processes.
pub fn all() -> impl Iterator<Item = Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| Process::of(entry.file_name().to_str()?.parse().ok()?))
}

fn read(stat: &str) -> Option<Process> {
    // The name comes second, in brackets. It may contain blanks and brackets itself.
    let (pid, _) = stat.split_once(' ')?;
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let (state, parent, _group, session) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    Some(Process {
        pid: pid.parse().ok()?,
        state: state.chars().next()?,
        parent: parent.parse().ok()?,
        session: session.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_may_have_any_name() {
        let process = Process {
            pid: 42,
            state: 'T',
            parent: 7,
            session: 3,
        };
        for name in ["sh", "a b", ") T 1 1", "((", ""] {
            assert_eq!(read(&format!("42 ({name}) T 7 5 3 0 -1")), Some(process), "{name:?}");
        }
        assert_eq!(read("42 (sh) T 7"), None);
    }

    #[test]
    fn this_process_is_one_of_all() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(all().any(|process| process.pid == own && !process.is_stopped()));
    }
}
