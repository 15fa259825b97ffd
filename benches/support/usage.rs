//! Memory and processor time of another process, from /proc.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

/// Writes the process id into a file, then becomes the program: `sh -c WITH_PID sh FILE PROGRAM ARGS...`.
pub const WITH_PID: &str = r#"echo $$ >"$1"; shift; exec "$@""#;

/// A process that was started by [`WITH_PID`].
pub struct Usage {
    proc: PathBuf,
}

impl Usage {
    /// Reads the process id. The program must have started.
    pub fn of(pid_file: &Path) -> Self {
        let pid = fs::read_to_string(pid_file).expect("the process wrote its id");
        Self {
            proc: Path::new("/proc").join(pid.trim()),
        }
    }

    /// Resident memory in MB (10^6 bytes).
    pub fn memory(&self) -> f64 {
        self.status("VmRSS:")
    }

    /// The most resident memory that the process ever had, in MB.
    pub fn peak_memory(&self) -> f64 {
        self.status("VmHWM:")
    }

    /// Resident memory without the pages of the program's file, in MB. All processes of a node share those pages.
    pub fn own_memory(&self) -> f64 {
        self.status("RssAnon:")
    }

    fn status(&self, field: &str) -> f64 {
        let status = fs::read_to_string(self.proc.join("status")).expect("the process runs");
        let kibibytes: f64 = status
            .lines()
            .find_map(|line| line.strip_prefix(field)?.trim().strip_suffix(" kB"))
            .and_then(|number| number.parse().ok())
            .expect("/proc states the resident memory");
        kibibytes * 1024.0 / 1e6
    }

    /// Seconds of processor time that the process has used so far, in the program and in the kernel.
    pub fn cpu(&self) -> f64 {
        let stat = fs::read_to_string(self.proc.join("stat")).expect("the process runs");
        // The name before the last bracket may contain blanks. utime and stime are fields 14 and 15.
        let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        let ticks: u64 = fields[11..=12].iter().map(|field| field.parse::<u64>().unwrap()).sum();
        // USER_HZ is 100 on every Linux there is.
        Duration::from_millis(ticks * 10).as_secs_f64()
    }
}
