//! The arguments of every subcommand. Each is also an environment variable.

use crate::{reference, telemetry::LogFormat, worker::is_callback_rule};
use clap::{Args, Parser, Subcommand, builder::Resettable};
use std::{ffi::OsString, net::SocketAddr, path::PathBuf, str::FromStr};

/// Every group of tasks its own pipeline, at exactly its own limit.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The worker of one group of tasks: what `taskgroup` does in worker pods, as a program of half the size.
#[derive(Debug, Parser)]
#[command(
    name = "taskgroup-worker",
    version,
    propagate_version = true,
    arg_required_else_help = true
)]
pub struct WorkerCli {
    /// What to do.
    #[command(subcommand)]
    pub command: PodCommand,
}

/// Reads the command line, and the environment for what that leaves out; ends the process with a
/// message where they make no sense.
pub fn read<C: Parser>() -> C {
    let mut command = C::command();
    // Clap reads the environment before it reads the command line.
    if std::env::args_os().skip(1).take(2).any(|arg| arg == "--no-env") {
        command = command.mut_subcommands(|subcommand| subcommand.mut_args(|arg| arg.env(Resettable::Reset)));
    }
    let matches = command.get_matches();
    C::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

/// What `taskgroup` can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Keep a stream, a consumer and a worker Deployment in step with every TaskGroup.
    #[command(after_help = "Example:\n  taskgroup operator --nats-url nats://nats.taskgroup-system:4222")]
    Operator(OperatorArgs),
    /// What it does in worker pods.
    #[command(flatten)]
    Pod(PodCommand),
    /// Write the CustomResourceDefinitions as YAML.
    #[command(after_help = "Examples:\n  taskgroup crds | kubectl apply -f -\n  taskgroup crds --dir crds")]
    Crds(CrdsArgs),
    /// Write the reference pages of the documentation.
    #[command(hide = true, after_help = "Example:\n  taskgroup reference --dir docs/reference")]
    Reference(reference::Args),
}

/// What is done in worker pods: all that `taskgroup-worker` can do.
#[expect(clippy::large_enum_variant, reason = "there is one in a process")]
#[derive(Debug, Subcommand)]
pub enum PodCommand {
    /// Run the tasks of one group. The operator starts this in the worker pods.
    #[command(
        after_help = "Example:\n  taskgroup worker --namespace crawl --queue acme --handler-url http://127.0.0.1:8080/"
    )]
    Worker(WorkerArgs),
    /// Copy this program to a directory. The operator starts this in pods with an image that lacks it.
    #[command(after_help = "Example:\n  taskgroup install --to /taskgroup")]
    Install(InstallArgs),
    /// Run one program with all its children, and end them with the worker that started this.
    #[command(
        hide = true,
        after_help = "Example:\n  taskgroup keep --limit-ms 30000 --frozen-ms 10000 -- /app/run --fast < task"
    )]
    Keep(KeepArgs),
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
    /// What runs the tasks.
    #[command(flatten)]
    pub handler: HandlerArgs,
    /// Take no argument from the environment, which is then the handler's alone.
    #[arg(long)]
    pub no_env: bool,
}

/// What runs the tasks: a URL or a program.
#[derive(Args, Clone, Debug, Default)]
pub struct HandlerArgs {
    /// Where tasks are POSTed to. Either this or --handler-exec is needed.
    #[arg(long, env = "HANDLER_URL", value_name = "URL", conflicts_with = "handler_exec")]
    pub handler_url: Option<String>,
    /// Speak HTTP/2 to the handler, and nothing else.
    #[arg(long, env = "HANDLER_HTTP2", conflicts_with = "handler_exec")]
    pub handler_http2: bool,
    /// CA certificates (PEM) that an https handler must be certified by, in place of the system's.
    #[arg(long, env = "HANDLER_CA", value_name = "FILE", conflicts_with = "handler_exec")]
    pub handler_ca: Option<PathBuf>,
    /// Program to start for each task, with its arguments, as a JSON array of texts.
    #[arg(long, env = "HANDLER_EXEC", value_name = "JSON")]
    pub handler_exec: Option<CommandLine>,
}

/// A program and its arguments. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandLine(pub Vec<String>);

impl FromStr for CommandLine {
    type Err = String;

    fn from_str(json: &str) -> Result<Self, String> {
        match serde_json::from_str::<Vec<String>>(json) {
            Ok(command) if command.first().is_some_and(|program| !program.is_empty()) => Ok(Self(command)),
            _ => Err(r#"write a program and its arguments as JSON, for example ["/app/run", "--fast"]"#.to_owned()),
        }
    }
}

/// Arguments of `taskgroup install`.
#[derive(Args, Clone, Debug)]
pub struct InstallArgs {
    /// Directory, which exists; the program is `taskgroup` in it.
    #[arg(long, value_name = "DIR")]
    pub to: PathBuf,
}

/// Arguments of `taskgroup keep`.
#[derive(Args, Clone, Debug)]
pub struct KeepArgs {
    /// Milliseconds after which the program is ended, should the worker not see to it.
    #[arg(long)]
    pub limit_ms: u64,
    /// Milliseconds after which it is ended when the worker is stopped (SIGSTOP) for so long.
    #[arg(long)]
    pub frozen_ms: u64,
    /// The program and its arguments.
    #[arg(last = true, required = true)]
    pub command: Vec<OsString>,
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
        WorkerCli::command().debug_assert();
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
