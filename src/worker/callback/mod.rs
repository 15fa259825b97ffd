//! Callbacks: tells whoever published a task, at the URL that came with it, how the task ended.
//!
//! A callback holds no slot, and is not lost with its worker: before the task leaves its queue, the
//! callback is stored in the delays. Then the worker makes it at once, and removes it there. What did not
//! succeed becomes due after a while: then the operator's relay asks any worker of the group to make it.

mod request;
mod target;

pub use target::is_rule;

use super::{
    Worker,
    handover::{self, HandOver},
    run_task::Run,
};
use crate::{
    broker::{Delivery, Question},
    protocol::{
        Kind, StreamName,
        callback::{self as names, Reply, Report},
        headers,
        subject::DELAY_STREAM,
    },
};
use bytes::Bytes;
use futures::StreamExt;
use jiff::SignedDuration;
use request::Made;
use std::{sync::Arc, time::Duration};
use tokio::{sync::Semaphore, time};
use tokio_util::task::TaskTracker;

/// How long the first try may take.
const FIRST_TRY: Duration = Duration::from_secs(10);

/// When a callback becomes due whose first try did not succeed: after that has ended for certain.
const DUE_AFTER: SignedDuration = SignedDuration::from_secs(15);

/// How long a later try may take: the relay waits a little longer for the answer.
const LATER_TRY: Duration = Duration::from_secs(20);

/// Callbacks that one worker makes at once. Beyond it they wait in the delays.
const AT_ONCE: usize = 64;

/// What a NATS message needs for its headers, at most, of its `max_payload`.
const HEADERS: usize = 16 * 1024;

/// How a task ended, for its callback.
#[derive(Clone, Debug, Default)]
pub struct End {
    /// As an HTTP status: that of the handler, 200 for exit code 0, 500 for all else.
    pub status: u16,
    /// How long the last attempt took.
    pub duration: Duration,
    /// What the handler put out.
    pub body: Bytes,
    /// Whether it put out more than a message can hold.
    pub truncated: bool,
}

/// The callbacks that this worker makes.
pub struct Callbacks {
    free: Arc<Semaphore>,
    running: TaskTracker,
}

impl Default for Callbacks {
    fn default() -> Self {
        Self {
            free: Arc::new(Semaphore::new(AT_ONCE)),
            running: TaskTracker::new(),
        }
    }
}

impl Callbacks {
    /// Returns when none is under way. To be called when no more come.
    pub async fn finished(&self) {
        self.running.close();
        self.running.wait().await;
    }
}

/// Where the task's callback is to go, if it wants one.
fn url<'a>(mut headers: impl Iterator<Item = (&'a str, &'a str)>) -> Option<&'a str> {
    headers
        .find(|(name, _)| name.eq_ignore_ascii_case(names::URL))
        .map(|(_, url)| url)
}

/// Whether a task wants a callback.
pub fn is_wanted(task: &Delivery) -> bool {
    url(task.headers()).is_some()
}

/// How much of the handler's output a callback can carry.
pub fn largest_body(worker: &Worker) -> usize {
    worker.broker.max_payload().saturating_sub(HEADERS)
}

/// Stores the task's callback, if it wants one, and makes it. Returns `Lost` when the lease was lost before
/// it was stored.
pub async fn begin(run: &Run<'_>, end: &End) -> HandOver {
    let Run { worker, task, id, .. } = *run;
    let Some(url) = url(task.headers()) else {
        return HandOver::Stored;
    };
    if let Err(why) = target::Target::read(url) {
        worker.metrics.callback("refused");
        tracing::warn!(call_id = id, "no callback: {why}");
        return HandOver::Stored;
    }
    let sequence = task.stored().sequence;
    let (waits, due) = (
        worker.queue.of_message(Kind::Callback, id, sequence),
        worker.queue.of_message(Kind::CallbackDue, id, sequence),
    );
    let callback = headers_of(run, url, end);
    let at = worker.now().checked_add(DUE_AFTER).unwrap_or_default();
    let mut headers = callback.clone();
    headers.extend(headers::schedule(at, due, run.origin().callback()));
    let stored = handover::store(run, DELAY_STREAM, &waits, &headers, &end.body).await;
    if stored == HandOver::Stored
        && let Ok(permit) = worker.callbacks.free.clone().try_acquire_owned()
    {
        let (worker, id, body) = (worker.me.upgrade(), id.to_owned(), end.body.clone());
        run.worker.callbacks.running.spawn(async move {
            let _permit = permit;
            if let Some(worker) = worker
                && let Made::Yes | Made::Never(_) = make(&worker, &id, &callback, body, FIRST_TRY).await
                && let Err(error) = worker.broker.purge(&StreamName::from(DELAY_STREAM), &waits).await
            {
                tracing::debug!(call_id = id, %error, "the callback was made, and will be made again");
            }
        });
    }
    stored
}

fn headers_of(run: &Run<'_>, url: &str, end: &End) -> Vec<(String, String)> {
    let report = Report {
        call_id: run.id,
        url,
        group: &run.terms.settings.group,
        status: end.status,
        duration: end.duration,
        truncated: end.truncated,
    };
    let mut all = report.headers();
    let trace = run
        .task
        .headers()
        .filter(|(name, _)| name.eq_ignore_ascii_case("traceparent"));
    all.extend(trace.map(|(name, value)| (name.to_owned(), value.to_owned())));
    all
}

/// Makes the callbacks that the relay asks for, for as long as it is polled.
pub async fn serve(worker: Arc<Worker>) {
    let questions = worker
        .broker
        .questions(worker.queue.of(Kind::WorkerCallback), Some("workers"))
        .await;
    let Ok(mut questions) = questions.map(Box::pin) else {
        // Only a closed client refuses; then nothing else works either.
        return std::future::pending().await;
    };
    while let Some(question) = questions.next().await {
        let Ok(permit) = worker.callbacks.free.clone().try_acquire_owned() else {
            question.say(Reply::Retry.as_str()).await;
            continue;
        };
        let worker = worker.clone();
        tokio::spawn(async move {
            let _permit = permit;
            later(&worker, question).await;
        });
    }
}

async fn later(worker: &Worker, question: Question) {
    let headers = question.headers();
    let id = headers
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(headers::CALL_ID))
        .map_or("", |(_, id)| id.as_str());
    let body = Bytes::copy_from_slice(question.payload());
    let answer = match make(worker, id, &headers, body, LATER_TRY).await {
        Made::Yes => Reply::Made,
        Made::NotYet(_) => Reply::Retry,
        Made::Never(_) => Reply::GiveUp,
    };
    question.say(answer.as_str()).await;
}

async fn make(worker: &Worker, id: &str, headers: &[(String, String)], body: Bytes, patience: Duration) -> Made {
    let allow = worker
        .terms()
        .map(|terms| terms.settings.callback_allow.clone())
        .unwrap_or_default();
    let made = time::timeout(patience, request::send(headers, body, &allow)).await;
    let made = made.unwrap_or_else(|_| Made::NotYet("no answer in time".to_owned()));
    match &made {
        Made::Yes => {
            worker.metrics.callback("made");
            tracing::debug!(call_id = id, "callback made");
        }
        Made::NotYet(why) => {
            worker.metrics.callback("failed");
            tracing::info!(call_id = id, why, "the callback did not succeed; it is tried again");
        }
        Made::Never(why) => {
            worker.metrics.callback("refused");
            tracing::warn!(call_id = id, "the callback can't be made: {why}");
        }
    }
    made
}
