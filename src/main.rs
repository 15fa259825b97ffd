//! `taskgroup`: parses the command line and runs the subcommand.

use std::process::ExitCode;
use taskgroup::{
    cli::{self, Cli},
    program,
};

fn main() -> ExitCode {
    program::exit("taskgroup", cli::read::<Cli>().command.run())
}
