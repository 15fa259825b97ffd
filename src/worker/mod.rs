//! The worker runs the tasks of one group, or of several, each as a request to its handler, or as a process.
//!
//! - `runtime` is the process: what all groups in it share (the connection, the handler, slots, metrics, the clock).
//! - `group` is a queue: its configuration, and its tasks in flight with their leases and acks.
//! - `delivery` takes a task from the pull through its attempt, by the `handler`, and at the group's `rate`.
//! - `outcome` tells the broker what became of the task: done, retried, dead, or requeued.
//! - `process` starts and supervises the services. `subscriptions` hears what others ask the process.
//!
//! Imports between these folders go one way, from `delivery` by `outcome`, `group` and `rate` to `runtime` and `handler`.

mod args;
mod backoff;
mod delivery;
mod group;
mod handler;
mod outcome;
mod process;
mod rate;
mod runtime;
mod subscriptions;

pub use self::{
    args::{Args, CommandLine, HandlerArgs},
    handler::{Attempt, AttemptResult, InProcess, Output},
    outcome::is_callback_rule,
};

use self::{handler::Handler, outcome::TaskOutcome, runtime::Metrics};
use crate::protocol::{Queue, dead_letter, subject::is_dns_label};
use prometheus_client::registry::Registry;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Runs the tasks of one group until `shutdown`, then finishes what runs and returns.
///
/// The worker waits for whatever is missing at the start or later (NATS, the consumer, the handler), and names it at
/// `/readyz` and in the log.
///
/// # Errors
/// Arguments that can't be used, or a service that failed.
pub async fn run(args: Args, shutdown: CancellationToken) -> anyhow::Result<()> {
    let handler = Handler::new(&args.handler)?;
    process::run(&args, vec![queue(&args)?], handler, shutdown).await
}

/// Runs the tasks of one group by a function of this process. `args.handler` is not used.
///
/// # Errors
/// Arguments that can't be used, or a service that failed.
pub async fn run_with(args: Args, handler: InProcess, shutdown: CancellationToken) -> anyhow::Result<()> {
    let queue = queue(&args)?;
    run_groups(args, vec![queue], handler, shutdown).await
}

/// Runs the tasks of several groups by a function of this process. `args.handler` and the queue of `args` are not used.
///
/// # Errors
/// Arguments that can't be used, or a service that failed.
pub async fn run_groups(
    args: Args,
    queues: Vec<Queue>,
    handler: InProcess,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    process::run(&args, queues, Handler::InProcess(handler), shutdown).await
}

fn queue(args: &Args) -> anyhow::Result<Queue> {
    for (flag, value) in [("--namespace", &args.namespace), ("--queue", &args.queue)] {
        anyhow::ensure!(
            is_dns_label(value),
            "{flag}: {value:?} is no DNS label; write at most 63 of a-z, 0-9 and -, with a letter or digit at both ends"
        );
    }
    Ok(Queue::new(&args.namespace, &args.queue))
}

/// Registers the metrics of a worker with one series per label value, so that the reference can list them.
pub fn register_all_series(registry: &mut Registry) {
    let metrics = Metrics::new(registry);
    for outcome in TaskOutcome::ALL {
        metrics.task(outcome.as_str());
    }
    for result in ["ok", "failed", "timeout", "no_connection", "broken"] {
        metrics.attempt_ended(result, Duration::ZERO);
    }
    for result in ["made", "failed", "refused"] {
        metrics.callback(result);
    }
    for reason in dead_letter::Reason::ALL {
        metrics.dead_letter(reason.as_str());
    }
}
