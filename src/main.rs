//! `taskgroup`: parse the arguments, start logging, hand over.

use std::process::ExitCode;
use taskgroup::{
    cli::{self, Cli, Command},
    crds, operator, program,
};

fn main() -> ExitCode {
    program::exit("taskgroup", run(cli::read::<Cli>().command))
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Operator(args) => {
            let serve = args.serve.clone();
            program::serve(&serve, |shutdown| operator::run(args, shutdown))?;
        }
        Command::Pod(command) => return program::run_in_pod(command),
        Command::Crds(args) => crds::write(&args)?,
    }
    Ok(ExitCode::SUCCESS)
}
