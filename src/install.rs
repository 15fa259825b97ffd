//! `taskgroup install`: puts this program into a directory, for pods whose image lacks it.

use anyhow::Context;
use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

/// Arguments of `taskgroup install`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Directory to copy to. It must exist; the program becomes `taskgroup` in it.
    #[arg(long, value_name = "DIR")]
    pub to: PathBuf,
}

/// Name of the program in the directory.
const NAME: &str = "taskgroup";

/// Copies this program. All at once: nobody ever sees a part of it.
///
/// # Errors
/// A directory that is not there, can't be written to, or has no room.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let to = &args.to;
    anyhow::ensure!(
        to.is_dir(),
        "--to: {} is no directory: make it first, or mount a volume there",
        to.display()
    );
    let own = std::env::current_exe().context("this program can't find itself")?;
    let temporary = to.join(format!(".{NAME}.{}", std::process::id()));
    let copied = fs::copy(&own, &temporary)
        // For whatever user the container of the task runs as.
        .and_then(|_| fs::set_permissions(&temporary, fs::Permissions::from_mode(0o755)))
        .and_then(|()| fs::rename(&temporary, to.join(NAME)));
    copied.with_context(|| {
        let _ = fs::remove_file(&temporary);
        format!(
            "--to: {} takes no file: it must be writable and have room",
            to.display()
        )
    })
}
