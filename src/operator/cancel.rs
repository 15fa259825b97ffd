//! Cancels a task: the operator removes it from its queue or its back-off, and a worker that runs it aborts it.
//!
//! The order matters. The operator asks the workers first, and only then removes the task from its queue: the removal frees
//! the slot of a running task, and the next task would start beside it.

use super::{Context, index::GroupKey, metrics::CancellationLabel};
use crate::{
    broker::{BrokerError, Question},
    protocol::{
        Kind, Queue, StreamName,
        cancel::{self, Cancelled, WorkerReply, WorkerState},
        subject::{DEAD_STREAM, DELAY_STREAM},
    },
};
use bytes::Bytes;
use futures::StreamExt;
use serde_json::json;
use std::{sync::Arc, time::Duration};
use tokio::time;

/// Tasks cancelled at the same time.
const AT_ONCE: usize = 64;

/// How long the workers may take to answer.
const PATIENCE: Duration = Duration::from_millis(500);

/// The operator looks this often for a task that is on its way from its back-off to its queue.
const ROUNDS: usize = 3;

/// A relay takes about this long to requeue a task.
const ON_ITS_WAY: Duration = Duration::from_millis(50);

/// Answers requests for as long as it is polled.
pub async fn run(ctx: Arc<Context>) -> anyhow::Result<()> {
    let requests = ctx.broker.cancel_requests().await?;
    requests
        .for_each_concurrent(AT_ONCE, |request| answer(&ctx, request))
        .await;
    Ok(())
}

async fn answer(ctx: &Context, request: Question) {
    let (word, text) = match cancel::read_request(request.subject()) {
        Err(error) => ("error", error),
        Ok((queue, id)) => match remove(ctx, &queue, id).await {
            Ok(cancelled) => {
                tracing::info!(%queue, call_id = id, was = cancelled.as_str(), "a task was cancelled");
                (cancelled.as_str(), cancelled.as_str().to_owned())
            }
            Err(error) => {
                tracing::warn!(%queue, call_id = id, %error, "a task can't be cancelled");
                ("error", cancel::failed(error))
            }
        },
    };
    ctx.metrics
        .cancelled
        .get_or_create(&CancellationLabel { answer: word })
        .inc();
    request.say(text).await;
}

async fn remove(ctx: &Context, queue: &Queue, id: &str) -> anyhow::Result<Cancelled> {
    let (mut removed, mut was_there) = (0, false);
    let mut states = Vec::new();
    for round in 1..=ROUNDS {
        let up_to = last_of(ctx, queue, id).await?;
        if round > 1 && up_to == 0 {
            break;
        }
        was_there |= up_to > 0;
        states.extend(ask_workers(ctx, queue, id, up_to).await?);
        // In the order in which a task moves, so that it can't slip past a place that was searched already.
        let delays = StreamName::from(DELAY_STREAM);
        let waiting = ctx.broker.purge(&delays, &queue.all_of_task(Kind::Delay, id)).await?;
        let due = ctx.broker.remove(&delays, &queue.all_of_task(Kind::Due, id)).await?;
        let came = last_of(ctx, queue, id).await?;
        if came > up_to {
            states.extend(ask_workers(ctx, queue, id, came).await?);
        }
        let from_queue = remove_from_queue(ctx, queue, id).await?;
        removed += from_queue + waiting + due;
        if removed == 0 && up_to > 0 && states.iter().all(|state| *state == WorkerState::None) {
            // The task was in the queue and is not any more: JetStream delivered it just after the worker was asked.
            states.extend(ask_workers(ctx, queue, id, up_to).await?);
        }
        if due == 0 {
            break;
        }
        // A relay may have the task in flight, and requeue it in spite of all this.
        time::sleep(ON_ITS_WAY).await;
    }
    let dead = removed == 0 && !states.contains(&WorkerState::Running) && is_dead(ctx, queue, id).await?;
    let cancelled = judge(&states, removed, dead);
    // A worker that did not answer in time had the task. It may have heard the question all the same.
    anyhow::ensure!(
        !was_there || cancelled != Cancelled::Unknown,
        "the task left its queue meanwhile, and no worker that answered knows of it"
    );
    Ok(cancelled)
}

