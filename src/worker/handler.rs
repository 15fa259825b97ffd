//! The ways to run a task. Whichever it is, the rest of the worker sees one attempt and its result.

use super::HandlerArgs;
use super::{exec::ExecHandler, gate::Gate, http::HttpHandler, policy::AttemptResult, trace::Trace, watch::Terms};
use bytes::Bytes;
use futures::future::BoxFuture;
use std::{fmt, sync::Arc, task::Poll};
use tokio::time;

/// One attempt of one task, as a handler gets it.
pub struct Attempt<'a> {
    /// Id of the task.
    pub id: &'a str,
    /// Number of this attempt, from 1.
    pub number: u32,
    /// The publisher's headers, without those that NATS or we act on.
    pub headers: Vec<(&'a str, &'a str)>,
    /// Its place in the trace that the task belongs to.
    pub trace: Trace,
    /// What the publisher sent.
    pub payload: Bytes,
    /// How much of the handler's output is wanted, in bytes.
    pub keep: usize,
    /// What the group's workers keep to.
    pub terms: &'a Terms,
}

/// A function that runs tasks in the worker's own process: for programs that embed the worker.
pub type InProcess = Arc<dyn for<'a> Fn(&'a Attempt<'a>) -> BoxFuture<'a, AttemptResult> + Send + Sync>;

/// What runs the tasks.
pub enum Handler {
    /// A server that they are POSTed to.
    Http(Box<HttpHandler>),
    /// A program that is started for each.
    Exec(ExecHandler),
    /// A function of this process.
    InProcess(InProcess),
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
    /// The handler that the arguments name, and the gate before it.
    ///
    /// # Errors
    /// Arguments that can't be used.
    pub fn new(args: &HandlerArgs) -> anyhow::Result<(Self, Gate)> {
        match (&args.handler_url, &args.handler_exec) {
            (Some(url), None) => {
                let handler = HttpHandler::new(url, args)?;
                let gate = handler.gate();
                Ok((Self::Http(Box::new(handler)), gate))
            }
            (None, Some(command)) => {
                let handler = ExecHandler::new(command.clone());
                let gate = handler.gate();
                Ok((Self::Exec(handler), gate))
            }
            _ => anyhow::bail!(
                "exactly one of --handler-url (HANDLER_URL) and --handler-exec (HANDLER_EXEC) says what runs the tasks: \
                 write for example --handler-url http://127.0.0.1:8080/"
            ),
        }
    }

    /// Makes one attempt, which takes at most `timeouts.task`. When this future is dropped, the attempt
    /// is cut off.
    pub async fn run(&self, attempt: &Attempt<'_>) -> AttemptResult {
        let limit = attempt.terms.settings.task_timeout();
        let result = match self {
            Self::Http(handler) => time::timeout(limit, Box::pin(handler.call(attempt))).await,
            // Sees to the limit itself, as it waits for the end of what it kills then.
            Self::Exec(handler) => return Box::pin(handler.call(attempt)).await,
            Self::InProcess(handler) => {
                let mut call = handler(attempt);
                // One that is over at once needs no timer.
                match futures::poll!(&mut call) {
                    Poll::Ready(result) => Ok(result),
                    Poll::Pending => time::timeout(limit, call).await,
                }
            }
        };
        result.unwrap_or(AttemptResult::TimedOut)
    }
}
