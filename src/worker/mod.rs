//! The worker.
use crate::cli::WorkerArgs;
use tokio_util::sync::CancellationToken;

/// Runs the worker.
pub async fn run(_args: WorkerArgs, _shutdown: CancellationToken) -> anyhow::Result<()> {
    Ok(())
}
