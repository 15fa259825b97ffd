//! `taskgroup-worker`: what runs in worker pods, without the operator. It takes less room there: in memory, as each
//! pod has a copy of its program where that is put into the user's image.

use std::process::ExitCode;
use taskgroup::{
    cli::{self, WorkerCli},
    program,
};

fn main() -> ExitCode {
    program::exit(
        "taskgroup-worker",
        program::run_in_pod(cli::read::<WorkerCli>().command),
    )
}
