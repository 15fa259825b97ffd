//! Callbacks tell whoever published a task, at the URL that came with it, how the task ended.
//!
//! A callback holds no slot, and is not lost with its worker. Before the task leaves its queue, the callback is stored in
//! the delays. Then the worker makes it at once, and removes it there. A callback that did not succeed becomes due after
//! a while. Then the relay asks any worker of the group to make it.

mod request;
mod target;

pub use target::is_rule;

use self::request::Made;
use super::transfer::{self, Message, Transfer};
use crate::{
    broker::{Broker, Delivery, Question},
    protocol::{
        Kind, Queue, StreamName,
        callback::{self as names, Reply, Report},
        headers,
        subject::DELAY_STREAM,
    },
    worker::{
        group::{self, Group, Run},
        runtime::{Metrics, Runtime},
    },
};
use bytes::Bytes;
use jiff::SignedDuration;
use std::{sync::Arc, time::Duration};
use tokio::time;

/// How long the first try may take.
const FIRST_TRY: Duration = Duration::from_secs(10);

/// When a callback becomes due whose first try did not succeed: after that has ended for certain.
const DUE_AFTER: SignedDuration = SignedDuration::from_secs(15);

/// How long a later try may take. The relay waits a little longer for the answer.
const LATER_TRY: Duration = Duration::from_secs(20);

/// What a NATS message needs for its headers, at most, of its `max_payload`.
const HEADERS: usize = 16 * 1024;

/// The end of a task, as its callback reports it.
#[derive(Clone, Debug)]
pub struct TaskReport {
    /// The handler's HTTP status; 200 for exit code 0, and 500 for all else.
    pub status: u16,
    /// How long the last attempt took.
    pub duration: Duration,
    /// What the handler put out.
    pub body: Bytes,
    /// Whether the handler put out more than a message can hold.
    pub truncated: bool,
}

impl TaskReport {
    /// The report of a task that ended without its handler having had a say.
    pub fn unhandled() -> Self {
        Self {
            status: 500,
            duration: Duration::ZERO,
            body: Bytes::new(),
            truncated: false,
        }
    }
}

/// One callback that is to be made.
struct Callback {
    id: String,
    headers: Vec<(String, String)>,
    body: Bytes,
    /// Hosts and networks that it may go to beside public ones.
    allow: Arc<[String]>,
}

/// The URL that the task's callback goes to, if the task wants one.
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
pub fn largest_body(broker: &Broker) -> usize {
    broker.max_payload().saturating_sub(HEADERS)
}

/// Stores the task's callback, if it wants one, and makes it in the background.
pub async fn begin(run: &Run<'_>, report: &TaskReport) -> Transfer {
    let (group, id) = (run.group(), run.id());
    let Some(url) = url(run.task().headers()) else {
        return Transfer::Stored;
    };
    if let Err(why) = target::Target::read(url) {
        group.metrics().callback("refused");
        tracing::warn!(call_id = id, "no callback: {why}");
        return Transfer::Stored;
    }
    let sequence = run.task().stored().sequence;
    let [waits, due] = [Kind::Callback, Kind::CallbackDue].map(|kind| group.queue().of_message(kind, id, sequence));
    let at = group.now().checked_add(DUE_AFTER).unwrap_or_default();
    let callback = Callback {
        id: id.to_owned(),
        headers: headers_of(run, url, report),
        body: report.body.clone(),
        allow: run.config().settings().callback_allow.as_slice().into(),
    };
    let mut headers = callback.headers.clone();
    headers.extend(headers::schedule(at, due, run.origin().callback()));
    let message = Message {
        stream: DELAY_STREAM,
        subject: waits,
        headers,
        payload: report.body.clone(),
    };
    let stored = transfer::store(run, &message).await;
    let runtime = group.runtime();
    if stored == Transfer::Stored
        && let Some(permit) = runtime.callbacks().permit()
    {
        let first_try = first_try(runtime.clone(), callback, message.subject);
        runtime.callbacks().spawn(permit, first_try);
    }
    stored
}

async fn first_try(runtime: Arc<Runtime>, callback: Callback, waits: String) {
    if let Made::Yes | Made::Never(_) = make(runtime.metrics(), &callback, FIRST_TRY).await
        && let Err(error) = runtime.broker().purge(&StreamName::from(DELAY_STREAM), &waits).await
    {
        tracing::debug!(call_id = callback.id, %error, "the callback was made, and will be made again");
    }
}

fn headers_of(run: &Run<'_>, url: &str, report: &TaskReport) -> Vec<(String, String)> {
    let report = Report {
        call_id: run.id(),
        url,
        group: &run.config().settings().group,
        status: report.status,
        duration: report.duration,
        truncated: report.truncated,
    };
    let mut all = report.headers();
    let trace = run
        .task()
        .headers()
        .filter(|(name, _)| name.eq_ignore_ascii_case("traceparent"));
    all.extend(trace.map(|(name, value)| (name.to_owned(), value.to_owned())));
    all
}

/// Makes a callback that the relay asks for, and answers. `group` is `None` where the process does not run the group of
/// `queue`: a process with several groups hears the requests for all groups of their namespaces.
pub async fn answer(runtime: &Arc<Runtime>, group: Option<&Group>, queue: Queue, question: Question) {
    let Some(permit) = runtime.callbacks().permit() else {
        return question.say(Reply::Retry.as_str()).await;
    };
    let config = match group {
        Some(group) => group.state().config(),
        None => group::read_config(runtime.broker(), &queue).await.map(Arc::new),
    };
    let Some(config) = config else {
        // Without the settings it is unknown where the callback may go.
        return question.say(Reply::Retry.as_str()).await;
    };
    let headers = question.headers();
    let id = headers
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(headers::CALL_ID))
        .map_or_else(String::new, |(_, id)| id.clone());
    let callback = Callback {
        id,
        headers,
        body: Bytes::copy_from_slice(question.payload()),
        allow: config.settings().callback_allow.as_slice().into(),
    };
    let answer = match make(runtime.metrics(), &callback, LATER_TRY).await {
        Made::Yes => Reply::Made,
        Made::NotYet(_) => Reply::Retry,
        Made::Never(_) => Reply::GiveUp,
    };
    drop(permit);
    question.say(answer.as_str()).await;
}

async fn make(metrics: &Metrics, callback: &Callback, patience: Duration) -> Made {
    let Callback {
        id,
        headers,
        body,
        allow,
    } = callback;
    let made = time::timeout(patience, request::send(headers, body, allow)).await;
    let made = made.unwrap_or_else(|_| Made::NotYet("no answer in time".to_owned()));
    match &made {
        Made::Yes => {
            metrics.callback("made");
            tracing::debug!(call_id = id, "callback made");
        }
        Made::NotYet(why) => {
            metrics.callback("failed");
            tracing::info!(call_id = id, why, "the callback did not succeed; it is tried again");
        }
        Made::Never(why) => {
            metrics.callback("refused");
            tracing::warn!(call_id = id, "the callback can't be made: {why}");
        }
    }
    made
}
