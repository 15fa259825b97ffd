//! The ways to run a task. Whichever it is, the rest of the worker sees one attempt and its result.

mod client;
mod exec;
mod http;
mod lines;
mod result;
mod retry_after;
mod roots;
mod trace;

pub use self::{
    client::Door,
    exec::find as find_program,
    result::{AttemptResult, Output},
    roots::client_config as trusted_roots,
    trace::Trace,
};

use self::{exec::ExecHandler, http::HttpHandler};
use crate::{protocol::settings::WorkerSettings, worker::HandlerArgs};
use bytes::Bytes;
use futures::future::BoxFuture;
use std::{fmt, sync::Arc, task::Poll, time::Duration};
use tokio::time;

/// One attempt of one task, as a handler gets it.
pub struct Attempt<'a> {
    /// Id of the task.
    pub id: &'a str,
    /// Number of this attempt, from 1.
    pub number: u32,
    /// The publisher's headers, without those that NATS or we act on.
    pub headers: Vec<(&'a str, &'a str)>,
    /// The place of this attempt in the trace that the task belongs to.
    pub trace: Trace,
    /// What the publisher sent.
    pub payload: Bytes,
    /// How much of the handler's output is wanted, in bytes.
    pub keep: usize,
    /// The settings of the task's group.
    pub settings: &'a WorkerSettings,
    /// How soon JetStream redelivers the task when its lease is not renewed.
    pub ack_wait: Duration,
}

/// A function that runs tasks in the worker's own process, for programs that embed the worker.
pub type InProcess = Arc<dyn for<'a> Fn(&'a Attempt<'a>) -> BoxFuture<'a, AttemptResult> + Send + Sync>;

/// What runs the tasks.
pub enum Handler {
    /// A server that tasks are POSTed to.
    Http(Box<HttpHandler>),
    /// A program that is started for each task.
    Exec(ExecHandler),
    /// A function of this process.
    InProcess(InProcess),
}

/// Why a handler is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Absent {
    /// It may come by itself.
    NotYet(String),
    /// It is not what it should be, and somebody has to see to it.
    Wrong(String),
}

impl fmt::Display for Handler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(handler) => handler.url().fmt(f),
            Self::Exec(handler) => handler.program().fmt(f),
            Self::InProcess(_) => f.write_str("in process"),
        }
    }
}

impl Handler {
    /// The handler that the arguments name.
    ///
    /// # Errors
    /// Arguments that can't be used.
    pub fn new(args: &HandlerArgs) -> anyhow::Result<Self> {
        match (&args.handler_url, &args.handler_exec) {
            (Some(url), None) => Ok(Self::Http(Box::new(HttpHandler::new(url, args)?))),
            (None, Some(command)) => Ok(Self::Exec(ExecHandler::new(command.clone()))),
            _ => anyhow::bail!(
                "exactly one of --handler-url (HANDLER_URL) and --handler-exec (HANDLER_EXEC) says what runs the tasks: \
                 write for example --handler-url http://127.0.0.1:8080/"
            ),
        }
    }

    /// Makes one attempt, which takes at most `timeouts.task`. Dropping this future aborts the attempt.
    pub async fn run(&self, attempt: &Attempt<'_>) -> AttemptResult {
        let limit = attempt.settings.timeouts.task.checked();
        let result = match self {
            Self::Http(handler) => time::timeout(limit, Box::pin(handler.call(attempt))).await,
            // A process keeps the limit itself, as it waits for the end of what it kills then.
            Self::Exec(handler) => return Box::pin(handler.call(attempt)).await,
            Self::InProcess(handler) => {
                let mut call = handler(attempt);
                // A function that returns at once needs no timer.
                match futures::poll!(&mut call) {
                    Poll::Ready(result) => Ok(result),
                    Poll::Pending => time::timeout(limit, call).await,
                }
            }
        };
        result.unwrap_or(AttemptResult::TimedOut)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An attempt of the task `a.b` of a group `acme` that sets nothing.
    pub fn attempt<'a>(settings: &'a WorkerSettings, headers: &[(&'a str, &'a str)]) -> Attempt<'a> {
        Attempt {
            id: "a.b",
            number: 2,
            trace: Trace::of(headers),
            headers: headers.to_vec(),
            payload: Bytes::new(),
            keep: 0,
            settings,
            ack_wait: Duration::from_secs(30),
        }
    }

    /// The settings of a group `acme` that sets nothing.
    pub fn acme() -> WorkerSettings {
        WorkerSettings {
            group: "acme".into(),
            ..WorkerSettings::default()
        }
    }
}
