//! How a program runs a long-running service, and how it ends.

use crate::{admin::ServeArgs, telemetry};
use std::process::ExitCode;
use tokio_util::sync::CancellationToken;

/// Starts logging, and runs `service` until it ends. The token tells the service that the process is asked to stop.
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

/// Prints the error, and returns the exit code of the process.
pub fn exit(program: &str, result: anyhow::Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| {
        eprintln!("{program}: {error:#}");
        ExitCode::FAILURE
    })
}
