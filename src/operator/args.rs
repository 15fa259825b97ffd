//! The arguments of `taskgroup operator`.

use crate::{admin::ServeArgs, broker::NatsArgs, worker::is_callback_rule};

/// Arguments of `taskgroup operator`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// How to reach NATS.
    #[command(flatten)]
    pub nats: NatsArgs,
    /// Admin server and logs.
    #[command(flatten)]
    pub serve: ServeArgs,
    /// Name of this installation. The operator marks streams with it, so two clusters can share one NATS.
    #[arg(long, env = "TASKGROUP_INSTANCE", default_value = "default")]
    pub instance: String,
    /// The only namespace to watch. By default the operator watches all namespaces.
    #[arg(long, env = "WATCH_NAMESPACE", value_name = "NAMESPACE")]
    pub watch_namespace: Option<String>,
    /// Image of the worker containers.
    #[arg(long, env = "WORKER_IMAGE", default_value = "taskgroup:latest", value_name = "IMAGE")]
    pub worker_image: String,
    /// URLs of the NATS servers for the worker pods. By default they use the operator's.
    #[arg(long, env = "WORKER_NATS_URL", value_delimiter = ',', value_name = "URL")]
    pub worker_nats_url: Vec<String>,
    /// Secret that holds the workers' NATS credentials under the key `nats.creds`. It must exist in the
    /// namespace of each group.
    #[arg(long, env = "WORKER_NATS_CREDS_SECRET", value_name = "SECRET")]
    pub worker_nats_creds_secret: Option<String>,
    /// The operator reconciles at most this many groups at the same time.
    #[arg(long, env = "RECONCILE_CONCURRENCY", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..))]
    pub concurrency: u16,
    /// The operator checks the backlog of all groups every so many seconds.
    #[arg(long, env = "BACKLOG_INTERVAL", default_value_t = 10, value_parser = clap::value_parser!(u64).range(10..))]
    pub backlog_interval: u64,
    /// The operator checks a group that nothing happened to in full every so many seconds.
    #[arg(long, env = "RESYNC_INTERVAL", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..))]
    pub resync_interval: u64,
    /// Copies of the streams that all groups share (dead letters, delays, rates), for a NATS cluster.
    #[arg(long, env = "SHARED_STREAM_REPLICAS", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=5))]
    pub shared_stream_replicas: u8,
    /// Hosts (`hooks.acme.svc`, `*.acme.svc`) and networks (`10.1.0.0/16`), separated by commas, that
    /// callbacks may go to in addition to the public internet.
    #[arg(long, env = "CALLBACK_ALLOW", value_delimiter = ',', value_name = "HOST|CIDR", value_parser = callback_rule)]
    pub callback_allow: Vec<String>,
}

fn callback_rule(rule: &str) -> Result<String, String> {
    if is_callback_rule(rule) {
        Ok(rule.to_owned())
    } else {
        Err("write a host such as hooks.acme.svc, a domain such as *.acme.svc, or a network such as 10.1.0.0/16".into())
    }
}
