//! The arguments of `taskgroup worker`.

use crate::{admin::ServeArgs, broker::NatsArgs};
use std::{path::PathBuf, str::FromStr};

/// Arguments of `taskgroup worker`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
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
#[derive(Clone, Debug, Default, clap::Args)]
pub struct HandlerArgs {
    /// The worker POSTs tasks to this URL. Either this or --handler-exec is needed.
    #[arg(long, env = "HANDLER_URL", value_name = "URL", conflicts_with = "handler_exec")]
    pub handler_url: Option<String>,
    /// The worker speaks HTTP/2 to the handler, and nothing else.
    #[arg(long, env = "HANDLER_HTTP2", conflicts_with = "handler_exec")]
    pub handler_http2: bool,
    /// CA certificates (PEM) that must certify an https handler, in place of the system's.
    #[arg(long, env = "HANDLER_CA", value_name = "FILE", conflicts_with = "handler_exec")]
    pub handler_ca: Option<PathBuf>,
    /// The worker starts this program for each task. Write the program and its arguments as a JSON array
    /// of strings.
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
