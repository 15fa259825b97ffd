//! The arguments of every subcommand. Each is also an environment variable.

use crate::{telemetry::LogFormat, worker::is_callback_rule};
use clap::{Args, Parser, Subcommand};
use std::{net::SocketAddr, path::PathBuf};

/// Every group of tasks its own pipeline, at exactly its own limit.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the binary can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Keep a stream, a consumer and a worker Deployment in step with every TaskGroup.
    #[command(after_help = "Example:\n  taskgroup operator --nats-url nats://nats.taskgroup-system:4222")]
    Operator(OperatorArgs),
    /// Run the tasks of one group. The operator starts this in the worker pods.
    #[command(
        after_help = "Example:\n  taskgroup worker --namespace crawl --queue acme --handler-url http://127.0.0.1:8080/"
    )]
    Worker(WorkerArgs),
    /// Write the CustomResourceDefinitions as YAML.
    #[command(after_help = "Examples:\n  taskgroup crds | kubectl apply -f -\n  taskgroup crds --dir crds")]
    Crds(CrdsArgs),
}

/// How to reach NATS.
#[derive(Args, Clone, Debug)]
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

/// What every long-running subcommand takes.
#[derive(Args, Clone, Debug)]
pub struct ServeArgs {
    /// Where /livez, /readyz and /metrics are served.
    #[arg(long, env = "ADMIN_ADDR", default_value = "0.0.0.0:9797", value_name = "IP:PORT")]
    pub admin_addr: SocketAddr,
    /// How log lines look.
    #[arg(long, env = "LOG_FORMAT", default_value = "text")]
    pub log_format: LogFormat,
    /// What is logged: a level, or levels per module.
    #[arg(long, env = "RUST_LOG", default_value = "info", value_name = "FILTER")]
    pub log: String,
}

/// Arguments of `taskgroup operator`.
#[derive(Args, Clone, Debug)]
pub struct OperatorArgs {
    /// How to reach NATS.
    #[command(flatten)]
    pub nats: NatsArgs,
    /// Admin server and logs.
    #[command(flatten)]
    pub serve: ServeArgs,
    /// Name of this installation. Streams are marked with it, so that two clusters can share a NATS.
    #[arg(long, env = "TASKGROUP_INSTANCE", default_value = "default")]
    pub instance: String,
    /// Watch this namespace only; all namespaces without it.
    #[arg(long, env = "WATCH_NAMESPACE", value_name = "NAMESPACE")]
    pub watch_namespace: Option<String>,
    /// Image of the worker containers.
    #[arg(long, env = "WORKER_IMAGE", default_value = "taskgroup:latest", value_name = "IMAGE")]
    pub worker_image: String,
    /// URLs of the NATS servers as the worker pods reach them, by default those of the operator.
    #[arg(long, env = "WORKER_NATS_URL", value_delimiter = ',', value_name = "URL")]
    pub worker_nats_url: Vec<String>,
    /// Secret, in the namespace of each group, with the workers' NATS credentials under the key `nats.creds`.
    #[arg(long, env = "WORKER_NATS_CREDS_SECRET", value_name = "SECRET")]
    pub worker_nats_creds_secret: Option<String>,
    /// Groups reconciled at the same time.
    #[arg(long, env = "RECONCILE_CONCURRENCY", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..))]
    pub concurrency: u16,
    /// Seconds between two looks at the backlog of all groups.
    #[arg(long, env = "BACKLOG_INTERVAL", default_value_t = 10, value_parser = clap::value_parser!(u64).range(10..))]
    pub backlog_interval: u64,
    /// Seconds between two full checks of a group that nothing happened to.
    #[arg(long, env = "RESYNC_INTERVAL", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..))]
    pub resync_interval: u64,
    /// Copies of the streams that all groups share (dead letters, delays, rates), for a NATS cluster.
    #[arg(long, env = "SHARED_STREAM_REPLICAS", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=5))]
    pub shared_stream_replicas: u8,
    /// Hosts (`hooks.acme.svc`, `*.acme.svc`) and networks (`10.1.0.0/16`) that callbacks may go to,
    /// separated by commas, beside those on the public internet.
    #[arg(long, env = "CALLBACK_ALLOW", value_delimiter = ',', value_name = "HOST|CIDR", value_parser = callback_rule)]
    pub callback_allow: Vec<String>,
}

/// Arguments of `taskgroup worker`.
#[derive(Args, Clone, Debug)]
pub struct WorkerArgs {
    /// How to reach NATS.
    #[command(flatten)]
    pub nats: NatsArgs,
    /// Admin server and logs.
    #[command(flatten)]
    pub serve: ServeArgs,
    /// Namespace of the group.
    #[arg(long, env = "TASKGROUP_NAMESPACE")]
    pub namespace: String,
    /// Queue of the group.
    #[arg(long, env = "TASKGROUP_QUEUE")]
    pub queue: String,
    /// Where tasks are POSTed to.
    #[arg(long, env = "HANDLER_URL", value_name = "URL")]
    pub handler_url: String,
}

/// Arguments of `taskgroup crds`.
#[derive(Args, Clone, Debug)]
pub struct CrdsArgs {
    /// Write one file per kind into this directory, instead of all to standard output.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

fn callback_rule(rule: &str) -> Result<String, String> {
    if is_callback_rule(rule) {
        Ok(rule.to_owned())
    } else {
        Err("write a host such as hooks.acme.svc, a domain such as *.acme.svc, or a network such as 10.1.0.0/16".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_subcommand_shows_an_example() {
        for command in Cli::command().get_subcommands() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(
                help.contains(&format!("taskgroup {}", command.get_name())),
                "{}",
                command.get_name()
            );
        }
    }
}
