//! Tells the broker which tasks are done, without a slot waiting for its answer.
//!
//! An ack is sent when the task ends, and its slot is free. That it was heard is confirmed for many at
//! once: the connection and the consumer keep the order, so an answer to the last ack is one to all
//! before it. Until then the task stays in hand, and is acked once more after a lost connection; but
//! only while its lease lasts: later, the word would take the slot from the task's new owner.

use super::{Worker, in_hand::Held};
use crate::broker::{Acker, BrokerError};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{sync::mpsc, time};
use tokio_util::task::{TaskTracker, task_tracker::TaskTrackerToken};

/// How long the answer to one ack is waited for.
const PATIENCE: Duration = Duration::from_secs(1);

/// Acks that one answer confirms at most.
const BATCH: usize = 1024;

/// How long more of them are gathered for one answer: each costs the broker as much as a task.
const GATHER: Duration = Duration::from_millis(5);

/// A task that is done.
struct Done {
    acker: Acker,
    held: Held,
    /// Until when it may be acked.
    until: Instant,
    /// The connection that its ack was sent on, if it was.
    sent_on: Option<u64>,
    _token: TaskTrackerToken,
}

/// Where tasks go that are done.
pub struct Acks {
    sender: mpsc::UnboundedSender<Done>,
    unconfirmed: TaskTracker,
}

/// What they wait in until they are confirmed.
pub struct Unconfirmed(mpsc::UnboundedReceiver<Done>);

/// Both ends.
pub fn channel() -> (Acks, Unconfirmed) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let acks = Acks {
        sender,
        unconfirmed: TaskTracker::new(),
    };
    (acks, Unconfirmed(receiver))
}

impl Acks {
    /// Sees to it that the broker knows that a task is done, whose lease is held until `until`, and whose ack
    /// was sent on the connection `sent` or could not be sent.
    pub fn confirm(&self, acker: Acker, held: Held, until: Instant, sent: Result<u64, BrokerError>) {
        // Nobody listens any more only when the worker is at its end.
        let _ = self.sender.send(Done {
            acker,
            held,
            until,
            sent_on: sent.inspect_err(not_sent).ok(),
            _token: self.unconfirmed.token(),
        });
    }

    /// Returns when all are confirmed, or given up. To be called when no more come.
    pub async fn settled(&self) {
        self.unconfirmed.close();
        self.unconfirmed.wait().await;
    }
}

impl Done {
    async fn send(&mut self, epoch: u64) {
        let sent = self.acker.ack_unconfirmed().await;
        if sent.inspect_err(not_sent).is_ok() {
            self.sent_on = Some(epoch);
        }
    }
}

fn not_sent(error: &BrokerError) {
    tracing::debug!(%error, "an ack could not be sent; trying again");
}

impl Unconfirmed {
    /// Has all acks confirmed, for as long as it is polled.
    pub async fn confirm(&mut self, worker: &Arc<Worker>) {
        let mut batch = Vec::new();
        while self.0.recv_many(&mut batch, BATCH).await > 0 {
            time::sleep(GATHER).await;
            while batch.len() < BATCH
                && let Ok(done) = self.0.try_recv()
            {
                batch.push(done);
            }
            confirm(worker, std::mem::take(&mut batch)).await;
        }
    }
}

async fn confirm(worker: &Arc<Worker>, mut batch: Vec<Done>) {
    let mut link = worker.broker.link();
    loop {
        let now = Instant::now();
        let (mut held, lapsed): (Vec<_>, Vec<_>) = batch.into_iter().partition(|done| now < done.until);
        for done in lapsed {
            give_up(worker, done);
        }
        // Those whose ack may be lost with its connection.
        let epoch = link.borrow_and_update().epoch;
        for done in held.iter_mut().filter(|done| done.sent_on != Some(epoch)) {
            done.send(epoch).await;
        }
        let Some(last) = held.last() else { return };
        let heard = time::timeout_at(last.until.into(), last.acker.ack(PATIENCE)).await;
        if matches!(heard, Ok(Ok(()))) && link.borrow().epoch == epoch {
            for done in held {
                done.held.finished();
            }
            return;
        }
        let until = last.until;
        let up = async {
            time::sleep(PATIENCE / 10).await;
            link.wait_for(|link| link.up).await.map(|_| ())
        };
        // Whether it ends by a connection or by the last lease, what is left is looked at above.
        let _ = time::timeout_at(until.into(), up).await;
        batch = held;
    }
}

/// The broker may deliver the task again. While it could come to this worker it stays in hand, so that it
/// is not run again here.
fn give_up(worker: &Arc<Worker>, done: Done) {
    worker.metrics.acks_unconfirmed.inc();
    tracing::warn!(
        call_id = done.held.id(),
        "a task is done, but the broker did not confirm that it heard so: it may run again"
    );
    let ack_wait = worker.terms().map_or(Duration::ZERO, |terms| terms.ack_wait);
    let hurry = worker.hurry.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = time::sleep(ack_wait * 2) => {}
            () = hurry.cancelled() => {}
        }
        let Done { held, .. } = done;
        held.finished();
    });
}
