//! The worker: runs the tasks of one group, each as a request to its handler, or as a process.
//!
//! `pull_loop` asks for tasks and starts each as a `run_task`, which calls the `handler` (`http`, by a `client`,
//! or `exec`), keeps the `lease` meanwhile and does what `policy` says with the result. `slots` counts what may be asked
//! for, `in_hand` what runs, `watch` keeps the settings up to date, `gate` knows whether the handler is there, `drained` is
//! for the handler's shutdown hook. `slots` and `policy` are pure.

mod backoff;
mod client;
mod dead;
mod drained;
mod exec;
mod gate;
mod handler;
mod http;
mod in_hand;
mod lease;
mod lines;
mod metrics;
mod policy;
mod pull_loop;
mod retry_after;
mod run_task;
mod slots;
mod trace;
mod watch;

use self::{drained::Drained, gate::Gate, handler::Handler, in_hand::InHand, metrics::Metrics, watch::Known};
use crate::{
    admin::{self, Readiness},
    broker::Broker,
    cli::WorkerArgs,
    names::{Queue, is_dns_label},
};
use prometheus_client::registry::Registry;
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{Notify, watch as channel},
    time,
};
use tokio_util::sync::CancellationToken;

/// How long answers of the admin server that are under way may take at the end.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// What all tasks of this worker share.
struct Worker {
    queue: Queue,
    broker: Broker,
    handler: Handler,
    gate: Gate,
    known: channel::Receiver<Known>,
    /// Reads the consumer anew.
    look_again: Arc<Notify>,
    metrics: Metrics,
    in_hand: InHand,
    /// Cancelled when what still runs has to be handed back.
    hurry: CancellationToken,
}

/// Runs the tasks of one group until `shutdown`; then finishes what runs and returns.
///
/// Whatever is missing at the start or later (NATS, the consumer, the handler) is waited for, and named
/// by `/readyz` and in the log.
///
/// # Errors
/// Arguments that can't be used.
pub async fn run(args: WorkerArgs, shutdown: CancellationToken) -> anyhow::Result<()> {
    let queue = queue(&args)?;
    let (handler, gate) = Handler::new(&args.handler)?;
    let broker = Broker::connect(&args.nats, "worker").await?;

    let mut registry = Registry::default();
    let metrics = Metrics::new(&mut registry);
    let readiness = Readiness::waiting("starting");
    let drained = Drained::default();
    let app = admin::app(readiness.clone(), Arc::new(registry)).merge(drained.page());
    let admin_shutdown = CancellationToken::new();
    let (addr, admin) = admin::start(app, args.serve.admin_addr, admin_shutdown.clone()).await?;
    tracing::info!(%queue, %handler, admin = %addr, "worker started");

    let (known_sender, known) = channel::channel(Known {
        terms: None,
        missing: Some(format!(
            "reading the group's settings from NATS at {}",
            broker.servers()
        )),
    });
    let worker = Arc::new(Worker {
        gate,
        queue,
        broker,
        handler,
        known,
        look_again: Arc::default(),
        metrics,
        in_hand: InHand::default(),
        hurry: CancellationToken::new(),
    });
    let watch = watch::watch(
        worker.broker.clone(),
        worker.queue.clone(),
        known_sender,
        worker.look_again.clone(),
    );
    tokio::select! {
        () = watch => {}
        () = worker.gate.keep() => {}
        () = pull_loop::run(worker.clone(), readiness, shutdown) => {}
    }

    drained.finish().await;
    admin_shutdown.cancel();
    if time::timeout(LAST_ANSWERS, admin).await.is_err() {
        tracing::debug!("the admin server had connections open at the end");
    }
    worker.broker.close().await;
    tracing::info!("stopped");
    Ok(())
}

fn queue(args: &WorkerArgs) -> anyhow::Result<Queue> {
    for (flag, value) in [("--namespace", &args.namespace), ("--queue", &args.queue)] {
        anyhow::ensure!(
            is_dns_label(value),
            "{flag}: {value:?} is no DNS label; write at most 63 of a-z, 0-9 and -, with a letter or digit at both ends"
        );
    }
    Ok(Queue::new(&args.namespace, &args.queue))
}
