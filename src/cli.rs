//! The command line of each program. Each component owns its arguments; this module joins them.

use crate::{api, crds, install, keep, operator, program, reference, worker};
use clap::{CommandFactory, Parser, Subcommand, builder::Resettable};
use prometheus_client::registry::Registry;
use std::process::ExitCode;

/// Gives every group of tasks its own pipeline, which runs at exactly the group's limit.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, arg_required_else_help = true)]
pub struct Cli {
    /// The subcommand.
    #[command(subcommand)]
    pub command: Command,
}

/// Runs the tasks of one group. This is the part of `taskgroup` that worker pods need, at half the size.
#[derive(Debug, Parser)]
#[command(
    name = "taskgroup-worker",
    version,
    propagate_version = true,
    arg_required_else_help = true
)]
pub struct WorkerCli {
    /// The subcommand.
    #[command(subcommand)]
    pub command: PodCommand,
}

/// Reads the command line, and the environment for arguments that the command line leaves out. Arguments
/// that make no sense end the process with a message.
pub fn read<C: Parser>() -> C {
    let mut command = C::command();
    // Clap reads the environment before it reads the command line.
    if std::env::args_os().skip(1).take(2).any(|arg| arg == "--no-env") {
        command = command.mut_subcommands(|subcommand| subcommand.mut_args(|arg| arg.env(Resettable::Reset)));
    }
    let matches = command.get_matches();
    C::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

/// The subcommands of `taskgroup`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Keep a stream, a consumer and a worker Deployment in sync with every TaskGroup.
    #[command(after_help = "Example:\n  taskgroup operator --nats-url nats://nats.taskgroup-system:4222")]
    Operator(operator::Args),
    /// The subcommands that worker pods use.
    #[command(flatten)]
    Pod(PodCommand),
    /// Write the CustomResourceDefinitions as YAML.
    #[command(after_help = "Examples:\n  taskgroup crds | kubectl apply -f -\n  taskgroup crds --dir crds")]
    Crds(crds::Args),
    /// Write the reference pages of the documentation.
    #[command(hide = true, after_help = "Example:\n  taskgroup reference --dir docs/reference")]
    Reference(reference::Args),
}

impl Command {
    /// Runs the subcommand to its end.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Operator(args) => {
                let serve = args.serve.clone();
                program::serve(&serve, |shutdown| operator::run(args, shutdown))?;
            }
            Self::Pod(command) => return command.run(),
            Self::Crds(args) => crds::write(&args)?,
            Self::Reference(args) => reference::write(&args, &sources())?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Returns what the reference describes.
fn sources() -> reference::Sources {
    let (mut operator, mut worker) = (Registry::default(), Registry::default());
    operator::register_all_series(&mut operator);
    worker::register_all_series(&mut worker);
    let component = |name, registry| reference::Component { name, registry };
    reference::Sources {
        crds: api::crds().into_iter().map(|(_, crd)| crd).collect(),
        programs: vec![Cli::command(), WorkerCli::command()],
        metrics: vec![component("Operator and relay", operator), component("Worker", worker)],
    }
}

/// The subcommands of `taskgroup-worker`: those that worker pods use.
#[expect(clippy::large_enum_variant, reason = "a process has only one")]
#[derive(Debug, Subcommand)]
pub enum PodCommand {
    /// Run the tasks of one group. The operator starts this in the worker pods.
    #[command(
        after_help = "Example:\n  taskgroup worker --namespace crawl --queue acme --handler-url http://127.0.0.1:8080/"
    )]
    Worker(worker::Args),
    /// Copy this program to a directory. The operator starts this in pods with an image that lacks it.
    #[command(after_help = "Example:\n  taskgroup install --to /taskgroup")]
    Install(install::Args),
    /// Run one program with all its children, and end them with the worker that started this.
    #[command(
        hide = true,
        after_help = "Example:\n  taskgroup keep --limit-ms 30000 --frozen-ms 10000 -- /app/run --fast < task"
    )]
    Keep(keep::Args),
}

impl PodCommand {
    /// Runs the subcommand to its end.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Worker(args) => {
                let serve = args.serve.clone();
                program::serve(&serve, |shutdown| worker::run(args, shutdown))?;
            }
            Self::Install(args) => install::run(&args)?,
            Self::Keep(args) => return keep::run(&args),
        }
        Ok(ExitCode::SUCCESS)
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
