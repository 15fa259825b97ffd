//! The worker: runs the tasks of one group, each as a request to its handler, or as a process.
//!
//! `pull_loop` asks for tasks and starts each as a `run_task`, which has the `handler` (`http`, by a
//! `client`, or `exec`) make an `attempt`, keeps the `lease` meanwhile and does what `policy` says with the result: `acks` for
//! what is done, a `handover` for what is tried again (`history`) or `dead`, a `closing` of the whole group,
//! a `callback` to whoever asked for one. `slots` counts what may be asked for, `in_hand` what runs, `ended` what no longer does, `watch`
//! keeps the settings up to date, `gate` knows whether the handler is there, `rate` lets tasks start as the
//! group's rate allows by the server's `clock`, `cancel` answers who cancels a task, `drained` is for the
//! handler's shutdown hook. `slots`, `policy`, `history`, `trace` and `retry_after` are pure.

mod acks;
mod args;
mod attempt;
mod backoff;
mod callback;
mod cancel;
mod client;
mod clock;
mod closing;
mod dead;
mod drained;
mod ended;
mod exec;
mod gate;
mod handler;
mod handover;
mod history;
mod http;
mod in_hand;
mod lease;
mod lines;
mod metrics;
mod policy;
mod pull_loop;
mod rate;
mod retry_after;
mod roots;
mod run_task;
mod silence;
mod slots;
mod trace;
mod watch;

use self::{
    acks::Acks,
    callback::Callbacks,
    clock::Clock,
    drained::Drained,
    ended::Ended,
    gate::Gate,
    handler::Handler,
    in_hand::InHand,
    metrics::Metrics,
    rate::RateGate,
    watch::{Known, Terms},
};
pub use self::{
    args::{Args, CommandLine, HandlerArgs},
    callback::is_rule as is_callback_rule,
    handler::{Attempt, InProcess},
    policy::{AttemptResult, Output},
};
use crate::{
    admin::{self, Health},
    broker::Broker,
    protocol::{Queue, subject::is_dns_label},
};
use jiff::Timestamp;
use prometheus_client::registry::Registry;
use std::{
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::{
    sync::{Notify, watch as channel},
    task::JoinSet,
    time,
};
use tokio_util::sync::CancellationToken;

/// How long answers of the admin server that are under way may take at the end.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// What all tasks of this worker share.
struct Worker {
    /// Itself, for what outlives a task.
    me: Weak<Worker>,
    queue: Queue,
    broker: Broker,
    handler: Handler,
    gate: Gate,
    known: channel::Sender<Known>,
    /// Reads the consumer anew.
    look_again: Arc<Notify>,
    metrics: Metrics,
    in_hand: InHand,
    ended: Ended,
    acks: Acks,
    callbacks: Callbacks,
    rate: RateGate,
    clock: Clock,
    /// Cancelled when nothing new may start.
    stopping: CancellationToken,
    /// Cancelled when what still runs has to be handed back.
    hurry: CancellationToken,
}

impl Worker {
    /// What the group's workers keep to, as far as is known.
    fn terms(&self) -> Option<Arc<Terms>> {
        self.known.borrow().terms.clone()
    }

    /// Until when nothing new may start, where that is so.
    fn is_paused(&self, known: &Known) -> Option<Timestamp> {
        known.paused_until.filter(|until| self.now() < *until)
    }

    /// Returns when nothing new may start, and until when.
    async fn paused(&self) -> Timestamp {
        let mut known = self.known.subscribe();
        let paused = known.wait_for(|known| self.is_paused(known).is_some());
        let until = paused.await.ok().and_then(|known| known.paused_until);
        // The other end lives as long as this.
        until.unwrap_or(Timestamp::MAX)
    }

    /// The time of the NATS server.
    fn now(&self) -> Timestamp {
        self.clock.now()
    }
}

/// Runs the tasks of one group until `shutdown`; then finishes what runs and returns.
///
/// Whatever is missing at the start or later (NATS, the consumer, the handler) is waited for, and named
/// by `/readyz` and in the log.
///
/// # Errors
/// Arguments that can't be used.
pub async fn run(args: Args, shutdown: CancellationToken) -> anyhow::Result<()> {
    let (handler, gate) = Handler::new(&args.handler)?;
    start(args, handler, gate, shutdown).await
}

/// The same, with a function of this process in the place of a handler: `args.handler` is not used.
///
/// # Errors
/// Arguments that can't be used.
pub async fn run_with(args: Args, handler: InProcess, shutdown: CancellationToken) -> anyhow::Result<()> {
    start(args, Handler::InProcess(handler), Gate::open(), shutdown).await
}

async fn start(args: Args, handler: Handler, gate: Gate, shutdown: CancellationToken) -> anyhow::Result<()> {
    let queue = queue(&args)?;
    let broker = Broker::connect(&args.nats, "worker").await?;

    let mut registry = Registry::default();
    let metrics = Metrics::new(&mut registry);
    let readiness = Health::starting("starting");
    let drained = Drained::default();
    let app = admin::app(readiness.clone(), Arc::new(registry)).merge(drained.page());
    let admin_shutdown = CancellationToken::new();
    let listener = admin::listen(args.serve.admin_addr).await?;
    let addr = listener.local_addr()?;
    let admin = tokio::spawn(admin::serve(listener, app, admin_shutdown.clone()));
    tracing::info!(%queue, %handler, admin = %addr, "worker started");

    let (acks, unsent) = acks::channel();
    let known = channel::Sender::new(Known {
        terms: None,
        missing: Some(format!(
            "reading the group's settings from NATS at {}",
            broker.servers()
        )),
        paused_until: None,
    });
    let clock = Clock::default();
    let rate = RateGate::new(
        broker.clone(),
        queue.clone(),
        clock.clone(),
        known.subscribe(),
        metrics.rate.clone(),
    );
    let worker = Arc::new_cyclic(|me| Worker {
        me: me.clone(),
        gate,
        known,
        queue,
        broker,
        handler,
        look_again: Arc::default(),
        in_hand: InHand::default(),
        ended: Ended::new(metrics.in_flight.clone()),
        metrics,
        acks,
        callbacks: Callbacks::default(),
        rate,
        clock,
        stopping: shutdown.clone(),
        hurry: CancellationToken::new(),
    });
    // Each in a task of its own: what wakes one up has not all of them look.
    let mut services = JoinSet::new();
    services.spawn(cancel::answer(worker.clone()));
    services.spawn(callback::serve(worker.clone()));
    services.spawn(pull_loop::run(worker.clone(), readiness, shutdown));
    services.spawn(watch::watch(worker.clone()));
    services.spawn(unsent.send(worker.clone()));
    let shared = worker.clone();
    services.spawn(async move { shared.gate.keep().await });
    // The pull loop ends when all is done; the others only by a fault.
    let ended = services.join_next().await;
    services.shutdown().await;
    if let Some(Err(fault)) = ended {
        anyhow::bail!("a fault in the worker: {fault}");
    }

    worker.rate.close().await;
    drained.finish().await;
    admin_shutdown.cancel();
    if time::timeout(LAST_ANSWERS, admin).await.is_err() {
        tracing::debug!("the admin server had connections open at the end");
    }
    worker.broker.close().await;
    tracing::info!("stopped");
    Ok(())
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
