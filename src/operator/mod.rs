//! The operator.
use crate::cli::OperatorArgs;
use tokio_util::sync::CancellationToken;

/// Runs the operator.
pub async fn run(_args: OperatorArgs, _shutdown: CancellationToken) -> anyhow::Result<()> {
    Ok(())
}
