//! A container for a TaskHandler with `native`: takes its tasks from JetStream by itself.
//!
//! The group's limit is the consumer's: the broker hands out no more tasks at once to all pods together.
//! What is left to do is to ask for no more than this pod can run, to say that a task is still being worked
//! on, to stop working on it when that could not be said in time, and to say how it ended. Retries are the
//! broker's redeliveries, which keep their slot; there are no dead letters but those that one writes.
//!
//! Environment, set by the operator: `NATS_URL`, `NATS_CREDS` (a file, if there is one), `STREAM`,
//! `CONSUMER`, `MAX_INFLIGHT` (most tasks of this pod at once), `ACK_WAIT` (seconds after which the broker
//! gives a task to another pod). Our own: `TASK_TIME`, how long a task takes (`1s`), and `RECORDER_URL`, as
//! in `handler.rs`.

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

/// How long one request for tasks may wait at the broker.
const EXPIRES: Duration = Duration::from_secs(5);

/// Pause after something went wrong.
const PAUSE: Duration = Duration::from_secs(1);

/// Attempts of a task, the first one included.
const MAX_ATTEMPTS: i64 = 5;

/// What the operator tells us.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where NATS is.
    pub nats_url: String,
    /// Its credentials file.
    pub nats_creds: Option<PathBuf>,
    /// The group's stream.
    pub stream: String,
    /// Its consumer.
    pub consumer: String,
    /// Most tasks of this pod at once.
    pub max_inflight: usize,
    /// After how long without a sign of life the broker gives a task to another pod.
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

/// Does `work` with each task until `stop`, and then finishes what runs.
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
        // One free slot is waited for; then as many tasks are asked for as there are.
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
                eprintln!("no tasks can be asked for: {error}");
                sleep(PAUSE).await;
                continue;
            }
        };
        loop {
            let message = tokio::select! {
                message = batch.next() => message,
                // A task that is just on its way is not lost: after ackWait, another pod gets it.
                () = stop.cancelled() => break,
            };
            let message = match message {
                Some(Ok(message)) => Arc::new(message),
                // All came, or the time is over: on to the next request.
                None => break,
                Some(Err(error)) => {
                    eprintln!("asking for tasks again: {error}");
                    sleep(PAUSE).await;
                    break;
                }
            };
            // At once: no more was asked for than there are.
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
        // Dropped in the middle: nobody else may start it before that.
        () = lease_lost(&message, ack_wait) => {
            eprintln!("{}: cut off, as the broker could not be told in time that it still runs", message.subject);
            return;
        }
    };
    let verdict = match result {
        Ok(()) => AckKind::Ack,
        // Too often: removed. A program that wants a dead letter stores it first.
        Err(error) if attempt_of(&message) >= MAX_ATTEMPTS => {
            eprintln!("{}: given up: {error}", message.subject);
            AckKind::Term
        }
        Err(error) => {
            eprintln!("{}: to be tried again: {error}", message.subject);
            AckKind::Nak(Some(PAUSE))
        }
    };
    // A word that gets lost means another attempt, after ackWait.
    if let Err(error) = message.double_ack_with(verdict).await {
        eprintln!("{}: the broker did not confirm its end: {error}", message.subject);
    }
}

/// Says every third of `ackWait` that the task is being worked on. Returns when the broker does not confirm
/// that within another third.
async fn lease_lost(message: &Message, ack_wait: Duration) {
    // nats-server does not write down when it delivers a message again: started anew, it would give it to another.
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

/// Which attempt of its task a message is, from 1.
fn attempt_of(message: &Message) -> i64 {
    message.info().map_or(1, |info| info.delivered)
}
