//! The arguments that say how to reach NATS.

use std::path::PathBuf;

/// How to reach NATS.
#[derive(Clone, Debug, clap::Args)]
pub struct NatsArgs {
    /// URLs of the NATS servers, separated by commas.
    #[arg(
        long,
        env = "NATS_URL",
        default_value = "nats://127.0.0.1:4222",
        value_delimiter = ','
    )]
    pub nats_url: Vec<String>,
    /// NATS credentials file (JWT and key).
    #[arg(long, env = "NATS_CREDS", value_name = "FILE")]
    pub nats_creds: Option<PathBuf>,
}
