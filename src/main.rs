//! `taskgroup`: parse the arguments, start logging, hand over.

use clap::CommandFactory;
use std::process::ExitCode;
use taskgroup::{
    api,
    cli::{self, Cli, Command, WorkerCli},
    crds, operator, program, reference,
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
        Command::Reference(args) => reference::write(
            &args,
            &reference::Sources {
                crds: api::crds().into_iter().map(|(_, crd)| crd).collect(),
                programs: vec![Cli::command(), WorkerCli::command()],
                metrics: Vec::new(),
            },
        )?,
    }
    Ok(ExitCode::SUCCESS)
}
