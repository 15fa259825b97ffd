//! Cancelling: the requests of users, and the operator's question to the workers.

use super::{connection::Broker, error::BrokerError, question::Question};
use crate::protocol::{Kind, Queue};
use async_nats::StatusCode;
use bytes::Bytes;
use futures::{Stream, StreamExt};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// Queue group of all operator replicas. Each request, or advisory, goes to one of them.
pub(super) const REPLICAS: &str = "taskgroup-operators";

impl Broker {
    /// Yields the requests to cancel a task for as long as the client lives. Each request goes to one replica.
    pub async fn cancel_requests(&self) -> Result<impl Stream<Item = Question> + Send + use<>, BrokerError> {
        self.questions(Kind::Cancel.all(), Some(REPLICAS)).await
    }

    /// Asks all workers of a queue and returns their replies. It waits until `enough` returns true, for `patience` at
    /// most. Without any worker it returns at once.
    pub async fn ask_workers(
        &self,
        queue: &Queue,
        question: Bytes,
        patience: Duration,
        enough: impl Fn(&[Bytes]) -> bool,
    ) -> Result<Vec<Bytes>, BrokerError> {
        self.check()?;
        let inbox = self.client.new_inbox();
        let answers = self.client.subscribe(inbox.clone()).await;
        let mut answers = answers.map_err(|error| self.unreachable(error))?;
        self.client
            .publish_with_reply(queue.of(Kind::WorkerCancel), inbox, question)
            .await
            .map_err(|error| self.unreachable(error))?;
        let deadline = Instant::now() + patience;
        let mut all = Vec::new();
        while !enough(&all) {
            match timeout_at(deadline, answers.next()).await {
                Ok(Some(answer)) if answer.status != Some(StatusCode::NO_RESPONDERS) => all.push(answer.payload),
                _ => break,
            }
        }
        Ok(all)
    }
}
