//! `taskgroup-worker`: the part of `taskgroup` that worker pods need, without the operator. The smaller program
//! saves memory in each pod, which holds a copy of it where it is installed into the user's image.

use std::process::ExitCode;
use taskgroup::{
    cli::{self, WorkerCli},
    program,
};

fn main() -> ExitCode {
    program::exit("taskgroup-worker", cli::read::<WorkerCli>().command.run())
}