fn judge(states: &[WorkerState], removed: u64, dead: bool) -> Cancelled {
    if states.contains(&WorkerState::Running) {
        Cancelled::Running
    } else if removed > 0 || states.contains(&WorkerState::Queued) {
        Cancelled::Queued
    } else if dead || states.contains(&WorkerState::Finished) {
        Cancelled::Finished
    } else {
        Cancelled::Unknown
    }
}

/// The number of a task's last message in its queue; 0 without any.
async fn last_of(ctx: &Context, queue: &Queue, id: &str) -> Result<u64, BrokerError> {
    let stream = queue.stream();
    let mut last = 0;
    for subject in [queue.task(id), queue.requeue(id)] {
        let found = ctx.broker.last_message(&stream, &subject).await?;
        last = last.max(found.map_or(0, |found| found.stored().sequence));
    }
    Ok(last)
}

async fn remove_from_queue(ctx: &Context, queue: &Queue, id: &str) -> Result<u64, BrokerError> {
    let stream = queue.stream();
    Ok(ctx.broker.remove(&stream, &queue.task(id)).await? + ctx.broker.remove(&stream, &queue.requeue(id)).await?)
}

async fn is_dead(ctx: &Context, queue: &Queue, id: &str) -> Result<bool, BrokerError> {
    let letter = ctx
        .broker
        .last_message(&StreamName::from(DEAD_STREAM), &queue.dead(id))
        .await?;
    Ok(letter.is_some())
}

/// Asks the workers to abort the task, and not to start any of its messages up to number `up_to`.
async fn ask_workers(ctx: &Context, queue: &Queue, id: &str, up_to: u64) -> Result<Vec<WorkerState>, BrokerError> {
    let question = json!(cancel::Question {
        id: id.to_owned(),
        up_to
    })
    .to_string();
    // At least one: the count lacks pods that are being stopped, and they may run the task. While nothing is known yet (this
    // operator has just started), the operator waits for all answers that come in time.
    let expected = workers(ctx, queue).map_or(usize::MAX, |workers| workers.max(1));
    let enough = |answers: &[Bytes]| answers.len() >= expected || states(answers).contains(&WorkerState::Running);
    let answers = ctx.broker.ask_workers(queue, question.into(), PATIENCE, enough).await?;
    Ok(states(&answers))
}

fn states(answers: &[Bytes]) -> Vec<WorkerState> {
    let read = |answer: &Bytes| serde_json::from_slice::<WorkerReply>(answer).ok();
    answers.iter().filter_map(read).map(|answer| answer.state).collect()
}

/// The number of workers of the queue, ready or not: one may run tasks before the kubelet has found it ready. `None` while
/// that is not known.
fn workers(ctx: &Context, queue: &Queue) -> Option<usize> {
    let group = ctx.caches.groups_of_queue(queue).next()?;
    let deployment = ctx.caches.deployment(&GroupKey::of(group.as_ref()))?;
    usize::try_from(deployment.rollout.as_ref()?.replicas).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_says_what_the_task_was() {
        use WorkerState::{Finished, None, Queued, Running};
        for (states, removed, dead, expected) in [
            (vec![None, Running], 1, false, "running"),
            (vec![Running], 0, true, "running"),
            (vec![None], 1, false, "queued"),
            (vec![None, Queued], 0, false, "queued"),
            (vec![Finished], 1, false, "queued"),
            (vec![None, Finished], 0, false, "finished"),
            (vec![], 0, true, "finished"),
            (vec![None], 0, false, "unknown"),
            (vec![], 0, false, "unknown"),
        ] {
            assert_eq!(
                judge(&states, removed, dead).as_str(),
                expected,
                "{states:?} {removed} {dead}"
            );
        }
    }

    #[test]
    fn what_workers_answer_is_read() {
        let answers = [r#"{"state":"running"}"#, "rubbish", r#"{"state":"none"}"#].map(Bytes::from);
        assert_eq!(states(&answers), [WorkerState::Running, WorkerState::None]);
    }
}
