//! `taskgroup`: parse the arguments, start logging, hand over.

use std::process::ExitCode;
use taskgroup::{
    cli::{Cli, Command},
    crds, install, keep, operator, telemetry, worker,
};
use tokio_util::sync::CancellationToken;

fn main() -> ExitCode {
    match run(Cli::read()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("taskgroup: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Operator(args) => {
            telemetry::init(args.serve.log_format, &args.serve.log)?;
            block_on(|shutdown| operator::run(args, shutdown))?;
        }
        Command::Worker(args) => {
            telemetry::init(args.serve.log_format, &args.serve.log)?;
            block_on(|shutdown| worker::run(args, shutdown))?;
        }
        Command::Install(args) => install::run(&args)?,
        Command::Keep(args) => return keep::run(&args),
        Command::Crds(args) => crds::write(&args)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs `serve` until it ends; the token tells it when the process is asked to stop.
fn block_on<F>(serve: impl FnOnce(CancellationToken) -> F) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>>,
{
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let shutdown = CancellationToken::new();
    runtime.spawn(telemetry::cancel_on_signal(shutdown.clone()));
    runtime.block_on(serve(shutdown))
}
