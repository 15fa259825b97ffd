//! A container for a TaskHandler with `native`. It pulls its tasks from JetStream itself.
//!
//! The consumer enforces the group's limit. The broker never delivers more tasks at once to all pods together. This program
//! requests no more tasks than its pod can run, heartbeats each running task, aborts a task whose heartbeat the broker did
//! not confirm in time, and acks finished tasks. Retries are the broker's redeliveries and keep their slot. Dead letters
//! exist only if a program writes them.
//!
//! The operator sets these environment variables: `NATS_URL`, `NATS_CREDS` (a file, if credentials are configured),
//! `STREAM`, `CONSUMER`, `MAX_INFLIGHT` (the tasks that this pod may run at once), and `ACK_WAIT` (the seconds until the
//! broker redelivers a task). This program adds `TASK_TIME`, the duration of a task (`1s` by default), and
//! `RECORDER_URL`, as in `handler.rs`.

#[path = "recorder/client.rs"]
mod recorder;

use anyhow::Context;
use async_nats::{
    ConnectOptions,
    jetstream::{self, AckKind, Message, consumer::PullConsumer},
};
use futures::StreamExt;
use recorder::{Attempt, Recorder};
use std::{env, path::PathBuf, sync::Arc, time::Duration};
use tokio::{
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The broker answers an unfulfilled pull after this time.
const EXPIRES: Duration = Duration::from_secs(5);

/// The pause after an error.
const PAUSE: Duration = Duration::from_secs(1);

/// The attempts of a task, including the first.
const MAX_ATTEMPTS: i64 = 5;

/// The settings that the operator passes to the container.
#[derive(Clone, Debug)]
pub struct Settings {
    /// URLs of the NATS servers, separated by commas.
    pub nats_url: String,
    /// Path of the NATS credentials file, if credentials are configured.
    pub nats_creds: Option<PathBuf>,
    /// Name of the group's stream.
    pub stream: String,
    /// Name of the group's consumer.
    pub consumer: String,
    /// Most tasks that this pod may run at once.
    pub max_inflight: usize,
    /// The broker redelivers a task after this time without a heartbeat.
    pub ack_wait: Duration,
}

impl Settings {
    fn from_env() -> anyhow::Result<Self> {
        let text = |name: &str| env::var(name).with_context(|| format!("{name} is not set: the operator sets it"));
        Ok(Self {
            nats_url: text("NATS_URL")?,
            nats_creds: env::var_os("NATS_CREDS").map(PathBuf::from),
            stream: text("STREAM")?,
            consumer: text("CONSUMER")?,
            max_inflight: text("MAX_INFLIGHT")?.parse().context("MAX_INFLIGHT is no number")?,
            ack_wait: Duration::from_secs(text("ACK_WAIT")?.parse().context("ACK_WAIT is no number of seconds")?),
        })
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let task_time: jiff::SignedDuration = env::var("TASK_TIME").unwrap_or_else(|_| "1s".into()).parse()?;
    let task_time = Duration::try_from(task_time)?;
    let group = env::var("TASKGROUP_QUEUE").unwrap_or_default();
    let recorder = Recorder::from_env();
    let stop = CancellationToken::new();
    tokio::spawn(taskgroup::telemetry::cancel_on_signal(stop.clone()));

    let told = recorder.clone();
    let work = move |message: Arc<Message>| {
        let (recorder, group) = (told.clone(), group.clone());
        async move {
            let attempt = Attempt {
                group,
                task: message.subject.splitn(4, '.').last().unwrap_or_default().to_owned(),
                number: u32::try_from(attempt_of(&message)).unwrap_or(1),
            };
            let mut running = match &recorder {
                Some(recorder) => Some(recorder.start(attempt).await?),
                None => None,
            };
            sleep(task_time).await;
            if let Some(running) = &mut running {
                running.end().await;
            }
            Ok(())
        }
    };
    run(&Settings::from_env()?, work, stop).await?;
    if let Some(recorder) = &recorder {
        recorder.finish().await;
    }
    Ok(())
}

/// Runs `work` for each task until `stop`, and then waits for the running tasks.
pub async fn run<W, F>(settings: &Settings, work: W, stop: CancellationToken) -> anyhow::Result<()>
where
    W: Fn(Arc<Message>) -> F + Clone + Send + 'static,
    F: Future<Output = Result<(), String>> + Send,
{
    let consumer = connect(settings).await?;
    let ack_wait = settings.ack_wait;
    let slots = Arc::new(Semaphore::new(settings.max_inflight));
    let running = TaskTracker::new();
    while !stop.is_cancelled() {
        // Waits for one free slot, and then requests as many tasks as slots are free.
        tokio::select! {
            slot = slots.acquire() => drop(slot?),
            () = stop.cancelled() => break,
        }
        let batch = consumer
            .batch()
            .max_messages(slots.available_permits())
            .expires(EXPIRES);
        let mut batch = match batch.messages().await {
            Ok(batch) => batch,
            Err(error) => {
                eprintln!("can't pull: {error}");
                sleep(PAUSE).await;
                continue;
            }
        };
        loop {
            let message = tokio::select! {
                message = batch.next() => message,
                // A task that is just being delivered is not lost. JetStream redelivers it after ackWait.
                () = stop.cancelled() => break,
            };
            let message = match message {
                Some(Ok(message)) => Arc::new(message),
                // The pull is fulfilled or expired.
                None => break,
                Some(Err(error)) => {
                    eprintln!("pulling again: {error}");
                    sleep(PAUSE).await;
                    break;
                }
            };
            // Never waits, because the pull requested no more tasks than free slots.
            let slot = slots.clone().acquire_owned().await?;
            let work = work.clone();
            running.spawn(async move {
                run_task(message, ack_wait, work).await;
                drop(slot);
            });
        }
    }
    running.close();
    running.wait().await;
    Ok(())
}

async fn connect(settings: &Settings) -> anyhow::Result<PullConsumer> {
    let mut options = ConnectOptions::new().retry_on_initial_connect();
    if let Some(file) = &settings.nats_creds {
        options = options.credentials_file(file).await?;
    }
    let client = options.connect(&settings.nats_url).await?;
    let jetstream = jetstream::new(client);
    loop {
        match jetstream
            .get_consumer_from_stream(&settings.consumer, &settings.stream)
            .await
        {
            Ok(consumer) => return Ok(consumer),
            Err(error) => eprintln!("waiting for the consumer {}: {error}", settings.consumer),
        }
        sleep(PAUSE).await;
    }
}

async fn run_task<W, F>(message: Arc<Message>, ack_wait: Duration, work: W)
where
    W: Fn(Arc<Message>) -> F,
    F: Future<Output = Result<(), String>>,
{
    let result = tokio::select! {
        result = work(message.clone()) => result,
        // Drops the work before the broker may give the task to another pod.
        () = lease_lost(&message, ack_wait) => {
            eprintln!("{}: aborted, because the broker did not confirm the heartbeat in time", message.subject);
            return;
        }
    };
    let verdict = match result {
        Ok(()) => AckKind::Ack,
        // The last attempt. A program that wants a dead letter stores it before this.
        Err(error) if attempt_of(&message) >= MAX_ATTEMPTS => {
            eprintln!("{}: given up: {error}", message.subject);
            AckKind::Term
        }
        Err(error) => {
            eprintln!("{}: to be tried again: {error}", message.subject);
            AckKind::Nak(Some(PAUSE))
        }
    };
    // JetStream redelivers a task whose ack was lost after ackWait.
    if let Err(error) = message.double_ack_with(verdict).await {
        eprintln!("{}: the broker did not confirm the ack: {error}", message.subject);
    }
}

/// Heartbeats the task every third of `ackWait`. Returns when the broker does not confirm a heartbeat within another third.
async fn lease_lost(message: &Message, ack_wait: Duration) {
    // nats-server does not persist redeliveries. After a restart, it would give this task to another pod.
    let mut pause = if attempt_of(message) > 1 {
        Duration::ZERO
    } else {
        ack_wait / 3
    };
    loop {
        sleep(pause).await;
        pause = ack_wait / 3;
        let told = timeout(ack_wait / 3, message.double_ack_with(AckKind::Progress)).await;
        if !matches!(told, Ok(Ok(()))) {
            return;
        }
    }
}

/// Returns the number of this attempt, from 1.
fn attempt_of(message: &Message) -> i64 {
    message.info().map_or(1, |info| info.delivered)
}
