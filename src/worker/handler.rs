//! The ways to run a task. Whichever it is, the rest of the worker sees one attempt and its result.

use super::{http::HttpHandler, policy::AttemptResult, watch::Terms};
use bytes::Bytes;
use futures::future::BoxFuture;
use std::sync::Arc;
use tokio::time;

/// One attempt of one task, as a handler gets it.
pub struct Attempt<'a> {
    /// Id of the task.
    pub id: &'a str,
    /// Number of this attempt, from 1.
    pub number: u32,
    /// The publisher's headers, without those that NATS or we act on.
    pub headers: Vec<(&'a str, &'a str)>,
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
    /// A function of this process.
    InProcess(InProcess),
}

impl Handler {
    /// Makes one attempt, which takes at most `timeouts.task`. When this future is dropped, the attempt
    /// is cut off.
    pub async fn run(&self, attempt: &Attempt<'_>) -> AttemptResult {
        let result = async {
            match self {
                Self::Http(handler) => handler.call(attempt).await,
                Self::InProcess(handler) => handler(attempt).await,
            }
        };
        match time::timeout(attempt.terms.settings.task_timeout(), result).await {
            Ok(result) => result,
            Err(_) => AttemptResult::TimedOut,
        }
    }
}
