//! What the programs share: how they run, and how they end.

use crate::{
    cli::{PodCommand, ServeArgs},
    install, keep, telemetry, worker,
};
use std::process::ExitCode;
use tokio_util::sync::CancellationToken;

/// Does what is done in worker pods.
pub fn run_in_pod(command: PodCommand) -> anyhow::Result<ExitCode> {
    match command {
        PodCommand::Worker(args) => {
            let settings = args.serve.clone();
            serve(&settings, |shutdown| worker::run(args, shutdown))?;
        }
        PodCommand::Install(args) => install::run(&args)?,
        PodCommand::Keep(args) => return keep::run(&args),
    }
    Ok(ExitCode::SUCCESS)
}

/// Starts logging, and runs `service` until it ends; the token tells it when the process is asked to stop.
pub fn serve<F>(settings: &ServeArgs, service: impl FnOnce(CancellationToken) -> F) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>>,
{
    telemetry::init(settings.log_format, &settings.log)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let shutdown = CancellationToken::new();
    runtime.spawn(telemetry::cancel_on_signal(shutdown.clone()));
    runtime.block_on(service(shutdown))
}

/// Says what went wrong, and returns what the process is to end with.
pub fn exit(program: &str, result: anyhow::Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| {
        eprintln!("{program}: {error:#}");
        ExitCode::FAILURE
    })
}
